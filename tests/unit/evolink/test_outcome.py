"""Whether a submission was accepted, after everything that can come back."""

from __future__ import annotations

import pytest

from airflow_provider_evoimage.evolink.outcome import (
    SubmissionOutcome,
    after_answer,
    after_no_answer,
    is_still_deciding,
)

ACCEPTED, REFUSED, UNKNOWN = SubmissionOutcome.ACCEPTED, SubmissionOutcome.REFUSED, SubmissionOutcome.UNKNOWN


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (200, None, ACCEPTED),
        (201, None, ACCEPTED),
        # A redirect is never followed, so the request reached nobody who accepts.
        (300, None, REFUSED),
        (302, None, REFUSED),
        (307, None, REFUSED),
        (400, "invalid_parameters", REFUSED),
        (401, None, REFUSED),
        (402, "insufficient_quota", REFUSED),
        (403, "content_policy_violation", REFUSED),
        (404, None, REFUSED),
        (408, None, REFUSED),
        (413, None, REFUSED),
        (429, None, REFUSED),
        (429, "rate_limit_exceeded", REFUSED),
        (500, "rate_limit_exceeded", REFUSED),
        (503, "service_unavailable", REFUSED),
        (503, "no_available_channel", REFUSED),
        (503, "code_of_tomorrow", REFUSED),
        (503, None, UNKNOWN),
        (500, None, UNKNOWN),
        (500, "internal_error", UNKNOWN),
        (500, "service_unavailable", UNKNOWN),
        (502, None, UNKNOWN),
        (504, None, UNKNOWN),
        (504, "code_of_tomorrow", UNKNOWN),
        (599, None, UNKNOWN),
        (409, "idempotency_conflict", UNKNOWN),
        (409, "paid_outcome_unknown", UNKNOWN),
        (409, "PAID_OUTCOME_UNKNOWN", UNKNOWN),
        (503, "paid_outcome_unknown", UNKNOWN),
        (409, "another_conflict", REFUSED),
    ],
)
def test_answer_tells_the_outcome(status: int, code: str | None, outcome: SubmissionOutcome) -> None:
    assert after_answer(status, code) is outcome


def test_success_that_names_no_generation_is_an_unknown_outcome() -> None:
    assert after_answer(200, is_readable=False) is UNKNOWN


@pytest.mark.parametrize(("nothing_sent", "outcome"), [(True, REFUSED), (False, UNKNOWN)])
def test_missing_answer_is_a_refusal_only_when_nothing_was_sent(
    nothing_sent: bool, outcome: SubmissionOutcome
) -> None:
    assert after_no_answer(nothing_sent=nothing_sent) is outcome


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("paid_outcome_unknown", True),
        ("Paid_Outcome_Unknown", True),
        ("idempotency_conflict", False),
        (None, False),
    ],
)
def test_first_post_under_the_key_may_still_be_undecided(code: str | None, expected: bool) -> None:
    assert is_still_deciding(code) is expected
