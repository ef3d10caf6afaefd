"""What EvoLink answers: every documented example field by field, every odd shape, and anything else at all."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink import protocol
from airflow_provider_evoimage.evolink.answers import (
    Credits,
    Generation,
    GenerationError,
    GenerationPage,
    GenerationState,
    Usage,
)
from airflow_provider_evoimage.evolink.protocol import Answer
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError, UnreadableAnswerError

TASK = "task-unified-1757156493-imcg5zqt"
LINK = "https://files.evolink.ai/acc/images/2026/07/01/0a_0.jpg"
OTHER_LINK = "https://files.evolink.ai/acc/images/2026/07/01/0a_1.jpg"

SUBMITTED = {
    "created": 1757156493,
    "id": TASK,
    "model": "gpt-image-2",
    "object": "image.generation.task",
    "progress": 0,
    "status": "pending",
    "task_info": {"can_cancel": True, "estimated_time": 100},
    "type": "image",
    "usage": {"billing_rule": "per_call", "credits_reserved": 2.5, "user_group": "default"},
}
COMPLETED = {
    "created": 1782914405,
    "duration": 4,
    "id": "task-unified-1782914404-w4fcqq0x",
    "model": "gemini-3.1-flash-lite-image",
    "object": "image.generation.task",
    "progress": 100,
    "result_data": [{"url": LINK}],
    "results": [LINK],
    "status": "completed",
    "task_info": {"can_cancel": False},
    "type": "image",
    "usage": {
        "credits_used": 1.783,
        "image_cached_input_tokens": 0,
        "image_input_tokens": 0,
        "image_output_tokens": 1120,
        "text_cached_input_tokens": 0,
        "text_input_tokens": 57,
        "total_tokens": 1177,
    },
}
FAILED = {
    "id": "task-unified-1772618027-cmeisy8h",
    "object": "image.generation.task",
    "status": "failed",
    "model": "gemini-3.1-flash-image-preview",
    "progress": 0,
    "error": {
        "code": "content_policy_violation",
        "message": "Content policy violation.\nYour request was blocked …",
        "type": "task_error",
    },
}
CREDITS = {
    "data": {
        "token": {"remaining_credits": 99416.4429, "unlimited_credits": False, "used_credits": 583.5571},
        "user": {"remaining_credits": 1095.3996, "used_credits": 135.9048},
    },
    "message": "",
    "success": True,
}


def read(**fields):
    return Generation.read({"id": TASK} | fields)


# Documented examples


def test_submit_answer_reads_field_by_field():
    generation = Generation.read(SUBMITTED)
    assert generation.evolink_task_id == TASK
    assert generation.model == "gpt-image-2"
    assert generation.status == "pending"
    assert generation.progress == 0
    assert generation.created == datetime(2025, 9, 6, 11, 1, 33, tzinfo=UTC)
    assert generation.expires_at == generation.created + timedelta(hours=24)
    assert generation.estimated_time == 100
    assert generation.duration is None
    assert generation.image_urls == ()
    assert generation.error is None
    assert generation.usage.credits_reserved == 2.5
    assert generation.usage.credits_used is None
    assert generation.usage.billing_rule == "per_call"
    assert generation.usage.tokens == {}
    assert generation.usage.raw["user_group"] == "default"
    assert generation.raw == SUBMITTED
    assert not generation.is_terminal
    assert generation.billed is None


def test_recorded_completion_reads_field_by_field():
    generation = Generation.read(COMPLETED)
    assert generation.evolink_task_id == "task-unified-1782914404-w4fcqq0x"
    assert generation.model == "gemini-3.1-flash-lite-image"
    assert generation.status == "completed"
    assert generation.is_terminal
    assert generation.progress == 100
    assert generation.created == datetime.fromtimestamp(1782914405, UTC)
    assert generation.duration == 4
    assert generation.estimated_time is None
    assert generation.image_urls == (LINK,)
    assert generation.error is None
    assert generation.usage.credits_reserved is None
    assert generation.usage.credits_used == 1.783
    assert generation.usage.tokens == {
        "image_cached_input_tokens": 0,
        "image_input_tokens": 0,
        "image_output_tokens": 1120,
        "text_cached_input_tokens": 0,
        "text_input_tokens": 57,
        "total_tokens": 1177,
    }
    assert generation.billed is True


def test_documented_failure_reads_field_by_field():
    generation = Generation.read(FAILED)
    assert generation.evolink_task_id == "task-unified-1772618027-cmeisy8h"
    assert generation.status == "failed"
    assert generation.is_terminal
    assert generation.progress == 0
    assert generation.created is None
    assert generation.expires_at is None
    assert generation.image_urls == ()
    assert generation.error == GenerationError(
        code="content_policy_violation",
        message="Content policy violation. Your request was blocked …",
        raw=FAILED["error"],
    )
    assert generation.billed is False


def test_documented_credits_read_field_by_field():
    balance = Credits.read(CREDITS)
    assert balance.account_remaining == 1095.3996
    assert balance.account_used == 135.9048
    assert balance.key_remaining == 99416.4429
    assert balance.key_used == 583.5571
    assert balance.usable == 1095.3996
    assert balance.raw == CREDITS["data"]


# Odd shapes


@pytest.mark.parametrize(
    ("fields", "links"),
    [
        pytest.param({}, (), id="none"),
        pytest.param({"results": None, "result_data": None}, (), id="null"),
        pytest.param({"results": []}, (), id="empty"),
        pytest.param({"results": LINK}, (LINK,), id="string"),
        pytest.param({"results": [LINK, OTHER_LINK]}, (LINK, OTHER_LINK), id="list"),
        pytest.param({"results": {"url": LINK}}, (LINK,), id="object"),
        pytest.param(
            {"results": [{"url": LINK}, {"image_url": OTHER_LINK}]}, (LINK, OTHER_LINK), id="objects"
        ),
        pytest.param({"results": [{"image_url": {"url": LINK}}]}, (LINK,), id="nested-url"),
        pytest.param({"results": [LINK, LINK, OTHER_LINK]}, (LINK, OTHER_LINK), id="duplicates"),
        pytest.param({"results": [LINK, None, 4, "", "x", ["y"], OTHER_LINK]}, (LINK, OTHER_LINK), id="junk"),
        pytest.param({"results": ["http://a/b.png"]}, ("http://a/b.png",), id="http"),
        pytest.param({"results": ["data:image/png;base64,AA", "file:///etc/passwd"]}, (), id="no-links"),
        pytest.param({"results": 5}, (), id="number"),
        pytest.param({"results": True}, (), id="bool"),
        pytest.param({"result_data": {"url": LINK}}, (LINK,), id="data-object"),
        pytest.param({"result_data": [{"image_url": LINK}]}, (LINK,), id="data-list"),
        pytest.param({"result_data": [{"video_url": LINK}]}, (), id="data-video"),
        pytest.param(
            {"results": [LINK], "result_data": [{"url": LINK}, {"url": OTHER_LINK}]},
            (LINK, OTHER_LINK),
            id="both-each-once",
        ),
    ],
)
def test_result_links_read_from_every_shape_in_order_each_once(fields, links):
    assert read(status="completed", **fields).image_urls == links


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({}, "pending", id="missing"),
        pytest.param({"status": None}, "pending", id="null"),
        pytest.param({"status": 3}, "pending", id="number"),
        pytest.param({"status": "pending"}, "pending", id="pending"),
        pytest.param({"status": "processing"}, "processing", id="processing"),
        pytest.param({"status": "completed"}, "completed", id="completed"),
        pytest.param({"status": " Completed "}, "completed", id="capital-and-blanks"),
        pytest.param({"status": "failed"}, "failed", id="failed"),
        pytest.param({"status": "cancelled"}, "cancelled", id="cancelled"),
        pytest.param({"status": "canceled"}, "cancelled", id="canceled"),
        pytest.param(
            {"status": "failed", "error": {"code": "request_cancelled"}},
            "cancelled",
            id="failed-as-cancelled",
        ),
        pytest.param({"status": "queued_somewhere"}, "queued_somewhere", id="unknown"),
    ],
)
def test_status_reads_from_every_spelling(fields, status):
    generation = read(**fields)
    assert generation.status == status
    assert generation.is_terminal is (status in {"completed", "failed", "cancelled"})


@pytest.mark.parametrize(
    ("value", "progress"),
    [
        (0, 0),
        (41, 41),
        (41.5, 41.5),
        ("41", 41),
        (" 41 ", 41),
        ("41%", None),
        ("", None),
        (None, None),
        (True, None),
        ([], None),
        ({}, None),
        ("inf", None),
        ("nan", None),
        (float("nan"), None),
        (10**400, None),
    ],
    ids=repr,
)
def test_progress_reads_as_a_number_or_not_at_all(value, progress):
    assert read(progress=value).progress == progress


@pytest.mark.parametrize(
    ("value", "created"),
    [
        pytest.param(1757156493, 1757156493, id="int"),
        pytest.param(1757156493.75, 1757156493.75, id="float"),
        pytest.param("1757156493", 1757156493, id="text"),
        pytest.param(253370764799, 253370764799, id="last-second-of-9998"),
        pytest.param(253370764800, None, id="year-9999"),
        pytest.param(1757156493000, None, id="milliseconds"),
        pytest.param(0, None, id="zero"),
        pytest.param(-5, None, id="negative"),
        pytest.param(1e300, None, id="huge"),
        pytest.param(float("inf"), None, id="infinite"),
        pytest.param("2026-07-01T00:00:00Z", None, id="iso"),
        pytest.param(None, None, id="null"),
        pytest.param(True, None, id="bool"),
    ],
)
def test_created_reads_as_an_instant_or_not_at_all(value, created):
    generation = read(created=value)
    assert generation.created == (None if created is None else datetime.fromtimestamp(created, UTC))
    if created is None:
        assert generation.expires_at is None


def test_created_at_of_the_list_endpoint_reads_too():
    assert read(created_at=1757156493).created == datetime.fromtimestamp(1757156493, UTC)


def test_links_of_any_instant_expire_within_the_calendar():
    last = datetime.fromtimestamp(253370764799, UTC)
    assert read(created=253370764799).expires_at == last + timedelta(hours=24)


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        pytest.param({"code": "service_error", "message": "m"}, "service_error", "m", id="documented"),
        pytest.param({"code": 500, "message": "m"}, "500", "m", id="integer-code"),
        pytest.param({"code": "", "message": "m"}, "unknown_error", "m", id="empty-code"),
        pytest.param({"code": None, "message": None}, "unknown_error", "", id="nulls"),
        pytest.param({"code": {"a": 1}, "message": ["m"]}, "unknown_error", "", id="objects"),
        pytest.param({"message": "m"}, "unknown_error", "m", id="no-code"),
        pytest.param({"code": "c", "message": 5}, "c", "", id="number-as-message"),
        pytest.param("it broke", "unknown_error", "it broke", id="string"),
        pytest.param(["it broke"], "unknown_error", "", id="list"),
        pytest.param(7, "unknown_error", "", id="number"),
    ],
)
def test_error_reads_from_every_shape(value, code, message):
    error = read(status="failed", error=value).error
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize("value", [None, "", {}, []], ids=repr)
def test_empty_error_is_none(value):
    assert read(error=value).error is None


def test_suggestion_of_an_error_is_kept():
    assert read(error={"code": "c", "suggestion": "smaller image"}).error.suggestion == "smaller image"


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        ({"credits_used": 1.5}, 1.5),
        ({"credits_used": 0}, 0),
        ({"credits_used": "1.5"}, 1.5),
        ({"cost": {"credits": 2.5, "usd": 0.04}}, 2.5),
        ({"credits_used": 1.5, "cost": {"credits": 2.5}}, 1.5),
        ({"credits_used": None, "cost": {"credits": 2.5}}, 2.5),
        ({"cost": 2.5}, None),
        ({"cost": None}, None),
        ({}, None),
        (None, None),
        ([1], None),
        ("1.5", None),
    ],
    ids=repr,
)
def test_charge_reads_from_either_place(usage, charged):
    assert Usage.read(usage).credits_used == charged


def test_token_counters_keep_evolinks_names():
    usage = Usage.read(
        {"text_output_tokens": 5, "odd_tokens": "7", "x_tokens": None, "y_tokens": {"a": 1}, "tokens_z": 3}
    )
    assert usage.tokens == {"text_output_tokens": 5, "odd_tokens": 7}


def test_id_reads_from_task_id_too():
    assert Generation.read({"task_id": "abc"}).evolink_task_id == "abc"


@pytest.mark.parametrize("value", ["a", "x" * 128, "task-unified-1-a", "A.b_c:d-9"])
def test_any_id_that_evolinks_clients_accept_is_accepted(value):
    assert Generation.read({"id": value}).evolink_task_id == value


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "task-unified-1-a",
        5,
        True,
        {},
        {"id": None},
        {"id": 5},
        {"id": ""},
        {"id": "a/b"},
        {"id": "a b"},
        {"id": "x" * 129},
        {"id": "a\n"},
        {"id": ["a"]},
        {"id": {"a": 1}},
        {"id": "é"},
        {"data": SUBMITTED},
    ],
    ids=lambda data: ascii(data)[:30].replace("\\", ""),
)
def test_what_holds_no_task_id_is_unreadable(data):
    with pytest.raises(UnreadableAnswerError, match="no task id"):
        Generation.read(data)


# Money


@pytest.mark.parametrize(
    ("status", "billing", "billed"),
    [
        pytest.param("pending", None, None, id="pending"),
        pytest.param("processing", None, None, id="processing"),
        pytest.param("completed", None, True, id="completed"),
        pytest.param("failed", None, False, id="failed"),
        pytest.param("cancelled", None, None, id="cancelled"),
        pytest.param("odd", None, None, id="unknown-word"),
        pytest.param("pending", {"charge_status": "charged"}, True, id="pending-charged"),
        pytest.param("failed", {"charge_status": "charged"}, True, id="failed-charged"),
        pytest.param("cancelled", {"charge_status": "charged"}, True, id="cancelled-charged"),
        pytest.param("cancelled", {"charge_status": "reserved"}, None, id="cancelled-reserved"),
        pytest.param("cancelled", {"charge_status": "unknown"}, None, id="cancelled-unknown"),
        pytest.param("cancelled", {"charge_status": "released"}, None, id="released-only"),
        pytest.param(
            "cancelled",
            {
                "charge_status": "released",
                "refund_status": "completed",
                "reserved_credits": 2.5,
                "refunded_credits": 2.5,
                "refunded_at": 1757156493,
            },
            False,
            id="cancelled-refunded",
        ),
        pytest.param(
            "cancelled",
            {
                "charge_status": "released",
                "refund_status": "pending",
                "reserved_credits": 2.5,
                "refunded_credits": 2.5,
                "refunded_at": 1757156493,
            },
            None,
            id="refund-pending",
        ),
        pytest.param(
            "cancelled",
            {
                "charge_status": "released",
                "refund_status": "completed",
                "reserved_credits": 2.5,
                "refunded_credits": 2.0,
                "refunded_at": 1757156493,
            },
            None,
            id="refund-in-part",
        ),
        pytest.param(
            "cancelled",
            {
                "charge_status": "released",
                "refund_status": "completed",
                "reserved_credits": 2.5,
                "refunded_credits": 2.5,
            },
            None,
            id="refund-without-a-time",
        ),
        pytest.param("cancelled", "released", None, id="billing-is-text"),
    ],
)
def test_billed_follows_status_and_billing(status, billing, billed):
    assert read(status=status, billing=billing).billed is billed


@pytest.mark.parametrize(
    ("token", "key_remaining", "usable"),
    [
        ({"remaining_credits": 5, "unlimited_credits": False}, 5, 5),
        ({"remaining_credits": 5, "unlimited_credits": True}, None, 10),
        ({"remaining_credits": 50}, 50, 10),
        ({"remaining_credits": 0, "unlimited_credits": False}, 0, 0),
        ({"remaining_credits": -3}, -3, -3),
        ({}, None, 10),
        (None, None, 10),
        ({"remaining_credits": "5"}, 5, 5),
        ({"remaining_credits": "?"}, None, 10),
    ],
    ids=repr,
)
def test_usable_credits_are_the_smaller_of_account_and_key(token, key_remaining, usable):
    balance = Credits.read({"data": {"user": {"remaining_credits": 10}, "token": token}})
    assert balance.key_remaining == key_remaining
    assert balance.usable == usable


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "x",
        5,
        {},
        {"data": None},
        {"data": []},
        {"data": {"user": None}},
        {"data": {"user": {}}},
        {"data": {"user": {"remaining_credits": None}}},
        {"data": {"user": {"remaining_credits": "much"}}},
    ],
    ids=repr,
)
def test_credits_without_a_balance_are_unreadable(data):
    with pytest.raises(UnreadableAnswerError, match="no account balance"):
        Credits.read(data)


# Anything at all

WORDS = st.text(st.characters())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.sampled_from([LINK, TASK, "failed"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)
TASK_FIELDS = (
    *("id", "task_id", "model", "status", "progress", "created", "created_at", "duration", "task_info"),
    *("results", "result_data", "error", "usage", "billing", "request_id"),
)
TASKS = st.dictionaries(st.sampled_from(TASK_FIELDS), JSON).map(lambda fields: {"id": TASK} | fields)
INNER = st.dictionaries(
    st.sampled_from(
        [
            "credits_used",
            "credits_reserved",
            "cost",
            "credits",
            "code",
            "message",
            "url",
            "image_url",
            "estimated_time",
            "charge_status",
            "refunded_at",
            "reserved_credits",
            "x_tokens",
        ]
    ),
    JSON,
)
DEEP_TASKS = st.fixed_dictionaries(
    {"id": st.just(TASK)},
    optional=dict.fromkeys(("usage", "error", "task_info", "billing", "results", "result_data"), INNER),
)
CREDIT_ANSWERS = st.fixed_dictionaries(
    {"data": st.fixed_dictionaries({"user": JSON, "token": JSON}) | JSON}, optional={"success": JSON}
)
BODIES = (
    st.binary()
    | WORDS.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | (JSON | TASKS | DEEP_TASKS | CREDIT_ANSWERS).map(lambda data: json.dumps(data).encode())
    | st.fixed_dictionaries({"error": JSON | INNER}).map(lambda data: json.dumps(data).encode())
    | st.fixed_dictionaries({"data": st.lists(TASKS | JSON, max_size=3)}).map(
        lambda data: json.dumps(data).encode()
    )
    | st.sampled_from([b"", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"<html><title>502</title>"])
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "x-request-id", "x-oneapi-request-id", "idempotency-replayed", "location"]
    ),
    st.text() | st.from_regex(r"[0-9]{1,12}", fullmatch=True) | st.datetimes().map(lambda when: when.ctime()),
)


@settings(deadline=None)
@given(data=JSON | TASKS | DEEP_TASKS)
def test_any_json_reads_as_a_generation_or_as_unreadable(data):
    try:
        generation = Generation.read(data)
    except UnreadableAnswerError:
        return
    assert generation.billed in (True, False, None)
    assert generation.is_terminal in (True, False)
    assert generation.expires_at is None or generation.expires_at > generation.created
    assert all(url.startswith(("http://", "https://")) for url in generation.image_urls)


@settings(deadline=None)
@given(data=JSON | TASKS | DEEP_TASKS)
def test_state_alone_reads_as_it_does_with_everything_else(data):
    try:
        generation = Generation.read(data)
    except UnreadableAnswerError:
        with pytest.raises(UnreadableAnswerError):
            GenerationState.read(data)
        return
    state = GenerationState.read(data)
    assert (state.evolink_task_id, state.status, state.progress) == (
        generation.evolink_task_id,
        generation.status,
        generation.progress,
    )


@settings(deadline=None)
@given(data=JSON | CREDIT_ANSWERS)
def test_any_json_reads_as_credits_or_as_unreadable(data):
    try:
        assert isinstance(Credits.read(data).usable, float)
    except UnreadableAnswerError:
        return


CALLS = {
    "submit": lambda: protocol.submit_generation(
        ImageRequest.build(model="gpt-image-1", prompt="a fox"), "airflow-evoimage-0"
    ),
    "task": lambda: protocol.get_generation(TASK),
    "batch": lambda: protocol.get_generations([TASK]),
    "state": lambda: protocol.get_state(TASK),
    "states": lambda: protocol.get_states([TASK]),
    "credits": protocol.get_credits,
}


def error_of(call, answer):
    """Return our error, or None where the answer reads; anything else fails the test."""
    try:
        CALLS[call]().result(answer)
    except EvoImageError as error:
        return error
    return None


@pytest.mark.parametrize("call", CALLS)
@settings(deadline=None)
@given(status=st.integers(100, 599) | st.just(200), headers=HEADERS, body=BODIES)
def test_any_answer_returns_or_raises_our_error(call, status, headers, body):
    error = error_of(call, Answer(status=status, headers=headers, body=body))
    if error is None:
        assert 200 <= status < 300
    else:
        assert 0 < len(str(error)) < 4000
        assert error.retry_after is None or 0 <= error.retry_after <= 6_000_000


@pytest.mark.parametrize("depth", [500, 900, 990, 5_000, 50_000])
@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("before", "open_", "middle", "close", "after"),
    [
        (b"", b"[", b"", b"]", b""),
        (b'{"id":"%s","result_data":' % TASK.encode(), b'{"url":', b'"https://x/y"', b"}", b"}"),
        (b'{"error":{"message":', b"[", b"", b"]", b"}}"),
        (b'{"data":', b'{"data":', b"1", b"}", b"}"),
    ],
    ids=["list", "links", "message", "data"],
)
def test_deeply_nested_answer_returns_or_raises_our_error(
    call, status, depth, before, open_, middle, close, after
):
    body = before + open_ * depth + middle + close * depth + after
    error = error_of(call, Answer(status=status, headers={}, body=body))
    assert error is None or str(error)


# The calls


def answer(data, status=200, **headers):
    return Answer(status=status, headers=headers, body=json.dumps(data).encode())


def test_replayed_submission_says_so():
    call = CALLS["submit"]()
    assert call.result(answer(SUBMITTED)).replayed is False
    assert call.result(answer(SUBMITTED, **{"idempotency-replayed": "True"})).replayed is True
    assert call.result(answer(SUBMITTED, **{"idempotency-replayed": "false"})).replayed is False


def test_answer_about_another_task_is_unreadable():
    with pytest.raises(UnreadableAnswerError, match="another task") as caught:
        protocol.get_generation("task-unified-1-other").result(answer(SUBMITTED))
    assert caught.value.evolink_task_id == "task-unified-1-other"


def test_batch_reads_by_id_and_leaves_out_what_is_no_task():
    wanted = protocol.get_generations([TASK, COMPLETED["id"]])
    found = wanted.result(answer({"data": [SUBMITTED, COMPLETED, None, {}, 5, {"id": ["a"]}, {"id": {}}]}))
    assert set(found) == {TASK, COMPLETED["id"]}


def test_batch_does_not_read_what_nobody_asked_for():
    odd = {"id": "task-of-somebody-else", "results": 5, "status": "x" * 100}
    found = protocol.get_generations([TASK]).result(answer({"data": [odd, SUBMITTED]}))
    assert set(found) == {TASK}


def test_credits_refused_with_status_200_are_unreadable_with_the_reason():
    with pytest.raises(UnreadableAnswerError, match="try later"):
        protocol.get_credits().result(answer({"success": False, "message": "try later"}))


@pytest.mark.parametrize("evolink_task_id", ["", ".", "..", "a/b", "a b", "a?b", "x" * 129, "a\n", None, 5])
def test_nothing_but_an_id_becomes_part_of_a_path(evolink_task_id):
    with pytest.raises(InvalidRequestError, match="is not the id of an EvoLink task"):
        protocol.get_generation(evolink_task_id)
    with pytest.raises(InvalidRequestError):
        protocol.get_generations([evolink_task_id])


def test_every_text_of_a_task_is_clean_and_short():
    odd = "\x1b[2J\x1b[31mred\r\nsecond line\u202egnp" + "x" * 3_000_000
    generation = Generation.read(
        {
            "id": TASK,
            "status": odd,
            "model": odd,
            "usage": {"billing_rule": odd},
            "error": {"code": odd, "message": odd, "suggestion": odd},
        }
    )
    error = generation.error
    found = [generation.status, generation.model, generation.usage.billing_rule]
    for text in (*found, error.code, error.message, error.suggestion):
        assert text.isprintable()
        assert len(text) <= 2000
    assert len(generation.status) <= 40
    assert len(generation.model) <= 100
    assert GenerationState.read({"id": TASK, "status": odd}).status == generation.status


def test_links_and_token_counts_are_bounded():
    generation = Generation.read(
        {
            "id": TASK,
            "results": [f"https://media.example.com/{each}.png" for each in range(500)]
            + ["https://media.example.com/" + "x" * 10_000],
            "usage": {f"n{each}_tokens": each for each in range(50_000)} | {"odd name\n_tokens": 5},
        }
    )
    assert len(generation.image_urls) == 64
    assert generation.image_urls[0].endswith("/0.png")
    assert len(generation.usage.tokens) == 50


@pytest.mark.parametrize("evolink_task_id", [".", "..", "....", "a/b", "a\n"])
def test_id_that_is_another_place_in_a_path_is_refused_where_it_is_read(evolink_task_id):
    for read in (Generation.read, GenerationState.read):
        with pytest.raises(UnreadableAnswerError):
            read({"id": evolink_task_id})


@pytest.mark.parametrize("amount", [1e308, "1e308", -1e308, "Infinity", float("inf"), float("nan")])
def test_amount_that_no_account_can_have_is_no_charge(amount):
    usage = Generation.read({"id": TASK, "usage": {"credits_used": amount, "credits_reserved": amount}}).usage
    assert (usage.credits_used, usage.credits_reserved) == (None, None)


@pytest.mark.parametrize("data", [None, [], {}, {"data": None}, {"data": {"id": "task-1"}}])
def test_list_that_is_none_is_unreadable(data: object):
    with pytest.raises(UnreadableAnswerError, match="no list of tasks"):
        GenerationPage.read(data)


def test_key_is_redacted_in_any_place_of_json_and_with_escapes():
    body = rb'{"a": [1, null, "sk\u002devo"], "sk\u002devo": {"b": 2}, "c": "\u2026"}'
    found = protocol.redacted(Answer(status=200, headers={"x": "sk-evo"}, body=body), "sk-evo")
    assert json.loads(found.body) == {"a": [1, None, "***"], "***": {"b": 2}, "c": "…"}
    assert found.headers == {"x": "***"}
    harmless = Answer(status=200, headers={}, body=rb'{"a": "\u002d", "b": 1.50}')
    assert protocol.redacted(harmless, "sk-evo") is harmless
    # Nobody can tell what is in it.
    deep = b"[" * 100_000 + rb'"\u002d"' + b"]" * 100_000
    assert protocol.redacted(Answer(status=200, headers={}, body=deep), "sk-evo").body in {b"", deep}
