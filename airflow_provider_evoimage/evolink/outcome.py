"""Whether EvoLink accepted a submission. The only place that decides it. Pure.

A wrong "refused" pays twice, so everything that proves nothing is "unknown".
"""

from __future__ import annotations

from enum import Enum, auto

# The first POST under this key is still being worked on.
STILL_DECIDING = "paid_outcome_unknown"
# An earlier POST under this key, with another body, was accepted.
CONFLICT = "idempotency_conflict"
RATE_LIMITED = "rate_limit_exceeded"


class SubmissionOutcome(Enum):
    """What became of a POST that EvoLink charges for."""

    ACCEPTED = auto()
    REFUSED = auto()
    UNKNOWN = auto()


def after_answer(status: int, code: str | None = None, *, is_readable: bool = True) -> SubmissionOutcome:
    """Decide after an HTTP answer came.

    :param code: the error code in the body; None for a body without one, for instance a proxy's page.
    :param is_readable: whether the body of a 2xx answer names a generation.
    """
    if 200 <= status < 300:
        return SubmissionOutcome.ACCEPTED if is_readable else SubmissionOutcome.UNKNOWN
    word = (code or "").lower()
    if word in {STILL_DECIDING, CONFLICT}:
        return SubmissionOutcome.UNKNOWN
    # A 503 with a code is EvoLink's own. A proxy's 503 has none, and EvoLink behind it may have accepted.
    is_refusal = status < 500 or word == RATE_LIMITED or (status == 503 and code is not None)
    return SubmissionOutcome.REFUSED if is_refusal else SubmissionOutcome.UNKNOWN


def after_no_answer(*, nothing_sent: bool) -> SubmissionOutcome:
    """Decide after no answer came.

    :param nothing_sent: whether it is certain that no byte of the request left.
    """
    return SubmissionOutcome.REFUSED if nothing_sent else SubmissionOutcome.UNKNOWN


def is_still_deciding(code: str | None) -> bool:
    """Tell whether EvoLink says that the first POST under this key is not decided yet."""
    return (code or "").lower() == STILL_DECIDING
