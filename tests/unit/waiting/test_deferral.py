"""A deferral that Airflow ends itself says the same as the trigger would have."""

from __future__ import annotations

from datetime import timedelta

from airflow_provider_evoimage.version_compat import TaskDeferralError, TaskDeferralTimeout
from airflow_provider_evoimage.waiting.deferral import (
    DEFERRAL_MARGIN_SECONDS,
    deferral_timeout,
    event_of_ended_deferral,
)


def test_airflow_ends_a_deferral_only_after_the_trigger_would_have() -> None:
    assert deferral_timeout(60.0) == timedelta(seconds=60 + DEFERRAL_MARGIN_SECONDS)
    assert DEFERRAL_MARGIN_SECONDS > 60


def test_deferral_that_timed_out_is_a_timeout_and_any_other_is_lost_with_its_reason() -> None:
    timed_out = event_of_ended_deferral(TaskDeferralTimeout("over"), ["a", "b"])
    assert (timed_out.endings, timed_out.reason) == ({"a": "timeout", "b": "timeout"}, "")
    lost = event_of_ended_deferral(TaskDeferralError("no triggerer"), ["a"])
    assert (lost.endings, lost.reason) == ({"a": "lost"}, "Airflow's triggerer gave it up (no triggerer)")
