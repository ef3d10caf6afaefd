"""The manifest: the plain-JSON record of what was requested, made, saved and charged. Pure.

Generate, sensor and save return it (XCom), and a copy without links is saved beside the images (sidecar).
Each field has a row in ``docs/manifest.md`` and a property in ``manifest.schema.json`` beside this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.evolink.answers import EVOLINK_TASK_ID, Generation
from airflow_provider_evoimage.evolink.json_values import number
from airflow_provider_evoimage.evolink.prices import CREDITS_PER_USD
from airflow_provider_evoimage.evolink.pricing import estimate_with_prompt
from airflow_provider_evoimage.evolink.request import ImageRequest, billable_body
from airflow_provider_evoimage.evolink.signed_urls import without_secrets
from airflow_provider_evoimage.exceptions import InvalidRequestError

MANIFEST_VERSION = 1

Manifest = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RequestSummary:
    """The request of a generation, as far as the task that writes the manifest knows it.

    :param request: the request as sent.
    :param images: number of requested images.
    :param estimate: the estimated cost, as plain JSON.
    :param credits_reserved: EvoLink's reservation when it accepted the request.
    :param reusable_for: ``fingerprint`` and ``occurrence`` of the request, for later runs that reuse its images;
        None where the task neither reuses nor has a variant.
    """

    request: Mapping[str, Any] | None = None
    images: int | None = None
    estimate: Mapping[str, Any] | None = None
    credits_reserved: float | None = None
    reusable_for: Mapping[str, Any] | None = None

    @classmethod
    def by(cls, request: ImageRequest) -> RequestSummary:
        """Describe a request, without ``callback_url`` (it may hold a secret), and with no secret in a URL."""
        body = billable_body(request, without_secrets)
        found = estimate_with_prompt(request)
        return cls(
            request=body, images=request.image_count, estimate=None if found is None else found.to_json()
        )

    def completed_by(self, other: RequestSummary) -> RequestSummary:
        """Return it with what it lacks taken from another description of the same generation."""
        names = ("request", "images", "estimate", "credits_reserved", "reusable_for")
        return RequestSummary(
            **{name: getattr(other if getattr(self, name) is None else self, name) for name in names}
        )

    def kept(self) -> dict[str, Any]:
        """Return it in the form of a manifest, as :meth:`in_manifest` reads it."""
        kept = {"request": self.request, "asked": self.images, "usage": {"estimate": self.estimate}}
        return kept if self.reusable_for is None else {**kept, "reusable_for": dict(self.reusable_for)}

    @classmethod
    def in_manifest(cls, manifest: object) -> RequestSummary:
        """Read the request from an earlier task's manifest, for information only."""
        if not isinstance(manifest, Mapping):
            return cls()
        request, images, usage = manifest.get("request"), manifest.get("asked"), manifest.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        return cls(
            request=dict(request) if isinstance(request, Mapping) else None,
            images=images if isinstance(images, int) else None,
            estimate=_estimate(usage.get("estimate")),
            credits_reserved=number(usage.get("reserved")),
            reusable_for=_reusable_for(manifest.get("reusable_for")),
        )


def build_manifest(
    generation: Generation,
    *,
    requested: RequestSummary,
    made_by: Mapping[str, Any],
    saved: Iterable[Mapping[str, Any]] = (),
) -> Manifest:
    """Describe a generation, and where its images were saved, as plain JSON."""
    files = {image["index"]: image for image in saved}
    completed = None
    reserved = generation.usage.credits_reserved
    if generation.created and generation.duration is not None and generation.status == "completed":
        completed = generation.created + timedelta(seconds=min(max(generation.duration, 0), 10**7))
    return {
        "v": MANIFEST_VERSION,
        "provider": f"airflow-provider-evoimage {__version__}",
        "evolink_task_id": generation.evolink_task_id,
        "status": generation.status,
        "model": generation.model,
        "created": _iso(generation.created),
        "completed": _iso(completed),
        "expires_at": _iso(generation.expires_at),
        "asked": requested.images,
        "made": len(generation.image_urls),
        "request": dict(requested.request) if requested.request is not None else None,
        "images": [
            {"index": index, "url": url} | dict(files.get(index, {}))
            for index, url in enumerate(generation.image_urls)
        ],
        "usage": {
            "estimate": dict(requested.estimate) if requested.estimate is not None else None,
            "reserved": requested.credits_reserved if reserved is None else reserved,
            "charged": generation.usage.credits_used,
            "tokens": dict(generation.usage.tokens),
        },
        "made_by": dict(made_by),
        **({} if requested.reusable_for is None else {"reusable_for": dict(requested.reusable_for)}),
    }


def cost_in_words(manifest: Manifest) -> str:
    """Describe in one line what a generation cost, and the estimate."""
    usage = manifest["usage"]
    charged, reserved, estimate = usage["charged"], usage["reserved"], usage["estimate"]
    if charged is None:
        cost = "an unknown number of credits"
    else:
        cost = f"{charged:,.4f} credits ({charged / float(CREDITS_PER_USD):,.4f} USD)"
    notes = []
    if estimate is not None:
        low, high = estimate["credits_low"], estimate["credits_high"]
        notes.append(f"estimated {low:,.4f} to {high:,.4f}" if low != high else f"estimated {high:,.4f}")
    if reserved is not None:
        notes.append(f"reserved {reserved:,.4f}")
    return f"EvoLink task {manifest['evolink_task_id']} cost {cost}{'; ' if notes else ''}{', '.join(notes)}"


def without_links(manifest: Manifest) -> Manifest:
    """Leave out the result links, for a file that outlives them."""
    images = [{key: value for key, value in image.items() if key != "url"} for image in manifest["images"]]
    return {**manifest, "images": images}


def made_by(context: Mapping[str, Any]) -> dict[str, Any]:
    """Name the Airflow task of a context."""
    ti = context["ti"]
    return {
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": ti.map_index if ti.map_index is not None else -1,
    }


def generations_named_by(value: object) -> dict[str, RequestSummary]:
    """Read the ``generation`` argument of a save operator, each generation once; see :func:`generations_given`.

    :returns: the request of each generation as far as known, by ``evolink_task_id``, in order.
    """
    return dict(generations_given(value))


def generations_given(value: object) -> list[tuple[str, RequestSummary]]:
    """Read the ``generation`` argument of a save operator: an id, a manifest, or any list of these.

    Only the ids are used: people may edit an XCom, so its links and paths are not trusted.

    :returns: the ``evolink_task_id`` of each generation and its request as far as known, in order.
    :raises InvalidRequestError: when it holds anything else.
    """
    if isinstance(value, (str, Mapping)):
        # Which request its images may be reused for is only true of what the task itself sent.
        return [(_id_of(value), replace(RequestSummary.in_manifest(value), reusable_for=None))]
    if not isinstance(value, Iterable) or isinstance(value, (bytes, bytearray)):
        raise _not_a_generation(value)
    # A task that hands over several manifests, mapped: a list of lists.
    given = [generation for item in value for generation in generations_given(item)]
    if not given:
        raise InvalidRequestError("generation is an empty list: there is nothing to save.")
    return given


def _estimate(value: object) -> dict[str, Any] | None:
    """Read an estimate; None if one of its ends is missing."""
    if not isinstance(value, Mapping):
        return None
    known = {
        name: each
        for name, each in value.items()
        if isinstance(name, str) and (isinstance(each, str) or number(each) is not None)
    }
    has_ends = all(number(known.get(name)) is not None for name in ("credits_low", "credits_high"))
    return known if has_ends else None


def _reusable_for(value: object) -> dict[str, Any] | None:
    """Read fingerprint and occurrence; what a save adds to them is its own."""
    if not isinstance(value, Mapping):
        return None
    fingerprint, occurrence = value.get("fingerprint"), value.get("occurrence")
    if not isinstance(fingerprint, str) or not isinstance(occurrence, int):
        return None
    return {"fingerprint": fingerprint, "occurrence": occurrence}


def _id_of(value: object) -> str:
    evolink_task_id = value.get("evolink_task_id") if isinstance(value, Mapping) else value
    if not isinstance(evolink_task_id, str) or not EVOLINK_TASK_ID.fullmatch(evolink_task_id.strip()):
        raise _not_a_generation(value)
    if evolink_task_id.strip() == "None":  # A template renders this for a task that returned nothing.
        raise _not_a_generation(None)
    return evolink_task_id.strip()


def _not_a_generation(value: object) -> InvalidRequestError:
    shown = repr(value)[:120]
    return InvalidRequestError(
        f"generation must be a manifest, an EvoLink task id, or a list of them, not {shown}. A task that was "
        "skipped or returned nothing gives None."
    )


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
