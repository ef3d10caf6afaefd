"""Draws the results: real image files that show the request in words.

The same picture always gives the same bytes.
"""

import colorsys
import functools
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from airflow_provider_evoimage.simulator.drawing.fonts import Font, Lettering, lettering, visual
from airflow_provider_evoimage.simulator.drawing.pictures import Picture, Reference

RGB = tuple[int, int, int]

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
KEPT_FILES = 16

MARGIN = 0.07
CAPTION_SHARE = 0.024
LARGEST_TEXT_SHARE, SMALLEST_TEXT_SHARE = 0.11, 0.018
SMALLEST_FONT = 8
LINE_HEIGHT = 1.25
THUMBNAIL_SHARE, SMALLEST_THUMBNAIL = 0.18, 4
DARK, LIGHT = (0.15, 0.14), (0.74, 0.14)
HUE_STEP = 0.028
GRADIENT = 0.05
BLACK: RGB = (12, 12, 14)
WHITE: RGB = (255, 255, 255)


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
    _write(image, picture, ink)
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
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)


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


def _write(image: Image.Image, picture: Picture, ink: RGB) -> None:
    canvas = ImageDraw.Draw(image)
    short = min(picture.width, picture.height)
    margin = round(short * MARGIN)
    small = max(round(short * CAPTION_SHARE), SMALLEST_FONT)
    width = max(picture.width - 2 * margin, 1)
    prompt = lettering(picture.prompt)
    bottom = picture.height - margin - small
    for line in _small_lines(picture, prompt):
        _write_small(canvas, line, (margin, bottom), (width, small), ink)
        bottom -= round(small * LINE_HEIGHT)
    if any(reference.thumbnail for reference in picture.references):
        bottom -= _paste_references(image, picture.references, (margin, bottom + small), width)
    height = max(bottom - 2 * margin + round(small * (LINE_HEIGHT - 1)), 1)
    size, lines = _fit(prompt, width, height, short)
    font = prompt.font(size.font)
    y = margin + max(height - size.line * len(lines), 0) / 2
    for line in lines:
        shown = visual(line)
        x = margin + max(width - font.getlength(shown), 0) if prompt.right_to_left else margin
        canvas.text((x, y), shown, font=font, fill=ink)
        y += size.line


def _small_lines(picture: Picture, prompt: Lettering) -> list[str]:
    """Return the lines below the prompt, from the lowest up."""
    lines = [picture.caption]
    if picture.references:
        lines.append("from " + ", ".join(reference.name for reference in picture.references))
    if prompt.missing:
        lines.append(f"{prompt.missing} of {len(prompt.text)} code points have no letter here")
    return lines


def _write_small(
    canvas: ImageDraw.ImageDraw, text: str, place: tuple[int, int], room: tuple[int, int], ink: RGB
) -> None:
    width, size = room
    letters = lettering(text)
    shown = letters.text
    while size > SMALLEST_FONT and letters.font(size).getlength(shown) > width:
        size -= 1
    font = letters.font(size)
    while len(shown) > 1 and font.getlength(shown) > width:
        shown = shown[: len(shown) * 9 // 10]
    canvas.text(place, visual(shown), font=font, fill=ink)


def _paste_references(
    image: Image.Image, references: tuple[Reference, ...], corner: tuple[int, int], width: int
) -> int:
    """Put a row of thumbnails above a corner; return the height it takes."""
    files = [reference.thumbnail for reference in references if reference.thumbnail]
    gap = max(min(image.size) // 100, 1)
    cell = min(round(min(image.size) * THUMBNAIL_SHARE), (width + gap) // len(files) - gap)
    if cell < SMALLEST_THUMBNAIL:
        return 0
    left, bottom = corner
    for file in files:
        with Image.open(io.BytesIO(file)) as opened:
            thumbnail = ImageOps.contain(opened.convert("RGBA"), (cell, cell))
        image.paste(thumbnail, (left, bottom - thumbnail.height), thumbnail)
        left += thumbnail.width + gap
    return cell + gap


@dataclass(frozen=True)
class _Size:
    """Size of letters, and distance of their lines, in pixels."""

    font: int
    line: float


def _fit(prompt: Lettering, width: int, height: int, short: int) -> tuple[_Size, list[str]]:
    """Choose the largest letters with which the text fits; at the smallest, cut it."""
    size = max(short * LARGEST_TEXT_SHARE, SMALLEST_FONT)
    smallest = max(short * SMALLEST_TEXT_SHARE, SMALLEST_FONT)
    while True:
        lines = list(wrap(prompt.text, prompt.font(round(size)), width))
        room = max(int(height / (size * LINE_HEIGHT)), 1)
        if len(lines) <= room:
            return _Size(round(size), size * LINE_HEIGHT), lines
        if size <= smallest:
            return _Size(round(size), size * LINE_HEIGHT), [*lines[: room - 1], "..."]
        size = max(size * 0.85, smallest)


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


def _encode(image: Image.Image, file_format: str) -> bytes:
    file = io.BytesIO()
    if file_format == "png":
        image.save(file, "PNG", compress_level=3)
    elif file_format == "jpeg":
        image.save(file, "JPEG", quality=88)
    else:
        image.save(file, "WEBP", quality=85, method=2)
    return file.getvalue()
