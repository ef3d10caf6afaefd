"""Whether this try submits its request, resumes an earlier generation, or refuses. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from airflow_provider_evoimage.defaults import OnChange, OnClear
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.record import KEY_MEMORY_SECONDS, SubmissionRecord


@dataclass(frozen=True)
class Submit:
    """Submit this identity.

    :param recorded_key: the key of an earlier try, to be used again as it is.
    :param moved: whether the item may have been submitted from another place of its list before the clear.
    :param changed: whether this try's request differs from the one that was sent under the recorded key.
    """

    identity: RequestIdentity
    because: str
    recorded_key: str | None = None
    moved: bool = False
    changed: bool = False

    @property
    def key(self) -> str:
        """The idempotency key to submit under."""
        return self.recorded_key or self.identity.idempotency_key


@dataclass(frozen=True)
class Resume:
    """Go on with this generation; submit nothing.

    :param changed: whether it was made from another request than this try's.
    """

    evolink_task_id: str
    because: str
    changed: bool = False


@dataclass(frozen=True)
class Refuse:
    """Whether the request was accepted is unknown, and submitting again may pay twice."""

    because: str


Decision = Submit | Resume | Refuse


def decide(
    record: SubmissionRecord | None,
    identity: RequestIdentity,
    *,
    on_clear: OnClear,
    on_change: OnChange = "resume",
    trust_idempotency: bool,
    account: tuple[str, str] | None = None,
    now: float,
) -> Decision:
    """Decide what this try does about its request.

    :param record: the record of an earlier try of this task instance, if there is one.
    :param identity: of the request as this try would send it, with sequence 0.
    :param on_clear: what a cleared task does: ``auto`` resumes what was paid and not delivered, and submits a
        new request after delivery or failure; ``regenerate`` always submits a new one; ``reuse`` resumes what
        is there.
    :param on_change: what a retry does whose request differs from the one that was sent: ``resume`` goes on
        with what was sent, ``submit`` submits the new one.
    :param account: id and base URL of the connection; None where it is the record's.
    :param now: Unix seconds.
    """
    if record is None:
        return Submit(identity, "this is the first try of this request")
    moved_account = _moved_account(record, account)
    if (record.fingerprint, record.occurrence) != (identity.fingerprint, identity.occurrence):
        if on_change == "resume" and _is_same_item_in_the_same_epoch(record, identity):
            earlier = replace(identity, fingerprint=record.fingerprint, occurrence=record.occurrence)
            decision = _go_on(
                record, earlier, trust_idempotency=trust_idempotency, moved_account=moved_account, now=now
            )
            return decision if isinstance(decision, Refuse) else replace(decision, changed=True)
        return _another_request(
            record, identity, on_clear, trust_idempotency=trust_idempotency, moved_account=moved_account
        )
    if record.epoch != identity.epoch:
        new = _after_clear(record, identity, on_clear)
        if new is not None:
            return new
    return _go_on(record, identity, trust_idempotency=trust_idempotency, moved_account=moved_account, now=now)


def _moved_account(record: SubmissionRecord, account: tuple[str, str] | None) -> str:
    """Say how the connection differs from the one that the record was sent through; empty where it does not."""
    sent_through = (record.conn_id, record.base_url)
    if account is None or account == sent_through:
        return ""
    (conn_id, base_url), (now_id, now_url) = sent_through, account
    return (
        f"it was sent to {base_url} through connection {conn_id!r}, and this try would send it to {now_url} through "
        f"{now_id!r}, where its idempotency key may be unknown: point the task there again and clear it"
    )


def _is_same_item_in_the_same_epoch(record: SubmissionRecord, identity: RequestIdentity) -> bool:
    """Tell whether only templates, the DAG file or the connection can have changed the request.

    After a clear, a changed request means that the user wants the new one; another item of a list is another request.
    """
    return (
        record.epoch == identity.epoch
        and record.item == identity.item
        and record.phase in {"submitting", "submitted", "delivered"}
    )


def _another_request(
    record: SubmissionRecord,
    identity: RequestIdentity,
    on_clear: OnClear,
    *,
    trust_idempotency: bool,
    moved_account: str,
) -> Submit | Refuse:
    """Decide for a record that belongs to another request than this try's."""
    changed = Submit(identity, "the request has changed since the earlier try")
    if not identity.item or record.epoch == identity.epoch or on_clear == "regenerate":
        return changed
    if not trust_idempotency:
        return Refuse(
            "the mapped list has changed since the clear, so this item may have been submitted from another place of "
            "it, and the connection says that EvoLink ignores idempotency keys"
        )
    if moved_account:
        return Refuse(moved_account)
    # The list was expanded again, so this item may have had another place. Under its earlier key EvoLink
    # returns the paid generation; a new item is submitted once.
    return Submit(
        replace(identity, epoch=record.asked_in), "the mapped list has changed since the clear", moved=True
    )


def starts_anew(record: SubmissionRecord, identity: RequestIdentity, on_clear: OnClear) -> bool:
    """Tell whether a clear makes a new purchase of this request, so that nothing earlier is resumed."""
    return record.epoch != identity.epoch and _after_clear(record, identity, on_clear) is not None


def _after_clear(record: SubmissionRecord, identity: RequestIdentity, on_clear: OnClear) -> Submit | None:
    """Return the new submission of a cleared task; None where it resumes like a retry."""
    new = Submit(identity, "the task was cleared")
    if on_clear == "regenerate" or record.phase == "failed":
        return new
    if on_clear == "auto" and record.phase == "delivered":
        return replace(new, because="the task was cleared after its images had been delivered")
    return None


def _go_on(
    record: SubmissionRecord,
    identity: RequestIdentity,
    *,
    trust_idempotency: bool,
    moved_account: str,
    now: float,
) -> Submit | Resume | Refuse:
    recorded = replace(identity, epoch=record.asked_in, sequence=record.sequence)
    if record.phase == "failed" and record.retryable:
        return Submit(
            replace(recorded, sequence=record.sequence + 1),
            f"generation {record.evolink_task_id} failed with a transient error",
        )
    if record.evolink_task_id is not None:
        return Resume(record.evolink_task_id, f"an earlier try had it {record.phase}")
    if not trust_idempotency:
        return Refuse("the connection says that EvoLink ignores idempotency keys")
    if now - record.posted_at > KEY_MEMORY_SECONDS:
        return Refuse("the request is older than EvoLink remembers idempotency keys")
    if moved_account:
        return Refuse(moved_account)
    return Submit(recorded, "an earlier try sent it but died before the response arrived", record.key)
