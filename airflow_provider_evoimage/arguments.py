"""Checks of arguments that several operators share; they run when the DAG is parsed."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.version_compat import HAS_TASK_STATE_STORE

if TYPE_CHECKING:
    from airflow.sdk import XComArg

Word = TypeVar("Word", bound=str)
_Value = TypeVar("_Value")

# User and password of a URL, which no message may show.
_USER = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/]*@", re.IGNORECASE)

# Longer spans overflow Airflow's own arithmetic, and EvoLink keeps nothing that long.
LONGEST_SECONDS = 366 * 86_400
SHORTEST_POLL_SECONDS = 1.0


def seconds(name: str, value: float | timedelta) -> float:
    """Return a time span in seconds.

    :raises InvalidRequestError: when it is not above 0, or longer than a year.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number <= LONGEST_SECONDS:
        raise InvalidRequestError(
            f"{name} must be a number of seconds above 0 or a timedelta, at most a year, not {value!r}."
        )
    return float(number)


def poll_seconds(value: float | timedelta) -> float:
    """Return the time between two polls in seconds.

    :raises InvalidRequestError: when it is shorter than a second: EvoLink answers that with 429.
    """
    found = seconds("poll_interval", value)
    if found < SHORTEST_POLL_SECONDS:
        raise InvalidRequestError(
            f"poll_interval must be at least {SHORTEST_POLL_SECONDS:g} s, not {value!r}."
        )
    return found


def whole_number(name: str, value: int) -> int:
    """Return a count.

    :raises InvalidRequestError: when it is not a whole number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequestError(f"{name} must be a whole number above 0, not {value!r}.")
    return value


def one_of(name: str, value: Word, allowed: Collection[str]) -> Word:
    """Return the value if it is one of the allowed words.

    :raises InvalidRequestError: when it is another.
    """
    if value not in allowed:
        raise InvalidRequestError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}.")
    return value


def require_memory_of_models(fallback_models: object, save_to: object) -> None:
    """Check that later tries can know which of several models may have been paid.

    :raises InvalidRequestError: below Airflow 3.3 without ``save_to``, where a file remembers it.
    """
    if fallback_models and save_to is None and not HAS_TASK_STATE_STORE:
        raise InvalidRequestError(
            "fallback_models needs save_to below Airflow 3.3: a file there remembers between tries which model may "
            "have been paid."
        )


def as_folder(value: Any) -> Any:
    """Return a folder that was given as a path object, of a local disk or of Airflow's object storage, as text."""
    if isinstance(value, os.PathLike):
        found = os.fspath(value)
        return found if isinstance(found, str) else os.fsdecode(found)
    # ObjectStoragePath is no os.PathLike where it is not local.
    is_path = callable(getattr(value, "joinpath", None)) and hasattr(value, "protocol")
    return str(value) if is_path else value


def storable_argument(name: str, value: Any) -> Any:
    """Return an argument that a function gave in a form that an XCom can hold."""
    if name == "labels" and isinstance(value, Mapping):
        return dict(value)
    if name == "max_credits" and isinstance(value, Decimal):
        return str(value)
    return as_folder(value) if name == "save_to" else value


def filled(name: str, value: str | None) -> str | None:
    """Return a templated text, or None where the template rendered to nothing."""
    value = as_folder(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} must be text, not {value!r}.")
    return None if value.strip() in {"", "None"} else value.strip()


def texts(name: str, value: str | Iterable[str] | None) -> list[str]:
    """Return a list of texts from one text, a list, or a template that rendered to nothing.

    :raises InvalidRequestError: when it holds anything else.
    """
    given = [value] if isinstance(value, str) or value is None else list(value)
    found = (filled(name, each) for each in given)
    return [each for each in found if each is not None]


def moment(name: str, value: datetime | str | None) -> float | None:
    """Return a moment in Unix seconds from a datetime or ISO text, in UTC where it names no zone.

    :raises InvalidRequestError: when it is neither.
    """
    if not isinstance(value, datetime):
        text = filled(name, value)
        if text is None:
            return None
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidRequestError(
                f"{name} must be a datetime or ISO text such as 2026-05-01T06:00:00+00:00, not {text!r}."
            ) from None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


#: A description of a picture for people who do not see it has a sentence or two.
MOST_ALT_TEXT_CHARACTERS = 2_000


def alt_text_of(value: object) -> str | None:
    """Return the alt text of an image, or None where a template rendered to nothing.

    :raises InvalidRequestError: when it is no text, or too long.
    """
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"alt_text must be text, not {value!r}.")
    found = filled("alt_text", value)
    if found is not None and len(found) > MOST_ALT_TEXT_CHARACTERS:
        raise InvalidRequestError(
            f"alt_text has {len(found):,} characters; the most is {MOST_ALT_TEXT_CHARACTERS:,}."
        )
    return found


MOST_VARIANT_CHARACTERS = 200


def variant_of(value: object) -> str | None:
    """Return what tells equal requests apart, or None where a template rendered to nothing.

    :raises InvalidRequestError: when it is neither text nor a whole number, or too long.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"variant must be text, not {value!r}.")
    found = filled("variant", value)
    if found is not None and len(found) > MOST_VARIANT_CHARACTERS:
        raise InvalidRequestError(
            f"variant has {len(found):,} characters; the most is {MOST_VARIANT_CHARACTERS:,}."
        )
    return found


def reuse_of(value: object) -> bool | timedelta | None:
    """Return whether saved pictures are reused: None never, True whatever their age, a timedelta up to that age.

    :raises InvalidRequestError: when it is anything else.
    """
    if value is None or value is False:
        return None
    if value is True or (isinstance(value, timedelta) and value > timedelta(0)):
        return value
    raise InvalidRequestError(f"reuse must be None, True or a timedelta above 0, not {value!r}.")


def absolute_url(name: str, value: str) -> str:
    """Return the URL or path of a file or folder in any storage, without spaces around it.

    fsspec would read a local path after two slashes, or four, as relative to the worker's current folder.

    :raises InvalidRequestError: when it is relative; shows no user and no password.
    """
    text = value.strip()
    scheme, separator, rest = text.partition("://")
    shown = _USER.sub(r"\1", text)[:200]
    if not separator and not text.startswith("/"):
        raise InvalidRequestError(
            f"{name} {shown!r} is no storage URL and no absolute path: give one such as file:///data/images or "
            "s3://conn@bucket/images."
        )
    if scheme.lower() in {"file", "local"}:
        host, slash, path = rest.partition("/")
        if not slash or host.rpartition("@")[2] or path.startswith("/"):
            raise InvalidRequestError(
                f"{name} {shown!r} is no absolute path: the URL of a local file has three slashes, as "
                "file:///data/images."
            )
    return text


def templated(value: _Value | XComArg) -> _Value:
    """Return a templated argument as it is, in the type of what it is rendered to before the task runs."""
    return cast("_Value", value)
