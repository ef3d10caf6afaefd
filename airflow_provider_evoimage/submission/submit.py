"""Carries out what ``decision.decide`` says: asks EvoLink once, and keeps the record of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_evoimage.defaults import OnClear
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.errors import is_retryable_failure
from airflow_provider_evoimage.evolink.protocol import Submitted
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    EvoLinkApiError,
    EvoLinkUnreachableError,
    GenerationNotFoundError,
    IdempotencyConflictError,
    UnreadableAnswerError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.submission.decision import Refuse, Resume, Submit, decide
from airflow_provider_evoimage.submission.identity import RequestIdentity
from airflow_provider_evoimage.submission.mapped_item import mapped_item
from airflow_provider_evoimage.submission.record import (
    RecordKeeper,
    SubmissionRecord,
    record_before_post,
    unrepeatable,
)

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


_EARLIER_TRY_MAY_HAVE_PAID = (
    "This try sent nothing and no retry follows; an earlier try may have submitted the same request. Look in EvoLink's "
    "list of tasks: if the generation is there, collect it with EvoImageSaveOperator."
)


class Uploads(Protocol):
    """References that must be at EvoLink before a request that names them goes out."""

    def sendable(self, request: ImageRequest, key: str) -> ImageRequest:
        """Upload them, and put their URLs into the request that goes out under this key."""

    def as_sent_before(self, request: ImageRequest) -> list[ImageRequest]:
        """Return the request as earlier tries may have sent it with other URLs."""


class Submission:
    """One logical request of one task instance, from the first try to its delivery.

    :param is_retry: whether an earlier try since the last clear may have sent the request.
    :param may_be_cleared: whether a clear may have changed the key: then only the record knows what was paid.
    :param submit_timeout: seconds to wait in all while EvoLink certainly accepts nothing.
    :param before_submit: called when this try is about to ask EvoLink, not when it resumes; may refuse by raising.
    :param uploads: references that are uploaded first; None where there are none.
    """

    def __init__(
        self,
        *,
        hook: EvoImageHook,
        identity: RequestIdentity,
        keeper: RecordKeeper,
        log: Logger,
        on_clear: OnClear = "auto",
        is_retry: bool = False,
        may_be_cleared: bool = False,
        submit_timeout: float,
        before_submit: Callable[[], object] | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        self._hook = hook
        self._identity = identity
        self._keeper = keeper
        self._log = log
        self._on_clear = on_clear
        self._is_retry = is_retry
        self._may_be_cleared = may_be_cleared
        self._submit_timeout = submit_timeout
        self._before_submit = before_submit
        self._uploads = uploads
        self._record: SubmissionRecord | None = None

    @property
    def _trusted(self) -> bool:
        return self._hook.settings.account.trust_idempotency

    def ensure(self, request: ImageRequest) -> Generation:
        """Return the generation of this request: an earlier try's, or a new one.

        :raises UnrepeatableSubmissionError: when asking again could pay twice.
        :raises EvoImageError: when EvoLink did not accept the request.
        """
        earlier = self._keeper.read(
            required=self._may_be_cleared or not self._trusted, key_protects=self._trusted
        )
        if not self._keeper.has_store and self._is_retry and not self._trusted:
            raise unrepeatable(
                "this Airflow keeps no record of earlier tries, and EvoLink is said to ignore keys"
            )
        decision = decide(
            earlier,
            self._identity,
            on_clear=self._on_clear,
            trust_idempotency=self._trusted,
            now=time.time(),
        )
        if isinstance(decision, Refuse):
            raise unrepeatable(decision.because)
        if isinstance(decision, Resume):
            self._record = earlier
            return self._resume(decision)
        return self.carry_out(decision, request, earlier=earlier)

    def carry_out(
        self,
        decision: Submit,
        request: ImageRequest,
        *,
        earlier: SubmissionRecord | None,
        announced: SubmissionRecord | None = None,
    ) -> Generation:
        """Submit a request as it was decided.

        :param earlier: the record that the decision was made from.
        :param announced: the record of this POST, where it is stored already; None makes it.
        :raises EvoImageError: when EvoLink did not accept the request.
        """
        self._record = earlier
        self._warn_of_earlier(decision)
        self._check_before(decision)
        return self._submit(request, decision, announced)

    def _check_before(self, decision: Submit) -> None:
        if self._before_submit is None:
            return
        try:
            self._before_submit()
        except EvoImageError as error:
            is_repeat = self._record is not None and self._record.key == decision.key
            if is_repeat or (self._is_retry and not self._keeper.has_store):
                error.restate(billed=None, on_retry=_EARLIER_TRY_MAY_HAVE_PAID)
            raise

    def _resume(self, decision: Resume) -> Generation:
        self._log.info(
            "Resuming EvoLink task %s and submitting nothing: %s.",
            decision.evolink_task_id,
            decision.because,
        )
        if self._record is not None:
            self._keeper.keep(replace(self._record, phase="submitted", epoch=self._identity.epoch))
        return self._reread(Generation(evolink_task_id=decision.evolink_task_id))

    def _submit(
        self, request: ImageRequest, decision: Submit, announced: SubmissionRecord | None
    ) -> Generation:
        identity, key = decision.identity, decision.key
        sending = self._with_uploads(request, key)
        while True:
            record = announced or record_before_post(
                identity, key, epoch=self._identity.epoch, hook=self._hook, earlier=self._record
            )
            announced = None
            self._keeper.keep(record, required=not self._trusted)
            try:
                submitted = self._post(sending, request, key)
            except EvoImageError as error:
                # Certainly refused, so no later try need fear that it was accepted: the record is again what it
                # was before. A conflict says that an earlier submission was accepted.
                if error.billed is False and not isinstance(error, IdempotencyConflictError):
                    self._keeper.keep(self._record)
                raise
            generation = submitted.generation
            self._keeper.keep(
                replace(
                    record,
                    phase="submitted",
                    evolink_task_id=generation.evolink_task_id,
                    credits_reserved=generation.usage.credits_reserved,
                )
            )
            if not submitted.replayed:
                # One that has ended already was accepted before, whatever the answer forgot to say or to hold.
                return self._reread(generation) if generation.is_terminal else generation
            self._log.info(
                "EvoLink accepted this request earlier as task %s; nothing was paid again.",
                generation.evolink_task_id,
            )
            generation = self._reread(generation)
            if not self._is_spent(generation, after_clear=decision.moved):
                return generation
            # The replayed failure ended an earlier try, so this one submits a new request.
            identity = replace(identity, sequence=identity.sequence + 1)
            key = identity.idempotency_key

    def _is_spent(self, generation: Generation, *, after_clear: bool) -> bool:
        """Whether nothing can come of a generation that an earlier try asked for."""
        if not after_clear:
            return is_retryable_failure(generation)
        is_expired = generation.has_expired(time.time())
        return generation.is_terminal and (generation.status != "completed" or is_expired)

    def _with_uploads(self, request: ImageRequest, key: str) -> ImageRequest:
        """Upload the references before the record says "submitting": an upload pays for nothing."""
        if self._uploads is None:
            return request
        try:
            return self._uploads.sendable(request, key)
        except EvoImageError as error:
            recorded = self._record is not None and self._record.key == key
            if recorded or (self._is_retry and not self._keeper.has_store):
                mention_earlier_try(error)
            raise

    def _post(self, sending: ImageRequest, request: ImageRequest, key: str) -> Submitted:
        """Ask for the images; on a conflict, with the URLs that an earlier try may have sent under this key."""
        try:
            return self._hook.submit(sending, key, submit_timeout=self._submit_timeout)
        except IdempotencyConflictError:
            for earlier in self._uploads.as_sent_before(request) if self._uploads is not None else ():
                try:
                    return self._hook.submit(earlier, key, submit_timeout=self._submit_timeout)
                except IdempotencyConflictError:
                    continue
            raise

    def _reread(self, generation: Generation) -> Generation:
        """Read the generation as it is now; when EvoLink cannot say, waiting will find out."""
        try:
            return self._hook.get_generation(generation.evolink_task_id)
        except (EvoLinkUnreachableError, EvoLinkApiError, UnreadableAnswerError) as error:
            # Just accepted, it may not be readable everywhere at once.
            if not error.retryable and not isinstance(error, GenerationNotFoundError):
                raise
            self._log.warning(
                "EvoLink task %s could not be read: %s", generation.evolink_task_id, error.message
            )
            return generation

    def _warn_of_earlier(self, decision: Submit) -> None:
        record = self._record
        if record is None or record.evolink_task_id is None:
            return
        if decision.moved:
            self._log.info(
                "EvoLink task %s was another item's, because %s; each item looks for its own.",
                record.evolink_task_id,
                decision.because,
            )
        elif record.phase == "submitted":
            self._log.warning(
                "An earlier try submitted EvoLink task %s, which was paid for and not delivered; this try asks "
                "for a new one, because %s. Collect the earlier one with EvoImageSaveOperator within 24 hours.",
                record.evolink_task_id,
                decision.because,
            )
        else:
            self._log.info(
                "Submitting a new request after EvoLink task %s: %s.",
                record.evolink_task_id,
                decision.because,
            )


def mention_earlier_try(error: EvoImageError) -> None:
    """Add to an error that stops this try before its POST that an earlier try may have been accepted."""
    on_retry = (
        "Nothing was submitted by this try, but an earlier one may have been accepted: look in EvoLink's list of "
        f"tasks, and collect it with EvoImageSaveOperator. {'A retry tries again.' if error.retryable else ''}"
    )
    error.restate(billed=None, on_retry=on_retry.strip())


@contextmanager
def naming_what_is_paid(evolink_task_id: Callable[[], str | None]) -> Iterator[None]:
    """Let an error that stops this try name the generation that was submitted before.

    :param evolink_task_id: tells its id; None where nothing was submitted.
    """
    try:
        yield
    except EvoImageError as error:
        paid = evolink_task_id() if error.evolink_task_id is None else None
        if paid is None:
            raise
        on_retry = f"This try submitted nothing; EvoLink task {paid} was submitted before. " + (
            "A retry resumes it."
            if error.retryable
            else "No retry follows: correct it and clear the task, which resumes the same request, or collect "
            "it with EvoImageSaveOperator; its links live 24 hours."
        )
        error.restate(evolink_task_id=paid, billed=None, on_retry=on_retry)
        raise


def identity_of(context: Mapping[str, Any], *, namespace: str, fingerprint: str) -> RequestIdentity:
    """Take the parts of a request's identity that Airflow knows from a task's context.

    :raises EvoImageError: when the list that a mapped task stands in cannot be read.
    """
    ti = context["ti"]
    mapped = mapped_item(context)
    return RequestIdentity(
        namespace=namespace,
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        item=mapped.digest,
        occurrence=mapped.occurrence,
        epoch=ti.max_tries or 0,
        fingerprint=fingerprint,
    )
