"""The ledger of a batch: a file beside the images with one line for each item, written while the batch runs.

A later try reads in it what was paid for. At the end it is the batch manifest: a JSONL file whose lines are
manifests (:mod:`airflow_provider_evoimage.manifest`) with these additional fields:

=================  ==========================================================================================
``item``           ``{item}`` in the names of its files: its place when it was first seen; it never changes
``position``       its place in the list of requests now, from 0
``name``           the item's own name, "" where it has none
``state``          ``queued`` (not submitted yet), ``waiting``, ``saved``, ``failed`` or ``left out``
``error``          why it failed or was left out: ``code``, ``message``, ``retryable``; else None
``submission``     the key it was submitted under, its phase, and ``try_number`` and ``try_id`` of the writer
=================  ==========================================================================================
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args
from uuid import UUID

from airflow_provider_evoimage.batch.items import BatchItem, LedgerKey
from airflow_provider_evoimage.evolink.json_values import number
from airflow_provider_evoimage.exceptions import (
    DestinationError,
    EvoImageError,
    SupersededTryError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.manifest import MANIFEST_VERSION, RequestSummary, without_links
from airflow_provider_evoimage.shapes import Manifest
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.submission.fallback import Position
from airflow_provider_evoimage.submission.identity import fingerprint
from airflow_provider_evoimage.submission.record import SubmissionRecord

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: In version 1 ``item`` was the position, and ``number`` was the ``{item}`` of file names.
LEDGER_VERSION = 2

#: Seconds without a check after which a process looks again whether a later try has taken over.
PAUSE_SECONDS = 10.0

State = Literal["queued", "waiting", "saved", "failed", "left out"]
_STATES = frozenset(get_args(State))
_READ_VERSIONS = (1, LEDGER_VERSION)


@dataclass(frozen=True, kw_only=True)
class ItemError:
    """Why an item has no images.

    :param retryable: whether another try of the task may bring them.
    """

    code: str
    message: str
    retryable: bool

    @classmethod
    def of(cls, error: EvoImageError) -> ItemError:
        """Describe an error briefly, for people who read the ledger years later."""
        return cls(
            code=error.code or type(error).__name__, message=error.message[:500], retryable=error.retryable
        )


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """The line of one item.

    :param alt_text: of its images; None where it has none of its own.
    :param requested: the request, so that nothing after the submission needs the list of requests.
    :param manifest: of its generation, without links, once its images are saved.
    :param charge: credits that EvoLink charged for a generation without saved images; None while unknown.
    :param spent_on_gone: credits that requests cost which are no longer in the list; only one line has them.
    :param reused_in: the epoch in which its images were taken from an earlier run; None where they were drawn.
    :param was_reused_to_the_end: whether a complete batch has delivered these.
    """

    item: int
    position: int
    name: str
    fingerprint: str
    occurrence: int
    requested: RequestSummary
    alt_text: str | None = None
    state: State = "waiting"
    record: SubmissionRecord | None = None
    manifest: Manifest | None = None
    charge: float | None = None
    error: ItemError | None = None
    spent_on_gone: float = 0.0
    reused_in: int | None = None
    was_reused_to_the_end: bool = False

    @classmethod
    def new(cls, item: BatchItem, number: int) -> LedgerLine:
        """Return the line of an item that was never submitted."""
        return cls(
            item=number,
            position=item.position,
            name=item.name,
            fingerprint=item.fingerprint,
            occurrence=item.occurrence,
            requested=item.requested,
            alt_text=item.alt_text,
        )

    @property
    def key(self) -> LedgerKey:
        """Identifies the item, whatever its place."""
        return self.fingerprint, self.occurrence

    @property
    def is_under_way(self) -> bool:
        """Whether its generation is to be waited for."""
        return self.state == "waiting" and self.evolink_task_id is not None and self.error is None

    @property
    def is_reused(self) -> bool:
        """Whether its images are those of an earlier run."""
        return self.reused_in is not None

    @property
    def is_over(self) -> bool:
        """Whether its generation failed, so that nothing of it can be resumed."""
        return self.record is not None and self.record.phase == "failed"

    @property
    def outcome_unknown(self) -> bool:
        """Whether a request for it may have been accepted, and no response arrived."""
        return self.record is not None and self.record.evolink_task_id is None

    @property
    def charged(self) -> float | None:
        """Credits that EvoLink charged for it; None while that is not known."""
        usage = self.manifest.get("usage") if self.manifest else None
        return number(usage.get("charged")) if isinstance(usage, Mapping) else self.charge

    @property
    def most_credits(self) -> Decimal:
        """The largest possible cost while the charge is unknown: the larger of reservation and estimate."""
        reserved = self.record.credits_reserved if self.record else None
        estimate = (self.requested.estimate or {}).get("credits_high")
        return max(Decimal(str(number(each) or 0)) for each in (reserved, estimate))

    @property
    def evolink_task_id(self) -> str | None:
        """EvoLink's id of its generation, once there is one."""
        return self.record.evolink_task_id if self.record else None

    def at(self, item: BatchItem) -> LedgerLine:
        """Return the line with the item's present place."""
        # A saved item keeps its name, as its files do.
        name = self.name if self.state == "saved" else item.name
        return replace(
            self, position=item.position, name=name, requested=self._requested(item), alt_text=item.alt_text
        )

    def _requested(self, item: BatchItem) -> RequestSummary:
        """Describe the request as it was sent, where a model of the item's present list got it."""
        if self.record is None or not self.record.tried:
            return item.requested
        sent = [fingerprint(each, item.variant) == self.record.fingerprint for each in item.others]
        if True not in sent:
            return self.requested
        return item.requested_at(Position(sent.index(True) + 1, self.record.tried))

    def to_json(self) -> dict[str, Any]:
        """Return the line as plain JSON."""
        return {
            "item": self.item,
            "position": self.position,
            "name": self.name,
            **({"alt_text": self.alt_text} if self.alt_text else {}),
            "state": self.state,
            "error": {**vars(self.error)} if self.error else None,
            **(self.manifest or self._without_images()),
            "v": LEDGER_VERSION,
            "submission": {
                **(self.record.to_json() if self.record else {}),
                # An item keeps its own, also where another model got its request.
                "fingerprint": self.fingerprint,
                "occurrence": self.occurrence,
                **(
                    {"sent_fingerprint": self.record.fingerprint}
                    if self.record and self.record.fingerprint != self.fingerprint
                    else {}
                ),
                **({"spent_on_gone": self.spent_on_gone} if self.spent_on_gone else {}),
                **({} if self.reused_in is None else {"reused_in": self.reused_in}),
                **({"delivered": True} if self.was_reused_to_the_end else {}),
            },
        }

    def _without_images(self) -> dict[str, Any]:
        kept = self.requested.kept()
        kept["usage"]["charged"] = self.charge
        return {"evolink_task_id": self.evolink_task_id, **kept}

    @classmethod
    def read(cls, data: object) -> LedgerLine | None:
        """Read a line; return None if it is invalid. People can edit files in their storage."""
        if (
            not isinstance(data, Mapping)
            or data.get("v") not in _READ_VERSIONS
            or data.get("state") not in _STATES
        ):
            return None
        submission = data.get("submission")
        if not isinstance(submission, Mapping):
            return None
        mark, occurrence = submission.get("fingerprint"), submission.get("occurrence")
        names = ("number", "item") if data["v"] == 1 else ("item", "position")
        item, position = (data.get(name) for name in names)
        if not isinstance(mark, str) or not (
            isinstance(occurrence, int) and isinstance(item, int) and isinstance(position, int)
        ):
            return None
        record = SubmissionRecord.read(
            {**submission, "fingerprint": submission.get("sent_fingerprint") or mark}
        )
        error, usage = data.get("error"), data.get("usage")
        reused_in = submission.get("reused_in")
        is_reused = isinstance(reused_in, int) and isinstance(data.get("reused"), Mapping) and record is None
        has_id = record is not None and record.evolink_task_id is not None
        is_saved = data["state"] == "saved" and (has_id or is_reused)
        return cls(
            item=item,
            position=position,
            name=str(data.get("name") or ""),
            fingerprint=mark,
            occurrence=occurrence,
            # The name is the line's own field.
            requested=replace(RequestSummary.in_manifest(data), name=None),
            alt_text=data["alt_text"] if isinstance(data.get("alt_text"), str) else None,
            state="waiting" if data["state"] == "saved" and not is_saved else data["state"],
            record=record,
            manifest=cast(
                "Manifest",
                {name: value for name, value in data.items() if name not in _OWN_FIELDS}
                | {"v": MANIFEST_VERSION},
            )
            if is_saved
            else None,
            charge=number(usage.get("charged")) if isinstance(usage, Mapping) and not is_saved else None,
            error=ItemError(
                code=str(error.get("code")),
                message=str(error.get("message")),
                retryable=error.get("retryable") is True,
            )
            if isinstance(error, Mapping)
            else None,
            spent_on_gone=max(number(submission.get("spent_on_gone")) or 0.0, 0.0),
            reused_in=reused_in if is_saved and is_reused else None,
            was_reused_to_the_end=is_saved and is_reused and submission.get("delivered") is True,
        )


# Characters that JSON may leave unescaped, and that some readers take for a line break.
_LINE_BREAKS = {chr(code): f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
_OWN_FIELDS = frozenset({"item", "position", "number", "name", "alt_text", "state", "error", "submission"})


class BatchLedger:
    """The ledger file of one batch.

    :param name: below the destination.
    :param try_number: of the Airflow task that writes; a process of an earlier try may still be alive.
    :param try_id: Airflow's id of that try, a UUID that holds the time at which the try was made.
    """

    def __init__(self, destination: Destination, name: str, *, try_number: int, try_id: str = "") -> None:
        self._destination = destination
        self._name = name
        self._try_number = try_number
        self._try_id = try_id
        self._checked_at = 0.0
        #: Whether the last reading understood every line, so that an item without a record was never submitted.
        self.is_whole = True

    @property
    def url(self) -> str:
        """Where the file is."""
        return self._destination.url(self._name)

    def read(self) -> dict[LedgerKey, LedgerLine]:
        """Return the lines of an earlier leg or try by fingerprint and occurrence; invalid lines are left out.

        :raises SupersededTryError: when a later try has written the file.
        :raises DestinationError: when the storage fails, which is not the same as an absent file.
        :raises UnrepeatableSubmissionError: when a newer release wrote it, so that what was paid is unknown
            here.
        """
        text = self._latest_text()
        rows = [_json(each) for each in text.split("\n") if each.strip()]
        for row in rows:
            version = row.get("v") if isinstance(row, Mapping) else None
            if isinstance(version, int) and version > LEDGER_VERSION:
                raise self._written_by_newer(version)
        lines = [LedgerLine.read(row) for row in rows]
        self.is_whole = all(
            line is not None and (line.record is not None or not _names_a_key(row))
            for row, line in zip(rows, lines, strict=True)
        )
        return {line.key: line for line in lines if line is not None}

    def _written_by_newer(self, version: int) -> UnrepeatableSubmissionError:
        return UnrepeatableSubmissionError(
            f"The batch manifest {self.url} has format version {version}: a newer release of this provider wrote it, "
            "so this one cannot tell what was paid for.",
            on_retry="Nothing was submitted by this try and no retry follows: install the newer release, then clear "
            "the task.",
        )

    def remove_parts(self, log: Logger) -> None:
        """Remove the part file of a try that was killed while it wrote."""
        self._destination.remove_parts([self._name], log)

    def write(self, lines: Iterable[LedgerLine]) -> None:
        """Write all lines; if that fails, the earlier file stays.

        :raises SupersededTryError: when a later try has written the file.
        :raises DestinationError: when the storage refuses.
        """
        self.require_latest_try()
        with tempfile.TemporaryDirectory(prefix="evoimage-") as folder:
            local = Path(folder) / "ledger.jsonl"
            # A lone surrogate becomes the escape that JSON has for it.
            with local.open("w", encoding="utf-8", errors="backslashreplace") as file:
                for line in sorted(lines, key=lambda each: each.position):
                    row = line.to_json()
                    row["submission"] |= {"try_number": self._try_number, "try_id": self._try_id}
                    file.write(_one_line(row) + "\n")
            self._destination.publish(local, self._name, "application/x-ndjson")

    def require_latest_try(self) -> None:
        """Stop a process of an earlier try, for instance one that was frozen, before it gets in a later one's way.

        :raises SupersededTryError: when a later try has written the file.
        :raises DestinationError: when the storage fails.
        """
        self._latest_text()

    def require_latest_try_after_pause(self) -> None:
        """Do the same, but only if the last check is so old that this process may have been frozen since.

        Cheap enough to be called before each submission and each file.
        """
        # The clock of the machine, as the monotonic one stands still while a virtual machine is suspended.
        if abs(time.time() - self._checked_at) >= PAUSE_SECONDS:
            self.require_latest_try()

    def _latest_text(self) -> str:
        text = self._destination.read_text(self._name) or ""
        row = _json(text.partition("\n")[0])
        submission = row.get("submission") if isinstance(row, Mapping) else None
        if isinstance(submission, Mapping):
            written_by, try_id = submission.get("try_number"), submission.get("try_id")
            # A DAG run that was deleted and created again counts its tries from 1.
            is_later = isinstance(written_by, int) and written_by > self._try_number
            if is_later and not _was_made_after(self._try_id, try_id):
                raise SupersededTryError(
                    f"Try {written_by} of this task has written the batch manifest {self.url}; this is try "
                    f"{self._try_number}, and it stops."
                )
        self._checked_at = time.time()
        return text

    def write_if_possible(self, lines: Iterable[LedgerLine], log: Logger) -> None:
        """Write all lines; a failing storage only logs a warning, as another error ends this try anyway."""
        try:
            self.write(lines)
        except (DestinationError, SupersededTryError) as error:
            log.warning("The batch manifest cannot be written (%s); continuing.", error.message)


def _one_line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    # Several times as fast as `translate` where the text is not ASCII.
    for character, escape in _LINE_BREAKS.items():
        text = text.replace(character, escape)
    return text


def _names_a_key(row: object) -> bool:
    submission = row.get("submission") if isinstance(row, Mapping) else None
    return isinstance(submission, Mapping) and "key" in submission


def saved(line: LedgerLine, manifest: Manifest) -> LedgerLine:
    """Return the line of an item whose images are saved."""
    return replace(line, state="saved", manifest=without_links(manifest), charge=None, error=None)


def _was_made_after(try_id: str, other: object) -> bool:
    """Compare the times in two UUIDs of version 7; False where one of them holds none."""
    try:
        mine, theirs = UUID(try_id), UUID(str(other))
    except ValueError:
        return False
    # The first 48 bits are milliseconds.
    return mine.version == theirs.version == 7 and mine.int >> 80 > theirs.int >> 80


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
