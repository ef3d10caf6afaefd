"""The event between trigger and task: readable by its own version only, and never anything but words and ids."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.waiting.event import MAX_EVENT_BYTES, WaitEvent
from airflow_provider_evoimage.waiting.polling import Ending

TASK = "task-unified-1757156400-abcdefgh"
WORDS = get_args(Ending)

endings = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True),
    st.sampled_from(WORDS),
    min_size=1,
    max_size=5,
)


@given(endings, st.sampled_from(["", "not found", "unauthorized", "RuntimeError"]))
def test_event_survives_the_way_to_the_task(generations: dict[str, Ending], reason: str) -> None:
    sent = WaitEvent(endings=generations, reason=reason)
    assert WaitEvent.read(json.loads(json.dumps(sent.to_json()))) == sent


@given(endings)
def test_event_holds_nothing_but_version_words_and_ids(generations: dict[str, Ending]) -> None:
    payload = WaitEvent(endings=generations, reason="unreadable").to_json()
    assert set(payload) == {"v", "status", "generations", "reason"}
    assert payload["v"] == 1
    assert payload["status"] in WORDS
    assert payload["generations"] == generations


@given(endings, st.integers(0, 2000))
def test_event_of_a_wait_that_goes_on_says_how_many_more(generations: dict[str, Ending], more: int) -> None:
    sent = WaitEvent.of_some(generations, total=len(generations) + more)
    assert (sent.endings, sent.waiting) == (generations, more)
    assert WaitEvent.read(json.loads(json.dumps(sent.to_json()))) == sent


@pytest.mark.parametrize("length", [32, 128])
def test_event_of_thousands_names_the_first_and_stays_small(length: int) -> None:
    generations: dict[str, Ending] = {f"{number:0{length}}": "completed" for number in range(5000)}
    event = WaitEvent.of_some(generations, total=6000, reason="unreadable")
    assert 30_000 < len(json.dumps(event.to_json())) <= MAX_EVENT_BYTES
    assert list(event.endings) == list(generations)[: len(event.endings)]
    assert len(event.endings) + event.waiting == 6000


def test_event_of_a_wait_that_broke_off_at_once_names_nothing() -> None:
    sent = WaitEvent.of_some({}, total=2000, reason="ConnectionNotFoundError")
    assert sent.status == "lost"
    assert WaitEvent.read(sent.to_json()) == sent


@pytest.mark.parametrize("waiting", [-1, True, "3", None, 1.5])
def test_number_of_others_is_a_number(waiting: object) -> None:
    event = {"v": 1, "status": "completed", "generations": {TASK: "completed"}, "waiting": waiting}
    with pytest.raises(EvoImageError):
        WaitEvent.read(event)


@pytest.mark.parametrize(
    "link",
    [
        "https://files.evolink.ai/images/a.png",
        "http://127.0.0.1/files/a.png?sig=1",
        "s3://bucket/a.png",
        "sk-evo key",
        "a red fox",
    ],
)
def test_event_never_holds_links(link: str) -> None:
    with pytest.raises(EvoImageError):
        WaitEvent.read({"v": 1, "status": "completed", "generations": {link: "completed"}})
    with pytest.raises(EvoImageError):
        WaitEvent.read({"v": 1, "status": "completed", "generations": {TASK: link}})


@pytest.mark.parametrize(
    ("several", "status"),
    [
        (["completed", "completed"], "completed"),
        (["completed", "cancelled"], "cancelled"),
        (["cancelled", "failed", "completed"], "failed"),
        (["failed", "timeout"], "timeout"),
        (["timeout", "lost", "completed"], "lost"),
    ],
)
def test_status_is_the_gravest_of_several(several: list[Ending], status: str) -> None:
    generations = {f"task-{number}": word for number, word in enumerate(several)}
    assert WaitEvent(endings=generations).status == status


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_junk_is_refused_with_a_retryable_error_that_promises_no_second_payment(junk: Any) -> None:
    with pytest.raises(EvoImageError, match="submits nothing") as refused:
        WaitEvent.read(junk)
    assert refused.value.retryable


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": None},
        {"generations": {}},
        {"generations": [TASK]},
        {"generations": {TASK: "done"}},
        {"generations": {TASK: ["completed"]}},
        {"generations": {"": "completed"}},
        {"generations": {7: "completed"}},
        {"generations": {"../../v1/credits": "completed"}},
    ],
    ids=str,
)
def test_event_of_another_version_or_shape_is_refused(change: dict[str, Any]) -> None:
    event = WaitEvent(endings={TASK: "completed"}).to_json()
    with pytest.raises(EvoImageError):
        WaitEvent.read(event | change)


def test_event_of_several_generations_is_none_of_a_single_one() -> None:
    assert WaitEvent(endings={"task-a": "completed"}).only_task == "task-a"
    for endings in ({}, {"task-a": "completed", "task-b": "failed"}):
        with pytest.raises(EvoImageError):
            _ = WaitEvent(endings=endings).only_task  # type: ignore[arg-type]
