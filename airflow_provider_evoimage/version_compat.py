"""What differs between the Airflow versions we support, and nothing else."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from airflow.sdk.bases.decorator import determine_kwargs
    from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTimeout,
        TaskAwaitingInput,
        TaskDeferralError,
        TaskDeferralTimeout,
    )

    #: Whether a page of Required Actions shows nothing where a single choice has four options (Airflow 3.1).
    HIDES_FOUR_OPTIONS: bool
else:
    HIDES_FOUR_OPTIONS = False
    try:
        from airflow.sdk.exceptions import (
            AirflowException,
            AirflowFailException,
            AirflowNotFoundException,
            AirflowSensorTimeout,
            AirflowSkipException,
            AirflowTaskTimeout,
            TaskDeferralError,
            TaskDeferralTimeout,
        )
    except ImportError:  # Airflow 3.1: the same classes, at their older address.
        from airflow.exceptions import (
            AirflowException,
            AirflowFailException,
            AirflowNotFoundException,
            AirflowSensorTimeout,
            AirflowSkipException,
            AirflowTaskTimeout,
            TaskDeferralError,
            TaskDeferralTimeout,
        )

        HIDES_FOUR_OPTIONS = True
    try:
        from airflow.sdk.exceptions import TaskAwaitingInput
    except ImportError:  # Airflow < 3.3 waits for a person in a trigger.
        TaskAwaitingInput = None
    try:
        from airflow.sdk.bases.decorator import determine_kwargs
    except ImportError:  # Airflow 3.1.
        from airflow.utils.operator_helpers import determine_kwargs
    try:
        from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
    except ImportError:  # Airflow < 3.3 has no retry policies.
        RetryDecision, RetryPolicy = None, object

#: Whether operators take ``retry_policy`` (Airflow 3.3 and later).
HAS_RETRY_POLICY: bool = RetryPolicy is not object


class Stats(Protocol):
    """Airflow's metrics, as far as they are used here."""

    def incr(self, stat: str, count: float, *, tags: dict[str, str]) -> None:
        """Add to a counter."""

    def timing(self, stat: str, dt: float, *, tags: dict[str, str]) -> None:
        """Record a duration."""


@functools.cache
def airflow_stats() -> Stats:
    """Return Airflow's metrics, sending what this process counts as ``[metrics]`` says.

    From Airflow 3.2 on a process must initialise them; a triggerer does so for Airflow's own copy of the module
    and in its parent process only, so that without this all that a trigger counts would be lost.
    """
    try:
        return _shared_stats()
    except ImportError:  # Airflow 3.1.
        from airflow.stats import Stats as Older  # noqa: PLC0415 (only for what counts)

        older: Any = Older
        return cast("Stats", older)


def _shared_stats() -> Stats:
    from airflow.sdk._shared.observability.metrics import stats as state  # noqa: PLC0415 (only for what counts)
    from airflow.sdk.configuration import conf  # noqa: PLC0415
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory  # noqa: PLC0415

    shared: Any = state.Stats
    module: Any = state
    factory: Any = get_stats_factory
    if not hasattr(module, "initialize"):  # Airflow 3.2.
        if shared.factory is None:
            shared.initialize(factory=factory(shared))
    elif module._factory is None:  # noqa: SLF001 (there is no other way to ask)
        module.initialize(
            factory=factory(), export_legacy_names=conf.getboolean("metrics", "legacy_names_on")
        )
    return cast("Stats", shared)


__all__ = [
    "HAS_RETRY_POLICY",
    "HIDES_FOUR_OPTIONS",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTimeout",
    "RetryDecision",
    "RetryPolicy",
    "Stats",
    "TaskAwaitingInput",
    "TaskDeferralError",
    "TaskDeferralTimeout",
    "airflow_stats",
    "determine_kwargs",
]
