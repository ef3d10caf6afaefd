"""Which model comes next: only after what certainly cost nothing, and never past a submission that may be paid for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.given_up import GivenUp
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    EvoLinkUnavailableError,
    GenerationFailedError,
    GenerationRefusedError,
    InvalidRequestError,
)
from airflow_provider_evoimage.submission import fallback
from airflow_provider_evoimage.submission.fallback import (
    Patience,
    Position,
    cost_nothing,
    identity_in,
    index_of,
    other_models,
    position_of,
    reason_to_move_on,
    requests_for,
)
from tests.unit.submission.test_decision import IDENTITY, RECORD

MODELS = ["first", "second", "third"]
IDENTITIES = [replace(IDENTITY, fingerprint=letter * 64) for letter in "abc"]
TRIED = (GivenUp(model="first", why="model_unavailable"),)
OF_SECOND = replace(RECORD, fingerprint="b" * 64, tried=TRIED)
FAILED = replace(OF_SECOND, phase="failed", retryable=True, charged=0, failure="service_error")


def position(record: Any, on_clear: Any = "auto") -> Position:
    return position_of(record, IDENTITIES, MODELS, on_clear=on_clear)


def test_request_begins_with_the_first_model_where_nothing_is_known_of_it():
    assert position(None) == Position()
    assert position(replace(RECORD, fingerprint="x" * 64)) == Position()
    assert position(replace(OF_SECOND, occurrence=1)) == Position()


@pytest.mark.parametrize("phase", ["submitting", "accepted", "delivered"])
def test_submission_that_may_be_paid_for_is_resolved_first(phase: Any):
    assert position(replace(OF_SECOND, phase=phase)) == Position(1, TRIED)


def test_failure_that_cost_nothing_moves_on_and_says_why():
    why = GivenUp(model="second", why="service_error")
    assert position(FAILED) == Position(2, (*TRIED, why))
    assert position(replace(FAILED, failure="")).tried[-1].why == "failed"
    # Of the last model nothing follows.
    assert position(replace(FAILED, fingerprint="c" * 64)) == Position(2, TRIED)


@pytest.mark.parametrize(
    "changed", [{"charged": None}, {"charged": 0.1}, {"retryable": False}, {"phase": "accepted"}]
)
def test_any_doubt_about_the_cost_keeps_the_model(changed: dict[str, Any]):
    assert not cost_nothing(replace(FAILED, **changed))
    assert position(replace(FAILED, **changed)) == Position(1, TRIED)


@pytest.mark.parametrize(
    ("on_clear", "phase", "is_new"),
    [
        ("auto", "failed", True),
        ("auto", "delivered", True),
        ("auto", "accepted", False),
        ("regenerate", "accepted", True),
        ("reuse", "delivered", False),
    ],
)
def test_new_purchase_after_a_clear_begins_with_the_first_model(on_clear: str, phase: Any, is_new: bool):
    found = position(replace(OF_SECOND, epoch=1, phase=phase), on_clear)
    assert found == (Position(is_new_purchase=True) if is_new else Position(1, TRIED))


def test_record_belongs_to_one_model_by_fingerprint_and_occurrence():
    assert index_of(None, IDENTITIES) is None
    assert [index_of(replace(RECORD, fingerprint=letter * 64), IDENTITIES) for letter in "abcx"] == [
        0,
        1,
        2,
        None,
    ]
    record = replace(RECORD, fingerprint="x" * 64, occurrence=3, item="cup")
    assert identity_in(record, IDENTITIES[0]) == replace(
        IDENTITIES[0], fingerprint="x" * 64, occurrence=3, item="cup"
    )


def test_failed_generation_moves_on_only_where_it_cost_nothing():
    assert reason_to_move_on(GenerationFailedError("x", code="service_error")) == "service_error"
    assert reason_to_move_on(GenerationFailedError("x")) == "failed"
    for billed in (True, None):
        assert reason_to_move_on(GenerationFailedError("x", billed=billed)) is None
    assert reason_to_move_on(GenerationRefusedError("x", code="bad_prompt")) is None
    assert reason_to_move_on(EvoImageError("x", billed=False)) is None


def refusal(code: str = "model_unavailable", **fields: Any) -> EvoImageError:
    return EvoLinkUnavailableError("x", code=code, http_status=503, billed=False, **fields)


def test_refusal_because_of_the_model_moves_on():
    assert reason_to_move_on(refusal()) == "model_unavailable"
    assert reason_to_move_on(refusal("something_else")) is None


@pytest.mark.parametrize(
    ("value", "models"),
    [
        (None, ()),
        ("", ()),
        ([], ()),
        ("a, b,,a", ("a", "b")),
        (["b", "first", " a ", "b", "None", ""], ("b", "a")),
        (("a",), ("a",)),
    ],
)
def test_other_models_each_once_in_order_without_the_first(value: object, models: tuple[str, ...]):
    assert other_models(value, "first") == models


@pytest.mark.parametrize("value", [5, {"a": 1}, ["a", 5], [None], b"a"])
def test_anything_else_is_no_list_of_models(value: object):
    with pytest.raises(InvalidRequestError, match="must be a list of model ids"):
        other_models(value, "first")


def built(models: list[str], **fields: Any) -> list[tuple[str, Any, Any]]:
    given = {"prompt": "a mug", "model": "gpt-image-2", **fields}
    found = requests_for(
        models, given, lambda model, size: {"for:x": f"1024x1024 {model}"[:9]}.get(str(size), size)
    )
    return [(each.model, each.size, each.quality) for each in found]


def test_each_model_gets_its_own_size_and_quality():
    found = built(["gpt-image-1.5", "gpt-image-1"], size="for:x", quality=" low ")
    assert found == [("gpt-image-1.5", "1024x1024", "low"), ("gpt-image-1", "1024x1024", "low")]
    assert [(size, quality) for _, size, quality in built(["gpt-image-1"])] == [
        (size, quality) for _, size, quality in built(["gpt-image-1"], size=" ", quality=" ")
    ]


def test_model_that_cannot_take_the_request_is_named():
    with pytest.raises(
        InvalidRequestError, match=r"fallback_models: gpt-image-1\.5 cannot take this request: size"
    ):
        built(["gpt-image-1.5", "gpt-image-1"], size="7x1")
    with pytest.raises(InvalidRequestError, match="fallback_models: gpt-image-1 cannot take this request"):
        built(["gpt-image-1"], size=5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    now = [1000.0]
    monkeypatch.setattr(fallback.time, "monotonic", lambda: now[0])
    return now


def test_refusals_are_waited_out_ever_longer_until_the_limit(clock: Any):
    patience = Patience(100)
    pauses = []
    while (pause := patience.refused("a", refusal())) is not None:
        assert patience.why_given_up("a") is None
        pauses.append(pause)
        clock[0] += pause
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 9]
    assert patience.why_given_up("a") == "model_unavailable"
    # Another model has patience of its own.
    assert patience.refused("b", refusal()) == 1
    assert patience.why_given_up("b") is None


def test_evolinks_own_wait_counts_within_the_limit(clock: Any):
    assert Patience(100).refused("a", refusal(retry_after=42)) == 42
    assert Patience(100).refused("a", refusal(retry_after=400)) == 100
    assert Patience(100).refused("a", refusal(retry_after=0.2)) == 1
    assert Patience(0).refused("a", refusal()) is None


def test_final_refusal_is_not_waited_out(clock: Any):
    patience = Patience(100)
    error = InvalidRequestError("x", code="x")
    assert patience.refused("a", error) is None
    assert patience.why_given_up("a") == "refused"


def test_model_that_takes_requests_again_has_its_patience_back(clock: Any):
    patience = Patience(100)
    assert patience.is_doubtful("a")
    patience.refused("a", refusal())
    patience.refused("a", refusal())
    assert patience.is_doubtful("a")
    patience.accepted("a")
    assert not patience.is_doubtful("a")
    assert patience.is_doubtful("b")
    clock[0] += 500
    assert patience.refused("a", refusal()) == 1
    assert patience.is_doubtful("a")
    patience.accepted("never-refused")
