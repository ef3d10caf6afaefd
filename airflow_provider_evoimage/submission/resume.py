"""What a later try of a task finds of an earlier one, and what it does about it. Pure.

The record lies in Airflow's task state store (Airflow 3.3 and later). Its life:

    submitting   written before the POST: a request may be on its way, no id is known
    submitted    written after the answer: the id is known, EvoLink works or has finished
    failed       the generation ended as failed, and the task knows it
    delivered    the images were handed over (or saved)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from airflow_provider_evoimage.defaults import OnClear
from airflow_provider_evoimage.evolink.models import EVOLINK_TASK_ID, RESULT_LINK_LIFETIME
from airflow_provider_evoimage.submission.identity import IDEMPOTENCY_KEY, RequestIdentity

STATE_KEY = "evoimage"

Phase = Literal["submitting", "submitted", "failed", "delivered"]

_PHASES = frozenset({"submitting", "submitted", "failed", "delivered"})

# EvoLink's own clients recover a submission by its key for 23 hours.
KEY_MEMORY_SECONDS = 23 * 3600
# A request may be accepted as long after its first POST as that, and its result links live 24 hours.
OUTLIVED_SECONDS = KEY_MEMORY_SECONDS + RESULT_LINK_LIFETIME.total_seconds()


@dataclass(frozen=True, kw_only=True)
class SubmissionRecord:
    """One submission of this task instance, as the store keeps it. Holds no prompt, link or API key.

    :param key: the idempotency key it was sent under.
    :param epoch: ``ti.max_tries`` of the try that last acted on it.
    :param asked_in: the epoch that is part of the key.
    :param occurrence: which one among equal items of a list it was asked for.
    :param posted_at: Unix seconds of the first POST under this key.
    :param retryable: whether a failed generation may be asked for again.
    :param credits_reserved: what EvoLink reserved; only the answer to the POST tells it.
    """

    key: str
    fingerprint: str
    epoch: int
    asked_in: int
    occurrence: int = 0
    sequence: int
    conn_id: str
    base_url: str
    posted_at: float
    phase: Phase = "submitting"
    evolink_task_id: str | None = None
    retryable: bool = False
    credits_reserved: float | None = None
    v: int = 1

    def is_outlived(self, now: float) -> bool:
        """Whether the links of its images would be dead by now, had EvoLink kept the generation.

        :param now: Unix seconds.
        """
        return now - self.posted_at > OUTLIVED_SECONDS

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return asdict(self)

    @classmethod
    def read(cls, data: object) -> SubmissionRecord | None:
        """Read a stored record; None where there is none, or one that this version cannot use.

        People can edit the store in Airflow's UI, so nothing about it is taken for granted.
        """
        if not isinstance(data, Mapping) or data.get("v") != 1:
            return None
        try:
            phase, evolink_task_id = data["phase"], data.get("evolink_task_id")
            if phase not in _PHASES:
                return None
            record = cls(
                key=str(data["key"]),
                fingerprint=str(data["fingerprint"]),
                epoch=int(data["epoch"]),
                asked_in=int(data.get("asked_in", data["epoch"])),
                occurrence=int(data.get("occurrence", 0)),
                sequence=int(data["sequence"]),
                conn_id=str(data["conn_id"]),
                base_url=str(data["base_url"]),
                posted_at=float(data["posted_at"]),
                phase=phase,
                evolink_task_id=evolink_task_id if _is_id(evolink_task_id) else None,
                retryable=bool(data.get("retryable", False)),
                credits_reserved=_credits(data.get("credits_reserved")),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if record.evolink_task_id is not None:
            return record
        if not IDEMPOTENCY_KEY.fullmatch(record.key) or not math.isfinite(record.posted_at):
            return None
        # Every later phase has an id; without one it is as good as "submitting".
        return replace(record, phase="submitting")


def _credits(value: object) -> float | None:
    """Read an amount that is only told, never acted on: anything odd is none."""
    try:
        amount = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return None
    return amount if math.isfinite(amount) else None


def _is_id(value: object) -> bool:
    return isinstance(value, str) and EVOLINK_TASK_ID.fullmatch(value) is not None


@dataclass(frozen=True)
class Submit:
    """Ask EvoLink for this identity.

    :param recorded_key: the key of an earlier try, to be asked under again whatever it was made of.
    :param moved: whether the item may have been asked for at another place of its list before the clear.
    """

    identity: RequestIdentity
    because: str
    recorded_key: str | None = None
    moved: bool = False

    @property
    def key(self) -> str:
        """The idempotency key to ask under."""
        return self.recorded_key or self.identity.idempotency_key


@dataclass(frozen=True)
class Resume:
    """Go on with this generation; submit nothing."""

    evolink_task_id: str
    because: str


@dataclass(frozen=True)
class Refuse:
    """Whether the request was accepted cannot be known, and asking again may pay twice."""

    because: str


Decision = Submit | Resume | Refuse


def decide(
    record: SubmissionRecord | None,
    identity: RequestIdentity,
    *,
    on_clear: OnClear,
    trust_idempotency: bool,
    now: float,
) -> Decision:
    """Decide what this try does about its request.

    :param record: what an earlier try of this task instance left, if anything.
    :param identity: of the request as this try would send it, with sequence 0.
    :param on_clear: what a cleared task does: ``auto`` resumes what was paid and not delivered and asks anew
        for what was delivered or failed; ``regenerate`` always asks anew; ``reuse`` goes on with what is there.
    :param now: Unix seconds.
    """
    if record is None:
        return Submit(identity, "this is the first try of this request")
    if (record.fingerprint, record.occurrence) != (identity.fingerprint, identity.occurrence):
        return _another_request(record, identity, on_clear, trust_idempotency=trust_idempotency)
    if record.epoch != identity.epoch:
        anew = _after_clear(record, identity, on_clear)
        if anew is not None:
            return anew
    return _go_on(record, identity, trust_idempotency=trust_idempotency, now=now)


def _another_request(
    record: SubmissionRecord, identity: RequestIdentity, on_clear: OnClear, *, trust_idempotency: bool
) -> Submit | Refuse:
    """Tell what to do where the record is of another request than this try's."""
    changed = Submit(identity, "the request has changed since the earlier try")
    if not identity.item or record.epoch == identity.epoch or on_clear == "regenerate":
        return changed
    if not trust_idempotency:
        return Refuse(
            "the mapped list has changed since the clear, so it may stand under another place of the list, and the "
            "connection says that EvoLink ignores idempotency keys"
        )
    # A list that was expanded anew: this item may have stood elsewhere. Under the key that it had then,
    # EvoLink answers with what was paid for; if it is new to the list, it is asked for once.
    return Submit(
        replace(identity, epoch=record.asked_in), "the mapped list has changed since the clear", moved=True
    )


def _after_clear(record: SubmissionRecord, identity: RequestIdentity, on_clear: OnClear) -> Submit | None:
    """Tell whether a cleared task asks anew; None where it goes on like a retry."""
    new = Submit(identity, "the task was cleared")
    if on_clear == "regenerate" or record.phase == "failed":
        return new
    if on_clear == "auto" and record.phase == "delivered":
        return replace(new, because="the task was cleared after its images had been delivered")
    return None


def _go_on(
    record: SubmissionRecord, identity: RequestIdentity, *, trust_idempotency: bool, now: float
) -> Decision:
    asked = replace(identity, epoch=record.asked_in, sequence=record.sequence)
    if record.phase == "failed" and record.retryable:
        return Submit(
            replace(asked, sequence=record.sequence + 1),
            f"generation {record.evolink_task_id} failed, which another may not",
        )
    if record.evolink_task_id is not None:
        return Resume(record.evolink_task_id, f"an earlier try had it {record.phase}")
    if not trust_idempotency:
        return Refuse("the connection says that EvoLink ignores idempotency keys")
    if now - record.posted_at > KEY_MEMORY_SECONDS:
        return Refuse("the request is older than EvoLink remembers idempotency keys")
    return Submit(asked, "an earlier try sent it and did not live to see the answer", record.key)
