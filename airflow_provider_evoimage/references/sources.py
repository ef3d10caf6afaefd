"""Reads ``image_urls`` into a flat list: from URLs, paths, manifests, and the texts that templates render."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.exceptions import InvalidRequestError

#: Real sidecars and rendered lists are far shorter.
MAX_TEXT_CHARACTERS = 1_000_000
# A mapped task hands over a list of manifests; several of them, a list of lists.
_DEEPEST_LIST = 5
_SHOWN_CHARACTERS = 120
_BLANK = frozenset({"", "None", "null"})


def sources_of(value: object, *, field: str, now: float) -> list[str]:
    """Flatten the user's references into http(s) URLs, storage URLs and local paths, in order.

    A manifest stands for its images: each by the path it was saved to, else by its link while that lives.
    Text that looks like a list or an object is read as JSON, or as what Python prints, which is what a
    template renders unless the DAG renders natively.

    None and an empty text are no references. A text that says None is what a template makes of a task that
    was skipped, and therefore an error: images without references would be paid for.

    :param field: name of the argument, for messages.
    :param now: Unix seconds, to tell whether links have died.
    :raises InvalidRequestError: naming the item that is none of these.
    """
    return list(_flat(value, field, now, _DEEPEST_LIST))


def images_of(manifest: Mapping[str, Any], *, field: str, now: float) -> list[str]:
    """Return where the images of a manifest are.

    :raises InvalidRequestError: when it has none yet, or only links that have died.
    """
    evolink_task_id = manifest.get("evolink_task_id")
    images = manifest.get("images")
    if not isinstance(images, list) or not images:
        raise InvalidRequestError(
            f"{field}: the manifest of EvoLink task {evolink_task_id} holds no images (status "
            f"{manifest.get('status')!r}): use the output of a task that waits for them."
        )
    return [_place(image, manifest, field, now) for image in images]


def is_manifest(value: object) -> bool:
    """Tell a manifest from any other object."""
    return isinstance(value, Mapping) and "evolink_task_id" in value and "images" in value


def is_blank(value: object) -> bool:
    """Tell whether this is None or empty, or the text that a template renders for it."""
    return value is None or (isinstance(value, str) and value.strip() in _BLANK)


def is_web_url(source: str) -> bool:
    """Tell whether EvoLink fetches this itself."""
    return source.lower().startswith(("http:", "https:"))


def _flat(value: object, field: str, now: float, levels: int) -> Iterator[str]:
    if isinstance(value, str):
        yield from _from_text(value, field, now, levels)
    elif isinstance(value, Mapping):
        if not is_manifest(value):
            raise _wrong(field, value, "is no manifest of an EvoImage task")
        yield from images_of(value, field=field, now=now)
    elif isinstance(value, ObjectStoragePath):
        yield str(value)
    elif isinstance(value, os.PathLike):
        yield os.fsdecode(value)
    elif value is None and levels == _DEEPEST_LIST:
        return
    elif value is None:
        raise InvalidRequestError(
            f"{field}: one of the references is None: the task it comes from was skipped or returned nothing."
        )
    elif isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, Set)) and levels:
        for item in value:
            yield from _flat(item, field, now, levels - 1)
    else:
        raise _wrong(field, value, "is none of: URL, path, manifest, or a list of them, whose order counts")


def _from_text(value: str, field: str, now: float, levels: int) -> Iterator[str]:
    text = value.strip()
    if levels == _DEEPEST_LIST:
        if not text:
            return
        if text in _BLANK:
            raise InvalidRequestError(
                f"{field} is the text {text!r}, as a template renders None: the task it comes from was skipped or "
                "returned nothing. Where there may be no references, render an empty text: {{ … or '' }}."
            )
    if text in _BLANK:
        raise InvalidRequestError(
            f"{field}: one of the references is {value!r}: the task it comes from was skipped or returned nothing."
        )
    if text[0] not in "[{(":
        yield text
    elif levels:
        yield from _flat(_literal(text, field), field, now, levels - 1)
    else:
        raise _wrong(field, value, "holds lists within lists")


def _literal(text: str, field: str) -> object:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidRequestError(
            f"{field}: a list of {len(text):,} characters is no list of reference images."
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise _wrong(field, text, "looks like a list, but is not valid JSON") from None


def _place(image: object, manifest: Mapping[str, Any], field: str, now: float) -> str:
    fields: Mapping[str, Any] = image if isinstance(image, Mapping) else {}
    if isinstance(path := fields.get("path"), str) and path:
        return path
    url = fields.get("url")
    evolink_task_id = manifest.get("evolink_task_id")
    if not isinstance(url, str) or not is_web_url(url):
        raise InvalidRequestError(
            f"{field}: the manifest of EvoLink task {evolink_task_id} names neither path nor link of an image."
        )
    expires_at = _moment(manifest.get("expires_at"))
    if expires_at is not None and expires_at.timestamp() <= now:
        raise InvalidRequestError(
            f"{field}: the links of EvoLink task {evolink_task_id} died at {expires_at:%Y-%m-%d %H:%M} UTC: set "
            "save_to on the task that made the images, and its saved files are used."
        )
    return url


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def _wrong(field: str, value: object, why: str) -> InvalidRequestError:
    try:
        shown = repr(value)
    except (ValueError, RecursionError):
        shown = f"a {type(value).__name__}"
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}…"
    return InvalidRequestError(f"{field}: {shown} {why}.")
