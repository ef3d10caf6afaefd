"""Labels and names that a DAG author gives: for sums of costs and for people, never sent to EvoLink. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from airflow_provider_evoimage.exceptions import InvalidRequestError

MOST_LABELS = 10
MOST_KEY_CHARACTERS = 40
MOST_VALUE_CHARACTERS = 100
MOST_NAME_CHARACTERS = 200

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
#: Words that ``evoimage costs --by`` and the metrics use for facts of their own.
RESERVED_KEYS = frozenset({"model", "day", "month", "outcome", "why", "dag", "task"})


def labels_of(value: object) -> dict[str, str]:
    """Check the argument ``labels`` once its templates are rendered; empty where there are none.

    :returns: without labels whose value a template rendered to nothing.
    :raises InvalidRequestError: when it is no mapping of texts, or beyond the limits.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequestError(
            f"labels must be a dict of texts, such as {{'campaign': 'spring'}}, not {value!r:.120}."
        )
    if len(value) > MOST_LABELS:
        raise InvalidRequestError(f"labels has {len(value)} entries; the most is {MOST_LABELS}.")
    found = {}
    for key, each in value.items():
        if not isinstance(key, str) or len(key) > MOST_KEY_CHARACTERS or not _KEY.fullmatch(key):
            raise InvalidRequestError(
                f"labels: the key {key!r:.60} must be a letter and then letters, digits and _, at most "
                f"{MOST_KEY_CHARACTERS} in all."
            )
        if key in RESERVED_KEYS:
            raise InvalidRequestError(f"labels: the key {key!r} has a meaning of its own; take another word.")
        if not isinstance(each, str):
            raise InvalidRequestError(f"labels: the value of {key!r} must be text, not {each!r:.60}.")
        text = each.strip()
        if len(text) > MOST_VALUE_CHARACTERS or not text.isprintable():
            raise InvalidRequestError(
                f"labels: the value of {key!r} must be at most {MOST_VALUE_CHARACTERS} printable characters."
            )
        if text and text != "None":
            found[key] = text
    return found


def read_labels(value: object) -> dict[str, str] | None:
    """Read labels from a manifest that people may have edited; None where there are none."""
    try:
        return labels_of(value) or None
    except InvalidRequestError:
        return None


def name_of(value: object) -> str | None:
    """Check the argument ``name`` once it is rendered; None where there is none.

    :raises InvalidRequestError: when it is no text or number, or too long.
    """
    if value is None or isinstance(value, bool) or not isinstance(value, (str, int)):
        if value is None:
            return None
        raise InvalidRequestError(f"name must be text, not {value!r:.60}.")
    text = str(value).strip()
    if len(text) > MOST_NAME_CHARACTERS or not text.isprintable():
        raise InvalidRequestError(f"name must be at most {MOST_NAME_CHARACTERS} printable characters.")
    return None if text in {"", "None"} else text
