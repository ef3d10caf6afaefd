"""Each of EvoLink's errors: which exception it becomes, whether a retry can mend it, what it says about money."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from airflow_provider_evoimage import exceptions
from airflow_provider_evoimage.evolink import files, protocol
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.errors import (
    MAX_BODY_CHARACTERS,
    ErrorBody,
    generation_failure,
    is_retryable_failure,
    model_refusal,
    retry_after,
)
from airflow_provider_evoimage.evolink.protocol import Answer
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    AccessDeniedError,
    AuthenticationError,
    ConnectionSettingsError,
    ContentPolicyError,
    ContentRefusedError,
    EvoImageError,
    EvoLinkUnavailableError,
    FileQuotaError,
    FileRefusedError,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationNotFoundError,
    GenerationRefusedError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    KeyLimitError,
    RateLimitError,
    RequestRefusedError,
)

TASK = "task-unified-1757156493-imcg5zqt"
OTHER = "task-unified-1757156493-imcg5zqu"
FINAL, AGAIN = False, True
NOT_BILLED, UNKNOWN = False, None


def raised(call, status, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(EvoImageError) as caught:
        call.result(Answer(status=status, headers=headers, body=content))
    return caught.value


def on_submission(status, body, **headers):
    request = ImageRequest.build(model="gpt-image-1", prompt="a fox")
    return raised(protocol.submit_generation(request, "airflow-evoimage-0"), status, body, **headers)


def on_read(status, body, **headers):
    return raised(protocol.get_generation(TASK), status, body, **headers)


def new_style(code, message="Something was wrong.", **fields):
    return {"error": {"code": code, "message": message, "type": "some_error"} | fields}


# The table of HTTP statuses and codes: one row a code.
HTTP_TABLE = [
    (400, "invalid_request", RequestRefusedError, FINAL, NOT_BILLED),
    (400, "invalid_parameters", RequestRefusedError, FINAL, NOT_BILLED),
    (400, "invalid_media_url", RequestRefusedError, FINAL, NOT_BILLED),
    (400, "invalid_task_id", GenerationNotFoundError, FINAL, NOT_BILLED),
    (400, "content_policy_violation", ContentRefusedError, FINAL, NOT_BILLED),
    (400, "content_filter", ContentRefusedError, FINAL, NOT_BILLED),
    (400, "sensitive_content", ContentRefusedError, FINAL, NOT_BILLED),
    (400, "moderation_blocked", ContentRefusedError, FINAL, NOT_BILLED),
    (400, "input_moderation_failed", ContentRefusedError, FINAL, NOT_BILLED),
    (401, "unauthorized", AuthenticationError, FINAL, NOT_BILLED),
    (401, "invalid_token", AuthenticationError, FINAL, NOT_BILLED),
    (402, "insufficient_quota", InsufficientCreditsError, FINAL, NOT_BILLED),
    (402, "insufficient_user_quota", InsufficientCreditsError, FINAL, NOT_BILLED),
    (402, "quota_not_enough", InsufficientCreditsError, FINAL, NOT_BILLED),
    (402, "account_balance_insufficient", InsufficientCreditsError, FINAL, NOT_BILLED),
    (402, "quota_exceeded", InsufficientCreditsError, FINAL, NOT_BILLED),
    (402, "key_quota_exhausted", KeyLimitError, FINAL, NOT_BILLED),
    (402, "insufficient_token_quota", KeyLimitError, FINAL, NOT_BILLED),
    (402, "key_daily_quota_exhausted", KeyLimitError, FINAL, NOT_BILLED),
    (402, "token_daily_quota_exceeded", KeyLimitError, FINAL, NOT_BILLED),
    (403, "model_access_denied", AccessDeniedError, FINAL, NOT_BILLED),
    (403, "key_model_not_allowed", AccessDeniedError, FINAL, NOT_BILLED),
    (403, "permission_denied", AccessDeniedError, FINAL, NOT_BILLED),
    (403, "key_disabled", AccessDeniedError, FINAL, NOT_BILLED),
    (403, "key_expired", AccessDeniedError, FINAL, NOT_BILLED),
    (403, "user_disabled", AccessDeniedError, FINAL, NOT_BILLED),
    (403, "ip_restricted", AccessDeniedError, FINAL, NOT_BILLED),
    (404, "task_not_found", GenerationNotFoundError, FINAL, NOT_BILLED),
    (404, "model_not_found", RequestRefusedError, FINAL, NOT_BILLED),
    (408, None, EvoLinkUnavailableError, AGAIN, NOT_BILLED),
    (409, "idempotency_conflict", IdempotencyConflictError, FINAL, UNKNOWN),
    (409, "paid_outcome_unknown", EvoLinkUnavailableError, AGAIN, UNKNOWN),
    (413, "request_too_large", RequestRefusedError, FINAL, NOT_BILLED),
    (415, None, RequestRefusedError, FINAL, NOT_BILLED),
    (418, "code_of_tomorrow", RequestRefusedError, FINAL, NOT_BILLED),
    (429, "rate_limit_exceeded", RateLimitError, AGAIN, NOT_BILLED),
    (429, None, RateLimitError, AGAIN, NOT_BILLED),
    (500, "internal_error", EvoLinkUnavailableError, AGAIN, UNKNOWN),
    (502, "upstream_error", EvoLinkUnavailableError, AGAIN, UNKNOWN),
    (503, "service_unavailable", EvoLinkUnavailableError, AGAIN, NOT_BILLED),
    (503, "no_available_channel", EvoLinkUnavailableError, AGAIN, NOT_BILLED),
    (503, "model_unavailable", EvoLinkUnavailableError, AGAIN, NOT_BILLED),
    (400, "40001", FileRefusedError, FINAL, NOT_BILLED),
    (400, "40002", FileRefusedError, FINAL, NOT_BILLED),
    (400, "40003", FileQuotaError, FINAL, NOT_BILLED),
    (400, "40004", FileRefusedError, FINAL, NOT_BILLED),
    (500, "50001", EvoLinkUnavailableError, AGAIN, UNKNOWN),
    (503, "channel_selection_failed", EvoLinkUnavailableError, AGAIN, NOT_BILLED),
    (504, None, EvoLinkUnavailableError, AGAIN, UNKNOWN),
    (524, None, EvoLinkUnavailableError, AGAIN, UNKNOWN),
    (599, "code_of_tomorrow", EvoLinkUnavailableError, AGAIN, UNKNOWN),
]


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable", "billed"),
    HTTP_TABLE,
    ids=[f"{status}-{code}" for status, code, *_ in HTTP_TABLE],
)
def test_error_answer_to_a_submission_becomes(status, code, kind, retryable, billed):
    error = on_submission(status, new_style(code))
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.billed is billed
    assert error.code == code
    assert error.http_status == status


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_task_id", GenerationNotFoundError),
        (401, "unauthorized", AuthenticationError),
        (402, "quota_exceeded", InsufficientCreditsError),
        (403, "permission_denied", AccessDeniedError),
        (404, "task_not_found", GenerationNotFoundError),
        (404, None, GenerationNotFoundError),
        (429, "rate_limit_exceeded", RateLimitError),
        (500, "internal_error", EvoLinkUnavailableError),
        (502, None, EvoLinkUnavailableError),
    ],
)
def test_error_answer_to_a_read_names_the_generation_and_claims_nothing_about_money(status, code, kind):
    error = on_read(status, new_style(code))
    assert type(error) is kind
    assert error.billed is None
    assert error.evolink_task_id == TASK
    assert TASK in str(error)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_trouble_with_a_read_says_that_a_retry_submits_nothing(status):
    assert "resumes this generation and submits nothing" in str(on_read(status, b""))


@pytest.mark.parametrize("status", [401, 402, 403])
def test_final_trouble_with_a_read_says_that_the_generation_is_kept(status):
    error = on_read(status, new_style("no_code_of_ours"))
    assert "The generation is kept" in str(error)
    assert not error.retryable


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 402, 403, 404, 405, 407, 421, 423, 425, 451])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><title>Attention required</title></html>",
        b"404 page not found",
        b'{"message": "Forbidden"}',
    ],
    ids=["empty", "page", "text", "firewall"],
)
def test_refusal_that_is_not_evolinks_ends_no_wait_for_a_paid_generation(status, body):
    for call in (protocol.get_generation(TASK), protocol.get_state(TASK), protocol.get_states([TASK, OTHER])):
        error = raised(call, status, body)
        assert isinstance(error, EvoLinkUnavailableError)
        assert error.retryable
        assert error.http_status == status
        assert "Billed: no" not in str(error)
        assert "Nothing was sent" not in str(error)
    assert not isinstance(raised(protocol.get_credits(), status, body), EvoLinkUnavailableError)


# Bodies


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        pytest.param(
            {"error": {"code": "rate_limit_exceeded", "message": "Slow down.", "type": "rate_limit_error"}},
            "rate_limit_exceeded",
            "Slow down",
            id="string-code",
        ),
        pytest.param(
            {
                "error": {
                    "code": 429,
                    "message": "Slow down.",
                    "type": "",
                    "param": "",
                    "fallback_suggestion": "retry after 60 seconds",
                }
            },
            "429",
            "Slow down",
            id="integer-code",
        ),
        pytest.param(
            {"success": False, "code": 40009, "msg": "Quota exceeded."}, "40009", "Quota exceeded", id="files"
        ),
        pytest.param(
            {"error": "slow_down", "error_description": "Too fast."}, "slow_down", "Too fast", id="oauth"
        ),
        pytest.param({"error": "slow_down"}, "slow_down", "slow_down", id="oauth-without-description"),
        pytest.param({"code": "c", "message": "m"}, "c", "m", id="flat"),
        pytest.param({"error": None, "message": "m"}, None, "m", id="null-error"),
        pytest.param({"error": {}}, None, "HTTP 429", id="empty-error"),
        pytest.param({}, None, "HTTP 429", id="empty-object"),
        pytest.param(["a", 1], None, '["a", 1]', id="list"),
        pytest.param("words", None, "words", id="json-string"),
        pytest.param(b"", None, "an empty answer", id="empty"),
        pytest.param(b"  \n", None, "an empty answer", id="blank"),
        pytest.param(
            b"<html><head><title>\n502 Bad\n Gateway</title></head><body>x</body></html>",
            None,
            "a web page titled '502 Bad Gateway'",
            id="page",
        ),
        pytest.param(b"<html><body>error code: 1010</body></html>", None, "error code: 1010", id="no-title"),
        pytest.param(b"upstream request timeout", None, "upstream request timeout", id="plain-text"),
        pytest.param(b"\xff\xfe\x00bad", None, "bad", id="not-utf-8"),
    ],
)
def test_every_shape_of_body_tells_its_code_and_message(body, code, words):
    error = on_submission(429, body)
    assert type(error) is RateLimitError
    assert error.code == code
    assert words in error.message


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AuthenticationError),
        (402, InsufficientCreditsError),
        (403, AccessDeniedError),
        (429, RateLimitError),
        (400, RequestRefusedError),
        (500, EvoLinkUnavailableError),
    ],
)
def test_integer_code_leaves_the_decision_to_the_status(status, kind):
    error = on_submission(status, {"error": {"code": status, "message": "m", "type": "", "param": ""}})
    assert type(error) is kind
    assert error.code == str(status)


def test_code_in_capitals_is_the_same_code():
    assert type(on_submission(403, new_style("KEY_QUOTA_EXHAUSTED"))) is KeyLimitError


def test_message_holds_status_code_param_message_and_request_id():
    error = on_submission(
        400,
        new_style("invalid_parameters", "size is wrong.", param="size"),
        **{"x-request-id": "req_123"},
    )
    text = str(error)
    for part in ("HTTP 400", "invalid_parameters", "(param size)", "size is wrong", "req_123", "Billed: no."):
        assert part in text
    assert "when asked to generate images" in text
    assert error.request_id == "req_123"


@pytest.mark.parametrize(
    ("headers", "body", "request_id"),
    [
        ({"x-request-id": "a", "x-oneapi-request-id": "b"}, {"request_id": "d"}, "a"),
        ({"x-oneapi-request-id": "b"}, {"error": {"request_id": "c"}}, "b"),
        ({}, {"error": {"request_id": "c"}, "request_id": "d"}, "c"),
        ({}, {"error": {"code": "x"}, "request_id": "d"}, "d"),
        ({}, {"error": {"request_id": 5}}, None),
        ({}, b"", None),
    ],
    ids=["x-request-id", "x-oneapi-request-id", "in-the-error", "in-the-answer", "number", "nowhere"],
)
def test_request_id_reads_from_header_or_body(headers, body, request_id):
    assert on_submission(500, body, **headers).request_id == request_id


def test_long_bodies_are_cut():
    assert len(str(on_submission(500, b"x" * 1_000_000))) < MAX_BODY_CHARACTERS
    assert len(str(on_submission(400, new_style("c", "y" * 1_000_000)))) < MAX_BODY_CHARACTERS


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_redirect_asks_for_the_apis_own_address(status):
    error = on_submission(status, b"", location="https://elsewhere.example/")
    assert type(error) is ConnectionSettingsError
    assert f"HTTP {status}, a redirect" in error.message
    assert "never sent to another host" in error.message
    assert error.billed is False


@pytest.mark.parametrize("status", [100, 199, 300, 399, 400, 499, 500, 599])
def test_every_status_becomes_an_error(status):
    assert f"HTTP {status}" in str(on_submission(status, b""))


# Retry-After


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("1", 1),
        (" 30 ", 30),
        ("86400", 86_400),
        ("86401", 86_400),
        ("9" * 5000, 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Wed, 99 Oct 2015", None),
        ("1e3", None),
    ],
    ids=lambda value: ascii(value)[:30].replace("\\", ""),
)
def test_retry_after_header_reads_in_seconds(header, seconds):
    assert retry_after({"retry-after": header}) == seconds


def test_retry_after_date_reads_as_the_seconds_until_then():
    then = datetime.now(UTC) + timedelta(seconds=120)
    assert 110 < retry_after({"retry-after": format_datetime(then, usegmt=True)}) <= 120


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("retry after 60 seconds", 60),
        ("Please retry after 5 minutes.", 300),
        ("Retry After 7", 7),
        ("retry after 1 second", 1),
        ("retry later", None),
        ("retry after a while", None),
        (60, None),
        (None, None),
    ],
    ids=str,
)
def test_retry_after_reads_from_older_gateways_words(words, seconds):
    body = {"error": {"code": 429, "message": "m", "fallback_suggestion": words}}
    assert on_submission(429, body).retry_after == seconds


def test_retry_after_header_goes_before_the_words():
    body = {"error": {"code": 429, "message": "m", "fallback_suggestion": "retry after 60 seconds"}}
    assert on_submission(429, body, **{"retry-after": "3"}).retry_after == 3


def test_error_body_that_is_nothing_reads_as_nothing():
    said = ErrorBody.read(b"{}")
    assert (said.code, said.message, said.param, said.request_id, said.suggestion) == (
        None,
        "",
        None,
        None,
        None,
    )


# Failed generations

FAILURES = [
    ("content_policy_violation", ContentPolicyError, FINAL),
    ("invalid_parameters", GenerationRefusedError, FINAL),
    ("image_processing_error", GenerationRefusedError, FINAL),
    ("image_dimension_mismatch", GenerationRefusedError, FINAL),
    ("request_cancelled", GenerationCancelledError, FINAL),
    ("generation_failed_no_content", GenerationRefusedError, FINAL),
    ("service_error", GenerationFailedError, AGAIN),
    ("generation_timeout", GenerationFailedError, AGAIN),
    ("resource_exhausted", GenerationFailedError, AGAIN),
    ("quota_exceeded", GenerationFailedError, AGAIN),
    ("service_unavailable", GenerationFailedError, AGAIN),
    ("resource_not_found", GenerationRefusedError, FINAL),
    ("unknown_error", GenerationRefusedError, FINAL),
    # Seen besides the documented thirteen.
    ("model_unavailable", GenerationFailedError, AGAIN),
    ("upstream_error", GenerationFailedError, AGAIN),
    ("rate_limited", GenerationFailedError, AGAIN),
    ("channel_no_capacity", GenerationFailedError, AGAIN),
    ("invalid_request", GenerationRefusedError, FINAL),
    ("invalid_audio", GenerationRefusedError, FINAL),
    ("content_filter", ContentPolicyError, FINAL),
    ("moderation_blocked", ContentPolicyError, FINAL),
    ("code_of_tomorrow", GenerationRefusedError, FINAL),
]


def failed(code, message="It did not work.", **fields):
    error = {"code": code, "message": message, "type": "task_error"}
    return Generation.read({"id": TASK, "status": "failed", "error": error} | fields)


@pytest.mark.parametrize(("code", "kind", "retryable"), FAILURES, ids=[code for code, *_ in FAILURES])
def test_failed_generation_becomes(code, kind, retryable):
    error = generation_failure(failed(code))
    assert type(error) is kind
    assert error.retryable is retryable
    assert is_retryable_failure(failed(code)) is retryable
    assert error.evolink_task_id == TASK
    assert error.code == code
    assert TASK in error.message
    assert "It did not work" in error.message
    # Failed ones are documented as free; of cancelled ones nothing is documented.
    assert error.billed is (None if code == "request_cancelled" else False)


@pytest.mark.parametrize(("code", "kind", "retryable"), FAILURES, ids=[code for code, *_ in FAILURES])
def test_failed_generation_is_final_for_a_task_that_did_not_submit_it(code, kind, retryable):
    error = generation_failure(failed(code), may_ask_again=False)
    assert error.retryable is False
    assert isinstance(error, GenerationRefusedError if retryable else kind)
    assert "retry" in error.on_retry.lower()


@pytest.mark.parametrize(
    ("code", "least", "most"),
    [
        ("resource_exhausted", 30, 60),
        ("quota_exceeded", 60, 120),
        ("service_unavailable", 30, 60),
        ("channel_x", 30, 60),
    ],
)
def test_crowded_service_is_given_time_before_another_request(code, least, most):
    assert least <= generation_failure(failed(code)).retry_after <= most


@pytest.mark.parametrize(
    "fields",
    [{"error": None}, {"error": {}}, {"error": "boom"}, {"error": {"code": 500, "message": "boom"}}],
    ids=str,
)
def test_failure_without_a_known_code_is_final_and_named(fields):
    error = generation_failure(Generation.read({"id": TASK, "status": "failed"} | fields))
    assert type(error) is GenerationRefusedError
    assert TASK in str(error)


def test_failure_with_a_charge_says_that_it_was_billed():
    error = generation_failure(failed("service_error", billing={"charge_status": "charged"}))
    assert error.billed is True
    assert "Billed: yes." in str(error)


def test_failure_message_is_one_line_and_bounded():
    error = generation_failure(failed("service_error", "a\nb\n" * 5000))
    assert "\n" not in str(error)
    assert len(str(error)) < MAX_BODY_CHARACTERS


def test_failure_keeps_evolinks_request_id():
    assert generation_failure(failed("service_error", request_id="req_9")).request_id == "req_9"


def test_every_api_error_class_is_reached_by_the_tables():
    reached = {kind for _, _, kind, *_ in HTTP_TABLE}
    leaves = {
        kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type)
        and issubclass(kind, exceptions.EvoLinkApiError)
        and kind is not exceptions.EvoLinkApiError
    }
    assert leaves == reached


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("429", RateLimitError),
        ("500", EvoLinkUnavailableError),
        ("401", AuthenticationError),
        ("40003", FileQuotaError),
        ("999", RequestRefusedError),
    ],
)
def test_refusal_of_the_files_api_with_status_200_is_what_its_code_says(code, kind):
    error = raised(files.get_file_quota(), 200, {"success": False, "code": int(code), "msg": "no"})
    assert type(error) is kind


def test_every_text_of_an_error_is_clean_and_short():
    odd = "\x1b[2Jred\r\nsecond line" + "x" * 100_000
    fields = {"param": odd, "request_id": odd, "fallback_suggestion": odd}
    error = on_read(400, new_style(odd, odd, **fields), **{"x-request-id": odd})
    assert str(error).isprintable()
    assert len(str(error)) < 2000
    assert len(error.request_id) <= 200
    assert len(error.code) <= 100


@pytest.mark.parametrize(
    ("status", "code", "found"),
    [
        (503, "model_unavailable", "model_unavailable"),
        (503, "MODEL_UNAVAILABLE", "model_unavailable"),
        (503, "service_unavailable", None),
        (403, "key_model_not_allowed", "key_model_not_allowed"),
        (403, "ip_restricted", None),
        (404, "whatever", "whatever"),
        (400, "model_unavailable", None),
    ],
)
def test_refusal_because_of_the_model_is_told_by_status_and_code(status, code, found):
    assert model_refusal(on_submission(status, new_style(code))) == found
    # Of a read it says nothing of a submission.
    assert model_refusal(on_read(status, new_style(code))) is None


@pytest.mark.parametrize(
    ("body", "is_evolinks"),
    [
        ({"error": {"message": "No."}}, True),
        ({"error": "denied", "error_description": "No."}, True),
        ({"success": False, "code": 500, "msg": "No."}, True),
        ({"message": "Forbidden"}, False),
        (["Forbidden"], False),
    ],
)
def test_shapes_of_evolinks_errors_are_known(body, is_evolinks):
    assert ErrorBody.read(json.dumps(body).encode()).is_evolinks is is_evolinks


def test_page_in_place_of_an_answer_keeps_the_id_of_the_generation():
    error = on_read(403, b"<html>Forbidden</html>")
    assert isinstance(error, EvoLinkUnavailableError)
    assert (error.evolink_task_id, error.http_status) == (TASK, 403)
    assert on_read(302, b"").evolink_task_id == TASK


def test_answer_that_is_no_json_names_status_and_request_id():
    error = on_read(200, b"<html>Hello</html>", **{"x-request-id": "req-1"})
    assert (error.http_status, error.request_id) == (200, "req-1")
