"""The one tolerant reader of JSON from elsewhere: EvoLink's answers, stored records, manifests that people can edit.

Pages and recorded answers disagree about types, so an odd value reads as None, and nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def text(value: object) -> str | None:
    """Return a text that is not empty."""
    return value if isinstance(value, str) and value else None


def words(value: object, most: int = 200) -> str | None:
    """Return a text for names, logs and messages: one line, no control characters, at most ``most`` characters.

    A terminal obeys control characters, and a line break makes a second line of a log.
    """
    if not isinstance(value, str):
        return None
    # Cut first: cleaning megabytes takes long.
    cut = value[: most * 4]
    clean = " ".join(_CONTROL.sub(" ", cut).split())
    if len(clean) > most or len(cut) < len(value):
        clean = f"{clean[: most - 1]}…"
    return clean or None


# C0 and C1, and what breaks lines or turns the direction of writing.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def holds_nul(value: object) -> bool:
    """Tell whether a JSON value holds the character NUL anywhere, also in the name of a field."""
    # Only a backslash that is itself escaped can stand before these letters without being a NUL.
    written = json.dumps(value).replace("\\\\", "")
    return "\\u0000" in written


def storable(text: bytes) -> bytes:
    """Return JSON text in which U+FFFD stands for NUL and for halves of characters.

    PostgreSQL stores neither in JSON, and Airflow keeps results there.
    """
    if b"\\u" not in text and b"\xed" not in text:
        # Nearly every answer: a trigger reads thousands of them.
        return text
    return _UNSTORABLE.sub(lambda found: found[1] or _REPLACEMENT, text)


_REPLACEMENT = b"\xef\xbf\xbd"
# Kept: an escaped backslash, and two escapes that make one character. Replaced: NUL, and a half, escaped or in UTF-8.
_UNSTORABLE = re.compile(
    rb"(\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\u0000|\\u[dD][89a-fA-F]..|\xed[\xa0-\xbf][\x80-\xbf]"
)


def number(value: object) -> float | None:
    """Return a finite number. True and False are none, and neither is a number in quotes."""
    return None if isinstance(value, str) else number_or_numeral(value)


def number_or_numeral(value: object) -> float | None:
    """Return a finite number, also one in quotes: EvoLink's answers write some numbers as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
