"""What an answer means: what it does not clearly approve is not approved."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.approval.answer import (
    Answer,
    by_default,
    chosen_numbers,
    comment_of,
    described,
    moment_of,
    person_of,
    summary,
)
from airflow_provider_evoimage.approval.page import options_of
from airflow_provider_evoimage.approval.shown import shown_images
from airflow_provider_evoimage.exceptions import AnswerUnclearError
from tests.unit.approval.test_page import manifest


@pytest.mark.parametrize(
    ("words", "choose", "numbers"),
    [
        (["2", "4"], "many", (2, 4)),
        (["4", "2", "2"], "many", (2, 4)),
        (["All"], "many", (1, 2, 3, 4)),
        (["None"], "many", ()),
        (["3"], "one", (3,)),
        (["None"], "one", ()),
        (["Reject"], "one", ()),
        (["None", "Reject"], "one", ()),
        (["Approve"], "all", (1, 2, 3, 4)),
        (["Reject"], "all", ()),
    ],
)
def test_clear_answers(words: list[str], choose: Any, numbers: tuple[int, ...]):
    assert chosen_numbers(words, choose, 4) == numbers


@pytest.mark.parametrize(
    ("words", "choose"),
    [
        ([], "many"),
        (["All", "2"], "many"),
        (["None", "2"], "many"),
        (["All", "None"], "many"),
        (["Approve"], "many"),
        (["5"], "many"),
        (["0"], "many"),
        (["01"], "many"),
        (["-1"], "many"),
        (["²"], "many"),
        (["1", "2"], "one"),
        (["All"], "one"),
        (["Approve"], "one"),
        (["Approve", "Reject"], "all"),
        (["1"], "all"),
    ],
)
def test_unclear_answers_approve_nothing(words: list[str], choose: Any):
    with pytest.raises(AnswerUnclearError):
        chosen_numbers(words, choose, 4)


@given(
    choose=st.sampled_from(["one", "many", "all"]),
    images=st.integers(1, 30),
    words=st.lists(st.one_of(st.text(), st.sampled_from(["1", "2", "All", "None", "Approve", "Reject"]))),
)
def test_no_answer_approves_more_than_it_names(choose: Any, images: int, words: list[str]):
    try:
        numbers = chosen_numbers(words, choose, images)
    except AnswerUnclearError:
        return
    assert set(words) <= {*options_of(choose, images, hides_four=True), "None", "Reject"}
    if set(words) not in ({"All"}, {"Approve"}):
        assert {str(number) for number in numbers} == set(words) - {"None", "Reject"}


@pytest.mark.parametrize(
    ("on_timeout", "choose", "numbers"),
    [
        ("reject", "many", ()),
        ("approve", "many", (1, 2, 3)),
        ("approve", "all", (1, 2, 3)),
        ("approve", "one", (1,)),
        ("fail", "all", ()),
    ],
)
def test_what_no_answer_means(on_timeout: str, choose: Any, numbers: tuple[int, ...]):
    assert by_default(on_timeout, choose, 3) == numbers


def test_manifests_keep_the_chosen_images_alone():
    manifests = [manifest(2, renditions=1), manifest(2, name="b")]
    images = shown_images(manifests)
    answer = Answer(
        chosen=(2,), by={"id": "7", "name": "Ada"}, at="2026-11-27T10:00:00+00:00", comment="calm"
    )
    first, second = described(manifests, images, answer)
    assert [image["index"] for image in first["images"]] == [1]
    assert first["approval"] == {
        "by": {"id": "7", "name": "Ada"},
        "at": "2026-11-27T10:00:00+00:00",
        "chosen": [2],
        "comment": "calm",
        "sha256": [f"{1:064x}", f"{1000:064x}"],
    }
    assert (second["images"], second["approval"]["chosen"], second["approval"]["sha256"]) == ([], [], [])
    assert len(manifests[0]["images"]) == 2
    assert summary(answer, 4) == {
        "of": 4,
        "chosen": [2],
        "by": "Ada",
        "at": "2026-11-27T10:00:00+00:00",
        "comment": "calm",
    }


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(chosen=(1,), by={"id": "1", "name": "a"}, at=""), "approved"),
        (Answer(chosen=(), by={"id": "1", "name": "a"}, at=""), "rejected"),
        (Answer(chosen=(1,), by=None, at=""), "timed_out"),
    ],
)
def test_outcome_for_metrics(answer: Answer, outcome: str):
    assert answer.outcome == outcome


def test_what_airflow_says_of_an_answer_is_read_whatever_it_is():
    assert person_of({"id": 7, "name": None}) == {"id": "7", "name": ""}
    assert person_of(None) is None
    assert comment_of({"comment": " fine "}) == "fine"
    for nothing in ({"comment": ""}, {"comment": None}, {"comment": 3}, {}, None):
        assert comment_of(nothing) is None
    assert len(comment_of({"comment": "x" * 9_000}) or "") == 2_000
    assert moment_of(datetime(2026, 11, 27, tzinfo=UTC)) == "2026-11-27T00:00:00+00:00"
    assert moment_of("2026-11-27T00:00:00Z") == "2026-11-27T00:00:00Z"
