"""What the documents say each model accepts, and how many pixels its sizes have.

Where two documented versions disagree, the wider one stands here. A model that is not listed is accepted
with almost any field, for the simulator must not know fewer models than the service.
"""

import re
from collections.abc import Callable
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
    try:
        return ratio_pixels(size, tier)
    except ValueError:
        return _area_of_a_square(size, tier)


def tier_of(pixels: Pixels) -> str:
    """Return the tier as which a size given in pixels is billed."""
    area = pixels[0] * pixels[1]
    return TIERS[sum(area > limit for limit in TIER_AREAS)]


def _area_of_a_square(size: str, tier: str) -> Pixels:
    edge = RATIO_PIXELS["1:1"][TIERS.index(tier)][0]
    ratio = _RATIO.fullmatch(size)
    if ratio is None or not float(ratio[1]) or not float(ratio[2]):
        return edge, edge
    stretch = (float(ratio[1]) / float(ratio[2])) ** 0.5
    return _within(round(edge * stretch)), _within(round(edge / stretch))


def _within(edge: int) -> int:
    return min(max(edge, PIXEL_STEP), MAX_EDGE)


@dataclass(frozen=True, kw_only=True)
class ModelRules:
    """What one model accepts.

    :param pixels: turns size and tier into pixels; raises ValueError for a size it does not know.
    :param qualities: accepted values of `quality`; None accepts any, and means the field has no effect.
    :param tiers: whether `resolution` chooses the pixels of a ratio.
    :param max_images: largest `n`; None when the model has no such field and always makes one image.
    :param image_counts: the only values of `n`, where they are no range.
    :param output_formats: accepted values of `output_format`; none when the model has no such field.
    :param estimated_time: seconds the service promises at submission.
    """

    pixels: Callable[[str, str], Pixels]
    default_size: str = "auto"
    qualities: tuple[str, ...] | None = None
    default_quality: str = "high"
    tiers: bool = False
    max_prompt_characters: int = 8_000
    max_prompt_bytes: int | None = None
    max_images: int | None = 10
    image_counts: tuple[int, ...] | None = None
    max_references: int = 16
    output_formats: tuple[str, ...] = ()
    estimated_time: int = 100


# The documents say "2000 tokens", which is about 8,000 characters.
GPT_IMAGE_1 = ModelRules(pixels=classic_pixels, default_size="1024x1024", qualities=("low", "medium", "high"))
GPT_IMAGE_1_5 = ModelRules(
    pixels=classic_pixels, default_size="1024x1024", qualities=("low", "medium", "high", "auto")
)
GPT_IMAGE_1_5_BETA = ModelRules(
    pixels=classic_pixels,
    default_size="1:1",
    qualities=("auto", "low", "medium", "high"),
    default_quality="auto",
)
GPT_IMAGE_2 = ModelRules(
    pixels=flexible_pixels,
    qualities=("low", "medium", "high"),
    default_quality="medium",
    tiers=True,
    max_prompt_characters=32_000,
    max_prompt_bytes=60_000,
    output_formats=("png", "jpeg", "webp"),
)
GPT_IMAGE_2_5 = ModelRules(
    pixels=flexible_pixels,
    qualities=("low", "medium", "high", "xhigh", "max"),
    default_quality="medium",
    tiers=True,
    max_prompt_characters=32_000,
    max_prompt_bytes=60_000,
    output_formats=("png", "jpeg", "webp"),
)
GPT_IMAGE_2_BETA = ModelRules(pixels=ratio_pixels, tiers=True, max_images=None)
GPT_4O_IMAGE = ModelRules(
    pixels=classic_pixels, default_size="1024x1024", image_counts=(1, 2, 4), max_references=5
)
UNLISTED = ModelRules(
    pixels=any_pixels,
    default_quality="2K",
    max_prompt_characters=32_000,
    max_images=15,
    output_formats=("png", "jpeg", "webp"),
    estimated_time=45,
)

MODELS: dict[str, ModelRules] = {
    "gpt-image-1": GPT_IMAGE_1,
    "gpt-image-1.5": GPT_IMAGE_1_5,
    "gpt-image-1.5-beta": GPT_IMAGE_1_5_BETA,
    "gpt-image-1.5-lite": GPT_IMAGE_1_5_BETA,
    "gpt-image-2": GPT_IMAGE_2,
    "gpt-image-2-beta": GPT_IMAGE_2_BETA,
    "gpt-image-2.5-flare": GPT_IMAGE_2_5,
    "gpt-image-2.5-sunburst": GPT_IMAGE_2_5,
    "gpt-4o-image": GPT_4O_IMAGE,
}
MISSING_MODEL_PREFIX = "no-such-"


def rules_for(model: str) -> ModelRules:
    """Return what this model accepts."""
    return MODELS.get(model, UNLISTED)
