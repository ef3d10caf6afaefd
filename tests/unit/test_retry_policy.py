"""The default retry policy only chooses how long to wait."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG

from airflow_provider_evoimage import exceptions
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.retry_policy import DEFAULT_RETRY_POLICY, EvoImageRetryPolicy
from airflow_provider_evoimage.version_compat import HAS_RETRY_POLICY

pytestmark = pytest.mark.skipif(not HAS_RETRY_POLICY, reason="Airflow < 3.3 has no retry policies")

CONTEXT = {"ti": SimpleNamespace(run_id="r", task_id="t", map_index=3)}


def decision(error: BaseException, context=CONTEXT, try_number: int = 1):
    return EvoImageRetryPolicy().evaluate(error, try_number, 3, context)


def test_wish_of_evolink_is_the_least_delay_and_is_spread_by_a_quarter_at_most():
    delays = [
        decision(
            exceptions.RateLimitError("slow down", retry_after=60),
            {"ti": SimpleNamespace(run_id="r", task_id="t", map_index=index)},
        ).retry_delay
        for index in range(30)
    ]
    assert timedelta(seconds=60) <= min(delays)
    assert max(delays) <= timedelta(seconds=75)
    assert len(set(delays)) > 20


def test_same_task_and_try_wait_equally_long_and_another_try_does_not():
    error = exceptions.RateLimitError("slow down", retry_after=60)
    assert decision(error) == decision(error)
    assert decision(error) != decision(error, try_number=2)


def test_after_a_time_out_the_paid_generation_is_looked_at_soon():
    assert decision(exceptions.GenerationTimeoutError("late")).retry_delay == timedelta(seconds=30)


@pytest.mark.parametrize(
    "error", [exceptions.DownloadError("cut"), ValueError("not ours"), KeyboardInterrupt()], ids=repr
)
def test_what_says_nothing_about_time_keeps_the_tasks_own_delay(error: BaseException):
    assert decision(error).retry_delay is None
    assert decision(error, context=None).action.value == "default"


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (EvoImageGenerateOperator, {"prompt": "x"}),
        (EvoImageSaveOperator, {"generation": "id", "save_to": "/x"}),
    ],
)
def test_policy_is_the_default_also_when_mapped_and_none_switches_it_off(operator, arguments):
    with DAG("d"):
        plain = operator(task_id="plain", **arguments)
        off = operator(task_id="off", retry_policy=None, **arguments)
        mapped = operator.partial(task_id="mapped", **dict(list(arguments.items())[1:])).expand(
            **{next(iter(arguments)): ["a", "b"]}
        )
    assert plain.retry_policy is DEFAULT_RETRY_POLICY
    assert off.retry_policy is None
    assert isinstance(mapped.partial_kwargs["retry_policy"], EvoImageRetryPolicy)


def test_default_args_switch_it_off():
    with DAG("d", default_args={"retry_policy": None}):
        assert EvoImageGenerateOperator(task_id="t", prompt="x").retry_policy is None


def test_policy_survives_serialization():
    assert isinstance(EvoImageRetryPolicy.deserialize(EvoImageRetryPolicy().serialize()), EvoImageRetryPolicy)
