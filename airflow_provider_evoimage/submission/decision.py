"""Whether this try submits its request, resumes an earlier generation, or refuses. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from airflow_provider_evoimage.defaults import OnClear
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.record import KEY_MEMORY_SECONDS, SubmissionRecord


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
    :param on_clear: what a cleared task does: ``auto`` resumes what was paid and not delivered, and submits a new
        request after delivery or failure; ``regenerate`` always submits a new one; ``reuse`` resumes what is there.
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
    """Return the new submission of a cleared task; None where it resumes like a retry."""
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
            f"generation {record.evolink_task_id} failed with a transient error",
        )
    if record.evolink_task_id is not None:
        return Resume(record.evolink_task_id, f"an earlier try had it {record.phase}")
    if not trust_idempotency:
        return Refuse("the connection says that EvoLink ignores idempotency keys")
    if now - record.posted_at > KEY_MEMORY_SECONDS:
        return Refuse("the request is older than EvoLink remembers idempotency keys")
    return Submit(asked, "an earlier try sent it but died before the response arrived", record.key)
