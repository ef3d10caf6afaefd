"""When the events of many triggers may leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.triggers.one_event import EVENTS_AT_ONCE, EVENTS_PER_SECOND, Pace


def test_few_events_never_wait() -> None:
    pace = Pace()
    assert {pace.delay(1000.0) for _ in range(EVENTS_AT_ONCE)} == {0.0}


def test_thousands_at_once_leave_at_the_rate_and_in_order() -> None:
    pace = Pace()
    delays = [pace.delay(1000.0) for _ in range(2000)]
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx((2000 - EVENTS_AT_ONCE) / EVENTS_PER_SECOND)


def test_steady_events_below_the_rate_never_wait() -> None:
    pace = Pace()
    assert not any(pace.delay(second / (EVENTS_PER_SECOND * 0.9)) for second in range(5000))


def test_after_a_pause_few_events_do_not_wait_again() -> None:
    pace = Pace()
    for _ in range(2000):
        pace.delay(1000.0)
    assert {pace.delay(1100.0) for _ in range(EVENTS_AT_ONCE)} == {0.0}


@given(st.lists(st.floats(0, 0.2), max_size=400))
def test_no_second_has_more_events_than_burst_and_rate_allow(pauses: list[float]) -> None:
    pace, now, leaving = Pace(per_second=10, at_once=5), 0.0, []
    for pause in pauses:
        now += pause
        leaving.append(now + pace.delay(now))
    assert leaving == sorted(leaving)
    for index, begin in enumerate(leaving):
        assert sum(each < begin + 1 - 1e-6 for each in leaving[index:]) <= 5 + 10
