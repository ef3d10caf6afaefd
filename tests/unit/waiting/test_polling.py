"""When to poll and when to give up: pure decisions, so every clock here is a number."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import (
    AccessDeniedError,
    AuthenticationError,
    EvoImageError,
    EvoLinkUnavailableError,
    EvoLinkUnreachableError,
    GenerationNotFoundError,
    RateLimitError,
    UnreadableAnswerError,
)
from airflow_provider_evoimage.waiting.polling import (
    FAILURE_BUDGET_SECONDS,
    FIRST_POLL_BOUNDS,
    JITTER_SHARE,
    LONGEST_INTERVAL,
    LONGEST_PAUSE_SECONDS,
    NOT_FOUND_GRACE_SECONDS,
    SHORTEST_INTERVAL,
    End,
    NextPoll,
    Wait,
)

NOW = 1_800_000_000.0
TASK = "task-unified-1757156400-abcdefgh"


def a_wait(**changes: Any) -> Wait:
    fields: dict[str, Any] = {"evolink_task_id": TASK, "deadline": NOW + 1800} | changes
    return Wait(**fields)


def begun(**changes: Any) -> Wait:
    wait, _ = a_wait(**changes).begin(NOW)
    return wait


def state(status: str = "processing", progress: float | None = None) -> Generation:
    return Generation(evolink_task_id=TASK, status=status, progress=progress)


def seconds_to(outcome: object, now: float) -> float:
    assert isinstance(outcome, NextPoll)
    return outcome.at - now


@pytest.mark.parametrize("estimated_time", [None, -5, 0, 0.1, 5, 100, 10**9])
def test_first_poll_comes_early_whatever_evolink_expects(estimated_time: float | None) -> None:
    _, first = a_wait(estimated_time=estimated_time).begin(NOW)
    low, high = FIRST_POLL_BOUNDS
    assert low <= first.at - NOW <= high * (1 + JITTER_SHARE)


def test_interval_grows_to_its_cap_and_stays_there() -> None:
    wait, now, steps = begun(deadline=NOW + 10**6), NOW, []
    for _ in range(60):
        wait, outcome = wait.seen(state(), now)
        steps.append(seconds_to(outcome, now))
        now += steps[-1]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(steps))
    assert SHORTEST_INTERVAL <= steps[0] < steps[20] < LONGEST_INTERVAL
    assert steps[-1] == pytest.approx(steps[-2])
    assert steps[-1] <= LONGEST_INTERVAL * (1 + JITTER_SHARE) + 1e-6


def test_extra_polls_do_not_make_the_interval_grow() -> None:
    wait = begun()
    steps = set()
    for _ in range(20):
        wait, outcome = wait.seen(state(), NOW + 60)
        steps.add(seconds_to(outcome, NOW + 60))
    assert len(steps) == 1


@pytest.mark.parametrize(("sharing", "speed_up"), [(0, 1), (1, 1), (2, 2**0.5), (4, 2), (6, 2.4), (50, 2.4)])
def test_polls_that_share_a_request_come_more_often(sharing: int, speed_up: float) -> None:
    alone = seconds_to(begun().next_poll(NOW + 60), NOW + 60)
    shared = seconds_to(begun().next_poll(NOW + 60, sharing=sharing), NOW + 60)
    assert shared == pytest.approx(alone / speed_up)


def test_fixed_interval_is_kept_also_when_polls_are_shared() -> None:
    wait = begun(poll_interval=7.0)
    assert wait.next_poll(NOW, sharing=50) == wait.next_poll(NOW)


@given(st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True), st.floats(1, 600))
def test_jitter_is_the_same_each_time_and_at_most_a_fifth(evolink_task_id: str, poll_interval: float) -> None:
    wait = a_wait(evolink_task_id=evolink_task_id, poll_interval=poll_interval)
    step = seconds_to(wait.next_poll(NOW), NOW)
    assert poll_interval * (1 - 1e-6) <= step <= poll_interval * (1 + JITTER_SHARE) + 1e-6
    assert wait.next_poll(NOW) == wait.next_poll(NOW)


def test_generations_are_spread_so_that_not_all_poll_at_once() -> None:
    polls = {a_wait(evolink_task_id=f"task-{number}").next_poll(NOW).at for number in range(100)}
    assert len(polls) > 80


def test_fixed_interval_neither_grows_nor_shrinks() -> None:
    wait = begun(poll_interval=7.0)
    steps = set()
    for progress in (None, 10, 99):
        wait, outcome = wait.seen(state(progress=progress), NOW + 100)
        steps.add(seconds_to(outcome, NOW + 100))
    assert len(steps) == 1


@pytest.mark.parametrize("poll_interval", [None, 5.0])
def test_retry_after_wins_over_the_schedule(poll_interval: float | None) -> None:
    error = RateLimitError("slow down", retry_after=120)
    _, outcome = begun(poll_interval=poll_interval).missed(error, NOW)
    assert 120 <= seconds_to(outcome, NOW) <= 120 * (1 + JITTER_SHARE)


def test_retry_after_does_not_carry_the_wait_past_its_deadline() -> None:
    _, outcome = begun(deadline=NOW + 300).missed(RateLimitError("slow down", retry_after=86_400), NOW)
    assert seconds_to(outcome, NOW) == 300


def test_long_retry_after_is_polled_through_and_does_not_use_up_the_patience() -> None:
    error = RateLimitError("come back in an hour", retry_after=3600)
    wait, outcome = begun(deadline=NOW + 6 * 3600).missed(error, NOW)
    polls, passed = 0, 0.0
    while isinstance(outcome, NextPoll):
        polls, passed = polls + 1, passed + seconds_to(outcome, NOW + passed)
        wait, outcome = wait.missed(error, NOW + passed)
    assert outcome == End(ending="lost", reason="unreadable")
    assert passed == pytest.approx(
        3600 + FAILURE_BUDGET_SECONDS, abs=LONGEST_PAUSE_SECONDS * (1 + JITTER_SHARE)
    )
    assert polls >= 3600 / LONGEST_PAUSE_SECONDS / (1 + JITTER_SHARE)


def test_short_retry_after_does_not_speed_the_schedule_up() -> None:
    _, outcome = begun(poll_interval=30.0).missed(RateLimitError("slow down", retry_after=1), NOW)
    assert seconds_to(outcome, NOW) >= 30


def test_progress_near_the_end_shortens_the_interval() -> None:
    at = NOW + 150
    slow = begun()
    _, early = slow.seen(state(progress=20), at)
    _, late = slow.seen(state(progress=97), at)
    assert seconds_to(late, at) < seconds_to(early, at) / 2
    assert seconds_to(late, at) >= 1


@pytest.mark.parametrize("progress", [None, 0, -3, 100, 250])
def test_progress_that_says_nothing_changes_nothing(progress: float | None) -> None:
    _, outcome = begun().seen(state(progress=progress), NOW + 60)
    _, expected = begun().seen(state(), NOW + 60)
    assert outcome == expected


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
@pytest.mark.parametrize("at", [NOW, NOW + 1800, NOW + 10**6])
def test_terminal_status_ends_the_wait_also_after_the_deadline(status: str, at: float) -> None:
    _, outcome = begun().seen(state(status), at)
    assert outcome == End(ending=status)  # type: ignore[arg-type]


@pytest.mark.parametrize("status", ["pending", "processing", "queued", "paused_by_operator", ""])
def test_unknown_status_keeps_waiting(status: str) -> None:
    _, outcome = begun().seen(state(status), NOW + 10)
    assert isinstance(outcome, NextPoll)


@pytest.mark.parametrize(
    "see",
    [
        lambda wait, now: wait.seen(state(), now),
        lambda wait, now: wait.missed(EvoLinkUnavailableError("down"), now),
    ],
    ids=["running", "unreadable"],
)
def test_exactly_one_last_poll_at_the_deadline_then_timeout(see: Any) -> None:
    wait = begun(deadline=NOW + 10)
    wait, before = see(wait, NOW + 9.9)
    assert before == NextPoll(at=NOW + 10)
    _, last = see(wait, NOW + 10)
    assert last == End(ending="timeout")


def test_deadline_already_over_still_gets_one_look() -> None:
    _, first = a_wait(deadline=NOW - 100).begin(NOW)
    assert first == NextPoll(at=NOW)


@pytest.mark.parametrize(
    "error",
    [
        EvoLinkUnavailableError("502"),
        EvoLinkUnreachableError("cut"),
        UnreadableAnswerError("a page"),
        RateLimitError("429"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_passing_errors_end_the_wait_only_after_their_budget(error: EvoImageError) -> None:
    wait, outcome = begun(deadline=NOW + 10**6).missed(error, NOW)
    assert isinstance(outcome, NextPoll)
    wait, outcome = wait.missed(error, NOW + FAILURE_BUDGET_SECONDS - 1)
    assert isinstance(outcome, NextPoll)
    _, outcome = wait.missed(error, NOW + FAILURE_BUDGET_SECONDS)
    assert outcome == End(ending="lost", reason="unreadable")


def test_one_good_poll_gives_the_whole_budget_back() -> None:
    error = EvoLinkUnavailableError("down")
    wait, _ = begun(deadline=NOW + 10**6).missed(error, NOW)
    wait, _ = wait.seen(state(), NOW + FAILURE_BUDGET_SECONDS - 1)
    wait, outcome = wait.missed(error, NOW + FAILURE_BUDGET_SECONDS + 1)
    assert isinstance(outcome, NextPoll)
    assert wait.failing_since == NOW + FAILURE_BUDGET_SECONDS + 1


def test_unknown_id_is_given_a_grace_then_lost() -> None:
    error = GenerationNotFoundError("404")
    wait, outcome = begun().missed(error, NOW + 1)
    assert isinstance(outcome, NextPoll)
    _, outcome = wait.missed(error, NOW + 1 + NOT_FOUND_GRACE_SECONDS)
    assert outcome == End(ending="lost", reason="not found")


def test_404_of_an_id_that_evolink_gave_us_is_transient_as_any_other_failure() -> None:
    error = GenerationNotFoundError("404")
    wait, outcome = replace(begun(), was_accepted=True).missed(error, NOW + 1)
    assert isinstance(outcome, NextPoll)
    wait, outcome = wait.missed(error, NOW + FAILURE_BUDGET_SECONDS)
    assert isinstance(outcome, NextPoll)
    _, outcome = wait.missed(error, NOW + 1 + FAILURE_BUDGET_SECONDS)
    assert outcome == End(ending="lost", reason="not found")


def test_single_404_of_a_generation_that_was_seen_does_not_end_its_wait() -> None:
    wait, _ = begun().seen(state(), NOW + 200)
    _, outcome = wait.missed(GenerationNotFoundError("404"), NOW + 210)
    assert isinstance(outcome, NextPoll)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(AuthenticationError("401"), "unauthorized"), (AccessDeniedError("403"), "refused")],
)
def test_refused_key_is_final_at_once(error: EvoImageError, reason: str) -> None:
    _, outcome = begun().missed(error, NOW + 1)
    assert outcome == End(ending="lost", reason=reason)


polls = st.builds(
    state,
    st.sampled_from(["pending", "processing", "queued"]),
    st.none() | st.floats(-10, 1000),
)
errors = st.builds(
    lambda kind, retry_after: kind("it failed", retry_after=retry_after),
    st.sampled_from(
        [
            RateLimitError,
            EvoLinkUnavailableError,
            EvoLinkUnreachableError,
            UnreadableAnswerError,
            GenerationNotFoundError,
        ]
    ),
    st.none() | st.floats(0, 100_000),
)
waits = st.builds(
    a_wait,
    evolink_task_id=st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
    deadline=st.floats(NOW - 100, NOW + 5000),
    poll_interval=st.none() | st.floats(0.5, 10_000),
    estimated_time=st.none() | st.floats(-10, 10_000),
)


@given(waits, st.lists(st.tuples(polls | errors, st.floats(0, 50)), min_size=1, max_size=40))
def test_any_sequence_of_polls_keeps_to_its_time_and_ends(
    wait: Wait, seen: list[tuple[Generation | EvoImageError, float]]
) -> None:
    now = NOW
    wait, outcome = wait.begin(now)
    after_deadline = 0
    # What was drawn repeats until the wait ends: the last of it for ever.
    endless = [*seen, *[seen[-1]] * 20_000]
    for found, delay in endless:
        assert isinstance(outcome, NextPoll)
        assert now <= outcome.at <= max(wait.deadline, now)
        # A poll is never early, and may be late by what the answer took.
        now = outcome.at + delay
        after_deadline += now >= wait.deadline
        if isinstance(found, Generation):
            wait, outcome = wait.seen(found, now)
        else:
            wait, outcome = wait.missed(found, now)
        if isinstance(outcome, End):
            break
    assert isinstance(outcome, End)
    assert outcome.ending in {"timeout", "lost"}
    assert after_deadline <= 1


@given(waits, st.lists(polls | errors, max_size=20))
def test_same_polls_at_the_same_times_decide_the_same(
    wait: Wait, seen: list[Generation | EvoImageError]
) -> None:
    assert _course_of(wait, seen) == _course_of(wait, seen)


def _course_of(wait: Wait, seen: list[Generation | EvoImageError]) -> list[object]:
    wait, outcome = wait.begin(NOW)
    course: list[object] = [outcome]
    for found in seen:
        if isinstance(outcome, End):
            break
        step = wait.seen if isinstance(found, Generation) else wait.missed
        wait, outcome = step(found, outcome.at)  # type: ignore[arg-type]
        course.append(outcome)
    return course


@pytest.mark.parametrize(
    ("estimated_time", "seconds"), [(60, 6), (100, 10), (149, 14.9), (None, 1), (5, 1), (900, 15)]
)
def test_first_poll_comes_after_a_tenth_of_the_estimate(estimated_time: float | None, seconds: float) -> None:
    _, first = a_wait(estimated_time=estimated_time).begin(NOW)
    assert seconds <= seconds_to(first, NOW) <= seconds * (1 + JITTER_SHARE)


def test_state_of_the_last_answer_is_kept() -> None:
    wait, _ = begun().seen(state("processing", 40), NOW + 5)
    assert (wait.status, wait.progress) == ("processing", 40)


def test_polls_that_share_a_request_come_more_often_after_an_answer_too() -> None:
    _, alone = begun().seen(state(), NOW + 60)
    _, shared = begun().seen(state(), NOW + 60, sharing=50)
    assert seconds_to(shared, NOW + 60) < seconds_to(alone, NOW + 60)


def test_progress_tells_the_time_that_is_left() -> None:
    # 90 % after 18 s leaves 2 s.
    _, outcome = begun().seen(state("processing", 90), NOW + 18)
    assert 2 <= seconds_to(outcome, NOW + 18) <= 2 * (1 + JITTER_SHARE)
    _, early = begun().seen(state("processing", 1), NOW + 60)
    assert seconds_to(early, NOW + 60) >= SHORTEST_INTERVAL
