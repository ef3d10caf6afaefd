"""Reads the ``images`` argument of tasks that work on saved images: manifests, lists, a batch's summary or manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError
from airflow_provider_evoimage.shapes import Manifest
from airflow_provider_evoimage.storage.opening import storage_path


def manifests_given(value: object) -> list[Manifest]:
    """Return the manifests of all saved images.

    :param value: a manifest, the summary of a batch, the URL of a sidecar (``.json``) or of a batch manifest
        (``.jsonl``), or any list of these.
    :raises InvalidRequestError: when it is anything else, or an image is not saved.
    :raises DestinationError: when a file cannot be read.
    """
    found = list(_manifests(value))
    if not found:
        raise InvalidRequestError("images holds no saved image: there is nothing to do.")
    for manifest in found:
        lacking = [image for image in manifest["images"] if not _is_saved(image)]
        if lacking or not manifest["images"]:
            raise InvalidRequestError(
                f"The images of EvoLink task {manifest.get('evolink_task_id')} are not saved: give save_to to the task "
                "that makes them, or save them with EvoImageSaveOperator first."
            )
    return found


def _manifests(value: object) -> Iterator[Manifest]:
    if isinstance(value, Mapping):
        if isinstance(value.get("images"), list):
            # People may have edited it; what is read of it is checked.
            yield cast("Manifest", dict(value))
        elif isinstance(value.get("manifest"), str):
            yield from _read(value["manifest"])
        else:
            raise _not_an_image(value)
    elif isinstance(value, str):
        yield from _read(value)
    elif isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        for each in value:
            yield from _manifests(each)
    else:
        raise _not_an_image(value)


def _read(url: str) -> Iterator[Manifest]:
    if not url.strip().endswith((".json", ".jsonl")):
        raise _not_an_image(url)
    try:
        text = storage_path(url.strip()).read_text(encoding="utf-8")
        lines = text.splitlines() if url.strip().endswith(".jsonl") else [text]
        found = [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise InvalidRequestError(f"{url} holds no manifest: {error}.") from error
    except Exception as error:
        raise DestinationError(f"{url} cannot be read: {str(error) or type(error).__name__}") from error
    for each in found:
        # A line of a batch whose item has no images, or its header.
        if isinstance(each, Mapping) and isinstance(each.get("images"), list) and each["images"]:
            yield cast("Manifest", dict(each))


def _is_saved(image: Any) -> bool:
    return (
        isinstance(image, Mapping)
        and isinstance(image.get("path"), str)
        and all(isinstance(image.get(name), int) for name in ("index", "width", "height"))
    )


def _not_an_image(value: object) -> InvalidRequestError:
    return InvalidRequestError(
        "images must be a manifest, the summary of a batch, the URL of a .json or .jsonl manifest, or a list of them, "
        f"not {repr(value)[:120]}."
    )
