"""Takes in the generations of a batch that have ended: saves their images, and notes what came of each item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from airflow_provider_evoimage.batch.items import BatchItem
from airflow_provider_evoimage.batch.ledger import ItemError, LedgerLine, saved
from airflow_provider_evoimage.batch.submission import BatchSubmission, name_in_budget, progress_in_words
from airflow_provider_evoimage.evolink.errors import is_retryable_failure
from airflow_provider_evoimage.evolink.models import Generation
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    GenerationLostError,
    GenerationTimeoutError,
    LinkExpiredError,
)
from airflow_provider_evoimage.manifest import Asked
from airflow_provider_evoimage.metrics import generation_ended
from airflow_provider_evoimage.storage.saver import GenerationToSave, ImageSaver, SaveOutcome
from airflow_provider_evoimage.waiting.ending import require_images
from airflow_provider_evoimage.waiting.polling import Ending

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: Generations between two writings of the ledger while saving.
CHUNK = 50


@dataclass(kw_only=True)
class BatchCollection:
    """Saves what has ended, some at a time, so that memory and what a crash repeats stay small.

    :param submission: holds the lines, which are changed in place, and writes the ledger.
    """

    submission: BatchSubmission
    saver: ImageSaver
    items: Sequence[BatchItem]
    log: Logger

    def collect(self, endings: Mapping[str, Ending]) -> None:
        """Read and save generations whose wait is over; one that still runs is noted as unfinished."""
        by_id = {
            line.evolink_task_id: item
            for item in self.items
            if (line := self._line(item)).evolink_task_id in endings and line.state == "waiting"
        }
        ids = iter([each for each in endings if each in by_id])
        while chunk := list(islice(ids, CHUNK)):
            found = self.submission.hook.get_generations(chunk)
            ended = []
            for evolink_task_id in chunk:
                item, generation = by_id[evolink_task_id], found.get(evolink_task_id)
                if generation is not None and generation.is_terminal:
                    ended.append((item, generation))
                else:
                    self._unfinished(item, evolink_task_id, generation, endings[evolink_task_id])
            self._save(ended)
            self.submission.write()
            self.log.info("%s.", progress_in_words(self.submission.lines.values()).capitalize())

    def _save(self, ended: Iterable[tuple[BatchItem, Generation]]) -> None:
        to_save = []
        for item, generation in ended:
            self.submission.budget.settle(name_in_budget(item), generation.usage.credits_used)
            try:
                require_images(generation)
            except EvoImageError as error:
                self._failed(item, generation, error)
            else:
                to_save.append((item, generation))
        outcomes = self.saver.save_each([self._to_save(item, generation) for item, generation in to_save])
        for (item, generation), outcome in zip(to_save, outcomes, strict=True):
            self._saved(item, generation, outcome)

    def _to_save(self, item: BatchItem, generation: Generation) -> GenerationToSave:
        record = self._line(item).record
        asked = Asked.by(item.request)
        if record is not None:
            asked = replace(asked, credits_reserved=record.credits_reserved)
        return GenerationToSave(generation=generation, asked=asked, item=item.number, name=item.name)

    def _saved(self, item: BatchItem, generation: Generation, outcome: SaveOutcome) -> None:
        line = self._line(item)
        if outcome.manifest is not None:
            self._keep(saved(line, outcome.manifest))
            generation_ended(generation)
            made = len(generation.image_urls)
            if made < item.request.asked:
                self.log.warning(
                    "EvoLink made %d of the %d images of item %d.", made, item.request.asked, item.number
                )
            return
        expired = next((error for error in outcome.errors if isinstance(error, LinkExpiredError)), None)
        if expired is not None:
            generation_ended(generation, is_expired=True)
            self._failed(item, generation, expired)
            return
        # The images are there and paid for: the line goes on waiting, and a retry saves them.
        error = next((each for each in outcome.errors if each.retryable), outcome.errors[0])
        self.log.warning("Item %d could not be saved: %s", item.number, error)
        self._keep(replace(line, error=ItemError.of(error)))

    def _failed(self, item: BatchItem, generation: Generation, error: EvoImageError) -> None:
        line = self._line(item)
        if line.record is not None:
            retryable = is_retryable_failure(generation)
            line = replace(line, record=replace(line.record, phase="failed", retryable=retryable))
        self._keep(replace(line, state="failed", error=ItemError.of(error)))
        if not isinstance(error, LinkExpiredError):
            generation_ended(generation)
        self.log.warning("Item %d: %s", item.number, error)

    def _unfinished(
        self, item: BatchItem, evolink_task_id: str, generation: Generation | None, ending: Ending
    ) -> None:
        kind = GenerationTimeoutError if ending == "timeout" else GenerationLostError
        status = "unknown to EvoLink" if generation is None else f"still {generation.status}"
        error = kind(
            f"EvoLink task {evolink_task_id} was {status} when the wait ended ({ending}).",
            evolink_task_id=evolink_task_id,
        )
        self._keep(replace(self._line(item), error=ItemError.of(error)))

    def _line(self, item: BatchItem) -> LedgerLine:
        return self.submission.lines[item.ledger_key]

    def _keep(self, line: LedgerLine) -> None:
        self.submission.lines[line.fingerprint, line.occurrence] = line
