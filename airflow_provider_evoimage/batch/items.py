"""The items of a batch: each a checked request, identified by its content and not by its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_evoimage.arguments import alt_text_of, variant_of
from airflow_provider_evoimage.batch.source import Entry
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError
from airflow_provider_evoimage.images.native_sizes import resolved_size
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.references.files import References
from airflow_provider_evoimage.references.task import with_sources
from airflow_provider_evoimage.storage.index import ImagesKey
from airflow_provider_evoimage.submission.identity import fingerprint

MAX_ITEMS = 2_000

#: The keys of an item: the fields of a request, name and alt text of its files, and what tells equal requests apart.
ITEM_FIELDS = (
    "name",
    "alt_text",
    "variant",
    "prompt",
    "model",
    "size",
    "quality",
    "n",
    "image_urls",
    "callback_url",
    "extra_body",
)

# Of the files, not of the request.
_NOT_SENT = frozenset({"name", "alt_text", "variant"})
_SHOWN_PROBLEMS = 10


#: Fingerprint and occurrence: they identify an item, whatever its place.
LedgerKey = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """One request of a batch.

    :param position: its place in the list of requests, from 0; it may differ in another try.
    :param name: its own name for its files, "" where it has none.
    :param alt_text: of its images; None where it has none of its own.
    :param references: its references as read, without local copies; None if it has none.
    :param given: the fields ``image_urls`` and ``extra_body`` as the user gave them, to read the references
        again.
    :param size_note: what the channel of ``size="for:…"`` will lose, in words.
    :param occurrence: how many equal requests come before it.
    :param is_indexed: whether its manifest says which requests its images are for.
    """

    position: int
    name: str
    alt_text: str | None
    request: ImageRequest
    references: References | None
    given: Mapping[str, Any]
    fingerprint: str
    occurrence: int
    size_note: str = ""
    is_indexed: bool = False

    @property
    def requested(self) -> RequestSummary:
        """The request, as the manifest describes it."""
        requested = RequestSummary.by(self.request)
        if self.is_indexed:
            key = ImagesKey(fingerprint=self.fingerprint, occurrence=self.occurrence)
            requested = replace(requested, reusable_for=key.to_json())
        return requested if self.references is None else with_sources(requested, self.references)

    @property
    def ledger_key(self) -> LedgerKey:
        """The key of its line in the ledger, whatever its place."""
        return self.fingerprint, self.occurrence


def build_items(
    entries: Sequence[Entry],
    defaults: Mapping[str, Any],
    read_references: Callable[[Mapping[str, Any]], References | None],
    *,
    variant: str | int | None = None,
    is_indexed: bool = False,
) -> list[BatchItem]:
    """Check every request before anything is paid.

    :param defaults: fields for all items; an item's own fields win.
    :param read_references: reads the references that the fields of a request name.
    :param variant: of items that have none of their own.
    :param is_indexed: whether the manifests say which requests the images are for; those of variants always do.
    :raises InvalidRequestError: naming each wrong item, or when there are too many.
    """
    if len(entries) > MAX_ITEMS:
        raise InvalidRequestError(
            f"requests has {len(entries):,} items; one batch takes {MAX_ITEMS:,}. Cut it into chunks and map over "
            "them: EvoImageBatchOperator.partial(...).expand(requests=chunks)."
        )
    items: list[BatchItem] = []
    problems = []
    seen: Counter[str] = Counter()
    for position, entry in enumerate(entries):
        try:
            fields = _fields(entry.fields, defaults)
            alt_text = alt_text_of(entry.fields.get("alt_text"))
            own_variant = variant_of(entry.fields.get("variant")) or variant_of(variant)
            given = {name: fields.get(name) for name in ("image_urls", "extra_body")}
            references = read_references(fields)
            if references is not None:
                fields |= {"image_urls": references.image_urls, "extra_body": references.extra_body}
            fields["size"], size_note = resolved_size(str(fields.get("model")), fields.get("size"))
            request = ImageRequest.build(**fields)
        except EvoImageError as error:
            where = f"request {position}" if entry.line is None else f"request {position} (line {entry.line})"
            problems.append(f"{where}: {error.message}")
            continue
        mark = fingerprint(request, own_variant)
        name = entry.fields.get("name")
        items.append(
            BatchItem(
                position=position,
                name="" if name is None else str(name).strip(),
                alt_text=alt_text,
                request=request,
                size_note=size_note,
                references=references,
                given=given,
                fingerprint=mark,
                occurrence=seen[mark],
                is_indexed=is_indexed or own_variant is not None,
            )
        )
        seen[mark] += 1
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = " ".join(problems[:_SHOWN_PROBLEMS]) + (f" And {more} more." if more > 0 else "")
        raise InvalidRequestError(f"{len(problems)} of {len(entries)} requests cannot be sent: {shown}")
    return items


def _fields(entry: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(str(name) for name in entry if name not in ITEM_FIELDS)
    if unknown:
        raise InvalidRequestError(
            f"{', '.join(unknown)}: no such field; there are {', '.join(ITEM_FIELDS)} (other models' go into "
            "extra_body)."
        )
    own = {name: value for name, value in entry.items() if name not in _NOT_SENT and value is not None}
    return {**defaults, **own}
