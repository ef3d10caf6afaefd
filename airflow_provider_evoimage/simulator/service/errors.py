"""What the service says when it refuses: statuses, codes, and the two generations of error bodies."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

# status: (code, type, message). What the error tables of the documentation say for each status.
REFUSALS: dict[int, tuple[str, str, str]] = {
    400: ("invalid_request", "invalid_request_error", "The request is not valid."),
    401: ("unauthorized", "authentication_error", "Missing or invalid API key."),
    402: ("insufficient_quota", "insufficient_quota_error", "Insufficient credits. Please top up."),
    403: ("permission_denied", "permission_error", "This API key may not do that."),
    404: ("not_found", "not_found_error", "Not found."),
    405: ("invalid_request", "invalid_request_error", "This method is not allowed here."),
    409: ("paid_outcome_unknown", "idempotency_error", "The first submission is still being processed."),
    413: ("request_too_large", "request_too_large_error", "The request body is too large."),
    415: ("unsupported_media_type", "invalid_request_error", "Unsupported media type."),
    429: ("rate_limit_exceeded", "rate_limit_error", "Too many requests. Please slow down."),
    500: ("internal_error", "api_error", "Internal server error."),
    502: ("upstream_error", "upstream_error", "The upstream service is unavailable."),
    503: ("service_unavailable", "service_unavailable_error", "No capacity for this model right now."),
    504: ("gateway_timeout", "upstream_error", "The upstream service did not answer in time."),
    524: ("gateway_timeout", "upstream_error", "A timeout occurred."),
}

# The codes a failed generation can carry, as the documentation lists them.
FAILURES: dict[str, str] = {
    "content_policy_violation": "Content policy violation. Your request was blocked by the safety system.",
    "invalid_parameters": "The parameters are not valid for this model.",
    "image_processing_error": "The input image could not be read.",
    "image_dimension_mismatch": "The input image does not fit the requested size.",
    "request_cancelled": "The request was cancelled.",
    "generation_failed_no_content": "The model returned no content.",
    "service_error": "An internal error occurred. Please try again later.",
    "generation_timeout": "The generation took too long.",
    "resource_exhausted": "The upstream capacity is exhausted. Please try again later.",
    "quota_exceeded": "The request rate or quota was exceeded. Please slow down.",
    "service_unavailable": "The service is temporarily unavailable.",
    "resource_not_found": "The task or its input was not found.",
    "unknown_error": "An unknown error occurred.",
}


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - the service refuses; nothing in the simulator went wrong
    """The service refuses a request.

    :param status: HTTP status.
    :param message: text for the reader; a default for the status when left out.
    :param code: the string code; a default for the status when left out.
    :param param: which field is at fault.
    :param retry_after: value of the `Retry-After` header.
    :param details: further fields of the error object.
    :param upload_code: the five-digit code of the files API.
    """

    status: int
    message: str | None = None
    code: str | None = None
    param: str | None = None
    retry_after: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    upload_code: int | None = None

    def upload_body(self) -> dict[str, Any]:
        """Return the error body of the files API."""
        message = self.message or REFUSALS.get(self.status, ("", "", _phrase(self.status)))[2]
        return {"success": False, "code": self.upload_code or self.status, "msg": message}

    def body(self, style: str, request_id: str) -> dict[str, Any]:
        """Return the error body in one of its two generations.

        :param style: `new` (string codes, with the request id) or `old` (integer codes).
        :param request_id: the id which the answer's `x-request-id` header repeats.
        """
        code, kind, message = REFUSALS.get(self.status, ("error", "api_error", _phrase(self.status)))
        error: dict[str, Any] = {
            "code": self.code or code,
            "message": self.message or message,
            "type": kind,
        }
        if style == "old":
            error |= {"code": self.status, "param": self.param or ""}
            if self.status == HTTPStatus.TOO_MANY_REQUESTS:
                error["fallback_suggestion"] = f"retry after {self.retry_after or 60} seconds"
            return {"error": error}
        if self.param is not None:
            error["param"] = self.param
        return {"error": error | {"request_id": request_id} | self.details}

    def headers(self) -> dict[str, str]:
        """Return the headers which go with the body."""
        return {} if self.retry_after is None else {"retry-after": self.retry_after}


def failure_message(code: str) -> str:
    """Return the message that goes with the code of a failed generation."""
    return FAILURES.get(code, f"The generation failed ({code}).")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
