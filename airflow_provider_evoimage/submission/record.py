"""The record of one submission, for later tries.

It is kept in Airflow's task state store (Airflow 3.3 and later). Its life:

    submitting   written before the POST: a request may be on its way, no id is known
    submitted    written after the answer: the id is known, EvoLink is working or has finished
    failed       the generation failed, and the task has reported it
    delivered    the images were handed over (or saved)
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Protocol

from airflow_provider_evoimage.evolink.answers import EVOLINK_TASK_ID, RESULT_LINK_LIFETIME, Generation
from airflow_provider_evoimage.evolink.errors import is_retryable_failure
from airflow_provider_evoimage.evolink.given_up import GivenUp
from airflow_provider_evoimage.evolink.json_values import number, text
from airflow_provider_evoimage.exceptions import EvoImageError, UnrepeatableSubmissionError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.submission.identity import IDEMPOTENCY_KEY, RequestIdentity

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

STATE_KEY = "evoimage"
Phase = Literal["submitting", "submitted", "failed", "delivered"]
# With their defaults.
_ADDED_LATER: dict[str, Any] = {
    "item": "",
    "sealed": None,
    "most": None,
    "charged": None,
    "spent_before": 0.0,
    "failure": "",
    "tried": (),
}
_PHASES = frozenset({"submitting", "submitted", "failed", "delivered"})
# EvoLink's own clients recover a submission by its key for 23 hours.
KEY_MEMORY_SECONDS = 23 * 3600
# A request may be accepted up to this long after its first POST; its result links then live 24 hours.
OUTLIVED_SECONDS = KEY_MEMORY_SECONDS + RESULT_LINK_LIFETIME.total_seconds()


@dataclass(frozen=True, kw_only=True)
class SubmissionRecord:
    """One submission of this task instance, as the store keeps it. Holds no readable prompt, link or API key.

    :param key: the idempotency key it was sent under.
    :param epoch: ``ti.max_tries`` of the try that last acted on it.
    :param asked_in: the epoch that is part of the key.
    :param occurrence: number among equal items of a list.
    :param posted_at: Unix seconds of the first POST under this key.
    :param retryable: whether a failed generation may be submitted again.
    :param credits_reserved: EvoLink's reservation; only the answer to the POST holds it.
    :param item: of a mapped list, as in the identity; "" in records of earlier releases.
    :param sealed: the request as it was sent, encrypted; see :mod:`.sealed_request`.
    :param most: credits that it may cost, the upper end of its estimate.
    :param charged: credits that EvoLink charged for a generation that brought nothing; None while unknown.
    :param spent_before: credits that earlier generations of this request cost, since the last delivery.
    :param failure: EvoLink's code of a failed generation.
    :param tried: the models that this request left behind before this submission.
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
    item: str = ""
    sealed: str | None = None
    most: float | None = None
    charged: float | None = None
    spent_before: float = 0.0
    failure: str = ""
    tried: tuple[GivenUp, ...] = ()
    v: int = 1

    def is_outlived(self, now: float) -> bool:
        """Whether the links of its images are dead by now in any case.

        :param now: Unix seconds.
        """
        return now - self.posted_at > OUTLIVED_SECONDS

    def spent_before_key(self, key: str) -> float:
        """Return the credits that generations before the one under this key cost, or may have cost.

        A delivery ends the count: a cleared task is a new purchase.
        """
        if self.key == key:
            return self.spent_before
        if self.phase == "delivered":
            return 0.0
        # Without a charge it counts like one that still runs.
        own = max(self.credits_reserved or 0.0, self.most or 0.0) if self.charged is None else self.charged
        return self.spent_before + max(own, 0.0)

    def ended(self, phase: Phase, generation: Generation) -> SubmissionRecord:
        """Return the record of a generation that has ended."""
        charged = 0.0 if generation.billed is False else generation.usage.credits_used
        return replace(
            self,
            phase=phase,
            evolink_task_id=generation.evolink_task_id,
            retryable=is_retryable_failure(generation),
            charged=charged if phase == "failed" else None,
            failure=generation.error.code if phase == "failed" and generation.error else "",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON; what was added to the format later is left out where it is empty."""
        # A list: Airflow's store takes no tuple.
        plain = {**vars(self), "tried": [each.to_json() for each in self.tried]}
        return {
            name: value
            for name, value in plain.items()
            if name not in _ADDED_LATER or value not in (None, "", [], _ADDED_LATER[name])
        }

    @classmethod
    def read(cls, data: object) -> SubmissionRecord | None:
        """Read a stored record; return None if there is none, or this version cannot use it.

        People can edit the store in Airflow's UI, so every field is checked.
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
                credits_reserved=number(data.get("credits_reserved")),
                item=text(data.get("item")) or "",
                sealed=text(data.get("sealed")),
                most=number(data.get("most")),
                charged=number(data.get("charged")),
                spent_before=max(number(data.get("spent_before")) or 0.0, 0.0),
                failure=text(data.get("failure")) or "",
                tried=GivenUp.read(data.get("tried")),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if record.evolink_task_id is not None:
            return record
        if not IDEMPOTENCY_KEY.fullmatch(record.key) or not math.isfinite(record.posted_at):
            return None
        # Every later phase has an id; without one the phase counts as "submitting".
        return replace(record, phase="submitting")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and EVOLINK_TASK_ID.fullmatch(value) is not None


class StateStore(Protocol):
    """Airflow's task state store (3.3 and later), as far as it is used here."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value under a key."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value under a key."""

    def delete(self, key: str) -> None:
        """Forget the value under a key."""


class DamagedRecordError(Exception):
    """The stored value is no record. Internal: :class:`RecordKeeper` decides what that means."""


class RecordStore(Protocol):
    """Where the record of one submission is kept: Airflow's task state store, or the line of a batch manifest."""

    def read(self) -> SubmissionRecord | None:
        """Return the record; None where there is none.

        :raises DamagedRecordError: when the stored value is no record.
        """

    def keep(self, record: SubmissionRecord | None) -> None:
        """Replace the record; None deletes it."""


class TaskStateRecords:
    """The record of one task instance in Airflow's task state store (3.3 and later)."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def read(self) -> SubmissionRecord | None:
        """Read the record; see :class:`RecordStore`."""
        stored = self._store.get(STATE_KEY)
        record = SubmissionRecord.read(stored)
        if record is None and stored is not None:
            raise DamagedRecordError
        return record

    def keep(self, record: SubmissionRecord | None) -> None:
        """Write or delete the record; see :class:`RecordStore`."""
        if record is None:
            self._store.delete(STATE_KEY)
        else:
            self._store.set(STATE_KEY, record.to_json())


class RecordKeeper:
    """Reads and writes the record of one submission, and decides whether a failing store is an error.

    :param store: None below Airflow 3.3, where the idempotency key alone makes retries safe.
    """

    def __init__(self, store: RecordStore | None, log: Logger) -> None:
        self._store = store
        self._log = log

    @classmethod
    def of_task(cls, context: Mapping[str, Any], log: Logger) -> RecordKeeper:
        """Keep the record in the task state store of a task's context, where this Airflow has one."""
        store = context.get("task_state_store")
        return cls(None if store is None else TaskStateRecords(store), log)

    @property
    def has_store(self) -> bool:
        """Whether anything is kept at all."""
        return self._store is not None

    def read(self, *, required: bool = False, key_protects: bool = True) -> SubmissionRecord | None:
        """Return the record of an earlier try; None if there is none.

        :param required: whether going on without the record could pay twice.
        :param key_protects: whether repeating an accepted request under its key is free.
        """
        if self._store is None:
            return None
        try:
            return self._store.read()
        except DamagedRecordError:
            if not key_protects:
                raise unrepeatable(
                    "its record is damaged, and EvoLink is said to ignore idempotency keys"
                ) from None
            return None
        except Exception as error:
            if required:
                raise EvoImageError(
                    f"The record of earlier tries cannot be read: {error}",
                    on_retry="Nothing was submitted by this try; a retry tries again.",
                ) from error
            self._log.warning(
                "The record of earlier tries cannot be read (%s); the key alone protects.", error
            )
            return None

    def knows_nothing_was_sent(self) -> bool | None:
        """Tell whether no earlier try has sent the request; None where nothing tells.

        That it is certain needs a record that was required before each POST.
        """
        if self._store is None:
            return None
        try:
            return self._store.read() is None
        except DamagedRecordError:
            return False
        except Exception as error:  # noqa: BLE001 (any store, any failure)
            self._log.warning("The record of earlier tries cannot be read: %s", error)
            return None

    def keep(self, record: SubmissionRecord | None, *, required: bool = False) -> None:
        """Write the record; a failing store only logs a warning, unless the next step requires a record.

        :param record: None deletes it.
        """
        if self._store is None:
            return
        try:
            self._store.keep(record)
        except Exception as error:
            if required:
                raise EvoImageError(
                    f"The record that must precede a submission cannot be written: {error}",
                    billed=False,
                    on_retry="Nothing was submitted; a retry tries again.",
                ) from error
            self._log.warning("The record of this submission cannot be written (%s); continuing.", error)

    def mark(self, phase: Phase, generation: Generation) -> None:
        """Record the phase of this generation, also if its id could not be recorded before."""
        record = self.read()
        if record is not None and record.evolink_task_id in {None, generation.evolink_task_id}:
            self.keep(record.ended(phase, generation))

    def forget_if_old(self, evolink_task_id: str, now: float) -> bool:
        """Give up a generation that EvoLink no longer knows, once its links would be dead in any case.

        :param now: Unix seconds, by EvoLink's clock.
        :returns: whether it was given up: a cleared task then submits a new request.
        """
        record = self.read()
        if record is None or record.evolink_task_id != evolink_task_id or not record.is_outlived(now):
            return False
        self.keep(replace(record, phase="failed", retryable=False))
        return True


def record_before_post(
    identity: RequestIdentity,
    key: str,
    *,
    epoch: int,
    hook: EvoImageHook,
    earlier: SubmissionRecord | None,
    sealed: str | None = None,
    most: Decimal | None = None,
    tried: tuple[GivenUp, ...] = (),
) -> SubmissionRecord:
    """Make the record that precedes a POST.

    :param epoch: of this try; the identity may have an earlier one.
    :param earlier: the present record; the time of the first POST under a key stays.
    :param most: credits that the request may cost; None where no price is known.
    :param tried: the models that the request left behind before.
    """
    return SubmissionRecord(
        key=key,
        fingerprint=identity.fingerprint,
        epoch=epoch,
        asked_in=identity.epoch,
        occurrence=identity.occurrence,
        sequence=identity.sequence,
        conn_id=hook.evoimage_conn_id,
        base_url=hook.settings.account.base_url,
        posted_at=earlier.posted_at if earlier is not None and earlier.key == key else time.time(),
        item=identity.item,
        sealed=sealed,
        most=None if most is None else float(most),
        spent_before=0.0 if earlier is None else earlier.spent_before_key(key),
        tried=tried,
    )


def unrepeatable(because: str) -> UnrepeatableSubmissionError:
    """Return the error for a request that may have been accepted and must not be submitted again."""
    return UnrepeatableSubmissionError(
        f"An earlier try may have submitted this request, and its outcome is unknown: {because}."
    )
