"""What each try does about what it finds: the whole decision table, and records that people have edited."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.submission.decision import OnClear, Refuse, Resume, Submit, decide
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.record import KEY_MEMORY_SECONDS, Phase, SubmissionRecord

NOW = 1_800_000_000.0
TASK = "task-unified-1757156400-abcdefgh"

IDENTITY = RequestIdentity(
    namespace="",
    dag_id="campaign",
    run_id="run",
    task_id="draw",
    epoch=2,
    fingerprint="f" * 64,
)
# The try whose record is found was of the same request.
RECORD = SubmissionRecord(
    key=IDENTITY.idempotency_key,
    fingerprint=IDENTITY.fingerprint,
    epoch=2,
    asked_in=2,
    sequence=0,
    conn_id="evoimage_default",
    base_url="https://api.evolink.ai",
    posted_at=NOW - 60,
)


MAPPED = replace(IDENTITY, item="a mug")


def found(phase: str, *, same_epoch: bool = True, same_fingerprint: bool = True, old: bool = False) -> Any:
    """A record as an earlier try left it; "failed-retryable" is a phase with its flag."""
    earlier = IDENTITY if same_epoch else replace(IDENTITY, epoch=1)
    if not same_fingerprint:
        earlier = replace(earlier, fingerprint="e" * 64)
    return SubmissionRecord(
        key=earlier.idempotency_key,
        fingerprint=earlier.fingerprint,
        epoch=earlier.epoch,
        asked_in=earlier.epoch,
        sequence=0,
        conn_id="evoimage_default",
        base_url="https://api.evolink.ai",
        posted_at=NOW - KEY_MEMORY_SECONDS - 1 if old else NOW - 60,
        phase=phase.removesuffix("-retryable"),  # type: ignore[arg-type]
        evolink_task_id=None if phase == "submitting" else TASK,
        retryable=phase.endswith("-retryable"),
    )


PHASES = ["submitting", "submitted", "failed", "failed-retryable", "delivered"]
ON_CLEAR: list[OnClear] = ["auto", "regenerate", "reuse"]

# What a try does: (phase, same epoch, on_clear) → outcome.
#   first      POST under this try's own key, sequence 0
#   again      POST under the key of the record
#   next       POST under the key of the next sequence
#   resume     wait for the recorded generation, POST nothing
# "again" becomes "refuse" when the connection says that keys are ignored, or the key is too old.
TABLE: dict[tuple[str, bool, str], str] = {
    ("submitting", True, "auto"): "again",
    ("submitting", True, "regenerate"): "again",
    ("submitting", True, "reuse"): "again",
    ("submitted", True, "auto"): "resume",
    ("submitted", True, "regenerate"): "resume",
    ("submitted", True, "reuse"): "resume",
    ("failed", True, "auto"): "resume",
    ("failed", True, "regenerate"): "resume",
    ("failed", True, "reuse"): "resume",
    ("failed-retryable", True, "auto"): "next",
    ("failed-retryable", True, "regenerate"): "next",
    ("failed-retryable", True, "reuse"): "next",
    ("delivered", True, "auto"): "resume",
    ("delivered", True, "regenerate"): "resume",
    ("delivered", True, "reuse"): "resume",
    # After a clear.
    ("submitting", False, "auto"): "again",
    ("submitting", False, "regenerate"): "first",
    ("submitting", False, "reuse"): "again",
    ("submitted", False, "auto"): "resume",
    ("submitted", False, "regenerate"): "first",
    ("submitted", False, "reuse"): "resume",
    ("failed", False, "auto"): "first",
    ("failed", False, "regenerate"): "first",
    ("failed", False, "reuse"): "first",
    ("failed-retryable", False, "auto"): "first",
    ("failed-retryable", False, "regenerate"): "first",
    ("failed-retryable", False, "reuse"): "first",
    ("delivered", False, "auto"): "first",
    ("delivered", False, "regenerate"): "first",
    ("delivered", False, "reuse"): "resume",
}


@pytest.mark.parametrize("old", [False, True], ids=["fresh", "over-23-hours"])
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "ignored"])
@pytest.mark.parametrize("same_fingerprint", [True, False], ids=["same-request", "other-request"])
@pytest.mark.parametrize("on_clear", ON_CLEAR)
@pytest.mark.parametrize("same_epoch", [True, False], ids=["retry", "cleared"])
@pytest.mark.parametrize("phase", PHASES)
def test_decision_table(
    phase: str, same_epoch: bool, on_clear: OnClear, same_fingerprint: bool, trusted: bool, old: bool
) -> None:
    record = found(phase, same_epoch=same_epoch, same_fingerprint=same_fingerprint, old=old)
    decision = decide(record, IDENTITY, on_clear=on_clear, trust_idempotency=trusted, now=NOW)

    expected = TABLE[phase, same_epoch, on_clear]
    # After a clear another request is a wish; in the same epoch it is a template that moved, and what was sent counts.
    if not same_fingerprint and not (same_epoch and expected in {"again", "resume"} and phase != "failed"):
        expected = "first"
    if expected == "again" and (old or not trusted):
        expected = "refuse"
    match decision:
        case Submit(identity=RequestIdentity(sequence=sequence), key=key, changed=changed):
            assert changed == (expected == "again" and not same_fingerprint)
            keys = {
                (IDENTITY.idempotency_key, 0): "first",
                (replace(IDENTITY, sequence=1).idempotency_key, 1): "next",
            }
            # In the same epoch the record's own key is the key of this try as well.
            outcome = "again" if expected == "again" and key == record.key else keys[key, sequence]
        case Resume(evolink_task_id=evolink_task_id, changed=changed):
            assert evolink_task_id == TASK
            assert changed == (not same_fingerprint)
            outcome = "resume"
        case Refuse():
            outcome = "refuse"
    assert outcome == expected


@pytest.mark.parametrize("phase", PHASES)
def test_changed_request_is_submitted_where_the_author_says_so(phase: str) -> None:
    record = found(phase, same_fingerprint=False)
    decision = decide(record, IDENTITY, on_clear="auto", on_change="submit", trust_idempotency=True, now=NOW)
    assert isinstance(decision, Submit)
    assert (decision.key, decision.changed) == (IDENTITY.idempotency_key, False)


@pytest.mark.parametrize("item", ["", "another mug"])
def test_other_item_at_the_same_place_of_a_list_is_another_request(item: str) -> None:
    record = replace(found("submitted", same_fingerprint=False), item=item)
    decision = decide(record, MAPPED, on_clear="auto", trust_idempotency=True, now=NOW)
    assert isinstance(decision, Submit)
    assert decision.key == MAPPED.idempotency_key


def test_item_whose_template_moved_goes_on_with_what_was_sent() -> None:
    record = replace(found("submitted", same_fingerprint=False), item=MAPPED.item)
    decision = decide(record, MAPPED, on_clear="auto", trust_idempotency=True, now=NOW)
    assert isinstance(decision, Resume)
    assert decision.changed


@pytest.mark.parametrize(
    "account", [("evoimage_default", "https://proxy.example.com"), ("evoimage_b", "https://api.evolink.ai")]
)
@pytest.mark.parametrize("same_fingerprint", [True, False])
@pytest.mark.parametrize("same_epoch", [True, False])
def test_request_of_unknown_outcome_is_not_repeated_at_another_account(
    account: tuple[str, str], same_fingerprint: bool, same_epoch: bool
) -> None:
    record = found("submitting", same_epoch=same_epoch, same_fingerprint=same_fingerprint)
    decision = decide(record, IDENTITY, on_clear="auto", trust_idempotency=True, account=account, now=NOW)
    if same_fingerprint or same_epoch:
        assert isinstance(decision, Refuse)
        assert record.base_url in decision.because
        assert account[1] in decision.because
    else:
        # A clear with another request is a wish for that one.
        assert isinstance(decision, Submit)


def test_item_of_a_changed_list_is_not_looked_for_at_another_account() -> None:
    record = found("submitted", same_epoch=False, same_fingerprint=False)
    account = ("evoimage_default", "https://proxy.example.com")
    decision = decide(record, MAPPED, on_clear="auto", trust_idempotency=True, account=account, now=NOW)
    assert isinstance(decision, Refuse)


def test_generation_under_way_is_resumed_wherever_the_connection_points() -> None:
    account = ("evoimage_b", "https://proxy.example.com")
    decision = decide(
        found("submitted"), IDENTITY, on_clear="auto", trust_idempotency=True, account=account, now=NOW
    )
    assert isinstance(decision, Resume)


def test_decision_table_is_whole() -> None:
    assert set(TABLE) == {(p, e, c) for p in PHASES for e in (True, False) for c in ON_CLEAR}


@pytest.mark.parametrize("on_clear", ON_CLEAR)
@pytest.mark.parametrize("trusted", [True, False])
def test_without_a_record_the_request_is_sent_for_the_first_time(on_clear: OnClear, trusted: bool) -> None:
    decision = decide(None, IDENTITY, on_clear=on_clear, trust_idempotency=trusted, now=NOW)
    assert isinstance(decision, Submit)
    assert (decision.key, decision.identity.sequence) == (IDENTITY.idempotency_key, 0)


@pytest.mark.parametrize("on_clear", ["auto", "reuse"])
@pytest.mark.parametrize("phase", PHASES)
def test_item_of_a_changed_list_is_asked_for_under_the_key_it_had_before_the_clear(
    phase: str, on_clear: OnClear
) -> None:
    record = found(phase, same_epoch=False, same_fingerprint=False)
    decision = decide(record, MAPPED, on_clear=on_clear, trust_idempotency=True, now=NOW)
    assert isinstance(decision, Submit)
    assert decision.moved
    assert decision.key == replace(MAPPED, epoch=1).idempotency_key


def test_equal_items_that_changed_places_keep_their_own_generations() -> None:
    record = replace(found("submitted", same_epoch=False), occurrence=1)
    decision = decide(record, MAPPED, on_clear="auto", trust_idempotency=True, now=NOW)
    assert isinstance(decision, Submit)
    assert decision.moved


def test_changed_list_asks_anew_when_told_so() -> None:
    record = found("submitted", same_epoch=False, same_fingerprint=False)
    decision = decide(record, MAPPED, on_clear="regenerate", trust_idempotency=True, now=NOW)
    assert decision == Submit(MAPPED, "the request has changed since the earlier try")


@pytest.mark.parametrize("on_clear", ["auto", "reuse"])
def test_changed_list_is_refused_where_keys_are_ignored(on_clear: OnClear) -> None:
    record = found("submitted", same_epoch=False, same_fingerprint=False)
    decision = decide(record, MAPPED, on_clear=on_clear, trust_idempotency=False, now=NOW)
    assert isinstance(decision, Refuse)


def test_item_found_again_after_two_clears_keeps_the_key_it_was_asked_under() -> None:
    twice = replace(MAPPED, epoch=3)
    record = replace(found("submitting", same_epoch=False), epoch=2, asked_in=1)
    decision = decide(record, twice, on_clear="auto", trust_idempotency=True, now=NOW)
    assert isinstance(decision, Submit)
    assert (decision.key, decision.identity.epoch) == (record.key, 1)


def test_record_of_an_earlier_version_was_asked_in_its_own_epoch() -> None:
    data = {name: value for name, value in RECORD.to_json().items() if name not in {"asked_in", "occurrence"}}
    assert SubmissionRecord.read(data) == RECORD


def test_each_retryable_failure_gets_its_own_key() -> None:
    keys = []
    record = found("failed-retryable")
    for sequence in range(1, 5):
        decision = decide(record, IDENTITY, on_clear="auto", trust_idempotency=True, now=NOW)
        assert isinstance(decision, Submit)
        assert decision.identity.sequence == sequence
        keys.append(decision.key)
        record = replace(record, key=decision.key, sequence=sequence)
    assert len({IDENTITY.idempotency_key, *keys}) == 5


def test_crash_while_asking_anew_after_a_failure_repeats_that_very_key() -> None:
    second = replace(IDENTITY, sequence=1)
    record = replace(RECORD, key=second.idempotency_key, sequence=1)
    decision = decide(record, IDENTITY, on_clear="auto", trust_idempotency=True, now=NOW)
    assert isinstance(decision, Submit)
    assert (decision.key, decision.identity.sequence) == (second.idempotency_key, 1)


@pytest.mark.parametrize(("age", "asks"), [(KEY_MEMORY_SECONDS, True), (KEY_MEMORY_SECONDS + 1, False)])
def test_key_is_asked_again_for_23_hours(age: float, asks: bool) -> None:
    record = replace(RECORD, posted_at=NOW - age)
    decision = decide(record, IDENTITY, on_clear="auto", trust_idempotency=True, now=NOW)
    assert isinstance(decision, Submit) is asks


@pytest.mark.parametrize("phase", ["submitting", "submitted", "failed", "delivered"])
@pytest.mark.parametrize("retryable", [True, False])
def test_record_survives_the_store(phase: Phase, retryable: bool) -> None:
    record = replace(RECORD, phase=phase, evolink_task_id=TASK, retryable=retryable)
    if phase == "submitting":
        record = replace(record, evolink_task_id=None)
    assert SubmissionRecord.read(record.to_json()) == record


@pytest.mark.parametrize(
    ("stored", "read"),
    [(2.5, 2.5), (3, 3.0), (None, None), ("2.5", None), (float("inf"), None), (10**400, None)],
)
def test_reservation_is_read_where_there_is_one(stored: Any, read: float | None) -> None:
    record = SubmissionRecord.read({**RECORD.to_json(), "credits_reserved": stored})
    assert record is not None
    assert record.credits_reserved == read


def test_record_of_a_version_that_kept_no_reservation_is_read() -> None:
    older = RECORD.to_json()
    del older["credits_reserved"]
    assert SubmissionRecord.read(older) == RECORD


def test_record_holds_nothing_but_what_the_design_names() -> None:
    assert set(RECORD.to_json()) == {
        "v",
        "key",
        "fingerprint",
        "epoch",
        "asked_in",
        "occurrence",
        "sequence",
        "conn_id",
        "base_url",
        "posted_at",
        "phase",
        "evolink_task_id",
        "retryable",
        "credits_reserved",
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# A real record of which somebody has changed, added or dropped a few fields.
edited_records = st.builds(
    lambda changes, dropped: {
        name: value for name, value in (RECORD.to_json() | changes).items() if name not in dropped
    },
    st.dictionaries(st.sampled_from([*RECORD.to_json(), "other"]), json_values, max_size=4),
    st.sets(st.sampled_from(list(RECORD.to_json())), max_size=2),
)


@given(st.one_of(json_values, edited_records), st.sampled_from(ON_CLEAR), st.booleans())
def test_edited_record_never_raises(data: Any, on_clear: OnClear, trusted: bool) -> None:
    record = SubmissionRecord.read(data)
    decision = decide(record, IDENTITY, on_clear=on_clear, trust_idempotency=trusted, now=NOW)
    assert isinstance(decision, (Submit, Resume, Refuse))


@pytest.mark.parametrize(
    "change",
    [
        {"phase": []},
        {"phase": {}},
        {"epoch": float("inf")},
        {"epoch": float("nan")},
        {"sequence": "three"},
        {"posted_at": 10**400},
        {"posted_at": -float("inf")},
        {"posted_at": float("nan")},
        {"v": 2},
        {"phase": "done"},
        {"key": "short"},
        {"key": "a key\r\nwith: a header"},
    ],
    ids=lambda change: f"{change}"[:40].replace("\\", ""),
)
def test_unusable_record_counts_as_none(change: dict[str, Any]) -> None:
    assert SubmissionRecord.read(RECORD.to_json() | change) is None


@pytest.mark.parametrize("change", [{"key": "?"}, {"posted_at": float("nan")}], ids=str)
def test_record_with_an_id_resumes_whatever_else_was_edited(change: dict[str, Any]) -> None:
    record = SubmissionRecord.read(found("submitted").to_json() | change)
    decision = decide(record, IDENTITY, on_clear="auto", trust_idempotency=False, now=NOW)
    assert isinstance(decision, Resume)
    assert decision.evolink_task_id == TASK


@pytest.mark.parametrize("evolink_task_id", ["", "../../v1/credits", "a b", "x" * 200, 7, {"id": TASK}])
@pytest.mark.parametrize("phase", ["submitted", "failed", "delivered"])
def test_record_without_a_usable_id_counts_as_submitting(phase: str, evolink_task_id: Any) -> None:
    record = SubmissionRecord.read(
        RECORD.to_json() | {"phase": phase, "evolink_task_id": evolink_task_id, "retryable": True}
    )
    assert record is not None
    assert (record.phase, record.evolink_task_id) == ("submitting", None)


def test_changed_request_that_is_asked_again_keeps_the_identity_that_was_sent() -> None:
    """A failed replay counts on from it: another fingerprint would give another key and be paid again."""
    record = replace(found("submitting", same_fingerprint=False), occurrence=3)
    decision = decide(record, IDENTITY, on_clear="auto", trust_idempotency=True, now=NOW)
    assert isinstance(decision, Submit)
    assert decision.identity.fingerprint == record.fingerprint
    assert decision.identity.occurrence == 3
    assert decision.identity.task_id == IDENTITY.task_id


def test_every_decision_says_why() -> None:
    seen = set()
    for record in (None, *(found(phase, same_epoch=epoch) for phase in PHASES for epoch in (True, False))):
        for trusted in (True, False):
            decision = decide(record, IDENTITY, on_clear="auto", trust_idempotency=trusted, now=NOW)
            assert decision.because.isprintable()
            assert len(decision.because) > 10
            seen.add(decision.because)
    assert len(seen) > 4
