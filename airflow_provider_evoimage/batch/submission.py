"""Submits the items of a batch, several at a time, each once; the ledger tells a later try how far it came."""

from __future__ import annotations

import contextvars
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.batch.items import BatchItem, LedgerKey
from airflow_provider_evoimage.batch.ledger import BatchLedger, ItemError, LedgerLine
from airflow_provider_evoimage.defaults import OnClear
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    BudgetExceededError,
    DestinationError,
    EvoImageError,
    EvoLinkUnavailableError,
    EvoLinkUnreachableError,
    InsufficientCreditsError,
    RateLimitError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.submission.budget import Budget
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.resume import (
    Refuse,
    SubmissionRecord,
    Submit,
    decide,
)
from airflow_provider_evoimage.submission.submit import (
    RecordKeeper,
    Submission,
    Uploads,
    record_before_post,
    unrepeatable,
)

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: Items between two writings of the ledger: what a crash leaves to be asked for again under the same keys.
CHUNK = 50
PARALLEL_SUBMISSIONS = 8

# Whoever is refused so is refused for every item: asking for the others would only bring the same answer.
_STOPPING = (
    AuthenticationError,
    BudgetExceededError,
    EvoLinkUnavailableError,
    EvoLinkUnreachableError,
    InsufficientCreditsError,
    RateLimitError,
)

Lines = dict[LedgerKey, LedgerLine]


@dataclass(kw_only=True)
class BatchSubmission:
    """Brings every item to a generation: an earlier try's, or a new one.

    :param identity_of: which logical request an item is.
    :param is_there: whether the files of a saved item are still there.
    :param uploads_of: what uploads the references of an item just before it is submitted.
    :param lines: what is known of each item; changed in place.
    :param max_active: how many generations may be under way at a time; None for any number.
    """

    hook: EvoImageHook
    ledger: BatchLedger
    lines: Lines
    identity_of: Callable[[BatchItem], RequestIdentity]
    uploads_of: Callable[[BatchItem], Uploads | None]
    is_there: Callable[[LedgerLine], bool]
    on_clear: OnClear
    submit_timeout: float
    budget: Budget
    log: Logger
    parallel: int = PARALLEL_SUBMISSIONS
    max_active: int | None = None
    _stopped_by: EvoImageError | None = field(default=None, init=False)
    _decisions: dict[LedgerKey, Submit] = field(default_factory=dict, init=False)

    def ensure(
        self,
        items: Sequence[BatchItem],
        *,
        before_first: Callable[[Sequence[BatchItem]], None] | None = None,
    ) -> None:
        """Submit what has to be; what cannot be is noted in its line, and what it would have stopped as well.

        What there is no room for stays queued: ask again once some generations have ended.

        :param before_first: called with all that is to be submitted, if anything is; may raise.
        :raises DestinationError: when keys are not trusted and the ledger, which must precede, cannot be written.
        """
        chosen = [item for item in items if self._begin(item)]
        # What is asked for anew, after a clear, is held like anything else: its earlier charge must not cover it.
        hold_earlier(self.budget, (line for key, line in self.lines.items() if key not in self._decisions))
        if chosen and before_first is not None:
            before_first(chosen)
        queue = deque(chosen)
        while queue and self._stopped_by is None and (room := self._room):
            chunk = [queue.popleft() for _ in range(min(room, CHUNK, len(queue)))]
            self._announce(chunk)
            self._submit_chunk(chunk)
            self.log.info(
                "%s, %s credits reserved.",
                progress_in_words(self.lines.values()).capitalize(),
                f"{self.budget.held:,.2f}",
            )
        if self._stopped_by is not None:
            self._stop(chosen, self._stopped_by)
        self.ledger.write_if_possible(self.lines.values(), self.log)

    @property
    def _room(self) -> int:
        """How many more may be asked for now."""
        active = sum(line.is_under_way for line in self.lines.values())
        return CHUNK if self.max_active is None else max(0, self.max_active - active)

    def _stop(self, chosen: Iterable[BatchItem], because: EvoImageError) -> None:
        """Decide about what was not asked for: it waits for its turn, or is left out."""
        self.log.warning("Submitting stopped: %s", because.message)
        if isinstance(because, RateLimitError) and any(line.is_under_way for line in self.lines.values()):
            # The account may have as many under way as it can: there is room when some have ended.
            self.log.info("What is queued is asked for when some of those under way have ended.")
            return
        for item in chosen:
            if self.lines[item.ledger_key].state == "queued":
                self._keep(
                    replace(self.lines[item.ledger_key], state="left out", error=ItemError.of(because))
                )

    @property
    def _trusted(self) -> bool:
        return self.hook.settings.account.trust_idempotency

    def _begin(self, item: BatchItem) -> bool:
        """Bring a line up to this try; tell whether the item is to be submitted."""
        line = self.lines[item.ledger_key]
        identity = self.identity_of(item)
        decision = decide(
            line.record,
            identity,
            on_clear=self.on_clear,
            trust_idempotency=self._trusted,
            now=time.time(),
        )
        if isinstance(decision, Submit):
            self._decisions[item.ledger_key] = decision
            self._keep(replace(line, state="queued", manifest=None, error=None))
            return True
        if isinstance(decision, Refuse):
            error = ItemError.of(unrepeatable(decision.because))
            self._keep(replace(line, state="failed", error=error))
            return False
        if line.record is not None:
            record = replace(line.record, epoch=identity.epoch)
            is_saved = line.state == "saved"
            if is_saved and line.record.epoch != identity.epoch:
                # Cleared: what was saved may have been removed since, and is saved again then.
                is_saved = self.is_there(line)
            has_ended = is_saved or record.phase == "failed"
            self._keep(
                replace(line, record=record)
                if has_ended
                else replace(line, record=record, state="waiting", manifest=None, error=None)
            )
        return False

    def _announce(self, chunk: Sequence[BatchItem]) -> None:
        """Write that these items are about to be asked for, and under which keys, before any of them is."""
        for item in chunk:
            self._keep(replace(self.lines[item.ledger_key], state="waiting"))
        announced = dict(self.lines)
        for item in chunk:
            line, identity = self.lines[item.ledger_key], self.identity_of(item)
            decision = self._decisions[item.ledger_key]
            record = record_before_post(
                decision.identity, decision.key, epoch=identity.epoch, hook=self.hook, earlier=line.record
            )
            announced[item.ledger_key] = replace(line, record=record)
        try:
            self.ledger.write(announced.values())
        except DestinationError as error:
            if not self._trusted:
                raise
            self.log.warning(
                "The ledger of this batch cannot be written (%s); the keys protect.", error.message
            )

    def _submit_chunk(self, chunk: Sequence[BatchItem]) -> None:
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="evoimage-submit") as pool:
            futures = [
                # Each in its own copy of the context, so that log lines find their task.
                pool.submit(contextvars.copy_context().run, self._submit_one, item)
                for item in chunk
            ]
        failures = [error for future in futures if (error := future.exception()) is not None]
        if failures:
            raise failures[0]

    def _submit_one(self, item: BatchItem) -> None:
        if self._stopped_by is not None:
            self._put_back(item)
            return
        identity = self.identity_of(item)
        submission = Submission(
            hook=self.hook,
            identity=identity,
            keeper=RecordKeeper(_LineStore(self, item), self.log),
            log=self.log,
            on_clear=self.on_clear,
            submit_timeout=self.submit_timeout,
            before_submit=lambda: self._hold(item),
            uploads=self.uploads_of(item),
        )
        try:
            generation = submission.ensure(item.request)
        except EvoImageError as error:
            self._failed(item, error)
        else:
            self.budget.accepted(name_in_budget(item.ledger_key), generation.usage.credits_reserved)

    def _hold(self, item: BatchItem) -> None:
        self.budget.hold(name_in_budget(item.ledger_key), item.request)

    def _failed(self, item: BatchItem, error: EvoImageError) -> None:
        if error.billed is False:
            self.budget.release(name_in_budget(item.ledger_key))
        if isinstance(error, _STOPPING) and error.billed is False:
            self._stopped_by = self._stopped_by or error
            self._put_back(item)
            return
        self.log.warning("Item %d could not be submitted: %s", item.number, error)
        self._keep(replace(self.lines[item.ledger_key], state="failed", error=ItemError.of(error)))

    def _put_back(self, item: BatchItem) -> None:
        self._keep(replace(self.lines[item.ledger_key], state="queued"))

    def _keep(self, line: LedgerLine) -> None:
        self.lines[line.key] = line


def hold_earlier(budget: Budget, lines: Iterable[LedgerLine]) -> None:
    """Count against a budget what earlier tries have spent, or may have."""
    for line in lines:
        name = name_in_budget(line.key)
        if line.manifest is not None:
            usage = line.manifest.get("usage")
            budget.settle(name, usage.get("charged") if isinstance(usage, dict) else None)
        elif line.record is not None and line.record.evolink_task_id and line.state == "waiting":
            budget.accepted(name, line.record.credits_reserved)


def progress_in_words(lines: Iterable[LedgerLine]) -> str:
    """Tell in one line how far a batch is, and what it has cost."""
    states: Counter[str] = Counter()
    charged = 0.0
    for line in lines:
        is_known = line.state != "waiting" or line.evolink_task_id is not None
        states[line.state if is_known else "queued"] += 1
        usage = (line.manifest or {}).get("usage")
        charged += (usage.get("charged") or 0.0) if isinstance(usage, dict) else 0.0
    order = ("saved", "failed", "waiting", "queued", "left out")
    counts = ", ".join(f"{states[state]:,} {state}" for state in order if states[state])
    return f"{counts}; {charged:,.2f} credits charged so far"


def name_in_budget(key: LedgerKey) -> str:
    """Return what a budget knows an item by."""
    return f"{key[0]} {key[1]}"


class _LineStore:
    """One item's line in the place of Airflow's task state store."""

    def __init__(self, batch: BatchSubmission, item: BatchItem) -> None:
        self._batch = batch
        self._key = item.ledger_key

    def get(self, key: str, default: Any = None) -> Any:
        del key
        record = self._batch.lines[self._key].record
        return default if record is None else record.to_json()

    def set(self, key: str, value: Any) -> None:
        del key
        line = self._batch.lines[self._key]
        self._batch.lines[self._key] = replace(line, record=SubmissionRecord.read(value))

    def delete(self, key: str) -> None:
        del key
        line = self._batch.lines[self._key]
        self._batch.lines[self._key] = replace(line, record=None)
