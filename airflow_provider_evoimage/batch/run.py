"""One leg of a batch on a worker: what is known, what is submitted, what is collected, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.batch.collection import BatchCollection
from airflow_provider_evoimage.batch.items import BatchItem, build_items
from airflow_provider_evoimage.batch.ledger import BatchLedger, LedgerLine
from airflow_provider_evoimage.batch.source import read_requests
from airflow_provider_evoimage.batch.submission import (
    BatchSubmission,
    Lines,
    hold_earlier,
    progress_in_words,
)
from airflow_provider_evoimage.defaults import OnClear
from airflow_provider_evoimage.evolink.pricing import estimate_with_prompt
from airflow_provider_evoimage.exceptions import BatchFailedError, BatchIncompleteError, InvalidRequestError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.manifest import made_by
from airflow_provider_evoimage.storage.destination import Destination, FileNames
from airflow_provider_evoimage.storage.saver import ImageSaver, task_fields
from airflow_provider_evoimage.submission.budget import Budget, credit_limit, price_unknown, require_balance
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.waiting.polling import Ending

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

LEDGER_NAME = "{dag_id}/{run_id}/{task_id}{map_suffix}.batch.{ext}"
SUMMARY_VERSION = 1

_SHOWN_FAILURES = 20
_SHOWN_CHARACTERS = 200


@dataclass(kw_only=True)
class BatchRun:
    """A batch as one leg of its task sees it; made by :meth:`begin`."""

    hook: EvoImageHook
    items: Sequence[BatchItem]
    lines: Lines
    ledger: BatchLedger
    submission: BatchSubmission
    collection: BatchCollection
    budget: Budget
    made_by: Mapping[str, Any]
    check_credits: bool
    accepts_failures: bool
    has_tries_left: bool
    log: Logger
    estimated_time: float | None = None

    @classmethod
    def begin(
        cls,
        context: Mapping[str, Any],
        *,
        hook: EvoImageHook,
        requests: object,
        defaults: Mapping[str, Any],
        save_to: str,
        filename_template: str,
        max_credits: float | str | None,
        check_credits: bool,
        accepts_failures: bool,
        parallel: int,
        submit_timeout: float,
        on_clear: OnClear,
        log: Logger,
    ) -> BatchRun:
        """Read and check the requests and what earlier tries left; nothing has been paid by then.

        :raises EvoImageError: when anything about them, the destination or the limit cannot work.
        """
        ti, maker = context["ti"], made_by(context)
        items = build_items(read_requests(requests), defaults)
        names = FileNames(filename_template)
        _check_names(names, items, maker)
        limit = credit_limit(max_credits)
        if limit is not None:
            _check_prices(items, limit)
        destination = Destination(save_to)
        ledger = BatchLedger(destination, FileNames(LEDGER_NAME).name({**task_fields(maker), "ext": "jsonl"}))
        lines = _lines(items, ledger.read(), log)
        budget = Budget(limit)
        hold_earlier(budget, items, lines)

        def identity_of(item: BatchItem) -> RequestIdentity:
            return RequestIdentity(
                namespace=hook.settings.idempotency_namespace,
                dag_id=ti.dag_id,
                run_id=ti.run_id,
                task_id=ti.task_id,
                # A batch is known by its place: its own items may come and go.
                item=f"batch {maker['map_index']}",
                epoch=ti.max_tries or 0,
                fingerprint=item.fingerprint,
                occurrence=item.occurrence,
            )

        submission = BatchSubmission(
            hook=hook,
            ledger=ledger,
            lines=lines,
            identity_of=identity_of,
            on_clear=on_clear,
            submit_timeout=submit_timeout,
            budget=budget,
            log=log,
            parallel=parallel,
        )
        saver = ImageSaver(
            hook=hook,
            destination=destination,
            names=names,
            # A re-run of the same DAG run replaces its files; another run has other names.
            if_exists="overwrite",
            made_by=maker,
            log=log,
        )
        return cls(
            hook=hook,
            items=items,
            lines=lines,
            ledger=ledger,
            submission=submission,
            collection=BatchCollection(submission=submission, saver=saver, items=items, log=log),
            budget=budget,
            made_by=maker,
            check_credits=check_credits,
            accepts_failures=accepts_failures,
            has_tries_left=ti.try_number <= (ti.max_tries or 0),
            log=log,
        )

    @property
    def waiting(self) -> list[str]:
        """The generations that are still to be waited for, in the order of their items."""
        lines = (self._line(item) for item in self.items)
        return [
            line.evolink_task_id
            for line in lines
            if line.state == "waiting" and line.evolink_task_id is not None and line.error is None
        ]

    def submit(self) -> None:
        """Ask for every item that has no generation yet."""
        self.log.info(
            "A batch of %d requests for %d images; its manifest is %s.",
            len(self.items),
            sum(item.request.asked for item in self.items),
            self.ledger.url,
        )
        for warning in sorted({warning for item in self.items for warning in item.request.warnings}):
            self.log.warning("%s", warning)
        self.submission.ensure(self.items, before_first=self._check_balance if self.check_credits else None)

    def collect(self, endings: Mapping[str, Ending]) -> None:
        """Save what has ended."""
        self.collection.collect(endings)

    def finish(self) -> dict[str, Any]:
        """Sum up, and mark a batch of which nothing is missing as delivered.

        :raises BatchIncompleteError: when another try may bring what is missing.
        :raises BatchFailedError: when none can, and that is not accepted.
        """
        missing = [line for item in self.items if (line := self._line(item)).state != "saved"]
        if not missing:
            self._mark_delivered()
        self.submission.write()
        self.log.info(
            "%s. The batch manifest: %s", progress_in_words(self.lines.values()).capitalize(), self.ledger.url
        )
        if missing:
            self._judge(missing)
        return self._summary(missing)

    def _judge(self, missing: Sequence[LedgerLine]) -> None:
        """Raise what the missing items amount to, unless they are accepted."""
        words = self._missing_in_words(missing)
        # Paid for and not saved: no setting accepts that.
        is_unfinished = any(line.state == "waiting" for line in missing)
        may_succeed = any(line.error is None or line.error.retryable for line in missing)
        is_accepted = self.accepts_failures and not is_unfinished and len(missing) < len(self.items)
        if may_succeed and (self.has_tries_left or not is_accepted):
            raise BatchIncompleteError(words)
        if not is_accepted:
            raise BatchFailedError(words)
        self.log.warning("%s", words)

    def _missing_in_words(self, missing: Sequence[LedgerLine]) -> str:
        first = missing[0]
        why = first.error.message if first.error else "still running"
        numbers = ranges_in_words([line.item for line in missing])
        return (
            f"{len(missing):,} of {len(self.items):,} items have no images (items {numbers}). The first: {why} "
            f"The others are saved; {self.ledger.url} says what became of each."
        )

    def _mark_delivered(self) -> None:
        for key, line in self.lines.items():
            if line.record is not None:
                self.lines[key] = replace(line, record=replace(line.record, phase="delivered"))

    def _summary(self, missing: Sequence[LedgerLine]) -> dict[str, Any]:
        manifests = [line.manifest for line in self.lines.values() if line.manifest is not None]
        estimates = [estimate_with_prompt(item.request) for item in self.items]
        return {
            "v": SUMMARY_VERSION,
            "manifest": self.ledger.url,
            "items": len(self.items),
            "saved": len(self.items) - len(missing),
            "failed": sum(line.state == "failed" for line in missing),
            "left_out": sum(line.state == "left out" for line in missing),
            "images": sum(len(manifest.get("images") or ()) for manifest in manifests),
            "credits": {
                "estimate": float(sum((each.credits_high for each in estimates if each), Decimal(0))),
                "charged": float(self.budget.charged),
            },
            "failures": [
                {
                    "item": line.item,
                    "name": line.name,
                    "evolink_task_id": line.evolink_task_id,
                    "code": line.error.code if line.error else None,
                    "message": line.error.message[:_SHOWN_CHARACTERS] if line.error else None,
                }
                for line in missing[:_SHOWN_FAILURES]
            ],
            "made_by": dict(self.made_by),
        }

    def _check_balance(self, to_submit: Sequence[BatchItem]) -> None:
        estimates = [estimate_with_prompt(item.request) for item in to_submit]
        unknown = sum(found is None for found in estimates)
        if unknown:
            self.log.warning(
                "No price is known for %d items; check_credits counts the other %d.",
                unknown,
                len(estimates) - unknown,
            )
        needed = sum((found.credits_high for found in estimates if found), Decimal(0))
        require_balance(self.hook.get_credits(), needed)

    def _line(self, item: BatchItem) -> LedgerLine:
        return self.lines[item.ledger_key]


def ranges_in_words(numbers: Sequence[int]) -> str:
    """Write numbers as ranges: ``3, 7-9``; long lists are cut."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [str(low) if low == high else f"{low}-{high}" for low, high in ranges[:_SHOWN_FAILURES]]
    return ", ".join(shown) + (", …" if len(ranges) > _SHOWN_FAILURES else "")


def _lines(items: Sequence[BatchItem], found: Mapping[tuple[str, int], LedgerLine], log: Logger) -> Lines:
    """Give each item the line of an earlier try, wherever it stood then."""
    lines = {
        item.ledger_key: found[item.ledger_key].at(item) if item.ledger_key in found else LedgerLine.new(item)
        for item in items
    }
    gone = [
        line.evolink_task_id
        for key, line in found.items()
        if key not in lines and line.state == "waiting" and line.evolink_task_id
    ]
    if gone:
        log.warning(
            "%d generations of an earlier try are of requests that are no longer in the list: %s. They are paid for: "
            "collect them with EvoImageSaveOperator within 24 hours.",
            len(gone),
            ", ".join(gone[:_SHOWN_FAILURES]),
        )
    return lines


def _check_names(names: FileNames, items: Sequence[BatchItem], maker: Mapping[str, Any]) -> None:
    """Find two images of one name before anything is paid."""
    taken: dict[str, BatchItem] = {}
    for item in items:
        fields = {
            **task_fields(maker),
            "item": item.number,
            "name": item.name or str(item.number),
            "evolink_task_id": f"task-{item.number}",
            "model": item.request.model,
            "ext": "ext",
        }
        for index in range(item.request.asked):
            name = names.name({**fields, "index": index}).casefold()
            other = taken.setdefault(name, item)
            if index and other is item and "index" not in names.fields:
                raise InvalidRequestError(
                    f"filename_template {names.template!r} gives the {item.request.asked} images of item "
                    f"{item.number} the same name: add {{index}} to it."
                )
            if other is not item:
                raise InvalidRequestError(
                    f"filename_template {names.template!r} gives items {other.number} and {item.number} the same "
                    f"name, {names.name({**fields, 'index': index})}: add {{item}} to it, or give them other names."
                )


def _check_prices(items: Sequence[BatchItem], limit: Decimal) -> None:
    for item in items:
        if estimate_with_prompt(item.request) is None:
            raise price_unknown(item.request, limit)
