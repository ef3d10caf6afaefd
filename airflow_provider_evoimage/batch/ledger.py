"""The ledger of a batch: one line for each item, beside its images, written as the batch goes on.

It is what a later try reads to know what was paid for, and in the end the batch's manifest: a JSONL file whose lines
are manifests (:mod:`airflow_provider_evoimage.manifest`) with these fields more:

=================  ==========================================================================================
``item``           place in the list of requests, from 0
``number``         its place when it was first seen: ``{item}`` in the names of its files, which stay
``name``           the item's own name, "" where it has none
``state``          ``queued`` (not asked for yet), ``waiting``, ``saved``, ``failed`` or ``left out``
``error``          why it failed or was left out: ``code``, ``message``, ``retryable``; else None
``submission``     under which key it was asked for, and how far that has come
=================  ==========================================================================================
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow_provider_evoimage.batch.items import BatchItem, LedgerKey
from airflow_provider_evoimage.exceptions import DestinationError, EvoImageError
from airflow_provider_evoimage.manifest import Asked, Manifest, amount, without_links
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.submission.record import SubmissionRecord

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

LEDGER_VERSION = 1

State = Literal["queued", "waiting", "saved", "failed", "left out"]
_STATES = frozenset(get_args(State))


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
        """Describe an error in a few words; a ledger is read by people, years later."""
        return cls(
            code=error.code or type(error).__name__, message=error.message[:500], retryable=error.retryable
        )


@dataclass(frozen=True, kw_only=True)
class LedgerLine:
    """What is known of one item.

    :param asked: what it asks for, so that what comes after the submission needs no list of requests any more.
    :param manifest: of its generation, without links, once its images are saved.
    :param charge: credits that EvoLink charged for a generation of which nothing is saved; None while unknown.
    """

    item: int
    number: int
    name: str
    fingerprint: str
    occurrence: int
    asked: Asked
    state: State = "waiting"
    record: SubmissionRecord | None = None
    manifest: Manifest | None = None
    charge: float | None = None
    error: ItemError | None = None

    @classmethod
    def new(cls, item: BatchItem, number: int) -> LedgerLine:
        """Begin the line of an item that nobody has asked for yet."""
        return cls(
            item=item.number,
            number=number,
            name=item.name,
            fingerprint=item.fingerprint,
            occurrence=item.occurrence,
            asked=item.asked,
        )

    @property
    def key(self) -> LedgerKey:
        """What the item is known by, wherever it stands."""
        return self.fingerprint, self.occurrence

    @property
    def is_under_way(self) -> bool:
        """Whether its generation is to be waited for."""
        return self.state == "waiting" and self.evolink_task_id is not None and self.error is None

    @property
    def is_unheard_of(self) -> bool:
        """Whether a request for it may have been accepted, and no answer came."""
        return self.record is not None and self.record.evolink_task_id is None

    @property
    def charged(self) -> float | None:
        """Credits that EvoLink charged for it; None while that is not known."""
        usage = (self.manifest or {}).get("usage")
        return amount(usage.get("charged")) if isinstance(usage, Mapping) else self.charge

    @property
    def most_credits(self) -> Decimal:
        """What it may cost while its charge is not known: what was reserved or estimated, whichever is more."""
        reserved = self.record.credits_reserved if self.record else None
        estimate = (self.asked.estimate or {}).get("credits_high")
        return max(Decimal(str(amount(each) or 0)) for each in (reserved, estimate))

    @property
    def evolink_task_id(self) -> str | None:
        """EvoLink's id of its generation, once there is one."""
        return self.record.evolink_task_id if self.record else None

    def at(self, item: BatchItem) -> LedgerLine:
        """Return the line for the place at which the item stands now."""
        # What is saved keeps its name, as its files do.
        name = self.name if self.state == "saved" else item.name
        return replace(self, item=item.number, name=name, asked=item.asked)

    def to_json(self) -> dict[str, Any]:
        """Return the line as plain JSON."""
        return {
            "item": self.item,
            "number": self.number,
            "name": self.name,
            "state": self.state,
            "error": asdict(self.error) if self.error else None,
            **(self.manifest or self._without_images()),
            "v": LEDGER_VERSION,
            "submission": {
                "fingerprint": self.fingerprint,
                "occurrence": self.occurrence,
                **(self.record.to_json() if self.record else {}),
            },
        }

    def _without_images(self) -> dict[str, Any]:
        kept = self.asked.kept()
        kept["usage"]["charged"] = self.charge
        return {"evolink_task_id": self.evolink_task_id, **kept}

    @classmethod
    def read(cls, data: object) -> LedgerLine | None:
        """Read a line; None where it is none. People can edit what lies in their storage."""
        if (
            not isinstance(data, Mapping)
            or data.get("v") != LEDGER_VERSION
            or data.get("state") not in _STATES
        ):
            return None
        submission = data.get("submission")
        if not isinstance(submission, Mapping):
            return None
        mark, places = submission.get("fingerprint"), (data.get("item"), data.get("number"))
        occurrence = submission.get("occurrence")
        if not isinstance(mark, str) or not all(isinstance(each, int) for each in (occurrence, *places)):
            return None
        record = SubmissionRecord.read(submission)
        error, usage = data.get("error"), data.get("usage")
        is_saved = data["state"] == "saved" and record is not None and record.evolink_task_id is not None
        return cls(
            item=data["item"],
            number=data["number"],
            name=str(data.get("name") or ""),
            fingerprint=mark,
            occurrence=submission["occurrence"],
            asked=Asked.in_manifest(data),
            state="waiting" if data["state"] == "saved" and not is_saved else data["state"],
            record=record,
            manifest={name: value for name, value in data.items() if name not in _OWN_FIELDS}
            if is_saved
            else None,
            charge=amount(usage.get("charged")) if isinstance(usage, Mapping) and not is_saved else None,
            error=ItemError(
                code=str(error.get("code")),
                message=str(error.get("message")),
                retryable=error.get("retryable") is True,
            )
            if isinstance(error, Mapping)
            else None,
        )


# Characters that JSON need not escape, and that some readers take for the end of a line.
_LINE_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
_OWN_FIELDS = frozenset({"item", "number", "name", "state", "error", "submission"})


class BatchLedger:
    """The ledger file of one batch.

    :param name: below the destination.
    """

    def __init__(self, destination: Destination, name: str) -> None:
        self._destination = destination
        self._name = name

    @property
    def url(self) -> str:
        """Where the file is."""
        return self._destination.url(self._name)

    def read(self) -> dict[LedgerKey, LedgerLine]:
        """Return the lines of an earlier leg or try by fingerprint and occurrence; what does not read is left out.

        :raises DestinationError: when the storage fails, which is not the same as an absent file.
        """
        text = self._destination.read_text(self._name)
        lines = (_line(each) for each in (text or "").split("\n") if each.strip())
        return {line.key: line for line in lines if line is not None}

    def remove_parts(self, log: Logger) -> None:
        """Remove what a try that was killed while it wrote may have left beside the file."""
        self._destination.remove_parts([self._name], log)

    def write(self, lines: Iterable[LedgerLine]) -> None:
        """Write all lines; the file is complete or the earlier one.

        :raises DestinationError: when the storage refuses.
        """
        with tempfile.TemporaryDirectory(prefix="evoimage-") as folder:
            local = Path(folder) / "ledger.jsonl"
            # A lone surrogate becomes the escape that JSON has for it.
            with local.open("w", encoding="utf-8", errors="backslashreplace") as file:
                for line in sorted(lines, key=lambda each: each.item):
                    file.write(json.dumps(line.to_json(), ensure_ascii=False).translate(_LINE_BREAKS) + "\n")
            self._destination.publish(local, self._name, "application/x-ndjson")

    def write_if_possible(self, lines: Iterable[LedgerLine], log: Logger) -> None:
        """Write all lines; a storage that fails is a warning, as the keys protect."""
        try:
            self.write(lines)
        except DestinationError as error:
            log.warning("The ledger of this batch cannot be written (%s); going on.", error.message)


def saved(line: LedgerLine, manifest: Manifest) -> LedgerLine:
    """Return the line of an item whose images are saved."""
    return replace(line, state="saved", manifest=without_links(manifest), charge=None, error=None)


def _line(text: str) -> LedgerLine | None:
    try:
        return LedgerLine.read(json.loads(text))
    except (ValueError, RecursionError):
        return None
