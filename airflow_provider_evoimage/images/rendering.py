"""Renders one image for channels: crop, scale, sRGB, and a quality for which the file is small enough."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.channels import Channel, Format

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Fit = Literal["cover", "contain", "pad"]
FITS: tuple[Fit, ...] = get_args(Fit)
Upscale = Literal["warn", "error", "allow"]
UPSCALES: tuple[Upscale, ...] = get_args(Upscale)
#: Horizontal and vertical place of what must stay in the picture, each 0 to 1.
Focus = Literal["center"] | tuple[float, float]

#: A crop that takes more of the picture away leaves another picture.
MOST_CROPPED = 0.6
# Below, JPEG and WebP show blocks.
_LEAST_QUALITY, _BEST_QUALITY = 40, 92
_MODES_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an image becomes a rendition.

    :param image: width and height of the image, upright.
    :param box: the part of the image that is used: left, top, right, bottom.
    :param size: of that part in the rendition, in pixels.
    :param canvas: of the rendition.
    :param cropped: share of the image that is cut off.
    :param scaled: factor between image and rendition; above 1 it is enlarged.
    """

    image: tuple[int, int]
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    canvas: tuple[int, int]
    cropped: float
    scaled: float


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The file of a rendition.

    :param quality: of JPEG and WebP; None for PNG.
    """

    content: bytes
    format: Format
    width: int
    height: int
    quality: int | None


def checked_focus(focus: object) -> Focus:
    """Return the focus, if it is one.

    :raises InvalidRequestError: when it is not.
    """
    if focus == "center":
        return "center"
    if (
        isinstance(focus, (tuple, list))
        and len(focus) == 2
        and all(
            isinstance(each, (int, float)) and not isinstance(each, bool) and 0 <= each <= 1 for each in focus
        )
    ):
        return float(focus[0]), float(focus[1])
    raise InvalidRequestError(f"focus must be 'center' or two numbers from 0 to 1, not {focus!r}.")


def plan_for(width: int, height: int, channel: Channel, *, fit: Fit, focus: Focus) -> Plan:
    """Decide what is cropped and scaled. Pure.

    :raises InvalidRequestError: when the channel cannot have this image in this way.
    """
    if fit == "cover":
        return _cropped(width, height, channel, (0.5, 0.5) if focus == "center" else focus)
    scaled = min(channel.width / width, channel.height / height)
    size = max(1, round(width * scaled)), max(1, round(height * scaled))
    canvas = size if fit == "contain" else (channel.width, channel.height)
    off = abs(canvas[0] / canvas[1] / channel.ratio - 1)
    # Pictures of your own may have any ratio within their edges.
    if channel.as_of and off > channel.ratio_tolerance:
        raise InvalidRequestError(
            f"{channel.name} takes {channel.width}×{channel.height}; fit='contain' gives {canvas[0]}×{canvas[1]}, "
            f"which differs by {off:.0%} in its ratio. Use fit='cover' or fit='pad'."
        )
    return Plan(
        image=(width, height), box=(0, 0, width, height), size=size, canvas=canvas, cropped=0.0, scaled=scaled
    )


def _cropped(width: int, height: int, channel: Channel, focus: tuple[float, float]) -> Plan:
    scaled = max(channel.width / width, channel.height / height)
    # Rounding must not carry the box beyond the image, which Pillow refuses.
    wide, high = min(channel.width / scaled, width), min(channel.height / scaled, height)
    cropped = max(0.0, 1 - wide * high / (width * height))
    if cropped > MOST_CROPPED:
        raise InvalidRequestError(
            f"{channel.name} ({channel.width}×{channel.height}) would lose {cropped:.0%} of an image of "
            f"{width}×{height}; at most {MOST_CROPPED:.0%} may be cropped. Draw it in another size, or use fit='pad'."
        )
    left = min(max(focus[0] * width - wide / 2, 0.0), width - wide)
    top = min(max(focus[1] * height - high / 2, 0.0), height - high)
    canvas = channel.width, channel.height
    return Plan(
        image=(width, height),
        box=(left, top, min(left + wide, width), min(top + high, height)),
        size=canvas,
        canvas=canvas,
        cropped=cropped,
        scaled=scaled,
    )


def open_for_rendering(path: Path) -> PillowImage:
    """Decode an image: upright, in sRGB, with an alpha channel only if something is transparent.

    Rendering changes nothing of it, so that threads may share it.
    """
    from PIL import Image

    with Image.open(path) as opened:
        return _upright_srgb(opened)


def render(
    image: PillowImage, channel: Channel, plan: Plan, *, background: str | None, spare_bytes: int = 0
) -> Encoded:
    """Render a decoded image. The same image gives the same bytes each time.

    :param image: of :func:`open_for_rendering`.
    :param background: colour behind transparent parts and around a padded picture.
    :param spare_bytes: room that the file must leave for its mark.
    :raises InvalidRequestError: when transparent parts need a background, no quality is small enough, or the image has
        other pixels than it was planned for.
    """
    from PIL import Image

    background = background or channel.background
    if image.size != plan.image:
        raise InvalidRequestError(
            f"The image has {image.width}×{image.height} pixels upright, not {plan.image[0]}×{plan.image[1]}."
        )
    image = image.resize(plan.size, Image.Resampling.LANCZOS, box=plan.box, reducing_gap=3.0)
    most = None if channel.max_bytes is None else channel.max_bytes - spare_bytes
    problem = ""
    for chosen in _formats(channel, image, background):
        try:
            finished = _on_canvas(image, plan.canvas, chosen, background, channel)
        except ValueError as error:
            raise InvalidRequestError(f"background {background!r} is no colour: {error}.") from error
        content, quality = _encoded(finished, chosen, most)
        if content is not None:
            return Encoded(
                content=content, format=chosen, width=finished.width, height=finished.height, quality=quality
            )
        problem = (
            f"{channel.name} takes {channel.max_bytes:,} bytes, and no quality is small enough as {chosen}."
        )
    raise InvalidRequestError(problem)


def _upright_srgb(image: PillowImage) -> PillowImage:
    """Turn an image as its Exif says, and convert it to sRGB, with an alpha channel only if it has one."""
    from PIL import ImageCms, ImageOps

    profile = image.info.get("icc_profile")
    image.load()
    turned = image
    # Makes no copy where nothing is to be turned.
    ImageOps.exif_transpose(turned, in_place=True)
    has_alpha = turned.mode in _MODES_WITH_ALPHA or "transparency" in turned.info
    alpha = None
    if has_alpha:
        alpha = (turned if turned.mode in {"LA", "RGBA"} else turned.convert("RGBA")).getchannel("A")
    if turned.mode.startswith("I;16"):
        # Pillow would clip 16 bits instead of dividing them.
        turned = turned.point(lambda value: value / 256).convert("L")
    colours = turned
    if profile and turned.mode in {"RGB", "RGBA", "CMYK", "L"}:
        colours = _by_profile(turned.convert("RGB") if turned.mode == "RGBA" else turned, profile, ImageCms)
    if colours.mode != "RGB":
        colours = colours.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        colours.putalpha(alpha)
    colours.info = {}
    return colours


def _by_profile(image: PillowImage, profile: bytes, cms: Any) -> PillowImage:
    try:
        source = cms.ImageCmsProfile(io.BytesIO(profile))
        found = cms.profileToProfile(image, source, cms.createProfile("sRGB"), outputMode="RGB")
    except (cms.PyCMSError, OSError, ValueError):
        return image  # A broken profile: as most programs, take it for sRGB.
    return image if found is None else found


def _formats(channel: Channel, image: PillowImage, background: str | None) -> Sequence[Format]:
    """Return the formats to try: for transparent images without a background those that keep it."""
    if image.mode == "RGBA" and background is None:
        keeping = [each for each in channel.formats if each != "jpeg"]
        if not keeping:
            raise InvalidRequestError(
                f"{channel.name} takes JPEG, which has no transparency: set background, for instance '#ffffff'."
            )
        return keeping
    return channel.formats


def _on_canvas(
    image: PillowImage, canvas: tuple[int, int], chosen: Format, background: str | None, channel: Channel
) -> PillowImage:
    from PIL import Image, ImageColor

    if image.size == canvas and (image.mode == "RGB" or background is None):
        return image
    if background is None and chosen == "jpeg":
        raise InvalidRequestError(
            f"{channel.name} with fit='pad' needs a background, for instance '#ffffff'."
        )
    if background is None:
        board = Image.new("RGBA", canvas, (0, 0, 0, 0))
    else:
        board = Image.new("RGB", canvas, ImageColor.getcolor(background, "RGB"))
    place = (canvas[0] - image.width) // 2, (canvas[1] - image.height) // 2
    board.paste(image, place, image if image.mode == "RGBA" else None)
    return board


def _encoded(image: PillowImage, chosen: Format, most: int | None) -> tuple[bytes | None, int | None]:
    """Encode in the best quality that is small enough; None where there is none."""
    if chosen == "png":
        content = _written(image, "PNG", optimize=True)
        return (content if most is None or len(content) <= most else None), None
    write: Callable[[int], bytes] = (
        (lambda quality: _written(image, "JPEG", quality=quality, subsampling=0))
        if chosen == "jpeg"
        else (lambda quality: _written(image, "WEBP", quality=quality, method=4))
    )
    best = write(_BEST_QUALITY)
    if most is None or len(best) <= most:
        return best, _BEST_QUALITY
    return _search(write, most, len(best))


def _search(write: Callable[[int], bytes], most: int, bytes_of_best: int) -> tuple[bytes | None, int | None]:
    """Search for the best quality that is small enough, knowing the size of the best one of all.

    A file grows about exponentially with its quality, so the next guess lies on the line between the logarithms of
    the nearest known sizes. That takes half as many files as halving the range each time.
    """
    low, high = _LEAST_QUALITY, _BEST_QUALITY - 1
    fitting: tuple[int, int] | None = None
    too_large = (_BEST_QUALITY, bytes_of_best)
    found: tuple[bytes | None, int | None] = None, None
    for tried in itertools.count():
        if low > high:
            break
        # Halve the range where guesses are bad, as for drawings with few colours.
        guess = _guess(fitting, too_large, most) if tried < _MOST_GUESSES else (low + high) // 2
        middle = min(max(guess, low), high)
        content = write(middle)
        if len(content) <= most:
            found, low, fitting = (content, middle), middle + 1, (middle, len(content))
        else:
            high, too_large = middle - 1, (middle, len(content))
    return found


# Growth of the logarithm of a file's size for one step of quality, between the 80s and 92 of photographs.
_GROWTH = 0.045
_MOST_GUESSES = 3


def _guess(fitting: tuple[int, int] | None, too_large: tuple[int, int], most: int) -> int:
    """Return the quality whose file has about this many bytes.

    :param fitting: a quality that is small enough, and its bytes.
    :param too_large: a quality that is not, and its bytes.
    """
    quality, size = too_large
    growth = _GROWTH
    if fitting is not None and quality > fitting[0] and size > fitting[1]:
        growth = math.log(size / fitting[1]) / (quality - fitting[0])
    return quality - math.ceil(math.log(size / max(most, 1)) / growth)


def _written(image: PillowImage, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
