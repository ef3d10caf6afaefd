"""Collects the ended generations of a batch: saves their images and records the outcome of each item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

from airflow_provider_evoimage.batch.ledger import BatchLedger, ItemError, LedgerLine, saved
from airflow_provider_evoimage.batch.submission import Lines, name_in_budget, progress_in_words
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    LinkExpiredError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.metrics import generation_ended
from airflow_provider_evoimage.storage.image_names import GenerationToSave
from airflow_provider_evoimage.storage.saver import ImageSaver, SaveOutcome
from airflow_provider_evoimage.submission.budget import Budget
from airflow_provider_evoimage.submission.fallback import cost_nothing, reason_to_move_on
from airflow_provider_evoimage.waiting.polling import Ending
from airflow_provider_evoimage.waiting.result import require_images, unfinished_error

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: Generations between two writings of the ledger while saving.
CHUNK = 50


@dataclass(kw_only=True)
class BatchCollection:
    """Saves ended generations in chunks, so that memory stays small and a crash repeats little.

    :param lines: the line of each item; changed in place.
    :param has_other_model: whether a model is left that an item has not tried.
    """

    hook: EvoImageHook
    ledger: BatchLedger
    lines: Lines
    saver: ImageSaver
    budget: Budget
    log: Logger
    has_other_model: Callable[[LedgerLine], bool] = lambda line: False

    def collect(self, endings: Mapping[str, Ending], reason: str = "") -> None:
        """Read and save generations whose wait is over; one that still runs is recorded as unfinished.

        :param reason: why generations count as lost.
        """
        by_id = {
            line.evolink_task_id: line
            for line in self.lines.values()
            if line.evolink_task_id in endings and line.state == "waiting"
        }
        for chunk, found in self._read([each for each in endings if each in by_id]):
            # A later try may have newer images under the same names.
            self.ledger.require_latest_try()
            ended = []
            for evolink_task_id in chunk:
                line, generation = by_id[evolink_task_id], found.get(evolink_task_id)
                if generation is not None and generation.is_terminal:
                    ended.append((line, generation))
                else:
                    error = unfinished_error(evolink_task_id, generation, endings[evolink_task_id], reason)
                    self._unfinished(line, generation, error)
            self._save(ended)
            # A storage that takes no manifest takes no images: end this try, and let a retry go on from the ledger.
            self.ledger.write(self.lines.values())
            self.log.info("%s.", progress_in_words(self.lines.values()).capitalize())

    def _read(self, ids: Sequence[str]) -> Iterator[tuple[list[str], Mapping[str, Generation]]]:
        """Read generations chunk by chunk, the next one while the caller works on this one."""
        chunks = [list(ids[start : start + CHUNK]) for start in range(0, len(ids), CHUNK)]
        reader, run = ThreadPoolExecutor(1, thread_name_prefix="evoimage-read"), copy_context().run
        try:
            upcoming = [reader.submit(partial(run, self.hook.get_generations, each)) for each in chunks[:1]]
            for chunk, following in zip_longest(chunks, chunks[1:]):
                found = upcoming.pop().result()
                if following:
                    upcoming.append(reader.submit(partial(run, self.hook.get_generations, following)))
                yield chunk, found
        finally:
            # A task that is ended waits for no answer that nobody will use.
            reader.shutdown(wait=False, cancel_futures=True)

    def _save(self, ended: Iterable[tuple[LedgerLine, Generation]]) -> None:
        to_save = []
        for line, generation in ended:
            self.budget.settle(name_in_budget(line.key), generation.usage.credits_used)
            try:
                require_images(generation)
            except EvoImageError as error:
                self._failed(line, generation, error)
            else:
                to_save.append((line, generation))
        outcomes = self.saver.save_each([_to_save(line, generation) for line, generation in to_save])
        for (line, generation), outcome in zip(to_save, outcomes, strict=True):
            self._saved(line, generation, outcome)

    def _saved(self, line: LedgerLine, generation: Generation, outcome: SaveOutcome) -> None:
        if outcome.manifest is not None:
            self._keep(saved(line, outcome.manifest))
            generation_ended(generation, labels=line.requested.labels)
            made, requested = len(generation.image_urls), line.requested.images
            if requested is not None and made < requested:
                self.log.warning("EvoLink made %d of the %d images of item %d.", made, requested, line.item)
            return
        expired = next((error for error in outcome.errors if isinstance(error, LinkExpiredError)), None)
        if expired is not None:
            generation_ended(generation, is_expired=True, labels=line.requested.labels)
            self._failed(line, generation, expired)
            return
        # The images exist and are paid for: the line stays "waiting", and a retry saves them.
        error = next((each for each in outcome.errors if each.retryable), outcome.errors[0])
        self.log.warning("Item %d could not be saved: %s", line.item, error)
        self._keep(replace(line, charge=generation.usage.credits_used, error=ItemError.of(error)))

    def _failed(self, line: LedgerLine, generation: Generation, error: EvoImageError) -> None:
        if line.record is not None:
            line = replace(line, record=line.record.ended("failed", generation))
        if (
            reason_to_move_on(error) is not None
            and line.record is not None
            and cost_nothing(line.record)
            and self.has_other_model(line)
        ):
            # Its next submission finds in the record that this model is done with.
            generation_ended(generation, labels=line.requested.labels)
            self._keep(replace(line, state="queued", charge=None, error=None))
            self.log.info("Item %d goes on with another model: %s", line.item, error.message)
            return
        charge = generation.usage.credits_used
        if charge is None and generation.status == "failed":
            charge = 0.0  # As documented.
        self._keep(replace(line, state="failed", charge=charge, error=ItemError.of(error)))
        if not isinstance(error, LinkExpiredError):
            generation_ended(generation, labels=line.requested.labels)
        self.log.warning("Item %d: %s", line.item, error)

    def _unfinished(self, line: LedgerLine, generation: Generation | None, error: EvoImageError) -> None:
        problem = ItemError.of(error)
        line = replace(line, error=problem)
        if generation is None and line.record is not None and line.record.is_outlived(self.hook.now()):
            # There is nothing to resume: a cleared task submits a new request.
            failed = replace(line.record, phase="failed", retryable=False)
            line = replace(line, state="failed", record=failed, error=replace(problem, retryable=False))
        self._keep(line)

    def _keep(self, line: LedgerLine) -> None:
        self.lines[line.key] = line


def _to_save(line: LedgerLine, generation: Generation) -> GenerationToSave:
    reserved = line.record.credits_reserved if line.record else None
    requested = replace(line.requested, credits_reserved=reserved, name=line.name or None)
    return GenerationToSave(
        generation=generation,
        requested=requested,
        item=line.item,
        name=line.name,
        alt_text=line.alt_text,
    )
