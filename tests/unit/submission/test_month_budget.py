"""What counts for a month: from the last figure of the month before, over changes of the key."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.submission.month_budget import MonthUse, VariableStore, month_use


def at(day: int, hour: int = 12, *, month: int = 11) -> float:
    return datetime(2026, month, day, hour, tzinfo=UTC).timestamp()


def use(earlier: MonthUse | None, used: float, now: float, key: str = "a") -> MonthUse:
    return month_use(earlier, used=Decimal(str(used)), key=key, now=now)


def test_first_reading_is_where_the_count_begins():
    first = use(None, 700, at(14))
    assert (first.month, first.spent, first.since) == ("2026-11", 0, at(14))
    assert use(first, 712.5, at(15)).spent == Decimal("12.5")


def test_new_month_begins_with_the_last_figure_of_the_month_before():
    october = use(use(None, 100, at(20, month=10)), 180, at(31, 23, month=10))
    november = use(october, 200, at(2))
    assert november.month == "2026-11"
    # 20 credits were used at some time between the readings: they count for November.
    assert (november.spent, november.since) == (20, at(31, 23, month=10))
    assert use(november, 250, at(30, 23)).spent == 70
    assert use(use(november, 250, at(30, 23)), 250, at(1, 0, month=12)).spent == 0


def test_months_without_a_reading_change_nothing():
    assert use(use(None, 100, at(20, month=8)), 160, at(3)).spent == 60


def test_another_key_goes_on_with_what_the_earlier_one_used():
    november = use(use(None, 100, at(2)), 140, at(3))
    changed = use(november, 5_000, at(4), key="b")
    assert changed.spent == 40
    assert use(changed, 5_010, at(5), key="b").spent == 50
    # Back to the first key: what it used meanwhile is unknown.
    assert use(use(changed, 5_010, at(5), key="b"), 300, at(6), key="a").spent == 50
    assert use(november, 5_000, at(1, month=12), key="b").spent == 0


def test_count_that_evolink_set_back_is_no_credit():
    november = use(use(None, 100, at(2)), 140, at(3))
    again = use(november, 10, at(4))
    assert again.spent == 40
    assert use(again, 25, at(5)).spent == 55


@given(
    st.lists(
        st.tuples(st.floats(0, 500), st.sampled_from("ab"), st.floats(0, 40 * 86_400)),
        min_size=1,
        max_size=12,
    )
)
def test_spent_never_falls_within_a_month_and_survives_storage(readings: list[tuple[float, str, float]]):
    now, earlier, total = at(1), None, {"a": 0.0, "b": 0.0}
    for more, key, seconds in readings:
        now += seconds
        total[key] += more
        after = use(earlier, total[key], now, key)
        assert after.spent >= 0
        if earlier is not None and earlier.month == after.month:
            assert after.spent >= earlier.spent
        stored = MonthUse.read(json.loads(json.dumps(after.to_json())))
        assert stored is not None
        assert float(stored.spent) == pytest.approx(float(after.spent))
        earlier = after


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "x",
        {},
        {"v": 2},
        {"v": 1, "month": "2026-11", "key": "a", "start": "x", "last": 1, "carried": 0, "since": 1, "at": 1},
        {"v": 1, "month": None, "key": "a", "start": 1, "last": 1, "carried": 0, "since": 1, "at": 1},
    ],
)
def test_what_is_no_count_reads_as_none(stored: object):
    assert MonthUse.read(stored) is None


def test_each_connection_has_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch):
    store = VariableStore("evoimage_team_a")
    assert store.name == "evoimage_month_evoimage_team_a"
    monkeypatch.setenv("AIRFLOW_VAR_EVOIMAGE_MONTH_EVOIMAGE_TEAM_A", '{"v": 1}')
    assert store.get() == {"v": 1}
    monkeypatch.setenv("AIRFLOW_VAR_EVOIMAGE_MONTH_EVOIMAGE_TEAM_A", "no json")
    assert store.get() is None
