"""Which request the images of a sidecar were made for. Pure.

Sidecars of tasks with ``reuse`` or ``variant`` say it; of others it follows from the request, if nothing in it is
hidden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_evoimage.defaults import PROVENANCE
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.storage.index import ImagesKey, key_of
from airflow_provider_evoimage.submission.identity import fingerprint

# The value of a parameter that a manifest does not show.
_HIDDEN = "=***"


@dataclass(frozen=True, kw_only=True)
class MadeFor:
    """The request and the settings of saved images.

    :param alt_text_sha256: hash of the alt text in the mark; None for none.
    """

    key: ImagesKey
    provenance: str
    alt_text_sha256: str | None = None


def key_in(sidecar: Mapping[str, Any]) -> MadeFor | None:
    """Return what the images of a sidecar were made for; None where that is unknown."""
    stated = sidecar.get("reusable_for")
    if stated is None:
        return _derived(sidecar)
    key = key_of(stated)
    if key is None or stated.get("provenance") not in PROVENANCE:
        return None
    alt_text = stated.get("alt_text_sha256")
    return MadeFor(
        key=key,
        provenance=stated["provenance"],
        alt_text_sha256=alt_text if isinstance(alt_text, str) else None,
    )


def _derived(sidecar: Mapping[str, Any]) -> MadeFor | None:
    """Read a sidecar of a task without ``reuse`` and ``variant``: the first of equal requests."""
    request = sidecar.get("request")
    if not isinstance(request, Mapping):
        return None
    body = {name: value for name, value in request.items() if not (name == "references" and _are_ours(value))}
    shown = {name: value for name, value in body.items() if name != "prompt"}
    try:
        if _HIDDEN in json.dumps(shown):
            return None
        built = ImageRequest.of_body(body)
    except (TypeError, ValueError, RecursionError):
        return None
    if built is None:
        return None
    return MadeFor(key=ImagesKey(fingerprint=fingerprint(built)), provenance=_provenance(sidecar))


def _are_ours(references: object) -> bool:
    """Whether this describes uploads, and is no field that a model takes."""
    return isinstance(references, list) and all(
        isinstance(each, Mapping) and "source" in each and "sha256" in each for each in references
    )


def _provenance(sidecar: Mapping[str, Any]) -> str:
    """Return the setting that the images were saved with; files older than marks are as EvoLink made them."""
    images = sidecar.get("images")
    stated = [image.get("provenance") for image in images or () if isinstance(image, Mapping)]
    reasons = {each.get("kept_because") for each in stated if isinstance(each, Mapping)}
    return "mark" if reasons and "provenance='keep'" not in reasons else "keep"
