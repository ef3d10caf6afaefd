"""The trigger of a batch: waits for up to thousands of generations, and wakes the worker to save in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from airflow_provider_evoimage.triggers.one_event import OneEventWait
from airflow_provider_evoimage.triggers.poller import WatchChange
from airflow_provider_evoimage.triggers.watch import Watch
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.packing import pack_ids, unpack_ids

# A log line costs the triggerer's supervisor some milliseconds, and nobody reads thousands of them.
SECONDS_BETWEEN_PROGRESS_LINES = 60.0


class EvoImageBatchTrigger(OneEventWait):
    """Waits for the generations of a batch; sends its event as soon as there is enough to save.

    That is when ``save_every`` generations have ended, when ``save_after`` seconds have passed since the first one
    ended, or when all have ended. The event names the generations that have ended since this trigger began, in the
    order in which it saw them, and says how many more there are. If the names do not fit into the event, some of
    those more have ended, too. Defer again with the rest.

    The ids are stored packed: 2,000 take 21 KB of the database row instead of 72 KB.

    :param evolink_task_ids: the generations: ids, or ids that ``waiting.packing`` packed.
    :param evoimage_conn_id: id of the Airflow connection.
    :param deadline: Unix seconds at which the wait ends for every generation.
    :param save_every: how many generations have to end.
    :param save_after: seconds after which fewer will do.
    :param poll_interval: seconds between polls; None adapts to each generation.
    :param estimated_time: seconds that EvoLink expected one of them to take.
    """

    def __init__(
        self,
        *,
        evolink_task_ids: Sequence[str] | str,
        evoimage_conn_id: str,
        deadline: float,
        save_every: int,
        save_after: float,
        poll_interval: float | None = None,
        estimated_time: float | None = None,
    ) -> None:
        is_packed = isinstance(evolink_task_ids, str)
        ids: Iterable[str] = unpack_ids(evolink_task_ids) if is_packed else evolink_task_ids  # type: ignore[arg-type]
        super().__init__(
            evolink_task_ids=dict.fromkeys(ids),
            evoimage_conn_id=evoimage_conn_id,
            deadline=deadline,
            poll_interval=poll_interval,
            estimated_time=estimated_time,
            was_accepted=True,
        )
        self.save_every = save_every
        self.save_after = save_after
        self._reason = ""
        self._first_ended_at = 0.0
        self._progress_logged_at = 0.0
        self._progress_logged = ""

    @property
    def _stored_ids(self) -> str:
        return pack_ids(self.evolink_task_ids)

    @property
    def _subject(self) -> str:
        return f"{len(self.evolink_task_ids):,} EvoLink tasks"

    async def _wait(self) -> WaitEvent:
        async with Watch(self.evoimage_conn_id, self._waits()) as watch:
            while not watch.is_over:
                wake_at = self._wake_at()
                if wake_at is not None and time.time() >= wake_at:
                    break
                await self._take(await watch.changes(until=wake_at))
        event = WaitEvent.of_some(self._endings, total=len(self.evolink_task_ids), reason=self._reason)
        await self._log_progress()
        return event

    def _wake_at(self) -> float | None:
        """Return the Unix seconds at which there is enough to save; None when nothing has ended yet."""
        if not self._endings:
            return None
        is_enough = len(self._endings) >= self.save_every
        # The event has to wait for _earliest anyway: it takes along whatever ends until then.
        return max(self._earliest, self._first_ended_at + (0.0 if is_enough else self.save_after))

    async def _take(self, changes: Iterable[WatchChange]) -> None:
        now = time.time()
        troubles: Counter[str] = Counter()
        for change in changes:
            if change.trouble:
                troubles[change.trouble] += 1
            if change.end is not None:
                self._first_ended_at = self._first_ended_at or now
                self._endings[change.evolink_task_id] = change.end.ending
                self._reason = change.end.reason or self._reason
        for trouble, count in troubles.items():
            await self.log.awarning("%d EvoLink tasks could not be read: %s", count, trouble)
        if self._endings and now >= self._progress_logged_at + SECONDS_BETWEEN_PROGRESS_LINES:
            self._progress_logged_at = now
            await self._log_progress()

    async def _log_progress(self) -> None:
        """Log the progress, if it has changed since the last line."""
        if self._progress != self._progress_logged:
            self._progress_logged = self._progress
            await self.log.ainfo("%s.", self._progress)

    @property
    def _progress(self) -> str:
        counts = Counter(self._endings.values())
        ended = ", ".join(f"{count:,} {ending}" for ending, count in counts.items()) or "none"
        waiting = len(self.evolink_task_ids) - len(self._endings)
        return f"Ended since this wait began: {ended}; waiting for {waiting:,} more"

    def _broken_off(self, reason: str) -> WaitEvent:
        return WaitEvent.of_some(self._endings, total=len(self.evolink_task_ids), reason=reason)

    def _log_abandoned(self) -> None:
        running = [each for each in self.evolink_task_ids if each not in self._endings]
        self.log.warning(
            "No longer waiting for %d EvoLink tasks, %s the first of them. EvoLink cannot cancel them: they go on "
            "and are billed when they complete. A later try of this Airflow task resumes them.",
            len(running),
            running[0] if running else "none",
        )
