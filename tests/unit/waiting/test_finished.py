"""What a watcher reports: every generation that ends while it watches, once, in whatever order they end."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink.answers import Generation, GenerationState
from airflow_provider_evoimage.waiting.finished import (
    LATE_SECONDS,
    MOST_IN_EVENT,
    News,
    Position,
    begin,
    look,
)

START = 1_790_000_000.0


def generation(
    number: int, status: str = "completed", *, began: float | None = 0.0, model: str = "m"
) -> Generation:
    created = None if began is None else datetime.fromtimestamp(START + began, UTC)
    return Generation(evolink_task_id=f"task-{number}", status=status, created=created, model=model)


def seen(
    position: Position, *listed: Generation, states: dict[str, str] | None = None, **arguments: Any
) -> News:
    given = {"statuses": ("completed",), "models": (), "now": START + 10_000} | arguments
    read = {each: GenerationState(each, status, None) for each, status in (states or {}).items()}
    return look(position, listed, read, **given)


def ids(news: News) -> list[str]:
    return [each["evolink_task_id"] for each in news.finished]


def first(*listed: Generation, **arguments: Any) -> Position:
    return begin(listed, **({"models": (), "now": START + 10_000} | arguments))


def test_what_ended_before_is_not_reported_and_what_runs_is():
    old, runs = generation(1, began=-30), generation(2, "processing", began=0)
    position = first(old, runs)
    news = seen(position, old, generation(2, began=0), generation(3, began=5))
    assert ids(news) == ["task-2", "task-3"]
    assert ids(seen(news.position, old, generation(2, began=0), generation(3, began=5))) == []


def test_everything_is_new_in_an_account_that_was_empty():
    assert ids(seen(first(), generation(1, began=-9_000))) == ["task-1"]


def test_slow_one_is_reported_although_the_list_has_moved_on():
    position = first(generation(1, "processing", began=0))
    position = seen(position, generation(2, began=7_000)).position
    assert position.listed_from > START
    assert list(position.running) == ["task-1"]
    assert ids(seen(position, states={"task-1": "processing"})) == []
    news = seen(position, states={"task-1": "completed"})
    assert ids(news) == ["task-1"]
    assert ids(seen(news.position, generation(1, began=0))) == []


def test_one_that_appears_late_in_the_list_is_reported():
    position = first(generation(1, began=0))
    assert ids(seen(position, generation(1, began=0), generation(2, began=1 - LATE_SECONDS))) == ["task-2"]


def test_only_wanted_endings_and_models_are_reported():
    position = first()
    listed = [
        generation(1, "failed"),
        generation(2, "cancelled"),
        generation(3),
        generation(4, model="other"),
    ]
    assert ids(seen(position, *listed)) == ["task-3", "task-4"]
    assert ids(seen(position, *listed, statuses=("failed",))) == ["task-1"]
    news = seen(position, *listed, models=("other",))
    assert news.finished == ({"evolink_task_id": "task-4", "status": "completed", "model": "other"},)
    # What is not wanted moves the position all the same.
    assert news.position.seen_until == START
    assert ids(seen(news.position, *listed, models=("other",))) == []


def test_event_is_limited_and_the_rest_follows():
    listed = [generation(number, began=number / 1000) for number in range(MOST_IN_EVENT * 2 + 5)]
    position, reported = first(), []
    for more in (True, True, False):
        news = seen(position, *listed)
        assert news.has_more is more
        reported += ids(news)
        position = news.position
    assert reported == [each.evolink_task_id for each in listed]
    assert ids(seen(position, *listed)) == []


def test_one_that_never_ends_is_given_up_after_a_day():
    position = first(generation(1, "processing", began=0))
    assert seen(position, generation(2, began=86_399), now=START + 90_000).position.running
    assert not seen(position, generation(2, began=86_401), now=START + 90_000).position.running


def test_moment_that_cannot_be_does_not_hide_the_others():
    position = first(generation(1, began=None), generation(2, began=1e9))
    assert position.seen_until == 0
    assert ids(seen(position, generation(2, began=1e9), generation(3))) == ["task-3"]


@pytest.mark.parametrize("behind", [-80_000, 80_000])
def test_wrong_clock_of_this_machine_changes_nothing(behind: float):
    position = first(generation(1, "processing"), now=START - behind)
    listed = [generation(1), generation(2, began=100)]
    news = seen(position, *listed, now=START - behind)
    assert ids(news) == ["task-1", "task-2"]
    assert ids(seen(news.position, *listed, now=START - behind + 5_000)) == []


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        {},
        {"v": 2, "seen_until": 1},
        {"v": 1},
        {"v": 1, "seen_until": "x"},
        {"v": True, "seen_until": None},
    ],
)
def test_position_that_is_none_reads_as_none(stored: object):
    assert Position.read(stored) is None


def test_odd_parts_of_a_position_are_left_out():
    stored = {
        "v": 1,
        "seen_until": 5,
        "running": {"a/b": [1, "m"], "c": [1, 2], "d": 3, "e": ["x", "m"]},
        "reported": {"f": "x", "g": 2},
    }
    position = Position.read(stored)
    assert position is not None
    assert list(position.running) == ["c"]
    assert position.running["c"].model is None
    assert position.reported == {"g": 2}


@given(
    lives=st.lists(st.tuples(st.floats(0, 4_000), st.floats(0, 3_000)), max_size=25),
    looks=st.lists(st.tuples(st.floats(0.5, 400), st.booleans()), min_size=1, max_size=60),
)
def test_every_end_is_reported_once_and_after_a_kill_at_least_once(
    lives: list[tuple[float, float]], looks: list[tuple[float, bool]]
):
    """Each life is (began, took); each look comes some seconds after the last, and a kill forgets what it found."""

    def account(now: float) -> list[Generation]:
        return [
            generation(number, "completed" if began + took <= now else "processing", began=began)
            for number, (began, took) in enumerate(lives)
            if began <= now
        ]

    now, reported, killed = 0.0, Counter[str](), False
    position = first(*account(now), now=START)
    before = {each.evolink_task_id for each in account(0.0) if each.is_terminal}
    for seconds, is_killed in [*looks, (8_000, False)]:
        now += seconds
        everything = account(now)
        listed = [
            each for each in everything if each.created and each.created.timestamp() > position.listed_from
        ]
        states = {
            each.evolink_task_id: each.status
            for each in everything
            if each.evolink_task_id in position.running
        }
        news = seen(position, *listed, states=states, now=START + now)
        reported.update(ids(news))
        if is_killed:
            # Airflow may have stored the event or not; the position was not kept.
            killed = killed or bool(news.finished)
        else:
            position = Position.read(json.loads(json.dumps(news.position.to_json())))
            assert position == news.position
    assert set(reported) == {f"task-{number}" for number in range(len(lives))} - before
    if not killed:
        assert set(reported.values()) <= {1}
