"""What an ingest run saved, counted as it goes: small, however many images there are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from airflow_provider_evoimage.evolink.json_values import mapping, number
from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.images_xcom import described
from airflow_provider_evoimage.lineage import MAX_LISTED, CountedImages
from airflow_provider_evoimage.shapes import IngestFailure, IngestSummary, MadeBy, Manifest

SUMMARY_VERSION: Final = 1
_SHOWN = 20
_SHOWN_CHARACTERS = 200


@dataclass(kw_only=True)
class IngestOutcome:
    """Counts generations by what became of them; keeps the first ids and paths.

    :param found: completed generations in the wanted time and of the wanted models.
    :param known: were saved by an earlier run.
    :param own: are saved below the folders of our own tasks.
    :param young: left for the next run, as an own task may be about to save them.
    :param without_images: completed without a single image.
    """

    found: int = 0
    known: int = 0
    own: int = 0
    young: int = 0
    without_images: int = 0
    failed: int = 0
    saved: int = 0
    images: int = 0
    bytes: int = 0
    #: The first generations that could not be saved, and why.
    failures: list[IngestFailure] = field(default_factory=list)
    #: None once a charge is unknown.
    credits: float | None = 0.0
    evolink_task_ids: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    #: Unsaved generations whose links soon die, the oldest first.
    expiring: list[str] = field(default_factory=list)
    _first: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, manifest: Manifest) -> None:
        """Count a generation that this run saved."""
        images = [mapping(each) for each in manifest.get("images") or ()]
        self.saved += 1
        self.images += len(images)
        self.bytes += int(sum(number(each.get("bytes")) or 0 for each in images))
        charged = number(mapping(manifest.get("usage")).get("charged"))
        if self.credits is not None:
            self.credits = None if charged is None else round(self.credits + charged, 6)
        _append(self.evolink_task_ids, [manifest["evolink_task_id"]])
        _append(self.paths, [each["path"] for each in images if isinstance(each.get("path"), str)])
        if len(self._first) < _SHOWN:
            self._first.append(manifest)

    def failed_with(self, evolink_task_id: str, error: EvoImageError) -> None:
        """Count a generation that could not be saved."""
        self.failed += 1
        if len(self.failures) < _SHOWN:
            message = error.message[:_SHOWN_CHARACTERS]
            kind = type(error).__name__
            self.failures.append({"evolink_task_id": evolink_task_id, "kind": kind, "message": message})

    def images_below(self, save_to: str) -> CountedImages:
        """Return the images for asset events and OpenLineage."""
        return CountedImages(
            manifests=(),
            # Without new images there is nothing to announce.
            save_to=save_to if self.saved else None,
            counts={
                "generations": self.saved,
                "images": self.images,
                "credits": self.credits,
                "reused": 0,
                "evolink_task_ids": self.evolink_task_ids,
                "paths": self.paths,
            },
            bytes=self.bytes,
        )

    @property
    def shown(self) -> dict[str, Any]:
        """What the XCom ``evoimage_images`` shows: counts, charge and the first images."""
        return {
            **described(self._first),
            "images": self.images,
            "saved": self.images,
            "credits": self.credits,
            "items": self.found,
            "items_saved": self.saved,
            "items_failed": self.failed,
        }

    def summary(self, made_by: MadeBy) -> IngestSummary:
        """Return the XCom of the task: counts, and the first 200 ids and paths of what it saved."""
        return {
            "v": SUMMARY_VERSION,
            "found": self.found,
            "saved": self.saved,
            "known": self.known,
            "own": self.own,
            "young": self.young,
            "without_images": self.without_images,
            "failed": self.failed,
            "failures": self.failures,
            "images": self.images,
            "bytes": self.bytes,
            "credits": self.credits,
            "evolink_task_ids": self.evolink_task_ids,
            "paths": self.paths,
            "expiring": self.expiring[:_SHOWN],
            "made_by": made_by.copy(),
        }


def _append(kept: list[str], more: Iterable[str]) -> None:
    kept.extend(more)
    del kept[MAX_LISTED:]
