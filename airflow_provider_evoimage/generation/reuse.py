"""Reuses saved images of the same request in place of a new generation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_evoimage.defaults import OnClear
from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.metrics import generation_reused
from airflow_provider_evoimage.reuse.last_requests import LastRequests
from airflow_provider_evoimage.reuse.search import Found, ImageSearch, Wanted
from airflow_provider_evoimage.shapes import MadeBy, Manifest
from airflow_provider_evoimage.storage.index import key_of
from airflow_provider_evoimage.storage.saver import ImageSaver
from airflow_provider_evoimage.submission.record import RecordKeeper

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

# An item's label among those of its task: a task with one request has one.
_ONLY = ""


def may_reuse(*, keeper: RecordKeeper, is_retry: bool, is_cleared: bool, on_clear: OnClear) -> bool:
    """Tell whether saved images may stand in for a submission of this try.

    Not where an earlier try may have paid for this request: its images are delivered then. A cleared task wants
    new images, unless ``on_clear="reuse"``. Below Airflow 3.3 there is no record, so only the first try may.
    """
    if is_cleared and on_clear != "reuse":
        return False
    nothing_sent = keeper.knows_nothing_was_sent()
    return nothing_sent is True if is_retry or is_cleared else nothing_sent is not False


@dataclass(kw_only=True)
class GenerationReuse:
    """Reuses images for one request of one task.

    :param max_age: of the images; None for any.
    :param saver: of the task: where its images would go, and with which settings.
    """

    saver: ImageSaver
    max_age: timedelta | None
    made_by: MadeBy
    log: Logger

    def manifest(self, requested: RequestSummary, planned: list[str]) -> Manifest | None:
        """Return the manifest of saved images of this request; None where it must be drawn, and log why.

        :param planned: names that its own images would have.
        :raises DestinationError: when the storage fails; nothing was submitted.
        """
        key = key_of(requested.reusable_for)
        if key is None:
            return None
        search = ImageSearch(
            destination=self.saver.destination,
            names=self.saver.names,
            max_age=self.max_age,
        )
        wanted = Wanted(
            key=key, provenance=self.saver.provenance, alt_text=self.saver.alt_text, own_names=planned
        )
        try:
            found = search.find(wanted)
        except DestinationError as error:
            raise error.restate(
                billed=False, on_retry="Nothing was submitted by this try; a retry tries again."
            ) from None
        if isinstance(found, Found):
            manifest = found.manifest(requested, self.made_by)
            generation_reused(manifest["model"])
            self.log.info(
                "Reusing %s: nothing is submitted, nothing charged; saved %s (EvoLink task %s).",
                ", ".join(image["path"] for image in manifest["images"]),
                f"{found.saved_at:%Y-%m-%d %H:%M} UTC",
                manifest["evolink_task_id"],
            )
            return manifest
        because = found.because or self._last.difference(_ONLY, requested)
        self.log.info("Drawing new images: %s.", because or "none are saved for this request")
        return None

    def drawn(self, manifest: Manifest) -> None:
        """Note what was drawn, so that the next run can say what differs."""
        key = key_of(manifest.get("reusable_for"))
        if key is not None:
            self._last.keep({_ONLY: key})

    @property
    def _last(self) -> LastRequests:
        return LastRequests(self.saver.destination, self.made_by, self.log)
