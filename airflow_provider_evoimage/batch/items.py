"""The items of a batch: each a checked request, known by what it asks for and not by where it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError
from airflow_provider_evoimage.submission.identity import fingerprint

MAX_ITEMS = 2_000

#: What an item may say: the fields of a request, and its own name for its files.
ITEM_FIELDS = ("name", "prompt", "model", "size", "quality", "n", "image_urls", "callback_url", "extra_body")

_SHOWN_PROBLEMS = 10


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """One request of a batch.

    :param number: its place in the list, from 0; it names files and log lines.
    :param name: its own name for its files, "" where it has none.
    :param occurrence: how many equal requests stand before it.
    """

    number: int
    name: str
    request: ImageRequest
    fingerprint: str
    occurrence: int

    @property
    def ledger_key(self) -> tuple[str, int]:
        """What it is found by in the ledger, wherever it stands."""
        return self.fingerprint, self.occurrence


def build_items(entries: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> list[BatchItem]:
    """Check every request before anything is paid.

    :param defaults: fields for all items; what an item says itself goes before.
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
    for number, entry in enumerate(entries):
        try:
            request = _request(entry, defaults)
        except EvoImageError as error:
            problems.append(f"item {number}: {error.message}")
            continue
        mark = fingerprint(request)
        name = entry.get("name")
        items.append(
            BatchItem(
                number=number,
                name="" if name is None else str(name).strip(),
                request=request,
                fingerprint=mark,
                occurrence=seen[mark],
            )
        )
        seen[mark] += 1
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        shown = " ".join(problems[:_SHOWN_PROBLEMS]) + (f" And {more} more." if more > 0 else "")
        raise InvalidRequestError(f"{len(problems)} of {len(entries)} requests cannot be sent: {shown}")
    return items


def _request(entry: Mapping[str, Any], defaults: Mapping[str, Any]) -> ImageRequest:
    unknown = sorted(str(name) for name in entry if name not in ITEM_FIELDS)
    if unknown:
        raise InvalidRequestError(
            f"{', '.join(unknown)}: no such field; there are {', '.join(ITEM_FIELDS)} (other models' go into "
            "extra_body)."
        )
    own = {name: value for name, value in entry.items() if name != "name" and value is not None}
    return ImageRequest.build(**{**defaults, **own})
