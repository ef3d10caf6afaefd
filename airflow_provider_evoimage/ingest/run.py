"""One run of an ingest task: which generations are missing in the storage, and saving them, the oldest first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from airflow_provider_evoimage.defaults import Provenance
from airflow_provider_evoimage.evolink.answers import RESULT_LINK_LIFETIME, Generation
from airflow_provider_evoimage.evolink.json_values import mapping
from airflow_provider_evoimage.evolink.protocol import MAX_IDS_PER_BATCH
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    GenerationNotFoundError,
    InvalidRequestError,
    summed_up,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.ingest.account_list import MOST_LISTED, ListedGeneration, completed_generations
from airflow_provider_evoimage.ingest.outcome import IngestOutcome
from airflow_provider_evoimage.ingest.sidecars import generations_saved_below, sidecars_named
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.shapes import MadeBy, Manifest
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames
from airflow_provider_evoimage.storage.image_names import GenerationToSave, ImageNames
from airflow_provider_evoimage.storage.saver import ImageSaver
from airflow_provider_evoimage.waiting.result import duration_in_words

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: Seconds after which an unsaved generation is warned of: four hours before its links die.
SOON_EXPIRED_SECONDS = 20 * 3600.0
LINK_LIFETIME_SECONDS = RESULT_LINK_LIFETIME.total_seconds()
# Of one run's ids in a log line.
_NAMED = 20
#: Fields of file names that differ from run to run: with one of them each run would save everything again.
CHANGING_FIELDS = frozenset({"run_id", "map_index", "map_suffix", "item", "name"})


@dataclass(frozen=True, kw_only=True)
class IngestArguments:
    """The operator's arguments, rendered; see :class:`EvoImageIngestOperator`. Moments in Unix seconds."""

    save_to: str
    filename_template: str
    within: float
    created_after: float | None
    created_before: float | None
    models: Sequence[str]
    made_elsewhere_only: bool
    own_folders: Sequence[str]
    own_grace: float
    provenance: Provenance
    parallel: int


def require_lasting_names(template: str) -> FileNames:
    """Check that a template gives the images of a generation the same names in every run, and no other ones.

    :raises InvalidRequestError: when it does not.
    """
    names = FileNames(template)
    missing = {"evolink_task_id", "index"} - names.fields
    if missing:
        raise InvalidRequestError(
            f"filename_template {template!r} lacks {', '.join(f'{{{each}}}' for each in sorted(missing))}: "
            "names must tell all images of the account apart."
        )
    if changing := CHANGING_FIELDS & names.fields:
        raise InvalidRequestError(
            f"filename_template {template!r} holds {', '.join(f'{{{each}}}' for each in sorted(changing))}, which "
            "differs from run to run: each run would save everything again."
        )
    return names


class IngestRun:
    """Finds what the account made, leaves out what is saved, saves the rest.

    The names hold the generation's id and a sidecar is written last, so a run that was killed leaves nothing that
    the next one would take for complete, and it goes on where that one ended.
    """

    def __init__(
        self,
        *,
        hook: EvoImageHook,
        arguments: IngestArguments,
        made_by: MadeBy,
        log: Logger,
    ) -> None:
        self._hook = hook
        self._arguments = arguments
        self._made_by = made_by
        self._log = log
        self._names = require_lasting_names(arguments.filename_template)
        # Open all storages before EvoLink is asked, to find problems with them.
        self._destination = Destination(arguments.save_to)
        self._own = [Destination(folder) for folder in dict.fromkeys(arguments.own_folders)]
        self.outcome = IngestOutcome()

    def run(self) -> IngestOutcome:
        """Save what is missing.

        :raises EvoImageError: when the list or a storage cannot be read, or when images could not be saved that a
            retry may save; the others are saved.
        """
        wanted, stale = self._listed()
        unsaved = self._without_known(wanted)
        unsaved_stale = self._without_known(stale, counts=False)
        if self._arguments.made_elsewhere_only:
            own = self._saved_by_own_tasks([*unsaved, *unsaved_stale])
            self.outcome.own = sum(each.evolink_task_id in own for each in unsaved)
            unsaved = [each for each in unsaved if each.evolink_task_id not in own]
            unsaved_stale = [each for each in unsaved_stale if each.evolink_task_id not in own]
            unsaved = self._without_young(unsaved)
        self._log.info(
            "%d finished generations: saving %d; %d saved earlier, %d by own tasks, %d too young.",
            self.outcome.found,
            len(unsaved),
            self.outcome.known,
            self.outcome.own,
            self.outcome.young,
        )
        failures = self._save(unsaved)
        self._warn_of_expiring(
            [*unsaved_stale, *(each for each in unsaved if each.evolink_task_id in failures)]
        )
        retryable = [error for error in failures.values() if error.retryable]
        if retryable:
            raise summed_up(
                retryable,
                f"{len(failures)} of {len(unsaved)} generations could not be saved; the others are saved.",
            )
        return self.outcome

    def _listed(self) -> tuple[list[ListedGeneration], list[ListedGeneration]]:
        """Return the generations to save, the oldest first, and older ones whose links still live."""
        arguments = self._arguments
        only = arguments.models[0] if len(arguments.models) == 1 else None
        listed = list(completed_generations(self._hook, lifetime=LINK_LIFETIME_SECONDS, model=only))
        if len(listed) >= MOST_LISTED:
            self._log.warning(
                "The account made more than %d images in a day; older ones were not read.", MOST_LISTED
            )
        now = self._hook.now()
        fitting = [each for each in reversed(listed) if self._fits(each)]
        wanted = [each for each in fitting if each.age(now) <= arguments.within]
        stale = [each for each in fitting if each.age(now) > max(arguments.within, SOON_EXPIRED_SECONDS)]
        self.outcome.found = len(wanted)
        return wanted, stale

    def _fits(self, listed: ListedGeneration) -> bool:
        arguments, created = self._arguments, listed.created
        if arguments.models and listed.model not in arguments.models:
            return False
        if created is None:
            return True
        return (arguments.created_after is None or created >= arguments.created_after) and (
            arguments.created_before is None or created < arguments.created_before
        )

    def _without_known(
        self, listed: Sequence[ListedGeneration], *, counts: bool = True
    ) -> list[ListedGeneration]:
        """Leave out generations with a sidecar; count those that an earlier try of this task saved as saved."""
        unsaved = []
        for start in range(0, len(listed), MAX_IDS_PER_BATCH):
            some = listed[start : start + MAX_IDS_PER_BATCH]
            sidecars = sidecars_named(self._destination, [self._sidecar_name(each) for each in some])
            for each, sidecar in zip(some, sidecars, strict=True):
                described = mapping(sidecar)
                if described.get("evolink_task_id") != each.evolink_task_id:
                    unsaved.append(each)
                elif counts and described.get("made_by") == self._made_by:
                    self.outcome.add(cast("Manifest", described))
                elif counts:
                    self.outcome.known += 1
        return unsaved

    def _sidecar_name(self, listed: ListedGeneration) -> str:
        generation = Generation(evolink_task_id=listed.evolink_task_id, model=listed.model)
        names = ImageNames(self._names, self._destination, self._made_by)
        return names.sidecar(
            names.image(GenerationToSave(generation=generation, requested=RequestSummary()), 0)
        )

    def _saved_by_own_tasks(self, listed: Sequence[ListedGeneration]) -> set[str]:
        now = self._hook.now()
        candidates = {each.evolink_task_id for each in listed}
        since = now - LINK_LIFETIME_SECONDS
        found: set[str] = set()
        for destination in [self._destination, *self._own]:
            missing = candidates - found
            if missing:
                found |= generations_saved_below(destination, candidates=missing, since=since)
        return found

    def _without_young(self, unsaved: Sequence[ListedGeneration]) -> list[ListedGeneration]:
        now = self._hook.now()
        old_enough = [each for each in unsaved if each.age(now) >= self._arguments.own_grace]
        self.outcome.young = len(unsaved) - len(old_enough)
        return old_enough

    def _save(self, unsaved: Sequence[ListedGeneration]) -> dict[str, EvoImageError]:
        """Save generations, fifty at a time; return the first error of each that failed."""
        failures: dict[str, EvoImageError] = {}
        for start in range(0, len(unsaved), MAX_IDS_PER_BATCH):
            ids = [each.evolink_task_id for each in unsaved[start : start + MAX_IDS_PER_BATCH]]
            found = self._hook.get_generations(ids)
            generations = [found[each] for each in ids if each in found]
            for missing in set(ids) - set(found):
                failures[missing] = GenerationNotFoundError(
                    f"EvoLink lists task {missing} but does not know it.", evolink_task_id=missing
                )
            failures |= self._save_some(generations)
        for evolink_task_id, error in failures.items():
            self.outcome.failed_with(evolink_task_id, error)
            self._log.warning("EvoLink task %s could not be saved: %s", evolink_task_id, error)
        return failures

    def _save_some(self, generations: Sequence[Generation]) -> dict[str, EvoImageError]:
        to_save = []
        for generation in generations:
            if generation.image_urls:
                to_save.append(GenerationToSave(generation=generation, requested=RequestSummary()))
            else:
                self.outcome.without_images += 1
                self._log.warning("EvoLink task %s has no images.", generation.evolink_task_id)
        failures: dict[str, EvoImageError] = {}
        # A new saver for each part: what it remembers of names and links stays small.
        for each, outcome in zip(to_save, self._saver().save_each(to_save), strict=True):
            if outcome.manifest is not None:
                self.outcome.add(outcome.manifest)
            else:
                failures[each.generation.evolink_task_id] = outcome.errors[0]
        return failures

    def _saver(self) -> ImageSaver:
        return ImageSaver(
            hook=self._hook,
            destination=self._destination,
            names=self._names,
            # The names hold the id: a file that is there is this image, and no sidecar is ever replaced.
            if_exists="skip",
            made_by=self._made_by,
            log=self._log,
            provenance=self._arguments.provenance,
            parallel=self._arguments.parallel,
            # Not only an earlier try: an earlier run may have been killed, too.
            may_follow_a_kill=True,
        )

    def _warn_of_expiring(self, unsaved: Collection[ListedGeneration]) -> None:
        now = self._hook.now()
        expiring = sorted(
            (each for each in unsaved if each.age(now) >= SOON_EXPIRED_SECONDS),
            key=lambda each: each.created or now,
        )
        self.outcome.expiring = [each.evolink_task_id for each in expiring]
        if expiring:
            left = max(0.0, LINK_LIFETIME_SECONDS - expiring[0].age(now))
            more = f" and {len(expiring) - _NAMED} more" if len(expiring) > _NAMED else ""
            self._log.warning(
                "Unsaved and older than 20 hours: %d generations; the first links die in %s: %s%s.",
                len(expiring),
                duration_in_words(left),
                ", ".join(self.outcome.expiring[:_NAMED]),
                more,
            )
