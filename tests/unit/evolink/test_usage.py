"""How many days the credits last: by what the list of the last week says was charged."""

from __future__ import annotations

import math
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Credits, GenerationPage
from airflow_provider_evoimage.evolink.usage import CreditsLeft, WeekOfUse

NOW = 1_790_000_000.0
DAY = 86_400.0


def item(number: int, *, days: float, charged: object = 10.0, status: str = "completed") -> dict[str, Any]:
    made = {
        "id": f"task-{number}",
        "status": status,
        "created_at": int(NOW - days * DAY),
        "credits_used": charged,
    }
    return {name: value for name, value in made.items() if value is not None}


def week(*pages: list[dict[str, Any]]) -> tuple[float | None, list[bool]]:
    found = WeekOfUse(NOW)
    wants_more = [found.add(GenerationPage.read({"data": page})) for page in pages]
    return found.per_day, wants_more


def test_mean_is_of_seven_days_where_the_list_goes_back_that_far():
    per_day, more = week(
        [item(1, days=1), item(2, days=6, charged=25)], [item(3, days=6.9), item(4, days=8, charged=900)]
    )
    assert per_day == pytest.approx(45 / 7)
    assert more == [True, False]


def test_order_within_a_page_does_not_matter():
    per_day, more = week([item(1, days=8, charged=900), item(2, days=6, charged=14)])
    assert (per_day, more) == (2, [False])


def test_young_account_is_taken_for_as_fast_as_it_was_but_of_a_day_at_least():
    assert week([item(1, days=2), item(2, days=1)], [])[0] == pytest.approx(20 / 2)
    assert week([item(1, days=0.01)], [])[0] == pytest.approx(10)


def test_account_that_does_nothing_spends_nothing():
    assert week([]) == (0.0, [False])
    assert week([item(1, days=9)]) == (0.0, [False])


def test_page_that_comes_again_is_counted_once_and_ends_the_count():
    page = [item(1, days=1), item(2, days=2)]
    per_day, more = week(page, page)
    assert per_day == pytest.approx(20 / 2)
    assert more == [True, False]


def test_only_what_ended_is_counted_and_odd_charges_are_not():
    listed = [
        item(1, days=4, charged=8),
        item(2, days=3, status="failed", charged=0),
        item(3, days=3, status="processing", charged=77),
        item(4, days=3, charged=-5),
        item(5, days=3, charged="x"),
    ]
    assert week(listed, [])[0] == pytest.approx(8 / 4)


def test_list_without_charges_tells_nothing():
    assert week([item(1, days=1, charged=None)], [])[0] is None
    assert week([item(1, days=1, charged=None, status="processing")], [])[0] == 0


def left(account: float, key: float | None = None, per_day: float | None = None) -> CreditsLeft:
    return CreditsLeft(balance=Credits(account_remaining=account, key_remaining=key), per_day=per_day)


def test_what_lacks_is_said_with_its_numbers():
    assert left(100).lacking(min_credits=100, min_days=None) == ""
    assert (
        left(1_000, 99.5).lacking(min_credits=100, min_days=None)
        == "99.50 credits are left, fewer than 100.00"
    )
    words = left(100, per_day=40).lacking(min_credits=50, min_days=3)
    assert words == "100.00 credits are left, which last 2.5 days at 40.00 credits a day, fewer than 3 days"
    assert left(100, per_day=0.0).lacking(min_credits=None, min_days=30) == ""
    assert left(-5, per_day=1).days == 0


def test_result_is_plain_json_without_infinity():
    assert left(100, 60, per_day=0.0).days == math.inf
    assert left(100, 60, per_day=0.0).to_json() == {
        "credits": 60.0,
        "account": 100.0,
        "key": 60.0,
        "credits_per_day": 0.0,
        "days": None,
    }
    assert left(100, per_day=8).to_json()["days"] == 12.5
