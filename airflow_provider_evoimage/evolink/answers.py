"""What EvoLink answers: generations, failures, usage, credits, read tolerantly from any JSON.

Pages and recorded answers disagree about which fields are there and of what type, so a field that is
missing or odd reads as None; fields that are not named here are kept in ``raw``. Only an answer that
cannot be a generation at all is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_evoimage.evolink.json_values import mapping, number_or_numeral, words
from airflow_provider_evoimage.exceptions import UnreadableAnswerError

# Every product page: "Generated image links are valid for 24 hours".
RESULT_LINK_LIFETIME = timedelta(hours=24)

# What EvoLink's own clients accept as an id. Today's begin with "task-unified-".
# Dots alone would be another place in a path.
EVOLINK_TASK_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._:-]{1,128}")

_TERMINAL = frozenset({"completed", "failed", "cancelled"})
_STATUS_SPELLINGS = {"canceled": "cancelled"}
# No answer on EvoLink's pages comes near any of these.
MOST_STATUS, MOST_CODE, MOST_MESSAGE = 40, 100, 2000
# A charge above is no charge; sums of them stay finite.
MOST_CREDITS = 1e9
MOST_LINKS, LONGEST_LINK, MOST_TOKEN_COUNTS = 64, 8192, 50
_TOKEN_NAME = re.compile(r"[A-Za-z0-9_]{0,57}_tokens")
# The last second of the year 9998: what is added to an instant stays within the calendar.
_LATEST_TIMESTAMP = 253_370_764_799
# Links lie at most this deep: a list of objects whose url is an object again.
_DEEPEST_LINK = 4


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)

    raw: dict[str, Any] = Field(default_factory=dict, repr=False, description="the answer as it came")


class Usage(_Answer):
    """What a generation reserved, cost and used.

    :param credits_reserved: credits held at submission; the final charge can differ.
    :param credits_used: credits charged in the end; None until known.
    :param billing_rule: for instance ``per_call`` or ``per_token``.
    :param tokens: token counters by EvoLink's own names, for instance ``image_output_tokens``.
    """

    credits_reserved: float | None = None
    credits_used: float | None = None
    billing_rule: str | None = None
    tokens: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def read(cls, data: object) -> Usage:
        """Read the ``usage`` part of a task answer."""
        usage = mapping(data)
        charged = _credits(usage.get("credits_used"))
        if charged is None:
            charged = _credits(mapping(usage.get("cost")).get("credits"))
        return cls(
            credits_reserved=_credits(usage.get("credits_reserved")),
            credits_used=charged,
            billing_rule=words(usage.get("billing_rule")),
            tokens=_tokens(usage),
            raw=dict(usage),
        )


class GenerationError(_Answer):
    """Why a generation failed: EvoLink's code (always as text) and message."""

    code: str = "unknown_error"
    message: str = ""
    suggestion: str | None = None

    @classmethod
    def read(cls, data: object) -> GenerationError | None:
        """Read the ``error`` part of a task answer; None where there is none."""
        if data is None or data in ("", {}, []):
            return None
        if isinstance(data, str):
            return cls(message=words(data, MOST_MESSAGE) or "")
        error = mapping(data)
        code = error.get("code")
        return cls(
            code=words(str(code), MOST_CODE) or "unknown_error"
            if isinstance(code, (str, int))
            else "unknown_error",
            message=words(error.get("message"), MOST_MESSAGE) or "",
            suggestion=words(error.get("suggestion"), MOST_MESSAGE),
            raw=dict(error),
        )


class Generation(_Answer):
    """EvoLink's task for one request, as one answer describes it.

    :param evolink_task_id: EvoLink's id.
    :param status: ``pending``, ``processing``, ``completed``, ``failed``, ``cancelled``, or a word that
        EvoLink did not document, which reads as "still running".
    :param progress: 0 to 100, not necessarily rising.
    :param created: when the generation was accepted (UTC).
    :param duration: seconds it took, once completed.
    :param estimated_time: seconds EvoLink expects it to take, at submission.
    :param image_urls: result links, each valid for 24 hours.
    """

    evolink_task_id: str
    model: str | None = None
    status: str = "pending"
    progress: float | None = None
    created: datetime | None = None
    duration: float | None = None
    estimated_time: float | None = None
    image_urls: tuple[str, ...] = ()
    error: GenerationError | None = None
    usage: Usage = Field(default_factory=Usage)

    @classmethod
    def read(cls, data: object) -> Generation:
        """Read a submit answer, a task detail, one item of a batch answer, or a callback's body.

        :raises UnreadableAnswerError: when the data is no task of EvoLink's.
        """
        task = mapping(data)
        evolink_task_id = _evolink_task_id(task)
        error = GenerationError.read(task.get("error"))
        info = mapping(task.get("task_info"))
        return cls(
            evolink_task_id=evolink_task_id,
            model=words(task.get("model"), MOST_CODE),
            status=_status(task.get("status"), error),
            progress=number_or_numeral(task.get("progress")),
            created=_instant(task.get("created")) or _instant(task.get("created_at")),
            duration=number_or_numeral(task.get("duration")),
            estimated_time=number_or_numeral(info.get("estimated_time")),
            image_urls=_image_urls(task),
            error=error,
            usage=Usage.read(task.get("usage")),
            raw=dict(task),
        )

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in _TERMINAL

    @property
    def expires_at(self) -> datetime | None:
        """When the result links die at the earliest (UTC): 24 hours after the generation began."""
        return self.created + RESULT_LINK_LIFETIME if self.created else None

    def has_expired(self, now: float) -> bool:
        """Whether the result links may be dead.

        :param now: Unix seconds, by EvoLink's clock.
        """
        return self.expires_at is not None and self.expires_at.timestamp() <= now

    @property
    def billed(self) -> bool | None:
        """Whether this generation was charged: True, False, or None where no answer settles it.

        Failed ones are documented as not charged, which a charge in the answer overrules. A refund is taken as done
        only when EvoLink's newer ``billing`` part says released, completed, and as many credits as were reserved.
        """
        billing = mapping(self.raw.get("billing"))
        if billing.get("charge_status") == "charged" or self.status == "completed":
            return True
        if (self.usage.credits_used or 0) > 0 and not _is_refunded(billing):
            return True
        if self.status == "failed" or _is_refunded(billing):
            return False
        return None


@dataclass(frozen=True, slots=True)
class GenerationState:
    """How far a generation has come and nothing else: a quarter of the work of reading all of it.

    :param status: as in :class:`Generation`.
    :param progress: 0 to 100, not necessarily rising.
    """

    evolink_task_id: str
    status: str
    progress: float | None

    @classmethod
    def read(cls, data: object) -> GenerationState:
        """Read a task detail, or one item of a batch answer.

        :raises UnreadableAnswerError: when the data is no task of EvoLink's.
        """
        task = mapping(data)
        error = task.get("error")
        return cls(
            _evolink_task_id(task),
            _status(task.get("status"), GenerationError.read(error) if error else None),
            number_or_numeral(task.get("progress")),
        )


class GenerationPage(_Answer):
    """One page of the account's generations, newest first; without result links, which only a read gives.

    Of the usage each item has only the charge, once it has ended.
    """

    total: int
    generations: tuple[Generation, ...]

    @classmethod
    def read(cls, data: object) -> GenerationPage:
        """Read the answer of the list endpoint.

        :raises UnreadableAnswerError: when it holds no list.
        """
        answer = mapping(data)
        items = answer.get("data")
        if not isinstance(items, list):
            raise UnreadableAnswerError("EvoLink's answer holds no list of tasks.")
        total = number_or_numeral(answer.get("total"))
        return cls(
            total=len(items) if total is None else int(total),
            generations=tuple(Generation.read(_with_usage(item)) for item in items),
            raw=dict(answer),
        )


class Credits(_Answer):
    """The balance of the account and of the API key, in credits.

    :param account_remaining: credits left on the account.
    :param key_remaining: credits this key may still use; None where the key has no limit of its own.
    """

    account_remaining: float
    account_used: float | None = None
    key_remaining: float | None = None
    key_used: float | None = None

    @classmethod
    def read(cls, data: object) -> Credits:
        """Read the answer of the credits endpoint.

        :raises UnreadableAnswerError: when the account's balance is not in it.
        """
        parts = mapping(mapping(data).get("data"))
        user, key = mapping(parts.get("user")), mapping(parts.get("token"))
        remaining = number_or_numeral(user.get("remaining_credits"))
        if remaining is None:
            raise UnreadableAnswerError("EvoLink's answer holds no account balance.")
        unlimited = bool(key.get("unlimited_credits", False))
        return cls(
            account_remaining=remaining,
            account_used=number_or_numeral(user.get("used_credits")),
            key_remaining=None if unlimited else number_or_numeral(key.get("remaining_credits")),
            key_used=number_or_numeral(key.get("used_credits")),
            raw=dict(parts),
        )

    @property
    def usable(self) -> float:
        """Credits that are left for the next request: the smaller of account and key."""
        if self.key_remaining is None:
            return self.account_remaining
        return min(self.account_remaining, self.key_remaining)


def _with_usage(item: object) -> object:
    """Put the charge of a list's item where a task's detail has it; one that still runs says 0 there."""
    task = mapping(item)
    if "credits_used" not in task or "usage" in task or _status(task.get("status"), None) not in _TERMINAL:
        return item
    return {**task, "usage": {"credits_used": task["credits_used"]}}


def _credits(value: object) -> float | None:
    amount = number_or_numeral(value)
    return amount if amount is not None and abs(amount) <= MOST_CREDITS else None


def _tokens(usage: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in usage.items():
        count = number_or_numeral(value) if isinstance(name, str) and _TOKEN_NAME.fullmatch(name) else None
        if count is not None:
            found[name] = int(count)
        if len(found) == MOST_TOKEN_COUNTS:
            break
    return found


def _evolink_task_id(task: Mapping[str, Any]) -> str:
    evolink_task_id = task.get("id") or task.get("task_id")
    if not isinstance(evolink_task_id, str) or not EVOLINK_TASK_ID.fullmatch(evolink_task_id):
        raise UnreadableAnswerError("EvoLink's answer holds no task id.")
    return evolink_task_id


def _status(value: object, error: GenerationError | None) -> str:
    word = (words(value, MOST_STATUS) or "pending").lower()
    word = _STATUS_SPELLINGS.get(word, word)
    # Older gateways report a cancelled task as a failed one with this code.
    if word == "failed" and error is not None and error.code == "request_cancelled":
        return "cancelled"
    return word


def _image_urls(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Collect the result links of either spelling, in order, each once."""
    found = chain(_links(task.get("results")), _links(task.get("result_data")))
    return tuple(islice(dict.fromkeys(islice(found, MOST_LINKS * 2)), MOST_LINKS))


def _links(value: object, levels: int = _DEEPEST_LINK) -> Iterable[str]:
    if levels == 0:
        return
    if isinstance(value, str):
        if value.startswith(("https://", "http://")) and len(value) <= LONGEST_LINK:
            yield value
    elif isinstance(value, Mapping):
        yield from _links(value.get("url") or value.get("image_url"), levels - 1)
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, list):
                yield from _links(item, levels - 1)


def _is_refunded(billing: Mapping[str, Any]) -> bool:
    reserved = number_or_numeral(billing.get("reserved_credits"))
    return (
        billing.get("charge_status") == "released"
        and billing.get("refund_status") == "completed"
        and bool(billing.get("refunded_at"))
        and reserved is not None
        and number_or_numeral(billing.get("refunded_credits")) == reserved
    )


def _instant(value: object) -> datetime | None:
    seconds = number_or_numeral(value)
    if seconds is None or not 0 < seconds <= _LATEST_TIMESTAMP:
        return None
    return datetime.fromtimestamp(seconds, UTC)
