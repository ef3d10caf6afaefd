"""The XCom ``evoimage_images``: which images a task makes, made or failed to make, in 2 kB at most.

Every operator and sensor pushes it, also while it waits. People read it in the XCom tab, and the pages of
``plugins/`` list it. It is for information only: a task never reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.exceptions import EvoImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk.types import Logger

    from airflow_provider_evoimage.evolink.answers import Generation
    from airflow_provider_evoimage.manifest import RequestSummary
    from airflow_provider_evoimage.shapes import Manifest

XCOM_IMAGES = "evoimage_images"
#: What an approval asks about, whole; the pages find the pictures of Required Actions by it.
XCOM_APPROVAL = "evoimage_approval"
VERSION = 1
MAX_BYTES = 2_000
_PROMPT_CHARACTERS = 300
_ERROR_CHARACTERS = 500
_LISTED = 20
_OF_A_PUSH = frozenset({"v", "state", "at"})


class ImagesXCom:
    """Pushes ``evoimage_images`` for one task instance; a push that fails is a warning.

    :param ti: Airflow's task instance.
    """

    def __init__(self, ti: Any, log: Logger) -> None:
        self._ti = ti
        self._log = log
        self._last: dict[str, Any] = {}

    @contextmanager
    def telling_failures(self) -> Iterator[None]:
        """Push and log why this try failed, if it fails with an error of this provider."""
        try:
            yield
        except EvoImageError as error:
            # In Airflow's log page the traceback that follows pushes everything else out of the window.
            for line in error.log_lines():
                self._log.error("%s", line)
            self._push({**self._known(), "state": "failed", **failure(error)})
            raise

    def waiting(self, generation: Generation, requested: RequestSummary | None = None) -> None:
        """Push that a generation is under way."""
        reserved = generation.usage.credits_reserved
        self._push(
            {
                "state": "waiting",
                "evolink_task_ids": [generation.evolink_task_id],
                "images": 0,
                "credits_reserved": reserved,
                "expected_seconds": generation.estimated_time,
                **_request({} if requested is None else requested.request),
            }
        )

    def batch_waiting(self, progress: Mapping[str, Any]) -> None:
        """Push how far a batch is; see ``BatchRun.progress``."""
        self._push({"state": "waiting", **progress})

    def batch_made(self, progress: Mapping[str, Any]) -> None:
        """Push what a batch has made at its end."""
        self._push({"state": "made", **progress})

    def made(self, manifests: Sequence[Manifest]) -> None:
        """Push what was made, and where it was saved."""
        self._push({"state": "made", **described(manifests)})

    def approval(self, manifests: Sequence[Manifest], approval: Mapping[str, Any], *, state: str) -> None:
        """Push which images a person is asked about, or what was answered; they were paid for elsewhere."""
        told = described(manifests)
        kept = ("images", "saved", "files", "prompt", "model", "size", "quality", "n")
        self._push({"state": state, **{name: told[name] for name in kept}, "approval": dict(approval)})

    def _known(self) -> dict[str, Any]:
        """Return what this try pushed last, in this process or before the wait."""
        if not self._last:
            with suppress(Exception):
                pushed = self._ti.xcom_pull(
                    task_ids=self._ti.task_id, key=XCOM_IMAGES, map_indexes=self._ti.map_index
                )
                if isinstance(pushed, Mapping):
                    self._last = {key: each for key, each in pushed.items() if key not in _OF_A_PUSH}
        return self._last

    def _push(self, value: Mapping[str, Any]) -> None:
        fitted = within_limit({"v": VERSION, **value, "at": datetime.now(UTC).isoformat(timespec="seconds")})
        self._last = {key: each for key, each in fitted.items() if key not in _OF_A_PUSH}
        try:
            self._ti.xcom_push(key=XCOM_IMAGES, value=fitted)
        except Exception as error:  # noqa: BLE001 (any backend, any failure)
            self._log.warning("The XCom %r cannot be written (%s); continuing.", XCOM_IMAGES, error)


def described(manifests: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Describe generations by their manifests: ids, paths, credits and the first request."""
    from airflow_provider_evoimage.evolink.json_values import number

    found = list(manifests)
    images = [image for manifest in found for image in manifest.get("images") or ()]
    charges = [number((manifest.get("usage") or {}).get("charged")) for manifest in found]
    known = [each for each in charges if each is not None]
    expiries = [each["expires_at"] for each in found if each.get("expires_at")]
    first = found[0] if found else {}
    return {
        "evolink_task_ids": [each.get("evolink_task_id") for each in found],
        "images": len(images),
        "saved": sum(bool(image.get("path")) for image in images),
        # Up to the first image without one: their places are those of the images.
        "files": list(_files(images)),
        "credits": round(sum(known), 6) if known else None,
        # Shown only where it says something.
        "reused": sum("reused" in manifest for manifest in found) or None,
        "expires_at": min(expiries) if expiries else None,
        **_request(first.get("request"), model=first.get("model")),
    }


def _files(images: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for image in images:
        if not image.get("path"):
            return
        yield [image["path"], str(image.get("sha256") or "")[:12], image.get("width"), image.get("height")]


def _request(request: object, *, model: object = None) -> dict[str, Any]:
    known = request if isinstance(request, Mapping) else {}
    return {
        "prompt": str(known.get("prompt") or "")[:_PROMPT_CHARACTERS],
        **{name: known.get(name) for name in ("size", "quality", "n")},
        "model": model or known.get("model"),
    }


def failure(error: EvoImageError) -> dict[str, Any]:
    """Describe why a try failed, whether that was billed, and what a retry does."""
    return {
        "error": {
            "kind": type(error).__name__,
            "message": error.message[:_ERROR_CHARACTERS],
            "billed": error.billed,
            "on_retry": error.on_retry[:_ERROR_CHARACTERS],
            "retryable": error.retryable,
        },
        **({"evolink_task_ids": [error.evolink_task_id]} if error.evolink_task_id else {}),
    }


def within_limit(value: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten lists and texts until the value has 2 kB as JSON at most."""
    fitted = {key: each for key, each in value.items() if each not in (None, [], "")}
    for key in ("evolink_task_ids", "files"):
        if key in fitted:
            fitted[key] = list(fitted[key])[:_LISTED]
    while len(json.dumps(fitted).encode()) > MAX_BYTES:
        ids, files = fitted.get("evolink_task_ids", []), fitted.get("files", [])
        if len(ids) > 1 and len(ids) >= len(files):
            fitted["evolink_task_ids"] = ids[:-1]
        elif files:
            fitted["files"] = files[:-1]
        elif len(fitted.get("prompt", "")) > 40:
            fitted["prompt"] = fitted["prompt"][: len(fitted["prompt"]) // 2]
        elif "error" in fitted and len(fitted["error"]["message"]) > 40:
            short = {
                name: fitted["error"][name][: len(fitted["error"][name]) // 2]
                for name in ("message", "on_retry")
            }
            fitted["error"] = {**fitted["error"], **short}
        else:
            return {
                key: fitted[key]
                for key in ("v", "state", "at", "images", "saved", "credits")
                if key in fitted
            }
    return fitted
