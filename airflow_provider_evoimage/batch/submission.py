"""Submits the items of a batch in parallel, each once, and records in the ledger how far it came."""

from __future__ import annotations

import contextvars
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import tenacity

from airflow_provider_evoimage.batch.items import BatchItem, LedgerKey
from airflow_provider_evoimage.batch.ledger import BatchLedger, ItemError, LedgerLine
from airflow_provider_evoimage.defaults import OnClear
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    AccessDeniedError,
    AuthenticationError,
    BudgetExceededError,
    DestinationError,
    EvoImageError,
    EvoLinkUnavailableError,
    EvoLinkUnreachableError,
    InsufficientCreditsError,
    OutcomeUnknownError,
    RateLimitError,
    SupersededTryError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.submission.budget import Budget
from airflow_provider_evoimage.submission.decision import Refuse, Submit, decide
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.record import (
    RecordKeeper,
    SubmissionRecord,
    record_before_post,
    unrepeatable,
)
from airflow_provider_evoimage.submission.submit import Submission, Uploads, account_of, most_of, sealed_item
from airflow_provider_evoimage.version_compat import AirflowTaskTimeout

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: Items between two writings of the ledger: after a crash these are submitted again under the same keys. If
#: EvoLink ignores keys, the ledger is written for each group that is submitted in parallel, as those items
#: cannot be repeated.
CHUNK = 50
PARALLEL_SUBMISSIONS = 8
#: Attempts to write the ledger before the storage counts as failing.
LEDGER_ATTEMPTS = 5
_MAY_BE_PAID = (
    "An earlier try may have submitted this item, so it may be paid for; "
    "a later try that is not stopped collects it."
)
# Ids that an error names; the log of a batch has them all.
_NAMED_IDS = 10

# These errors would hit every item, so stop submitting.
_OF_THE_ACCOUNT = (AuthenticationError, BudgetExceededError, InsufficientCreditsError)
_STOPPING = (EvoLinkUnavailableError, EvoLinkUnreachableError, RateLimitError)
# These reasons for 403 concern the key or the account; others may concern one model.
_KEY_IS_BARRED = frozenset({"key_disabled", "key_expired", "user_disabled", "ip_restricted"})

Lines = dict[LedgerKey, LedgerLine]


@dataclass(kw_only=True)
class BatchSubmission:
    """Gives every item a generation: an earlier try's, or a new one.

    :param identity_of: which logical request an item is.
    :param is_there: whether the files of a saved item are still there.
    :param uploads_of: returns the object that uploads an item's references just before it is submitted.
    :param lines: the line of each item; changed in place.
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
    # The records that the ledger already holds for the items that are submitted next.
    _announced: dict[LedgerKey, SubmissionRecord] = field(default_factory=dict, init=False)
    _on_record: frozenset[str] = field(default=frozenset(), init=False)

    def ensure(
        self,
        items: Sequence[BatchItem],
        *,
        before_first: Callable[[Sequence[BatchItem]], None] | None = None,
    ) -> None:
        """Submit every item that needs it; record in its line why one could not be submitted, or was left out.

        Items without room stay queued: call again once some generations have ended.

        :param before_first: called with all items to submit, if there are any; may raise.
        :raises DestinationError: when the ledger, which precedes each submission, cannot be written.
        :raises SupersededTryError: when a later try of this task has written it.
        """
        self._on_record = self._accepted
        chosen = [item for item in items if self._begin(item)]
        # Items that a clear submits again are held like any other: their earlier charge must not cover them.
        hold_earlier(self.budget, (line for key, line in self.lines.items() if key not in self._decisions))
        for key, decision in self._decisions.items():
            line = self.lines[key]
            if line.record is not None:
                _hold_before(self.budget, line, line.record.spent_before_key(decision.key))
        # First the items that an earlier try may have paid for: they cost nothing new.
        repeated = [item for item in chosen if self._decisions[item.ledger_key].recorded_key is not None]
        new = [item for item in chosen if self._decisions[item.ledger_key].recorded_key is None]
        if new and before_first is not None and (refusal := self._refusal(before_first, new)) is not None:
            self._submit(repeated)
            self._stop(new, refusal)
        else:
            self._submit([*repeated, *new])
        self._write(self.lines)

    def _refusal(
        self, check: Callable[[Sequence[BatchItem]], None], new: Sequence[BatchItem]
    ) -> EvoImageError | None:
        """Return why nothing new may be submitted; None where it may.

        :raises EvoImageError: the same reason, if no paid item would be stranded by it.
        """
        try:
            check(new)
        except EvoImageError as error:
            if not any(line.is_under_way or line.outcome_unknown for line in self.lines.values()):
                raise
            return error
        return None

    def _submit(self, chosen: Sequence[BatchItem]) -> None:
        queue = deque(chosen)
        while queue and self._stopped_by is None and (room := self._room):
            chunk = self._held_chunk(queue, room)
            if not chunk:
                break
            self._announce(chunk)
            try:
                self._submit_chunk(chunk)
            except (Exception, AirflowTaskTimeout):
                self.ledger.write_if_possible(self.lines.values(), self.log)
                raise
            if not self._trusted:
                self._log_ids(chunk)
            self.log.info(
                "%s, %s credits reserved.",
                progress_in_words(self.lines.values()).capitalize(),
                f"{self.budget.held:,.2f}",
            )
        if self._stopped_by is not None:
            self._stop(chosen, self._stopped_by)

    def _held_chunk(self, queue: deque[BatchItem], room: int) -> list[BatchItem]:
        """Take the next items, as far as room and budget allow, and hold their cost."""
        most = CHUNK if self._trusted else self.parallel
        chunk: list[BatchItem] = []
        while queue and len(chunk) < min(room, most):
            if self.budget.limit is not None and not self.budget.knows_rate_of(queue[0].request.model):
                # It goes alone: its answer shows what this account really pays for the model.
                if chunk:
                    break
                most = 1
            try:
                self._hold(queue[0])
            except BudgetExceededError as error:
                if not chunk:
                    self._stopped_by = error
                break
            chunk.append(queue.popleft())
        return chunk

    def _log_ids(self, chunk: Sequence[BatchItem]) -> None:
        """Log the accepted ids: if keys are ignored, they are otherwise in the ledger alone."""
        accepted = [
            f"{self.lines[item.ledger_key].item}: {evolink_task_id}"
            for item in chunk
            if (evolink_task_id := self.lines[item.ledger_key].evolink_task_id)
        ]
        self.log.info("EvoLink tasks by item: %s.", ", ".join(accepted) or "none")

    @property
    def _room(self) -> int:
        """How many more may be submitted now."""
        active = sum(line.is_under_way for line in self.lines.values())
        return CHUNK if self.max_active is None else max(0, self.max_active - active)

    def _stop(self, chosen: Iterable[BatchItem], because: EvoImageError) -> None:
        """Leave out the items that were not submitted, or leave them queued."""
        self.log.warning("Submitting stopped: %s", because.message)
        if isinstance(because, RateLimitError) and any(line.is_under_way for line in self.lines.values()):
            # The account may be at its limit of parallel generations; there is room when some have ended.
            self.log.info("Queued items are submitted when some of those under way have ended.")
            return
        for item in chosen:
            line = self.lines[item.ledger_key]
            if line.state == "queued":
                error = ItemError.of(because)
                if line.outcome_unknown:
                    error = replace(error, message=f"{_MAY_BE_PAID} {error.message}")
                self._keep(replace(line, state="left out", error=error))

    @property
    def _trusted(self) -> bool:
        return self.hook.settings.account.trust_idempotency

    def _begin(self, item: BatchItem) -> bool:
        """Update a line for this try; return whether the item must be submitted."""
        line = self.lines[item.ledger_key]
        identity = self.identity_of(item)
        decision = decide(
            line.record,
            identity,
            on_clear=self.on_clear,
            trust_idempotency=self._trusted,
            account=account_of(self.hook),
            now=time.time(),
        )
        if isinstance(decision, Submit):
            self._decisions[item.ledger_key] = decision
            self._keep(replace(line, state="queued", manifest=None, charge=None, error=None))
            return True
        if isinstance(decision, Refuse):
            error = ItemError.of(unrepeatable(decision.because))
            self._keep(replace(line, state="failed", error=error))
            return False
        if line.record is not None:
            record = replace(line.record, epoch=identity.epoch)
            is_saved = line.state == "saved"
            if is_saved and line.record.epoch != identity.epoch:
                # Cleared: saved files may have been removed since, and are then saved again.
                is_saved = self.is_there(line)
            has_ended = is_saved or record.phase == "failed"
            self._keep(
                replace(line, record=record)
                if has_ended
                else replace(line, record=record, state="waiting", manifest=None, error=None)
            )
        return False

    def _announce(self, chunk: Sequence[BatchItem]) -> None:
        """Record the keys of these items before any of them is submitted."""
        for item in chunk:
            self._keep(replace(self.lines[item.ledger_key], state="waiting"))
        announced = dict(self.lines)
        for item in chunk:
            line, identity = self.lines[item.ledger_key], self.identity_of(item)
            decision = self._decisions[item.ledger_key]
            record = self._announced[item.ledger_key] = record_before_post(
                decision.identity,
                decision.key,
                epoch=identity.epoch,
                hook=self.hook,
                earlier=line.record,
                sealed=sealed_item(item.request, self.hook),
                most=most_of(item.request),
            )
            announced[item.ledger_key] = replace(line, record=record)
        try:
            self._write(announced)
        except (DestinationError, SupersededTryError):
            for item in chunk:
                self._put_back(item)
            raise

    def _write(self, lines: Lines) -> None:
        """Write the ledger: nothing may be submitted that it does not hold.

        :raises SupersededTryError: when a later try has written it.
        :raises DestinationError: when the storage refuses; names the generations that the ledger lacks.
        """
        try:
            _outlasting_storage()(self.ledger.write, lines.values())
        except DestinationError as error:
            self._name_what_is_not_written(error)
            raise
        self._on_record = self._accepted

    def _require_latest_try(self) -> None:
        """Stop before a POST if this process was frozen and a later try has taken over.

        :raises SupersededTryError: when a later try has written the ledger.
        :raises DestinationError: when the ledger cannot be read.
        """
        try:
            _outlasting_storage()(self.ledger.require_latest_try_after_pause)
        except DestinationError as error:
            self._name_what_is_not_written(error)
            raise

    @property
    def _accepted(self) -> frozenset[str]:
        """The generations of all items so far."""
        return frozenset(line.evolink_task_id for line in self.lines.values() if line.evolink_task_id)

    def _name_what_is_not_written(self, error: DestinationError) -> None:
        lacking = sorted(self._accepted - self._on_record)
        in_doubt = any(line.outcome_unknown for line in self.lines.values())
        paid = bool(self._accepted) or in_doubt
        if in_doubt and not self._accepted:
            on_retry = "This try submitted nothing, but an earlier one may have been accepted; a retry " + (
                "submits it again under the same key, which costs nothing."
                if self._trusted
                else "tries again."
            )
        elif not paid:
            on_retry = "Nothing was submitted, as the batch manifest comes first; a retry tries again."
        elif self._trusted:
            on_retry = (
                "Nothing more was submitted. A retry goes on with the generations that the batch manifest names, and "
                "submits the others again under the same keys, which costs nothing."
            )
        else:
            on_retry = (
                "Nothing more was submitted, as the connection says that EvoLink ignores keys. A retry resumes the "
                "generations that the batch manifest names."
            )
        if lacking:
            named = lacking if not self._trusted else lacking[:_NAMED_IDS]
            more = "" if len(named) == len(lacking) else f" and {len(lacking) - len(named)} more"
            collect = "" if self._trusted else ": collect them with EvoImageSaveOperator"
            on_retry += f" It does not name these{collect}: {', '.join(named)}{more}."
        error.restate(billed=None if paid else False, on_retry=on_retry)

    def _submit_chunk(self, chunk: Sequence[BatchItem]) -> None:
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="evoimage-submit") as pool:
            futures = [
                # Each in its own copy of the context, so that log lines find their task.
                pool.submit(contextvars.copy_context().run, self._submit_one, item)
                for item in chunk
            ]
            try:
                wait(futures)
            except BaseException:
                # For instance Airflow's execution_timeout: start no further submission.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        failures = [error for future in futures if (error := future.exception()) is not None]
        if failures:
            raise failures[0]

    def _submit_one(self, item: BatchItem) -> None:
        if self._stopped_by is not None:
            self._put_back(item)
            return
        identity = self.identity_of(item)

        def check_limit(_: ImageRequest) -> None:
            _hold_before(self.budget, self.lines[item.ledger_key], submission.spent_before)
            self._hold(item)

        submission = Submission(
            hook=self.hook,
            identity=identity,
            keeper=RecordKeeper(LedgerRecords(self.lines, item.ledger_key), self.log),
            log=self.log,
            submit_timeout=self.submit_timeout,
            before_submit=check_limit,
            before_post=self._require_latest_try,
            uploads=self.uploads_of(item),
        )
        try:
            generation = submission.carry_out(
                self._decisions[item.ledger_key],
                item.request,
                earlier=self.lines[item.ledger_key].record,
                announced=self._announced[item.ledger_key],
            )
        except (DestinationError, SupersededTryError):
            # Of the check before the POST, so this item was not submitted.
            self._put_back(item)
            raise
        except EvoImageError as error:
            self._failed(item, error)
        else:
            self.budget.accepted(name_in_budget(item.ledger_key), generation.usage.credits_reserved)

    def _hold(self, item: BatchItem) -> None:
        self.budget.hold(name_in_budget(item.ledger_key), item.request)

    def _failed(self, item: BatchItem, error: EvoImageError) -> None:
        if error.billed is False:
            self.budget.release(name_in_budget(item.ledger_key))
        if _stops_all(error):
            self._stopped_by = self._stopped_by or error
            if error.billed is False:
                self._put_back(item)
                return
        line = self.lines[item.ledger_key]
        self.log.warning("Item %d could not be submitted: %s", line.item, error)
        self._keep(replace(line, state="failed", error=ItemError.of(error)))

    def _put_back(self, item: BatchItem) -> None:
        self._keep(replace(self.lines[item.ledger_key], state="queued"))

    def _keep(self, line: LedgerLine) -> None:
        self.lines[line.key] = line


def _outlasting_storage() -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DestinationError),
        stop=tenacity.stop_after_attempt(LEDGER_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=1, max=30),
        reraise=True,
    )


def _stops_all(error: EvoImageError) -> bool:
    """Whether every other item would meet this error."""
    if isinstance(error, OutcomeUnknownError):
        # The client already waited for a proxy that is down.
        return error.http_status == HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, AccessDeniedError):
        return error.code in _KEY_IS_BARRED
    if isinstance(error, _OF_THE_ACCOUNT):
        return True
    return isinstance(error, _STOPPING) and error.billed is False


def hold_earlier(budget: Budget, lines: Iterable[LedgerLine]) -> None:
    """Hold in a budget what earlier tries have spent, or may have spent."""
    for line in lines:
        name = name_in_budget(line.key)
        record = line.record
        if record is not None and line.state in {"queued", "left out"} and not line.outcome_unknown:
            # Its generation is over, and another one is to follow.
            _hold_before(budget, line, record.spent_before_key(""))
            continue
        _hold_before(budget, line, 0.0 if record is None else record.spent_before)
        if line.charged is not None:
            budget.settle(name, line.charged)
        elif record is not None:
            # Refused and failed ones have no record, or a charge of 0.
            budget.accepted(name, line.most_credits)


def _hold_before(budget: Budget, line: LedgerLine, spent: float) -> None:
    """Count what generations cost that this line does not name: earlier ones, and of rows that are gone."""
    budget.settle(f"before {name_in_budget(line.key)}", spent + line.spent_on_gone)


def spent_before(line: LedgerLine) -> float:
    """Return what generations cost that this line does not name."""
    return line.spent_on_gone + (0.0 if line.record is None else line.record.spent_before)


def spent_by(line: LedgerLine) -> float:
    """Return what a line has cost in all, or may have cost; a delivery ends the count."""
    record = line.record
    if record is None or record.phase == "delivered":
        return line.spent_on_gone
    if line.charged is None and line.state not in {"queued", "left out"}:
        return line.spent_on_gone + record.spent_before + float(line.most_credits)
    if line.charged is None:
        return line.spent_on_gone + record.spent_before_key("")
    return line.spent_on_gone + record.spent_before + max(line.charged, 0.0)


def progress_in_words(lines: Iterable[LedgerLine]) -> str:
    """Describe in one line how far a batch is and what it has cost."""
    states: Counter[str] = Counter()
    charged = 0.0
    for line in lines:
        is_known = line.state != "waiting" or line.evolink_task_id is not None
        state = "reused" if line.is_reused else line.state
        states[state if is_known else "queued"] += 1
        charged += line.charged or 0.0
    order = ("saved", "reused", "failed", "waiting", "queued", "left out")
    counts = ", ".join(f"{states[state]:,} {state}" for state in order if states[state])
    return f"{counts}; {charged:,.2f} credits charged so far"


def name_in_budget(key: LedgerKey) -> str:
    """Return an item's name in a budget."""
    return f"{key[0]} {key[1]}"


class LedgerRecords:
    """The record of one item, in its line of the batch manifest; a ``RecordStore``."""

    def __init__(self, lines: Lines, key: LedgerKey) -> None:
        self._lines = lines
        self._key = key

    def read(self) -> SubmissionRecord | None:
        """Return the record of the line."""
        return self._lines[self._key].record

    def keep(self, record: SubmissionRecord | None) -> None:
        """Put the record into the line; the ledger is written with the next chunk."""
        self._lines[self._key] = replace(self._lines[self._key], record=record)
