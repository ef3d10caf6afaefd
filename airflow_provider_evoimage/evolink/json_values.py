"""The one tolerant reader of JSON from elsewhere: EvoLink's answers, stored records, manifests that people can edit.

Pages and recorded answers disagree about types, so an odd value reads as None, and nothing here raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def text(value: object) -> str | None:
    """Return a text that is not empty."""
    return value if isinstance(value, str) and value else None


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
