"""Reuses saved images for the items of a batch, before anything is submitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_evoimage.batch.items import BatchItem
from airflow_provider_evoimage.batch.ledger import LedgerLine
from airflow_provider_evoimage.batch.submission import Lines
from airflow_provider_evoimage.batch.summary import counted
from airflow_provider_evoimage.defaults import OnClear, Provenance
from airflow_provider_evoimage.metrics import generation_reused
from airflow_provider_evoimage.reuse.last_requests import LastRequests
from airflow_provider_evoimage.reuse.search import Found, ImageSearch, Wanted
from airflow_provider_evoimage.shapes import MadeBy
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames
from airflow_provider_evoimage.storage.index import ImagesKey, key_of

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

# Items whose reason to be drawn is logged one by one.
_EXPLAINED = 10


@dataclass(kw_only=True)
class BatchReuse:
    """Reuses images for items that no try of this batch has submitted.

    :param reuse: None never, True whatever their age, a timedelta up to that age.
    :param epoch: ``ti.max_tries``.
    :param is_cleared: whether the task was cleared: then it wants new images, unless ``on_clear="reuse"``.
    :param alt_text: of items that have none of their own.
    """

    reuse: bool | timedelta | None
    destination: Destination
    names: FileNames
    provenance: Provenance
    alt_text: str | None
    made_by: MadeBy
    epoch: int
    is_cleared: bool
    on_clear: OnClear
    log: Logger

    def apply(self, items: Sequence[BatchItem], lines: Lines, *, ledger_is_whole: bool) -> list[BatchItem]:
        """Give items their saved images; return the items that are left to submit or to resume.

        :param lines: the line of each item; changed in place.
        :param ledger_is_whole: whether the ledger says of every item whether it was submitted.
        :raises DestinationError: when the storage fails; nothing was submitted for these items then.
        """
        left = [item for item in items if not self._stays(lines, item)]
        may_search = self.reuse and (not self.is_cleared or self.on_clear == "reuse") and ledger_is_whole
        # With a record an item is submitted already, and may be paid for.
        open_ = [item for item in left if may_search and lines[item.ledger_key].record is None]
        if not open_:
            return left
        found = self._search().find_all([self._wanted(item, lines[item.ledger_key]) for item in open_])
        reused: set[int] = set()
        drawn: list[tuple[BatchItem, str]] = []
        for item, each in zip(open_, found, strict=True):
            if isinstance(each, Found):
                line = lines[item.ledger_key]
                manifest = each.manifest(item.requested, self.made_by)
                lines[item.ledger_key] = replace(
                    line, state="saved", manifest=manifest, charge=None, error=None, reused_in=self.epoch
                )
                reused.add(item.position)
                generation_reused(manifest["model"])
            else:
                drawn.append((item, each.because))
        self._log(len(reused), drawn)
        return [item for item in left if item.position not in reused]

    def note(self, lines: Sequence[LedgerLine]) -> None:
        """Note the requests of this run, so that the next one can say what differs."""
        if not self.reuse:
            return
        keys = {
            _label(line.name, line.position): key
            for line in lines
            if line.state == "saved" and (key := key_of(line.manifest and line.manifest.get("reusable_for")))
        }
        self._last.keep(keys)

    def _stays(self, lines: Lines, item: BatchItem) -> bool:
        """Whether an item keeps the images that an earlier try of this batch reused; else it is open again."""
        line = lines[item.ledger_key]
        if not line.is_reused:
            return False
        if line.reused_in == self.epoch:
            return True
        is_wanted = self.on_clear == "reuse" or (self.on_clear == "auto" and not line.was_reused_to_the_end)
        if is_wanted and self._is_there(line):
            lines[item.ledger_key] = replace(line, reused_in=self.epoch)
            return True
        lines[item.ledger_key] = replace(
            line, state="queued", manifest=None, reused_in=None, was_reused_to_the_end=False
        )
        return False

    def _is_there(self, line: LedgerLine) -> bool:
        images = (line.manifest.get("images") if line.manifest else None) or ()
        for image in images:
            name = self.destination.name_of(str(image.get("path")))
            if name is None or self.destination.size_if_there(name) != image.get("bytes"):
                return False
        return bool(images)

    def _search(self) -> ImageSearch:
        return ImageSearch(
            destination=self.destination,
            names=self.names,
            max_age=self.reuse if isinstance(self.reuse, timedelta) else None,
        )

    def _wanted(self, item: BatchItem, line: LedgerLine) -> Wanted:
        planned = self.names.planned(
            self.made_by,
            item=line.item,
            own_name=line.name or str(line.item),
            model=item.request.model,
            images=item.request.image_count,
            of=f"request {item.position}",
        )
        return Wanted(
            key=ImagesKey(fingerprint=item.fingerprint, occurrence=item.occurrence),
            provenance=self.provenance,
            alt_text=item.alt_text or self.alt_text,
            own_names=planned,
        )

    def _log(self, reused: int, drawn: Sequence[tuple[BatchItem, str]]) -> None:
        self.log.info(
            "Reusing the saved images of %s: nothing is charged for them; drawing %s.",
            counted(reused, "item"),
            counted(len(drawn), "item"),
        )
        last = self._last
        for item, because in drawn[:_EXPLAINED]:
            label = _label(item.name, item.position)
            self.log.info(
                "Drawing item %s: %s.",
                label,
                because or last.difference(label, item.requested) or "no images are saved for this request",
            )
        if len(drawn) > _EXPLAINED:
            self.log.info("Drawing %s more.", counted(len(drawn) - _EXPLAINED, "item"))

    @property
    def _last(self) -> LastRequests:
        return LastRequests(self.destination, self.made_by, self.log)


def _label(name: str, position: int) -> str:
    """Return what an item is called from run to run: its name, else its place."""
    return name or str(position)
