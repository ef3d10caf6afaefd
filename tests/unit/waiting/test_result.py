"""What a wait has brought: a finished generation, or an error that says what was paid and what a retry does."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    GenerationLostError,
    GenerationNotFoundError,
    GenerationTimeoutError,
    NoImagesError,
)
from airflow_provider_evoimage.waiting.result import (
    age_in_words,
    duration_in_words,
    outcome_in_words,
    read_ended,
    require_images,
    unfinished_error,
)

TASK = "task-unified-1757156400-abcdefgh"
LINK = "https://files.evolink.ai/a.png"


def generation(**fields: Any) -> Generation:
    return Generation.read({"id": TASK, "status": "completed"} | fields)


def hook(found: Generation | EvoImageError) -> Any:
    def get_generation(evolink_task_id: str) -> Generation:
        assert evolink_task_id == TASK
        if isinstance(found, EvoImageError):
            raise found
        return found

    return SimpleNamespace(get_generation=get_generation)


UNKNOWN = GenerationNotFoundError("404", evolink_task_id=TASK, request_id="req-1")


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_generation_that_has_ended_is_returned_however_the_wait_ended(status: str) -> None:
    ended = generation(status=status)
    assert read_ended(hook(ended), TASK, "timeout") is ended


def test_generation_that_still_runs_is_an_error_that_names_it() -> None:
    with pytest.raises(GenerationLostError, match="another account's") as caught:
        read_ended(hook(generation(status="processing")), TASK, "lost", "not found")
    assert (caught.value.evolink_task_id, "processing" in str(caught.value)) == (TASK, True)


@pytest.mark.parametrize(
    ("ending", "was_accepted", "kind"),
    [
        ("lost", False, GenerationNotFoundError),
        ("lost", True, GenerationLostError),
        ("timeout", False, GenerationLostError),
        ("completed", True, GenerationLostError),
    ],
)
def test_unknown_id_is_final_only_where_evolink_never_reported_it(
    ending: Any, was_accepted: bool, kind: type[EvoImageError]
) -> None:
    with pytest.raises(kind) as caught:
        read_ended(hook(UNKNOWN), TASK, ending, was_accepted=was_accepted)
    assert (caught.value.evolink_task_id, caught.value.request_id) == (TASK, "req-1")
    if kind is GenerationLostError:
        assert ("on_clear='regenerate'" in caught.value.on_retry) is was_accepted


def test_id_counts_as_one_from_elsewhere_unless_the_caller_says_otherwise() -> None:
    with pytest.raises(GenerationNotFoundError):
        read_ended(hook(UNKNOWN), TASK, "lost")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("unauthorized", "EvoLink refused the connection's API key"),
        ("the triggerer died", "the triggerer died"),
        ("", "no reason given"),
    ],
)
def test_error_of_a_wait_that_broke_off_says_why(reason: str, said: str) -> None:
    error = unfinished_error(TASK, generation(status="processing"), "lost", reason)
    assert isinstance(error, GenerationLostError)
    assert error.message == f"The wait for EvoLink task {TASK} broke off: {said}. It is processing."
    assert error.evolink_task_id == TASK
    assert unfinished_error(TASK, None, "lost").message.endswith("It is unknown to EvoLink.")


def test_error_of_a_wait_that_timed_out_says_how_old_the_generation_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    created = datetime(2026, 5, 1, tzinfo=UTC)
    now = (created + timedelta(seconds=185)).timestamp()
    monkeypatch.setattr("airflow_provider_evoimage.waiting.result.time", SimpleNamespace(time=lambda: now))
    old = generation(status="processing", created=int(created.timestamp()))
    error = unfinished_error(TASK, old, "timeout")
    assert isinstance(error, GenerationTimeoutError)
    assert error.message == f"EvoLink task {TASK} was still processing after 3 min 5 s."
    assert error.evolink_task_id == TASK
    assert "after the whole wait" in unfinished_error(TASK, None, "timeout").message


def test_age_is_never_below_zero_and_unknown_without_a_time() -> None:
    assert age_in_words(generation(created=int(time.time()) + 100)) == "0 s"
    assert age_in_words(generation()) == "the whole wait"


def test_images_are_required_of_a_completed_generation() -> None:
    require_images(generation(results=[LINK]))
    with pytest.raises(NoImagesError) as caught:
        require_images(generation(results=[]))
    assert caught.value.evolink_task_id == TASK


def test_failed_generation_says_whether_a_retry_may_ask_again() -> None:
    failed = generation(status="failed", results=[LINK], error={"code": "resource_exhausted"})
    said = {}
    for may_ask_again in (True, False):
        with pytest.raises(EvoImageError) as caught:
            require_images(failed, may_ask_again=may_ask_again)
        said[may_ask_again] = (type(caught.value), caught.value.on_retry)
    with pytest.raises(EvoImageError) as caught:
        require_images(failed)
    assert (type(caught.value), caught.value.on_retry) == said[True]
    assert said[True] != said[False]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (120, "2 min"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_time_span_reads_as_people_say_it(seconds: float, words: str) -> None:
    assert duration_in_words(seconds) == words


@pytest.mark.parametrize(
    ("fields", "requested", "words"),
    [
        ({"results": [LINK]}, None, "completed: 1 image, charge unknown"),
        ({"results": [LINK, LINK + "2"]}, None, "completed: 2 images, charge unknown"),
        ({"results": [LINK]}, 2, "completed: 1 of 2 images, charge unknown"),
        (
            {"results": [LINK], "usage": {"credits_used": 1234.5}, "duration": 61},
            None,
            "completed after 1 min 1 s: 1 image, 1,234.5000 credits charged",
        ),
    ],
)
def test_outcome_says_how_many_images_and_credits(
    fields: dict[str, Any], requested: int | None, words: str
) -> None:
    assert outcome_in_words(generation(**fields), requested) == f"EvoLink task {TASK} {words}"
