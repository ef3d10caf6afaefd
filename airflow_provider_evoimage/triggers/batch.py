"""The trigger of a batch: waits for up to thousands of generations, and wakes the worker to save in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.triggers.one_event import OneEventWait
from airflow_provider_evoimage.triggers.poller import Change
from airflow_provider_evoimage.triggers.watch import Watch
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.packing import pack_ids, unpack_ids
from airflow_provider_evoimage.waiting.polling import Ending, Wait

# A line in the log costs the triggerer's supervisor some milliseconds, and nobody reads thousands.
SECONDS_BETWEEN_PROGRESS_LINES = 60.0


class EvoImageBatchTrigger(OneEventWait):
    """Waits for the generations of a batch; sends its event as soon as there is enough to save.

    That is when ``save_every`` generations have ended, when the first of those that ended did so
    ``save_after`` seconds ago, or when all have. The event names what has ended since this trigger began, in the
    order in which it was seen, and how many more there are: some may have ended and not be named, when the names
    would not fit. Defer again with the rest.

    The ids are stored packed: 2,000 take 21 KB of the database row instead of 72 KB.

    :param evolink_task_ids: the generations: ids, or what ``waiting.packing`` made of them.
    :param evoimage_conn_id: id of the Airflow connection.
    :param deadline: Unix seconds at which the wait ends for every generation.
    :param save_every: how many generations have to end.
    :param save_after: seconds after which fewer will do.
    :param poll_interval: seconds between looks; None adapts to each generation.
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
        super().__init__()
        is_packed = isinstance(evolink_task_ids, str)
        ids: Iterable[str] = unpack_ids(evolink_task_ids) if is_packed else evolink_task_ids  # type: ignore[arg-type]
        self.evolink_task_ids = list(dict.fromkeys(ids))
        if not self.evolink_task_ids:
            raise InvalidRequestError("There is no generation to wait for.")
        self.evoimage_conn_id = evoimage_conn_id
        self.deadline = deadline
        self.save_every = save_every
        self.save_after = save_after
        self.poll_interval = poll_interval
        self.estimated_time = estimated_time
        self._endings: dict[str, Ending] = {}
        self._reason = ""
        self._first_ended_at = 0.0
        self._progress_logged_at = 0.0
        self._progress_logged = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, all plain JSON."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "evolink_task_ids": pack_ids(self.evolink_task_ids),
                "evoimage_conn_id": self.evoimage_conn_id,
                "deadline": self.deadline,
                "save_every": self.save_every,
                "save_after": self.save_after,
                "poll_interval": self.poll_interval,
                "estimated_time": self.estimated_time,
            },
        )

    @property
    def _subject(self) -> str:
        return f"{len(self.evolink_task_ids):,} EvoLink tasks"

    async def _wait(self) -> WaitEvent:
        waits = (
            Wait(
                evolink_task_id=evolink_task_id,
                deadline=self.deadline,
                poll_interval=self.poll_interval,
                estimated_time=self.estimated_time,
            )
            for evolink_task_id in self.evolink_task_ids
        )
        async with Watch(self.evoimage_conn_id, waits) as watch:
            while not watch.is_over:
                wake_at = self._wake_at()
                if wake_at is not None and time.time() >= wake_at:
                    break
                await self._take(await watch.changes(until=wake_at))
        event = WaitEvent.of_some(self._endings, total=len(self.evolink_task_ids), reason=self._reason)
        await self._log_progress()
        return event

    def _wake_at(self) -> float | None:
        """Unix seconds at which there is enough to save; None when nothing has ended yet."""
        if not self._endings:
            return None
        is_enough = len(self._endings) >= self.save_every
        # What ends while the event has to wait anyway goes along with it.
        return max(self._earliest, self._first_ended_at + (0.0 if is_enough else self.save_after))

    async def _take(self, changes: Iterable[Change]) -> None:
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
        """Say how far it is, once for each state of things."""
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
            "and are billed when they complete. A later try of this Airflow task goes on with them.",
            len(running),
            running[0] if running else "none",
        )
