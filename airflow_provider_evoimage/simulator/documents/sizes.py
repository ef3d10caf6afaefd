"""How many pixels a size has: `1024x1024`, a ratio such as `16:9` at a tier such as 2K, or `auto`."""

import re
from dataclasses import dataclass

Pixels = tuple[int, int]

CLASSIC_SIZES: dict[str, Pixels] = {
    "1:1": (1024, 1024),
    "2:3": (1024, 1536),
    "3:2": (1536, 1024),
    "1024x1024": (1024, 1024),
    "1024x1536": (1024, 1536),
    "1536x1024": (1536, 1024),
}

# Landscape ratio: pixels at 1K, 2K, 4K. A portrait ratio is the same, turned.
RATIO_PIXELS: dict[str, tuple[Pixels, Pixels, Pixels]] = {
    "1:1": ((1024, 1024), (2048, 2048), (2880, 2880)),
    "2:1": ((1456, 720), (2896, 1456), (3840, 1920)),
    "3:1": ((1776, 592), (3552, 1184), (3840, 1280)),
    "3:2": ((1248, 832), (2512, 1680), (3520, 2352)),
    "4:3": ((1184, 880), (2368, 1776), (3312, 2480)),
    "5:4": ((1152, 912), (2288, 1824), (3216, 2576)),
    "16:9": ((1360, 768), (2736, 1536), (3840, 2160)),
    "21:9": ((1568, 672), (3136, 1344), (3840, 1632)),
}
TIERS = ("1K", "2K", "4K")
# Edges of a square image, by the tier which most models other than GPT's take as their quality.
TIER_EDGES = {"0.5K": 512, "1K": 1024, "1.5K": 1536, "2K": 2048, "3K": 3072, "4K": 4096}

PIXEL_STEP = 16
MAX_EDGE = 3840
MIN_AREA, MAX_AREA = 655_360, 8_294_400
MAX_RATIO = 3
# Pixel areas at which a size given in pixels counts as the next tier: between 1K, 2K and 4K squares.
TIER_AREAS = (2_000_000, 5_500_000)

_PIXELS = re.compile(r"(\d{2,5})[xX×](\d{2,5})")
_RATIO = re.compile(r"(\d{1,2}(?:\.\d)?):(\d{1,2}(?:\.\d)?)")


def classic_pixels(size: str, tier: str) -> Pixels:
    """Pixels of a GPT image 1 size; such a size knows no tier."""
    del tier
    pixels = CLASSIC_SIZES.get(size.replace("×", "x").lower())
    if pixels is None:
        raise ValueError(f"size must be one of {', '.join(CLASSIC_SIZES)}")
    return pixels


def ratio_pixels(size: str, tier: str) -> Pixels:
    """Pixels of `auto` or of one of the fifteen ratios, at 1K, 2K or 4K."""
    if size == "auto":
        return RATIO_PIXELS["1:1"][0]
    index = TIERS.index(tier)
    if size in RATIO_PIXELS:
        return RATIO_PIXELS[size][index]
    turned = ":".join(reversed(size.split(":")))
    if turned not in RATIO_PIXELS:
        raise ValueError("size must be auto or a supported ratio such as 1:1, 3:2 or 9:16")
    width, height = RATIO_PIXELS[turned][index]
    return height, width


def flexible_pixels(size: str, tier: str) -> Pixels:
    """Pixels of `auto`, of a ratio, or of `WxH` within the limits of GPT image 2."""
    match = _PIXELS.fullmatch(size)
    if match is None:
        return ratio_pixels(size, tier)
    width, height = int(match[1]), int(match[2])
    if width % PIXEL_STEP or height % PIXEL_STEP or max(width, height) > MAX_EDGE:
        raise ValueError(f"width and height must be multiples of {PIXEL_STEP}, at most {MAX_EDGE}")
    if not MIN_AREA <= width * height <= MAX_AREA:
        raise ValueError(f"width x height must be between {MIN_AREA} and {MAX_AREA} pixels")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"the ratio of the edges must be at most {MAX_RATIO}:1")
    return width, height


def any_pixels(size: str, tier: str) -> Pixels:
    """Pixels for a model whose sizes are not written down here: whatever can be made of the text."""
    pixels = _PIXELS.fullmatch(size)
    if pixels is not None:
        return _within(int(pixels[1])), _within(int(pixels[2]))
    if tier in TIERS and (size == "auto" or _is_listed(size)):
        return ratio_pixels(size, tier)
    return _area_of_a_square(size, tier, MAX_EDGE)


def unsized_pixels(size: str, tier: str) -> Pixels:
    """Pixels of a model without the field `size`: whatever it says is ignored."""
    del size
    return TIER_EDGES[tier], TIER_EDGES[tier]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of one family of models; called with size and tier, it returns the pixels.

    :param ratios: accepted ratios.
    :param auto: whether `auto` is accepted.
    :param area: fewest and most pixels of a size given as `WxH`; None when such sizes are not accepted.
    :param edges: shortest and longest edge of such a size.
    :param max_ratio: how many times as long as the other one of its edges may be.
    """

    ratios: tuple[str, ...] = ()
    auto: bool = True
    area: tuple[int, int] | None = None
    edges: tuple[int, int] = (1, 16_384)
    max_ratio: float = 16

    def __call__(self, size: str, tier: str) -> Pixels:
        """Return width and height.

        :raises ValueError: for a size this family does not take.
        """
        match = _PIXELS.fullmatch(size)
        if match is not None and self.area is not None:
            return self._checked(int(match[1]), int(match[2]))
        if size in self.ratios or (self.auto and size == "auto"):
            return _area_of_a_square(size, tier)
        raise ValueError(f"size must be {self._described()}")

    def _checked(self, width: int, height: int) -> Pixels:
        fewest, most = self.area or (0, 0)
        short, long = sorted((width, height))
        if short < self.edges[0] or long > self.edges[1]:
            raise ValueError(f"width and height must be from {self.edges[0]} to {self.edges[1]}")
        if not fewest <= width * height <= most:
            raise ValueError(f"width x height must be between {fewest} and {most} pixels")
        if long > self.max_ratio * short:
            raise ValueError(f"the ratio of the edges must be at most {self.max_ratio:g}:1")
        return width, height

    def _described(self) -> str:
        named = (*(("auto",) if self.auto else ()), *self.ratios)
        pixels = () if self.area is None else ("pixels as WxH",)
        return f"one of {', '.join((*named, *pixels))}"


def tier_of(pixels: Pixels) -> str:
    """Return the tier as which a size given in pixels is billed."""
    area = pixels[0] * pixels[1]
    return TIERS[sum(area > limit for limit in TIER_AREAS)]


def _is_listed(ratio: str) -> bool:
    return ratio in RATIO_PIXELS or ":".join(reversed(ratio.split(":"))) in RATIO_PIXELS


def _area_of_a_square(size: str, tier: str, longest: int = 16_384) -> Pixels:
    edge = TIER_EDGES[tier]
    ratio = _RATIO.fullmatch(size)
    if ratio is None or not float(ratio[1]) or not float(ratio[2]):
        return edge, edge
    stretch = (float(ratio[1]) / float(ratio[2])) ** 0.5
    return _within(round(edge * stretch), longest), _within(round(edge / stretch), longest)


def _within(edge: int, longest: int = MAX_EDGE) -> int:
    return min(max(edge, PIXEL_STEP), longest)
