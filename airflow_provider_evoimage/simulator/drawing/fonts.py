"""Which letters a text is drawn in: Pillow's own font for Latin, a font of this machine for other scripts."""

import functools
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont, features

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PROBE_SIZE = 16
# No font has a glyph for this noncharacter: what is drawn for it stands for all that a font lacks.
MISSING = "\U0010fffe"
VARIATIONS = "\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}"
RIGHT_TO_LEFT = ("R", "AL")

LINUX_FONTS = (
    *(f"/usr/share/fonts/{folder}/NotoSansCJK-Regular.ttc" for folder in (
        "opentype/noto", "truetype/noto", "noto-cjk", "google-noto-cjk", "google-noto-sans-cjk-fonts", "noto"
    )),
    *(f"/usr/share/fonts/{folder}/{name}" for name in ("wqy-zenhei.ttc", "wqy-microhei.ttc") for folder in (
        "truetype/wqy", "wenquanyi/wqy-zenhei", "wenquanyi/wqy-microhei", "wqy-zenhei", "wqy-microhei"
    )),
    *(f"/usr/share/fonts/{folder}/DejaVuSans.ttf" for folder in (
        "truetype/dejavu", "dejavu", "dejavu-sans-fonts", "TTF"
    )),
    *(f"/usr/share/fonts/truetype/noto/NotoSans{script}-Regular.ttf" for script in (
        "Arabic", "Hebrew", "Devanagari", "Thai", "Symbols2"
    )),
)  # fmt: skip
MAC_FONTS = (
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "/System/Library/Fonts/AppleSDGothicNeo.ttc",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "/Library/Fonts/Arial Unicode.ttf",
)
SYSTEM_FONTS = MAC_FONTS if sys.platform == "darwin" else LINUX_FONTS

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
        **dict(zip("łŁøØđĐðÐħĦıſ«»¡¿", 'lLoOdDdDhHis""!?', strict=True)),
        "æ": "ae",
        "Æ": "AE",
        "œ": "oe",
        "Œ": "OE",
        "þ": "th",
        "Þ": "Th",
        "€": "EUR",
        "£": "GBP",
        "©": "(c)",
        "®": "(R)",
    }
)
# No picture holds more in readable letters.
MAX_DRAWN_CHARACTERS = 1_500


@dataclass(frozen=True)
class Lettering:
    """A text made drawable.

    :param path: font file; None for the font that comes with Pillow.
    :param missing: how many of its code points the font lacks; boxes are drawn for them.
    """

    text: str
    path: str | None = None
    missing: int = 0

    def font(self, size: int) -> Font:
        """Return the font at a size in pixels."""
        return load_font(self.path, size)

    @property
    def right_to_left(self) -> bool:
        """Whether the text begins in a script that runs to the left."""
        directions = (unicodedata.bidirectional(letter) for letter in self.text)
        return next((each for each in directions if each in ("L", *RIGHT_TO_LEFT)), "L") in RIGHT_TO_LEFT


@functools.lru_cache(maxsize=64)
def lettering(text: str) -> Lettering:
    """Choose how to draw a text: Latin always in the same font, so that it looks the same everywhere."""
    if len(text) > MAX_DRAWN_CHARACTERS:
        text = f"{text[:MAX_DRAWN_CHARACTERS]}..."
    latin = plain(text)
    missing = _lacking(None, latin)
    if all(_is_latin(letter) for letter in missing):
        return Lettering(latin, missing=len(missing))
    full = _printable(unicodedata.normalize("NFC", text))
    paths = (path for path in SYSTEM_FONTS if Path(path).is_file())
    lacks = [(len(_lacking(path, full)), path) for path in paths]
    fewest, best = min(lacks, key=lambda each: each[0], default=(len(full), None))
    if best is None or fewest >= len(missing):
        return Lettering(latin, missing=len(missing))
    return Lettering(full, best, fewest)


def plain(text: str) -> str:
    """Make a text drawable in Latin letters: accents off, control characters to spaces."""
    folded = unicodedata.normalize("NFKD", text.translate(REPLACEMENTS))
    return _printable("".join(letter for letter in folded if not unicodedata.combining(letter)))


def _printable(text: str) -> str:
    # Joiners, marks of direction and variation selectors have no shape of their own.
    seen = (each for each in text if unicodedata.category(each) != "Cf" and each not in VARIATIONS)
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in seen)


def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN ")


def visual(line: str) -> str:
    """Order the letters of a line from left to right as they are seen, where the font library does not."""
    if features.check("raqm") or not any(unicodedata.bidirectional(each) in RIGHT_TO_LEFT for each in line):
        return line
    runs: list[str] = []
    for letter in reversed(line):
        is_left = unicodedata.bidirectional(letter) in ("L", "EN", "AN")
        if is_left and runs and unicodedata.bidirectional(runs[-1][0]) in ("L", "EN", "AN"):
            runs[-1] = letter + runs[-1]
        else:
            runs.append(letter)
    return "".join(runs)


@functools.lru_cache(maxsize=64)
def load_font(path: str | None, size: int) -> Font:
    """Return a font at a size in pixels."""
    return ImageFont.load_default(size=size) if path is None else ImageFont.truetype(path, size)


def _lacking(path: str | None, text: str) -> list[str]:
    return [letter for letter in text if not letter.isspace() and not _has(path, letter)]


@functools.lru_cache(maxsize=8_192)
def _has(path: str | None, letter: str) -> bool:
    return _shape(path, letter) != _shape(path, MISSING)


def _shape(path: str | None, letter: str) -> tuple[tuple[int, int], bytes]:
    font = load_font(path, PROBE_SIZE)
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
