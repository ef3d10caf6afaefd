"""The trigger: waits for one or a few generations without holding a worker."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_evoimage.triggers.one_event import OneEventWait
from airflow_provider_evoimage.triggers.poller import WatchChange
from airflow_provider_evoimage.triggers.watch import Watch
from airflow_provider_evoimage.waiting.event import WaitEvent


class EvoImageGenerationTrigger(OneEventWait):
    """Waits until every generation has ended, then sends one event, see ``waiting.event``.

    All triggers of a triggerer that use the same account share their requests. For hundreds of generations in
    one task use :class:`~airflow_provider_evoimage.triggers.batch.EvoImageBatchTrigger`.

    :param evolink_task_ids: the generations.
    :param evoimage_conn_id: id of the Airflow connection.
    :param deadline: Unix seconds at which the wait ends; fixed by the task, so a restart does not extend it.
    :param poll_interval: seconds between polls; None adapts to each generation.
    :param estimated_time: seconds that EvoLink expected when the generation was submitted.
    :param was_accepted: whether EvoLink gave these ids to a task of ours, so that a 404 is transient for longer.
    """

    def __init__(
        self,
        *,
        evolink_task_ids: Sequence[str],
        evoimage_conn_id: str,
        deadline: float,
        poll_interval: float | None = None,
        estimated_time: float | None = None,
        was_accepted: bool = False,
    ) -> None:
        super().__init__(
            evolink_task_ids=evolink_task_ids,
            evoimage_conn_id=evoimage_conn_id,
            deadline=deadline,
            poll_interval=poll_interval,
            estimated_time=estimated_time,
            was_accepted=was_accepted,
        )
        self._watch: Watch | None = None

    @property
    def _subject(self) -> str:
        return f"EvoLink task {', '.join(self.evolink_task_ids)}"

    async def _wait(self) -> WaitEvent:
        reason = ""
        async with Watch(self.evoimage_conn_id, self._waits()) as self._watch:
            while not self._watch.is_over:
                for change in await self._watch.changes():
                    if change.end is not None:
                        self._endings[change.evolink_task_id] = change.end.ending
                        reason = change.end.reason or reason
                    await self._log_change(change)
        return WaitEvent(endings=self._endings, reason=reason)

    def _broken_off(self, reason: str) -> WaitEvent:
        endings = {each: self._endings.get(each, "lost") for each in self.evolink_task_ids}
        return WaitEvent(endings=endings, reason=reason)

    async def _log_change(self, change: WatchChange) -> None:
        if change.trouble:
            await self.log.awarning(
                "EvoLink task %s could not be read: %s", change.evolink_task_id, change.trouble
            )
        elif change.end is None or change.end.ending == change.wait.status:
            await self.log.ainfo("EvoLink task %s: %s.", change.evolink_task_id, change.wait.status)

    def _log_abandoned(self) -> None:
        waits = {} if self._watch is None else self._watch.waits
        for evolink_task_id in self.evolink_task_ids:
            if evolink_task_id not in self._endings:
                wait = waits.get(evolink_task_id)
                self.log.warning(
                    "No longer waiting for EvoLink task %s, last seen %s%s. EvoLink cannot cancel it: it goes on "
                    "and is billed when it completes. If the task was cleared, the next try resumes it "
                    "(on_clear='auto'); else collect its images with EvoImageSaveOperator within 24 hours.",
                    evolink_task_id,
                    "pending" if wait is None else wait.status,
                    "" if wait is None or wait.progress is None else f" at {wait.progress:.0f} %",
                )
