"""Draws the results: real image files which say in words what was asked for.

The same picture always gives the same bytes.
"""

import colorsys
import functools
import hashlib
import io
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
RGB = tuple[int, int, int]

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
KEPT_FILES = 16

MARGIN = 0.07
CAPTION_SHARE = 0.024
LARGEST_TEXT_SHARE, SMALLEST_TEXT_SHARE = 0.11, 0.018
SMALLEST_FONT = 8
LINE_HEIGHT = 1.25
# No picture holds more in readable letters.
MAX_DRAWN_CHARACTERS = 1_500

DARK, LIGHT = (0.15, 0.14), (0.74, 0.14)
HUE_STEP = 0.028
GRADIENT = 0.05
BLACK: RGB = (12, 12, 14)
WHITE: RGB = (255, 255, 255)

# Letters which the font that comes with Pillow lacks, and accents do not explain.
REPLACEMENTS = str.maketrans(
    {
        "\N{EM DASH}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{LATIN SMALL LETTER SHARP S}": "ss",
    }
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One result image.

    :param index: position among the images of its generation, from 0.
    :param count: how many images the generation was asked for.
    :param file_format: png, jpeg or webp.
    """

    prompt: str
    model: str
    quality: str
    width: int
    height: int
    index: int
    count: int
    file_format: str = "png"
    transparent: bool = False

    @property
    def caption(self) -> str:
        """The small line below the prompt."""
        size = f"{self.width}x{self.height}"
        return f"{self.model} · {self.quality} · {size} · image {self.index + 1} of {self.count}"


@functools.lru_cache(maxsize=KEPT_FILES)
def draw(picture: Picture) -> bytes:
    """Draw a picture and return its file."""
    top, bottom = shades(picture)
    ink = ink_for(top, bottom)
    size = (picture.width, picture.height)
    ramp = Image.linear_gradient("L").resize(size)
    image = Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)
    if picture.transparent:
        image = _on_nothing(image)
    _write(ImageDraw.Draw(image), picture, ink)
    return _encode(image, picture.file_format)


def shades(picture: Picture) -> tuple[RGB, RGB]:
    """Return the colours at the top and the bottom: the prompt's own, a little other for each image."""
    digest = hashlib.sha256(picture.prompt.encode()).digest()
    lightest, span = DARK if digest[2] % 2 else LIGHT
    lightness = lightest + span * picture.index / max(picture.count, 1)
    hue = digest[0] / 256 + HUE_STEP * picture.index
    saturation = 0.35 + 0.3 * digest[1] / 255
    return _rgb(hue, lightness, saturation), _rgb(hue + HUE_STEP, lightness - GRADIENT, saturation)


def ink_for(*backgrounds: RGB) -> RGB:
    """Return black or white, whichever reads better on all these colours."""
    return max((WHITE, BLACK), key=lambda ink: min(contrast(ink, ground) for ground in backgrounds))


def contrast(one: RGB, other: RGB) -> float:
    """Contrast of two colours, 1 to 21, as the web accessibility guidelines define it."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: RGB) -> float:
    red, green, blue = (_linear(channel / 255) for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004


def _rgb(hue: float, lightness: float, saturation: float) -> RGB:
    red, green, blue = colorsys.hls_to_rgb(hue % 1, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _on_nothing(image: Image.Image) -> Image.Image:
    """Leave a rounded panel of the picture on a transparent ground."""
    width, height = image.size
    inset = round(min(width, height) * MARGIN / 2)
    mask = Image.new("L", image.size, 0)
    box = (inset, inset, width - inset - 1, height - inset - 1)
    if width > 2 * inset + 1 and height > 2 * inset + 1:
        ImageDraw.Draw(mask).rounded_rectangle(box, radius=inset, fill=255)
    image = image.convert("RGBA")
    image.putalpha(mask)
    return image


def _write(canvas: ImageDraw.ImageDraw, picture: Picture, ink: RGB) -> None:
    short = min(picture.width, picture.height)
    margin = round(short * MARGIN)
    caption_size = max(round(short * CAPTION_SHARE), SMALLEST_FONT)
    width = max(picture.width - 2 * margin, 1)
    height = max(picture.height - 3 * margin - caption_size, 1)
    font, line_height, lines = _fit(plain(picture.prompt), width, height, short)
    y = margin + max(height - line_height * len(lines), 0) / 2
    for line in lines:
        canvas.text((margin, y), line, font=font, fill=ink)
        y += line_height
    caption = _fit_line(plain(picture.caption), width, caption_size)
    canvas.text((margin, picture.height - margin - caption_size), caption[1], font=caption[0], fill=ink)


def plain(text: str) -> str:
    """Make a text drawable: accents off, control characters to spaces.

    Signs which the font lacks even then are drawn as boxes.
    """
    if len(text) > MAX_DRAWN_CHARACTERS:
        text = f"{text[:MAX_DRAWN_CHARACTERS]}..."
    folded = unicodedata.normalize("NFKD", text.translate(REPLACEMENTS))
    letters = (letter for letter in folded if not unicodedata.combining(letter))
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in letters)


def _fit(text: str, width: int, height: int, short: int) -> tuple[Font, float, list[str]]:
    """Choose the largest letters with which the text fits; at the smallest, cut it."""
    size = max(short * LARGEST_TEXT_SHARE, SMALLEST_FONT)
    smallest = max(short * SMALLEST_TEXT_SHARE, SMALLEST_FONT)
    while True:
        font = _font(round(size))
        lines = list(wrap(text, font, width))
        room = max(int(height / (size * LINE_HEIGHT)), 1)
        if len(lines) <= room:
            return font, size * LINE_HEIGHT, lines
        if size <= smallest:
            return font, size * LINE_HEIGHT, [*lines[: room - 1], "..."]
        size = max(size * 0.85, smallest)


def _fit_line(text: str, width: int, size: int) -> tuple[Font, str]:
    font = _font(size)
    while size > SMALLEST_FONT and font.getlength(text) > width:
        size -= 1
        font = _font(size)
    return font, text


def wrap(text: str, font: Font, width: int) -> Iterator[str]:
    """Break a text into lines no wider than this; words that are wider are broken as well."""
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                yield line
            *full, line = _pieces(word, font, width)
            yield from full
        yield line


def _pieces(word: str, font: Font, width: int) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


@functools.lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _encode(image: Image.Image, file_format: str) -> bytes:
    file = io.BytesIO()
    if file_format == "png":
        image.save(file, "PNG", compress_level=3)
    elif file_format == "jpeg":
        image.save(file, "JPEG", quality=88)
    else:
        image.save(file, "WEBP", quality=85, method=2)
    return file.getvalue()
