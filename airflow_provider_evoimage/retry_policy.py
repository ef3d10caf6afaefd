"""The default retry policy of the operators (Airflow 3.3 and later): how long to wait before the next try.

It only chooses the delay. The exception decides whether to retry: final errors inherit
``AirflowFailException``, which ends a task at once on every Airflow version and never reaches this policy.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.exceptions import EvoImageError, GenerationTimeoutError
from airflow_provider_evoimage.version_compat import HAS_RETRY_POLICY, RetryDecision, RetryPolicy

if TYPE_CHECKING:
    from airflow.sdk import Context

# A generation that timed out is paid for and may be done by now: poll again soon.
AFTER_TIMEOUT = timedelta(seconds=30)
# Tasks of one mapped list that met the same limit do not come back in the same second.
SPREAD_SHARE = 0.25


class EvoImageRetryPolicy(RetryPolicy):
    """Wait as long as EvoLink asks (``Retry-After``, or the seconds of the failure code), slightly spread.

    For errors without a delay, and errors of other packages, the task's own ``retry_delay`` applies.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Choose the delay of the next try."""
        if not isinstance(exception, EvoImageError):
            return RetryDecision.default()
        if isinstance(exception, GenerationTimeoutError):
            return RetryDecision.retry(delay=AFTER_TIMEOUT, reason="the generation is paid for and goes on")
        if exception.retry_after is None:
            return RetryDecision.default()
        delay = timedelta(seconds=exception.retry_after * (1 + SPREAD_SHARE * _share(context, try_number)))
        return RetryDecision.retry(
            delay=delay, reason=f"EvoLink asks to wait ({exception.code or 'Retry-After'})"
        )

    def serialize(self) -> dict[str, Any]:
        """Return the arguments of this policy: none."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> EvoImageRetryPolicy:
        """Make the policy again."""
        return cls()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _share(context: Mapping[str, Any] | Context | None, try_number: int) -> float:
    """Between 0 and 1, another one for each task instance and try."""
    ti = context.get("ti") if context is not None else None
    name = f"{getattr(ti, 'run_id', '')}/{getattr(ti, 'task_id', '')}/{getattr(ti, 'map_index', '')}/{try_number}"
    return (zlib.crc32(name.encode()) % 1000) / 1000


#: Below Airflow 3.3 there are no retry policies, and the task's ``retry_delay`` applies.
DEFAULT_RETRY_POLICY: RetryPolicy | None = EvoImageRetryPolicy() if HAS_RETRY_POLICY else None


def retry_policy_argument(policy: RetryPolicy | None) -> dict[str, Any]:
    """Return the policy as an argument of Airflow's BaseOperator; nothing on versions without retry policies."""
    return {"retry_policy": policy} if HAS_RETRY_POLICY else {}
