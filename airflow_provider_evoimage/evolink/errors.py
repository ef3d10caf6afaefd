"""Turns EvoLink's errors into our exceptions: HTTP errors, and failed generations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.json_values import words
from airflow_provider_evoimage.evolink.outcome import CONFLICT, RATE_LIMITED, STILL_DECIDING
from airflow_provider_evoimage.exceptions import (
    AccessDeniedError,
    AuthenticationError,
    ConnectionSettingsError,
    ContentPolicyError,
    ContentRefusedError,
    EvoImageError,
    EvoLinkApiError,
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

# Proxies answer with whole pages; this much of one is enough to recognise it.
MAX_BODY_CHARACTERS = 2000
_MAX_MESSAGE_CHARACTERS = 500
_MAX_CODE_CHARACTERS = 100

_KEY_LIMIT_CODES = (
    "key_quota_exhausted",
    "insufficient_token_quota",
    "key_daily_quota_exhausted",
    "token_daily_quota_exceeded",
)
_BALANCE_CODES = (
    "insufficient_quota",
    "insufficient_user_quota",
    "quota_not_enough",
    "account_balance_insufficient",
)
_MODERATION_CODES = (
    "content_policy_violation",
    "content_filter",
    "sensitive_content",
    "moderation_blocked",
    "input_moderation_failed",
)
_ACCESS_CODES = (
    "model_access_denied",
    "key_model_not_allowed",
    "permission_denied",
    "key_disabled",
    "key_expired",
    "user_disabled",
    "ip_restricted",
)
_CAPACITY_CODES = (
    "service_unavailable",
    "no_available_channel",
    "model_unavailable",
    "channel_selection_failed",
    "internal_error",
)

#: HTTP error codes that decide the exception, whatever the status.
HTTP_CODES: dict[str, type[EvoLinkApiError]] = {
    **dict.fromkeys(_KEY_LIMIT_CODES, KeyLimitError),
    **dict.fromkeys(_BALANCE_CODES, InsufficientCreditsError),
    **dict.fromkeys(_MODERATION_CODES, ContentRefusedError),
    **dict.fromkeys(_ACCESS_CODES, AccessDeniedError),
    **dict.fromkeys(_CAPACITY_CODES, EvoLinkUnavailableError),
    "unauthorized": AuthenticationError,
    "invalid_token": AuthenticationError,
    "task_not_found": GenerationNotFoundError,
    "invalid_task_id": GenerationNotFoundError,
    CONFLICT: IdempotencyConflictError,
    # Ask again under the same key, a little later.
    STILL_DECIDING: EvoLinkUnavailableError,
    RATE_LIMITED: RateLimitError,
    # The files API: too large, type not allowed, quota, URL not readable, storage trouble.
    "40001": FileRefusedError,
    "40002": FileRefusedError,
    "40003": FileQuotaError,
    "40004": FileRefusedError,
    "50001": EvoLinkUnavailableError,
}

#: The exception by status, for codes that are not listed above.
HTTP_STATUSES: dict[int, type[EvoLinkApiError]] = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: AccessDeniedError,
    408: EvoLinkUnavailableError,
    429: RateLimitError,
}

#: Transient codes of failed generations, with the seconds to wait before submitting again.
RETRYABLE_FAILURES: dict[str, float] = {
    "service_error": 10,
    "generation_timeout": 10,
    "service_unavailable": 30,
    "resource_exhausted": 45,
    "quota_exceeded": 60,
    # Seen besides the thirteen documented ones.
    "model_unavailable": 30,
    "upstream_error": 30,
    "rate_limited": 60,
}

#: A refusal with one of these codes concerns the requested model alone: by HTTP status.
MODEL_REFUSALS: dict[int, frozenset[str] | None] = {
    503: frozenset({"model_unavailable", "no_available_channel"}),
    403: frozenset({"model_access_denied", "key_model_not_allowed"}),
    # Any code: a submission names nothing else that could be missing.
    404: None,
}

#: What a retry does after a read that failed.
RETRY_RESUMES = "A retry resumes this generation and submits nothing."

_LONGEST_RETRY_AFTER = 86_400.0
_RETRY_IN_WORDS = re.compile(r"retry after (\d{1,5})\s*(second|minute)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ErrorBody:
    """What an error answer says, in any of EvoLink's three shapes or in another one.

    :param is_evolinks: whether it has one of these shapes; the page of a proxy or a firewall has none.
    """

    code: str | None = None
    message: str = ""
    param: str | None = None
    request_id: str | None = None
    suggestion: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    is_evolinks: bool = False

    @classmethod
    def read(cls, body: bytes) -> ErrorBody:
        """Read an error answer; never raises."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            return cls(message=_page_in_words(body))
        if not isinstance(data, dict):
            return cls(message=_short(json.dumps(data)))
        error = data.get("error")
        if isinstance(error, dict):
            return cls._from_fields(error, data)
        if isinstance(error, str):
            return cls(
                code=words(error, _MAX_CODE_CHARACTERS),
                message=_short(str(data.get("error_description") or error)),
                is_evolinks=True,
            )
        # The files API, which also refuses with HTTP 200: {"success": false, "code": …, "msg": …}
        return cls._from_fields(data, data)

    @classmethod
    def _from_fields(cls, error: Mapping[str, Any], answer: Mapping[str, Any]) -> ErrorBody:
        code = error.get("code")
        message = error.get("message") or error.get("msg") or ""
        return cls(
            code=words(str(code), _MAX_CODE_CHARACTERS) if isinstance(code, (str, int)) else None,
            message=_short(str(message)),
            param=words(error.get("param")),
            request_id=words(error.get("request_id")) or words(answer.get("request_id")),
            suggestion=words(error.get("fallback_suggestion")) or words(error.get("suggestion")),
            details=error,
            # Firewalls answer {"message": "Forbidden"}.
            is_evolinks=error is not answer or (code is not None and code != ""),
        )


def http_error(
    *,
    status: int,
    headers: Mapping[str, str],
    said: ErrorBody,
    asking: str,
    evolink_task_id: str | None,
    billed: bool | None,
    reads_paid: bool = False,
) -> EvoImageError:
    """Turn an error answer into the exception that a DAG author will read.

    :param headers: with lower-case names.
    :param said: the body, read.
    :param asking: what EvoLink was asked, for instance "to submit the request".
    :param billed: what this exchange proves about money: False for a refused submission.
    :param reads_paid: whether it asks for generations that may be paid for: only EvoLink itself can say that they
        cannot be read, and not what stands before it.
    """
    request_id = (
        words(headers.get("x-request-id")) or words(headers.get("x-oneapi-request-id")) or said.request_id
    )
    if reads_paid and not said.is_evolinks and status not in {408, 429} and status < 500:
        return EvoLinkUnavailableError(
            f"EvoLink's host answered HTTP {status}{_redirect_in_words(status)}{_detail(said, status)} when asked "
            f"{asking}. That is not one of EvoLink's own errors: a proxy or a firewall may have sent it.",
            evolink_task_id=evolink_task_id,
            on_retry=RETRY_RESUMES,
            retry_after=retry_after(headers, said),
            request_id=request_id,
            http_status=status,
        )
    if 300 <= status < 400:
        return ConnectionSettingsError(
            f"EvoLink's host answered HTTP {status}, a redirect, when asked {asking}. The API key is never sent "
            "to another host: set the connection's host to the API's own address.",
            evolink_task_id=evolink_task_id,
            request_id=request_id,
        )
    kind = _kind(status, said, evolink_task_id)
    return kind(
        f"EvoLink answered HTTP {status}{_detail(said, status)} when asked {asking}.",
        evolink_task_id=evolink_task_id,
        billed=billed,
        on_retry=None if evolink_task_id is None else _on_retry_of_a_read(kind),
        retry_after=retry_after(headers, said),
        request_id=request_id,
        code=said.code,
        http_status=status,
    )


def generation_failure(generation: Generation, *, may_ask_again: bool = True) -> EvoImageError:
    """Turn a failed or cancelled generation into the exception that a DAG author will read.

    :param may_ask_again: whether the failing task submitted the generation, so that its retry submits a new one.
    """
    error = generation.error
    code = error.code if error else "unknown_error"
    message = _short(" ".join(error.message.split())) if error else ""
    said = f": {message.rstrip('.')}" if message else ""
    if generation.status == "cancelled":
        return GenerationCancelledError(
            f"EvoLink task {generation.evolink_task_id} was cancelled at EvoLink{said}.",
            evolink_task_id=generation.evolink_task_id,
            billed=generation.billed,
            code=code,
        )
    kind, on_retry = _failure_kind(code), None
    if not may_ask_again and not issubclass(kind, GenerationRefusedError):
        kind, on_retry = (
            GenerationRefusedError,
            "No retry follows: only the task that submitted it can submit a new one.",
        )
    return kind(
        f"EvoLink task {generation.evolink_task_id} failed with {code}{said}.",
        evolink_task_id=generation.evolink_task_id,
        billed=generation.billed,
        on_retry=on_retry,
        code=code,
        retry_after=_seconds_before_another(code),
        request_id=words(generation.raw.get("request_id")),
    )


def is_retryable_failure(generation: Generation) -> bool:
    """Tell whether the generation failed with a transient error, so that submitting a new one may succeed."""
    code = generation.error.code if generation.error else "unknown_error"
    return generation.status == "failed" and not issubclass(_failure_kind(code), GenerationRefusedError)


def model_refusal(error: BaseException) -> str | None:
    """Return the code with which EvoLink certainly refused a submission because of its model; None for any other error.

    Moderation, balance and the account's own troubles are no such reasons, nor is a page that is not EvoLink's.
    """
    if not isinstance(error, EvoLinkApiError) or error.billed is not False or not error.code:
        return None
    if error.http_status not in MODEL_REFUSALS or isinstance(
        error, (ContentRefusedError, InsufficientCreditsError)
    ):
        return None
    code, allowed = error.code.lower(), MODEL_REFUSALS[error.http_status]
    return code if allowed is None or code in allowed else None


def retry_after(headers: Mapping[str, str], said: ErrorBody | None = None) -> float | None:
    """Read how many seconds the service wants us to wait: a number, a date, or older gateways' words."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_RETRY_AFTER)
    if value:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return min(max(0.0, (when - datetime.now(UTC)).total_seconds()), _LONGEST_RETRY_AFTER)
    words = _RETRY_IN_WORDS.search(said.suggestion or "") if said else None
    if words is None:
        return None
    return float(words[1]) * (60 if (words[2] or "").lower() == "minute" else 1)


_HTTP_LIKE = re.compile(r"[45]\d\d")


def _kind(status: int, said: ErrorBody, evolink_task_id: str | None) -> type[EvoLinkApiError]:
    by_code = HTTP_CODES.get((said.code or "").lower())
    if by_code is not None:
        return by_code
    if status < 400 and _HTTP_LIKE.fullmatch(said.code or ""):
        # The files API also refuses with status 200.
        status = int(said.code or 0)
    if status in HTTP_STATUSES:
        return HTTP_STATUSES[status]
    if status == 404:
        return GenerationNotFoundError if evolink_task_id else RequestRefusedError
    return EvoLinkUnavailableError if status >= 500 else RequestRefusedError


def _on_retry_of_a_read(kind: type[EvoLinkApiError]) -> str:
    if issubclass(kind, GenerationNotFoundError):
        return kind.default_on_retry
    if issubclass(kind, (RateLimitError, EvoLinkUnavailableError)):
        return RETRY_RESUMES
    return "No retry follows. The generation is kept: fix the cause, then clear the task to resume it."


def _failure_kind(code: str) -> type[GenerationFailedError]:
    if code in _MODERATION_CODES:
        return ContentPolicyError
    if code in RETRYABLE_FAILURES or code.startswith("channel_"):
        return GenerationFailedError
    return GenerationRefusedError


def _seconds_before_another(code: str) -> float | None:
    return RETRYABLE_FAILURES.get("service_unavailable" if code.startswith("channel_") else code)


def _redirect_in_words(status: int) -> str:
    return ", a redirect" if 300 <= status < 400 else ""


def _detail(said: ErrorBody, status: int) -> str:
    # Older gateways repeat the status as the code.
    parts = [f" {said.code}"] if said.code and said.code != str(status) else []
    if said.param:
        parts.append(f" (param {said.param})")
    if said.message:
        parts.append(f": {said.message.rstrip('.')}")
    return "".join(parts)


def _page_in_words(body: bytes) -> str:
    text = body[:MAX_BODY_CHARACTERS].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    if title:
        return f"a web page titled {_short(title[1].strip())!r}"
    return _short(text.strip()) or "an empty answer"


def _short(text: str) -> str:
    return words(text, _MAX_MESSAGE_CHARACTERS) or ""
