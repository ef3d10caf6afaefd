"""The manifest: the plain-JSON record of what was requested, made, saved and charged. Pure.

Generate, sensor and save return it (XCom), and a copy without links is saved beside the images (sidecar).
Each field has a row in ``docs/manifest.md`` and a property in ``manifest.schema.json`` beside this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, cast

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.evolink.answers import EVOLINK_TASK_ID, Generation
from airflow_provider_evoimage.evolink.given_up import GivenUp
from airflow_provider_evoimage.evolink.json_values import number, text
from airflow_provider_evoimage.evolink.prices import CREDITS_PER_USD
from airflow_provider_evoimage.evolink.pricing import estimate_with_prompt
from airflow_provider_evoimage.evolink.request import ImageRequest, billable_body
from airflow_provider_evoimage.evolink.signed_urls import without_secrets
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.labels import read_labels
from airflow_provider_evoimage.shapes import CostSum, Estimate, MadeBy, Manifest, ManifestImage

MANIFEST_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class RequestSummary:
    """The request of a generation, as far as the task that writes the manifest knows it.

    :param request: the request as sent.
    :param images: number of requested images.
    :param estimate: the estimated cost, as plain JSON.
    :param credits_reserved: EvoLink's reservation when it accepted the request.
    :param reusable_for: ``fingerprint`` and ``occurrence`` of the request, for later runs that reuse its images;
        None where the task neither reuses nor has a variant.
    :param name: the DAG author's name for what is drawn.
    :param labels: the DAG author's labels, for sums of costs.
    :param fell_back: the models that the request left behind, each with ``model``, ``why`` and ``billed``.
    """

    request: Mapping[str, Any] | None = None
    images: int | None = None
    estimate: Mapping[str, Any] | None = None
    credits_reserved: float | None = None
    reusable_for: Mapping[str, Any] | None = None
    name: str | None = None
    labels: Mapping[str, str] | None = None
    fell_back: Sequence[Mapping[str, Any]] | None = None

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
        names = [each.name for each in fields(self)]
        return RequestSummary(
            **{name: getattr(other if getattr(self, name) is None else self, name) for name in names}
        )

    def kept(self) -> dict[str, Any]:
        """Return it in the form of a manifest, as :meth:`in_manifest` reads it."""
        return {
            "request": self.request,
            "asked": self.images,
            "usage": {"estimate": self.estimate},
            **self.additions(),
        }

    def additions(self) -> dict[str, Any]:
        """Return the fields of a manifest that only some requests have."""
        added = {
            "name": self.name,
            "labels": dict(self.labels) if self.labels else None,
            "reusable_for": dict(self.reusable_for) if self.reusable_for else None,
            "fell_back": [dict(each) for each in self.fell_back or ()],
        }
        return {name: value for name, value in added.items() if value}

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
            name=text(manifest.get("name")) or None,
            labels=read_labels(manifest.get("labels")),
            fell_back=[each.to_json() for each in GivenUp.read(manifest.get("fell_back"))] or None,
        )


def build_manifest(
    generation: Generation,
    *,
    requested: RequestSummary,
    made_by: MadeBy,
    saved: Iterable[Mapping[str, Any]] = (),
) -> Manifest:
    """Describe a generation, and where its images were saved, as plain JSON."""
    files = {image["index"]: image for image in saved}
    completed = None
    reserved = generation.usage.credits_reserved
    if generation.created and generation.duration is not None and generation.status == "completed":
        completed = generation.created + timedelta(seconds=min(max(generation.duration, 0), 10**7))
    estimate = None if requested.estimate is None else cast("Estimate", dict(requested.estimate))
    manifest: Manifest = {
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
            cast("ManifestImage", {"index": index, "url": url} | dict(files.get(index, {})))
            for index, url in enumerate(generation.image_urls)
        ],
        "usage": {
            "estimate": estimate,
            "reserved": requested.credits_reserved if reserved is None else reserved,
            "charged": generation.usage.credits_used,
            "tokens": dict(generation.usage.tokens),
        },
        "made_by": made_by.copy(),
    }
    return cast("Manifest", {**manifest, **requested.additions()})


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
    images = [
        cast("ManifestImage", {key: value for key, value in image.items() if key != "url"})
        for image in manifest["images"]
    ]
    return {**manifest, "images": images}


def made_by(context: Mapping[str, Any]) -> MadeBy:
    """Name the Airflow task of a context."""
    ti = context["ti"]
    return {
        "dag_id": ti.dag_id,
        "run_id": ti.run_id,
        "task_id": ti.task_id,
        "map_index": ti.map_index if ti.map_index is not None else -1,
    }


def credits_of(manifests: object) -> CostSum:
    """Add up what generations cost: of a mapped task, of a batch, of a whole run.

    Call it in a task that gets them, for instance ``credits_of(draw.output)`` of a mapped ``draw``.

    :param manifests: a manifest, the summary of a batch, or any list of these; None stands for a task that was skipped.
    :returns: ``generations``, ``images`` and ``unknown`` (generations whose charge EvoLink has not said) are counts;
        ``credits`` and ``usd`` are sums of the known charges. A generation that is named twice counts once; one that
        was reused costs nothing.
    :raises InvalidRequestError: when it holds anything else.
    """
    total: CostSum = {"generations": 0, "images": 0, "unknown": 0, "credits": 0.0, "usd": 0.0}
    charged, seen = Decimal(0), set()
    for each in _manifests_in(manifests):
        if "items" in each and "evolink_task_id" not in each:
            counts, cost = (each["saved"], each["images"]), each["credits"]["charged"]
        else:
            counts, cost = (1, each["made"]), each["usage"]["charged"]
            if each["evolink_task_id"] in seen:
                continue
            seen.add(each["evolink_task_id"])
        total["generations"] += counts[0]
        total["images"] += counts[1]
        total["unknown"] += cost is None
        charged += Decimal(str(cost or 0))
    total["credits"] = float(round(charged, 6))
    total["usd"] = float(round(charged / CREDITS_PER_USD, 6))
    return total


def _manifests_in(value: object) -> Iterator[Mapping[str, Any]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        usage = value.get("usage") if "evolink_task_id" in value else value.get("credits")
        if not isinstance(usage, Mapping) or "charged" not in usage:
            raise InvalidRequestError(
                f"credits_of takes manifests and summaries of batches, not {value!r:.120}."
            )
        yield value
        return
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidRequestError(f"credits_of takes manifests and summaries of batches, not {value!r:.120}.")
    for each in value:
        yield from _manifests_in(each)


def parsed(generation: object) -> object:
    """Return what the text of a manifest, or of a list of them, stands for; anything else as it is.

    :raises InvalidRequestError: when it begins like JSON and is none.
    """
    if not isinstance(generation, str) or not generation.lstrip().startswith(("{", "[")):
        return generation
    try:
        return json.loads(generation)
    except (ValueError, RecursionError):
        raise InvalidRequestError(
            f"generation begins like the JSON of a manifest and is none: {generation!r:.120}. A template renders a "
            "dict as Python writes it: add '| tojson', or pass the task's output itself."
        ) from None


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
    value = parsed(value)
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
