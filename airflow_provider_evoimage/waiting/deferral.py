"""What happens when Airflow ends a deferral itself, and not our trigger: the same for generate, batch and sensor."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from airflow_provider_evoimage.version_compat import TaskDeferralError, TaskDeferralTimeout
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.polling import Ending

# The trigger ends the wait itself; Airflow does so this much later, in case the trigger is lost.
DEFERRAL_MARGIN_SECONDS = 120.0

#: What Airflow raises in a task whose deferral it ended: the time was over, or the triggerer gave the trigger up.
DEFERRAL_ENDS = (TaskDeferralTimeout, TaskDeferralError)


def deferral_timeout(seconds: float) -> timedelta:
    """Return the ``timeout`` of ``defer`` for a wait of so many seconds."""
    return timedelta(seconds=seconds + DEFERRAL_MARGIN_SECONDS)


def event_of_ended_deferral(
    error: TaskDeferralTimeout | TaskDeferralError, evolink_task_ids: Iterable[str]
) -> WaitEvent:
    """Return the event that the trigger could not send: ``timeout``, or ``lost`` with Airflow's reason.

    :param evolink_task_ids: the generations that were waited for.
    """
    ending: Ending = "timeout" if isinstance(error, TaskDeferralTimeout) else "lost"
    return WaitEvent(
        endings=dict.fromkeys(evolink_task_ids, ending),
        reason="" if ending == "timeout" else f"Airflow's triggerer gave it up ({error})",
    )
