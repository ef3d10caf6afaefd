"""A small picture of words, for places that show pictures alone: the pages of Required Actions. Pure."""

from __future__ import annotations

import html
import textwrap

_WIDTH = 300
_LINE_HEIGHT = 18
_CHARACTERS = 40
_MOST_LINES_OF_A_FOLDER = 4


def sign(reason: str, path: str) -> bytes:
    """Return an SVG that says why a picture is not shown, and in which folder it lies."""
    folder = textwrap.wrap(path.rpartition("/")[0], _CHARACTERS)[:_MOST_LINES_OF_A_FOLDER]
    lines = textwrap.wrap(f"Not shown. {reason}", _CHARACTERS) + folder
    text = "".join(
        f'<text x="10" y="{24 + _LINE_HEIGHT * number}">{_safe(line)}</text>'
        for number, line in enumerate(lines)
    )
    height = 24 + _LINE_HEIGHT * len(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" fill="#333" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#eee"/>{text}</svg>'
    ).encode("ascii", "xmlcharrefreplace")


def _safe(line: str) -> str:
    # A character that XML does not take would make the whole picture unreadable.
    return html.escape("".join(each if each.isprintable() else "?" for each in line))
