"""One leg of a batch on a worker: reads the ledger, submits, collects and sums up."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.arguments import alt_text_of
from airflow_provider_evoimage.batch.collection import BatchCollection
from airflow_provider_evoimage.batch.items import BatchItem, LedgerKey, build_items, require_partitions
from airflow_provider_evoimage.batch.ledger import BatchLedger, ItemError, LedgerLine
from airflow_provider_evoimage.batch.references import BatchReferences
from airflow_provider_evoimage.batch.reuse import BatchReuse
from airflow_provider_evoimage.batch.source import read_requests
from airflow_provider_evoimage.batch.submission import (
    BatchSubmission,
    Lines,
    hold_earlier,
    progress_in_words,
    spent_before,
    spent_by,
)
from airflow_provider_evoimage.batch.summary import (
    counted,
    missing_in_words,
    ranges_in_words,
    summary_of,
)
from airflow_provider_evoimage.defaults import (
    BATCH_PARALLEL_DOWNLOADS,
    DEFAULT_FALLBACK_AFTER,
    MANY_GENERATIONS,
    OnClear,
    Provenance,
)
from airflow_provider_evoimage.evolink.pricing import estimate_with_prompt
from airflow_provider_evoimage.exceptions import (
    BatchFailedError,
    BatchIncompleteError,
    BudgetExceededError,
    DestinationError,
    EvoImageError,
    GenerationTimeoutError,
    InvalidRequestError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.images_xcom import described
from airflow_provider_evoimage.lineage import NewImages
from airflow_provider_evoimage.manifest import made_by
from airflow_provider_evoimage.references.task import TaskReferences
from airflow_provider_evoimage.shapes import BatchSummary
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames, folded, task_fields
from airflow_provider_evoimage.storage.saver import ImageSaver
from airflow_provider_evoimage.submission.budget import (
    Budget,
    credit_limit,
    more_than_expected,
    most_credits,
    price_unknown,
    require_balance,
)
from airflow_provider_evoimage.submission.fallback import Patience, other_models
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.mapped_item import (
    is_given_by_upstream,
    refuse_rendered_data,
    require_names_by_item,
)
from airflow_provider_evoimage.submission.month_budget import MonthBudget
from airflow_provider_evoimage.waiting.polling import Ending

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_IDS_A_LINE = 50
#: More do not fit into the XCom that describes the batch.
_SHOWN_MANIFESTS = 12
_IDS_IN_ERROR = 10
LEDGER_NAME = "{dag_id}/{run_id}/{task_id}{map_suffix}.batch.{ext}"


@dataclass(frozen=True, kw_only=True)
class BatchArguments:
    """The operator's arguments; see :class:`EvoImageBatchOperator`.

    :param defaults: fields of requests that have none of their own.
    :param retries: of the Airflow task, to tell whether it was cleared.
    """

    requests: Any
    defaults: Mapping[str, Any]
    save_to: str
    filename_template: str
    provenance: Provenance
    alt_text: str | None
    reuse: bool | timedelta | None
    variant: str | int | None
    retries: int
    max_credits: float | str | None
    has_limit: bool
    check_credits: bool
    cleanup_references: bool
    accepts_failures: bool
    parallel: int
    max_active_generations: int | None
    submit_timeout: float
    on_clear: OnClear
    fallback_models: Any = None
    fallback_after: float = DEFAULT_FALLBACK_AFTER
    labels: Mapping[str, str] | None = None
    partition_by: str | None = None


class BatchRun:
    """One leg of a batch task. Call :meth:`submit` or :meth:`resume` first, then the rest.

    :param has_submitted: whether an earlier leg or try may have submitted something.
    """

    def __init__(
        self,
        context: Mapping[str, Any],
        *,
        hook: EvoImageHook,
        arguments: BatchArguments,
        has_submitted: bool,
        log: Logger,
    ) -> None:
        self._context = context
        self._ti = context["ti"]
        self._hook = hook
        self._arguments = arguments
        self._log = log
        self._made_by = made_by(context)
        self._names = FileNames(arguments.filename_template)
        destination = self._destination = Destination(arguments.save_to, is_unpaid=not has_submitted)
        name = FileNames(LEDGER_NAME).name({**task_fields(self._made_by), "ext": "jsonl"})
        self._ledger = BatchLedger(destination, name, try_number=self._ti.try_number, try_id=str(self._ti.id))
        self._lines: Lines = {}
        is_given = arguments.has_limit or (
            arguments.max_credits is None and is_given_by_upstream(context, "max_credits")
        )
        self._budget = Budget(credit_limit(arguments.max_credits, is_given=is_given))
        self._references = BatchReferences(
            TaskReferences(
                hook=hook,
                # Without the task state store: it has room for the record of one request, not of many.
                context={"ti": self._ti},
                cleanup=arguments.cleanup_references,
                log=log,
            ),
            fallback_models=arguments.fallback_models,
        )
        self._patience = Patience(arguments.fallback_after)
        saver = ImageSaver(
            hook=hook,
            destination=destination,
            names=self._names,
            # A re-run of the same DAG run replaces its files; another run has other names.
            if_exists="overwrite",
            provenance=arguments.provenance,
            alt_text=alt_text_of(arguments.alt_text),
            made_by=self._made_by,
            log=log,
            parallel=BATCH_PARALLEL_DOWNLOADS,
            may_follow_a_kill=self._ti.try_number > 1,
            before_file=self._ledger.require_latest_try_after_pause,
            logs_each_image=False,
        )
        self._reuse = BatchReuse(
            reuse=arguments.reuse,
            destination=destination,
            names=self._names,
            provenance=arguments.provenance,
            alt_text=alt_text_of(arguments.alt_text),
            made_by=self._made_by,
            epoch=self._ti.max_tries or 0,
            is_cleared=self._ti.max_tries != arguments.retries,
            on_clear=arguments.on_clear,
            log=log,
        )
        self._collection = BatchCollection(
            hook=hook,
            ledger=self._ledger,
            lines=self._lines,
            saver=saver,
            budget=self._budget,
            log=log,
            has_other_model=self._has_other_model,
        )

    @property
    def waiting(self) -> list[str]:
        """The generations to wait for, in the order of their items."""
        return [
            line.evolink_task_id
            for line in self._lines.values()
            if line.is_under_way and line.evolink_task_id is not None
        ]

    @property
    def queued(self) -> int:
        """How many items wait to be submitted."""
        return sum(line.state == "queued" for line in self._lines.values())

    @property
    def progress(self) -> dict[str, Any]:
        """How far it is, for the XCom ``evoimage_images``: counts, charge, the first images, the manifest's URL."""
        lines = list(self._lines.values())
        states = Counter(line.state for line in lines)
        manifests = [line.manifest for line in lines if line.manifest is not None]
        charges = [line.charged for line in lines if line.charged is not None]
        first = described(manifests[:_SHOWN_MANIFESTS])
        first["images"] = first["saved"] = sum(len(each.get("images") or ()) for each in manifests)
        if not manifests and lines:
            request = lines[0].requested.request or {}
            first |= {name: request.get(name) for name in ("model", "prompt", "size", "quality")}
        return {
            **first,
            "credits": round(sum(charges), 6) if charges else None,
            "items": len(lines),
            "items_saved": states["saved"],
            "items_reused": sum(line.is_reused for line in lines),
            "items_failed": states["failed"],
            "items_waiting": states["waiting"],
            "items_queued": states["queued"],
            "items_left_out": states["left out"],
            "manifest": self._ledger.url,
        }

    def submit(self) -> None:
        """Read and check the requests and the ledger; submit every item that has no generation.

        Items without room stay queued, for :meth:`submit_queued`.

        :raises EvoImageError: when a request, the storage or a limit is invalid; nothing was submitted then.
        """
        with self._naming_what_is_paid(has_submitted=self._ti.try_number > 1):
            items = self._checked_items()
        if items is not None:
            self._submission().ensure(
                items, before_first=self._check_balance if self._arguments.check_credits else None
            )

    def _checked_items(self) -> list[BatchItem] | None:
        """Read the list and the ledger; return the items without saved images of an earlier run.

        :returns: None if the list is unreadable and earlier submissions are resumed.
        """
        refuse_rendered_data(self._context)
        try:
            items = self._items()
        except EvoImageError as error:
            if not self._goes_on_without_list(error):
                raise
            return None
        lines = _lines(items, self._ledger.read(), self._log)
        self._check_names(items, lines)
        items = self._reuse.apply(items, lines, ledger_is_whole=self._ledger.is_whole)
        limit = self._budget.limit
        estimates = [[estimate_with_prompt(each) for each in item.requests] for item in items]
        unpriced = [item for item, found in zip(items, estimates, strict=True) if None in found]
        if unpriced and limit is not None:
            unknown = next(each for each in unpriced[0].requests if estimate_with_prompt(each) is None)
            raise price_unknown(unknown, limit)
        self._lines.update(lines)
        if self._ti.try_number > 1:
            self._ledger.remove_parts(self._log)
        most = sum(
            max((each.credits_high for each in found if each is not None), default=Decimal(0))
            for found in estimates
        )
        self._log.info(
            "A batch of %s for %s, at most %s credits%s%s; its manifest is %s.",
            counted(len(items), "request"),
            counted(sum(item.request.image_count for item in items), "image"),
            f"{most:,.2f}",
            f" and what {counted(len(unpriced), 'request')} without a known price may cost"
            if unpriced
            else "",
            "" if limit is None else f" (max_credits is {limit:f})",
            self._ledger.url,
        )
        for note in sorted({item.size_note for item in items if item.size_note}):
            self._log.info("%s.", note)
        for warning in sorted(
            {warning for item in items for each in item.requests for warning in each.warnings}
        ):
            self._log.warning("%s", warning)
        return items

    def _goes_on_without_list(self, error: EvoImageError) -> bool:
        """Resume earlier submissions although the requests cannot be read any more; return whether there are any."""
        lines = self._ledger.read()
        if not any(line.outcome_unknown or _may_go_on(line) for line in lines.values()):
            return False
        self._log.warning(
            "The requests cannot be read, so nothing is submitted; resuming what was paid for: %s",
            error.message,
        )
        for key, line in lines.items():
            if _may_go_on(line):
                self._lines[key] = replace(line, error=None)
            elif line.outcome_unknown and line.state == "waiting":
                self._lines[key] = replace(line, error=ItemError.of(error))
            else:
                self._lines[key] = line
        self._leave_out_queued(error)
        hold_earlier(self._budget, self._lines.values())
        return True

    def submit_queued(self) -> None:
        """Submit queued items, as far as there is room now.

        Requests that cannot be read any more are left out; generations under way are still waited for.
        """
        if not self.queued:
            return
        try:
            items = {item.ledger_key: item for item in self._items()}
        except EvoImageError as error:
            self._log.warning("The queued requests cannot be submitted: %s", error.message)
            self._leave_out_queued(error)
            return
        keys = [key for key, line in self._lines.items() if line.state == "queued"]
        gone = [self._lines.pop(key) for key in keys if key not in items]
        if gone:
            numbers = ranges_in_words([line.item for line in gone])
            self._log.warning("No longer in the list, and not submitted: items %s.", numbers)
            _count_gone(self._lines, gone)
        # Each keeps its place and name, as only these were checked for colliding file names.
        self._submission().ensure([items[key] for key in keys if key in items])

    def _items(self) -> list[BatchItem]:
        return build_items(
            read_requests(self._arguments.requests),
            self._arguments.defaults,
            self._references.read,
            variant=self._arguments.variant,
            is_indexed=self._arguments.reuse is not None,
            fallback_models=self._arguments.fallback_models,
            labels=self._arguments.labels,
        )

    def _has_other_model(self, line: LedgerLine) -> bool:
        tried = () if line.record is None else line.record.tried
        first = tried[0].model if tried else str((line.requested.request or {}).get("model"))
        return len(tried) < len(other_models(self._arguments.fallback_models, first))

    def _submission(self) -> BatchSubmission:
        return BatchSubmission(
            hook=self._hook,
            ledger=self._ledger,
            lines=self._lines,
            identity_of=self._identity_of,
            uploads_of=self._references.uploads_of,
            is_there=self._is_there,
            on_clear=self._arguments.on_clear,
            submit_timeout=self._arguments.submit_timeout,
            budget=self._budget,
            log=self._log,
            parallel=self._arguments.parallel,
            max_active=self._arguments.max_active_generations,
            month=MonthBudget.of(self._hook, self._log),
            patience=self._patience,
        )

    def resume(self) -> None:
        """Read from the ledger how far the leg before came; the list of requests is not needed.

        If the ledger is incomplete, everything is submitted once more; under the same keys that costs
        nothing.
        """
        with self._naming_what_is_paid(has_submitted=True):
            lines = self._ledger.read()
        if not lines or any(_is_left_open(line) for line in lines.values()):
            self._log.warning(
                "The batch manifest %s lacks what this task submitted: submitting again.", self._ledger.url
            )
            self.submit()
            return
        self._lines.update(lines)
        hold_earlier(self._budget, self._lines.values())

    def collect(self, endings: Mapping[str, Ending], reason: str = "") -> None:
        """Save what has ended.

        :param reason: why generations count as lost.
        """
        with self._naming_what_is_paid(has_submitted=True):
            self._collection.collect(endings, reason)

    def finish(self, context: Mapping[str, Any], outlets: Sequence[object]) -> tuple[BatchSummary, NewImages]:
        """Sum up and announce the images.

        :returns: the summary, and the images for lineage.
        :raises BatchIncompleteError: when another try may complete the batch.
        :raises BatchFailedError: when no try can, and failures are not accepted.
        :raises DestinationError: when the batch manifest cannot be written.
        """
        self._leave_out_queued(
            GenerationTimeoutError("The wait for the batch ended before this item was submitted.")
        )
        missing = [line for line in self._lines.values() if line.state != "saved"]
        self._log.info("%s: %s.", counted(len(self._lines), "item"), progress_in_words(self._lines.values()))
        warning = self._warning
        if warning:
            self._log.warning("%s", warning)
        self._warn_of_shared_ids()
        if not any(line.state == "waiting" or line.outcome_unknown for line in missing):
            self._references.remove()
        with self._naming_what_is_paid(has_submitted=True):
            self._ledger.write(self._lines.values())
        self._reuse.note(list(self._lines.values()))
        if missing:
            self._judge(missing)
        made = NewImages(
            manifests=[
                {**line.manifest, "name": line.name} if line.name else line.manifest
                for line in self._lines.values()
                if line.manifest is not None
            ],
            save_to=self._arguments.save_to,
            by_name=self._arguments.partition_by is not None,
            batch_manifest=self._ledger.url,
        )
        made.announce(context, outlets, self._log)
        lines = list(self._lines.values())
        return summary_of(lines, self._ledger.url, self._made_by, warning=warning or None), made

    def _warn_of_shared_ids(self) -> None:
        """Say where EvoLink gave several items one id: their images are then the same files' content."""
        items: dict[str, list[int]] = {}
        for line in self._lines.values():
            if line.evolink_task_id is not None:
                items.setdefault(line.evolink_task_id, []).append(line.item)
        for evolink_task_id, sharing in items.items():
            if len(sharing) > 1:
                self._log.warning(
                    "EvoLink gave items %s one and the same task, %s: each has the images of the same request.",
                    ranges_in_words(sharing),
                    evolink_task_id,
                )

    @property
    def _warning(self) -> str:
        """Say where EvoLink charged more than the limit or the estimate; empty where it did neither."""
        lines = list(self._lines.values())
        found = [(line, line.charged) for line in lines if line.charged is not None and not line.is_reused]
        charged = sum((Decimal(str(charge)) for _, charge in found), Decimal(0))
        before = sum((Decimal(str(spent_before(line))) for line in lines), Decimal(0))
        estimates = [(line.requested.estimate or {}).get("credits_high") for line, _ in found]
        estimate = None if None in estimates else sum((Decimal(str(each)) for each in estimates), Decimal(0))
        return more_than_expected(charged, limit=self._budget.limit, estimate=estimate, before=before)

    @contextmanager
    def _naming_what_is_paid(self, *, has_submitted: bool) -> Iterator[None]:
        """Let an error that ends this try say what earlier legs and tries submitted.

        :param has_submitted: whether there may be any, where the ledger cannot be read.
        """
        try:
            yield
        except EvoImageError as error:
            if isinstance(error, DestinationError) or error.billed is False:
                _name_what_is_paid(error, self._known_lines(), has_submitted=has_submitted)
            raise

    def _known_lines(self) -> Sequence[LedgerLine] | None:
        try:
            return list((self._lines or self._ledger.read()).values())
        except EvoImageError:
            return None

    def _leave_out_queued(self, because: EvoImageError) -> None:
        for key, line in self._lines.items():
            if line.state == "queued":
                self._lines[key] = replace(line, state="left out", error=ItemError.of(because))

    def _judge(self, missing: Sequence[LedgerLine]) -> None:
        """Raise the error for the missing items, unless they are accepted."""
        words = missing_in_words(missing, len(self._lines), self._ledger.url)
        # Paid for, or possibly paid for, and not saved: no setting accepts that.
        is_unfinished = any(line.state == "waiting" or line.outcome_unknown for line in missing)
        may_succeed = any(line.error is None or line.error.retryable for line in missing)
        # Nor does any accept that the account was refused or empty half-way; only the user's own limit counts
        # as accepted.
        was_stopped = any(
            line.state == "left out" and line.error and line.error.code != BudgetExceededError.__name__
            for line in missing
        )
        is_accepted = (
            self._arguments.accepts_failures
            and not is_unfinished
            and not was_stopped
            and len(missing) < len(self._lines)
        )
        has_tries_left = self._ti.try_number <= (self._ti.max_tries or 0)
        if may_succeed and (has_tries_left or not is_accepted):
            raise BatchIncompleteError(words)
        if not is_accepted:
            raise BatchFailedError(words)
        self._log.warning("%s", words)

    def mark_delivered(self) -> None:
        """Record that a complete batch was delivered, once Airflow has the result of the task.

        From then on a clear submits all requests again. Not before: when a task that Airflow counts as failed is
        cleared, it resumes what was paid.
        """
        if any(line.state != "saved" for line in self._lines.values()):
            return
        for key, line in self._lines.items():
            if line.is_reused:
                self._lines[key] = replace(line, was_reused_to_the_end=True, spent_on_gone=0.0)
            if line.record is not None:
                record = replace(line.record, phase="delivered", spent_before=0.0)
                self._lines[key] = replace(line, record=record, spent_on_gone=0.0)
        self._ledger.write_if_possible(self._lines.values(), self._log)

    def _identity_of(self, item: BatchItem) -> RequestIdentity:
        return RequestIdentity(
            namespace=self._hook.settings.idempotency_namespace,
            dag_id=self._ti.dag_id,
            run_id=self._ti.run_id,
            task_id=self._ti.task_id,
            # A batch is identified by its place, as its items may change.
            item=f"batch {self._made_by['map_index']}",
            epoch=self._ti.max_tries or 0,
            fingerprint=item.fingerprint,
            occurrence=item.occurrence,
        )

    def _check_balance(self, to_submit: Sequence[BatchItem]) -> None:
        needed = most_credits([item.request for item in to_submit])
        require_balance(self._hook.get_credits(), needed)

    def _is_there(self, line: LedgerLine) -> bool:
        images = line.manifest.get("images") if line.manifest else None
        paths = [image.get("path") for image in images or () if isinstance(image, Mapping)]
        return bool(paths) and all(isinstance(path, str) and self._destination.holds(path) for path in paths)

    def _check_names(self, items: Sequence[BatchItem], lines: Mapping[LedgerKey, LedgerLine]) -> None:
        """Find two images with the same name before anything is paid; saved images keep their names."""
        names = self._names
        if self._arguments.partition_by is not None:
            require_partitions(items)
        require_names_by_item(
            self._context,
            template=names.template,
            tells_tasks_apart=names.tells_tasks_apart
            or ("name" in names.fields and any(item.name for item in items))
            # Other items may ask other models.
            or "model" in names.fields,
            default=MANY_GENERATIONS,
        )
        taken: dict[str, BatchItem] = {}
        for item in items:
            line = lines[item.ledger_key]
            planned = [
                name
                for request in item.requests
                for name in names.planned(
                    self._made_by,
                    item=line.item,
                    own_name=line.name or str(line.item),
                    model=request.model,
                    images=request.image_count,
                    of=f"request {item.position}",
                )
            ]
            for name in planned:
                self._destination.check_length(name, is_paid=False)
                other = taken.setdefault(folded(name), item)
                if other is not item:
                    raise InvalidRequestError(
                        f"filename_template {names.template!r} gives requests {other.position} and {item.position} the "
                        f"same name, {name.removesuffix('json')}…: add {{item}} to it, or give them other names."
                    )


def _name_what_is_paid(
    error: EvoImageError, lines: Sequence[LedgerLine] | None, *, has_submitted: bool
) -> None:
    """Make an error say what is paid for.

    :param lines: of the batch; None where the ledger cannot be read.
    """
    if lines is None and has_submitted:
        ids, in_doubt = "The batch manifest names the generations that were submitted before.", False
    else:
        accepted = [
            line for line in lines or () if line.evolink_task_id and line.state in {"waiting", "saved"}
        ]
        in_doubt = any(line.outcome_unknown for line in lines or ())
        if not accepted and not in_doubt:
            if isinstance(error, DestinationError):
                error.restate(billed=False, on_retry="Nothing was submitted; a retry tries again.")
            return
        # First those whose images are not saved.
        accepted.sort(key=lambda line: line.state == "saved")
        named = ", ".join(str(line.evolink_task_id) for line in accepted[:_IDS_IN_ERROR])
        more = len(accepted) - _IDS_IN_ERROR
        ids = f"Submitted before: {counted(len(accepted), 'generation')}" + (f", {named}" if named else "")
        ids += f" and {more:,} more." if more > 0 else "."
    if in_doubt:
        ids += " No response arrived to some other requests, so they may be paid for too."
    on_retry = (
        "A retry resumes them and pays nothing twice."
        if error.retryable
        else "No retry follows: correct it and clear the task within 24 hours, which resumes them."
    )
    is_charged = any(line.charged for line in lines or ())
    error.restate(billed=True if is_charged else None, on_retry=f"{ids} {on_retry}")


def _is_left_open(line: LedgerLine) -> bool:
    """Whether the item was not submitted, or its answer is missing; never the case once everything was submitted."""
    return line.state == "waiting" and line.evolink_task_id is None and line.error is None


def _may_go_on(line: LedgerLine) -> bool:
    """Whether an earlier try left a paid generation unfinished or unsaved."""
    return line.state == "waiting" and line.evolink_task_id is not None


def _lines(
    items: Sequence[BatchItem], found: Mapping[LedgerKey, LedgerLine], log: Logger
) -> dict[LedgerKey, LedgerLine]:
    """Give each item its line of an earlier try, whatever its place was."""
    taken = {found[item.ledger_key].item for item in items if item.ledger_key in found}
    free = itertools.count(max([len(items), *(number + 1 for number in taken)]))
    lines = {}
    for item in items:
        earlier = found.get(item.ledger_key)
        if earlier is None:
            number = next(free) if item.position in taken else item.position
            lines[item.ledger_key] = LedgerLine.new(item, number)
        else:
            lines[item.ledger_key] = earlier.at(item)
    gone = [
        line.evolink_task_id
        for key, line in found.items()
        if key not in lines and line.state == "waiting" and line.evolink_task_id
    ]
    if gone:
        log.warning(
            "%d generations of an earlier try are of requests that are no longer in the list. They are paid for: "
            "collect them with EvoImageSaveOperator within 24 hours.",
            len(gone),
        )
    _count_gone(lines, [line for key, line in found.items() if key not in lines])
    in_doubt = sum(line.outcome_unknown for key, line in found.items() if key not in lines)
    if in_doubt:
        log.warning(
            "%d requests that an earlier try sent are no longer in the list, and no response to them arrived. They may "
            "be paid for: look in EvoLink's list of tasks, and collect them with EvoImageSaveOperator within 24 hours.",
            in_doubt,
        )
    # The new manifest does not name them.
    for start in range(0, len(gone), _IDS_A_LINE):
        log.warning("No longer in the list: %s.", ", ".join(gone[start : start + _IDS_A_LINE]))
    return lines


def _count_gone(lines: Lines, gone: Sequence[LedgerLine]) -> None:
    """Keep in the first line what requests have cost that are no longer in the list, as the limit counts it."""
    spent = sum(spent_by(line) for line in gone)
    if spent and lines:
        first = min(lines.values(), key=lambda line: line.position)
        lines[first.key] = replace(first, spent_on_gone=first.spent_on_gone + spent)
