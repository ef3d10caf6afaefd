"""Carries out the decision of ``decision.decide``: submits once, and keeps the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_evoimage.defaults import OnChange, OnClear
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.errors import is_retryable_failure, model_refusal
from airflow_provider_evoimage.evolink.given_up import GivenUp
from airflow_provider_evoimage.evolink.pricing import estimate_with_prompt
from airflow_provider_evoimage.evolink.protocol import Submitted
from airflow_provider_evoimage.evolink.request import ImageRequest, billable_body
from airflow_provider_evoimage.evolink.signed_urls import unsigned
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
from airflow_provider_evoimage.submission.sealed_request import SentRequest, unseal

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


_EARLIER_TRY_MAY_HAVE_PAID = (
    "This try sent nothing and no retry follows; an earlier try may have submitted the same request. Look in EvoLink's "
    "list of tasks: if the generation is there, collect it with EvoImageSaveOperator."
)


class Uploads(Protocol):
    """References that must be uploaded before the request that uses them is sent."""

    def sendable(self, request: ImageRequest, key: str) -> ImageRequest:
        """Upload them, and put their URLs into the request that is sent under this key."""

    def as_sent_before(self, request: ImageRequest) -> list[ImageRequest]:
        """Return the request as earlier tries may have sent it with other URLs."""


class Submission:
    """One logical request of one task instance, from the first try to its delivery.

    :param is_retry: whether an earlier try since the last clear may have sent the request.
    :param may_be_cleared: whether a clear may have changed the key: then only the record shows what was paid.
    :param hands_over_early: whether the task ends before the generation does, so that a clear may find it
        failed.
    :param submit_timeout: seconds to wait in all while EvoLink certainly accepts nothing.
    :param on_change: what a retry does whose request differs from the one that was sent.
    :param requires_record: whether nothing may be posted without a record, also where the key protects.
    :param before_submit: called with the request when this try is about to submit it, not when it resumes;
        may refuse by raising.
    :param before_post: called just before each POST, after the uploads; may stop this try by raising.
    :param described: the request in the form of a manifest, for the record.
    :param uploads: references that are uploaded first; None where there are none.
    :param tried: the models that the request left behind before; from then on only the record says which of them
        may be paid for.
    :param may_fall_back: whether other models may follow, so that a refusal of this one is raised at once.
    """

    def __init__(
        self,
        *,
        hook: EvoImageHook,
        identity: RequestIdentity,
        keeper: RecordKeeper,
        log: Logger,
        on_clear: OnClear = "auto",
        on_change: OnChange = "resume",
        is_retry: bool = False,
        may_be_cleared: bool = False,
        hands_over_early: bool = False,
        submit_timeout: float,
        requires_record: bool = False,
        before_submit: Callable[[ImageRequest], object] | None = None,
        before_post: Callable[[], object] | None = None,
        described: Mapping[str, Any] | None = None,
        uploads: Uploads | None = None,
        tried: tuple[GivenUp, ...] = (),
        may_fall_back: bool = False,
    ) -> None:
        self._hook = hook
        self._identity = identity
        self._keeper = keeper
        self._log = log
        self._described = described
        #: The request as it was sent, in the form of a manifest; None where that is unknown.
        self.sent = described
        self._on_clear = on_clear
        self._on_change = on_change
        self._is_retry = is_retry
        self._may_be_cleared = may_be_cleared
        self._hands_over_early = hands_over_early
        self._submit_timeout = submit_timeout
        self._requires_record = requires_record
        self._before_submit = before_submit
        self._before_post = before_post
        self._uploads = uploads
        self._tried = tried
        self._may_fall_back = may_fall_back
        self._record: SubmissionRecord | None = None
        #: Credits that earlier generations of this request cost; known when ``before_submit`` is called.
        self.spent_before = 0.0

    @property
    def _trusted(self) -> bool:
        return self._hook.settings.account.trust_idempotency

    def ensure(self, request: ImageRequest) -> Generation:
        """Return the generation of this request: an earlier try's, or a new one.

        :raises UnrepeatableSubmissionError: when submitting again could pay twice.
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
            on_change=self._on_change,
            trust_idempotency=self._trusted,
            account=account_of(self._hook),
            now=time.time(),
        )
        if isinstance(decision, Refuse):
            raise unrepeatable(decision.because)
        if isinstance(decision, Resume):
            self._record = earlier
            generation = self._resume(decision)
            if generation is not None:
                return generation
            # It was handed over before it ended, and it brought nothing that could be delivered now.
            earlier = self._record
            decision = Submit(self._identity, "it has failed, or its links are dead")
        elif self._tried and decision.recorded_key is None:
            decision = replace(decision, because="another model is tried")
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
        recorded = self._recorded_request(decision)
        self.spent_before = 0.0 if earlier is None else earlier.spent_before_key(decision.key)
        self._check_before(decision, recorded or request)
        return self._submit(request, decision, announced, recorded)

    def _recorded_request(self, decision: Submit) -> ImageRequest | None:
        """Return the request that an earlier try sent under this key; None where it sent none, or it is unknown."""
        sent = self._sent_before() if decision.recorded_key is not None else None
        return None if sent is None else ImageRequest.of_body(sent.body)

    def _sent_before(self) -> SentRequest | None:
        sealed = None if self._record is None else self._record.sealed
        return unseal(sealed, self._hook.settings.account.api_key)

    def _check_before(self, decision: Submit, request: ImageRequest) -> None:
        if self._before_submit is None:
            return
        try:
            self._before_submit(request)
        except EvoImageError as error:
            if self._may_have_been_accepted(decision.key):
                if error.retryable:
                    mention_earlier_try(error)
                else:
                    error.restate(billed=None, on_retry=_EARLIER_TRY_MAY_HAVE_PAID)
            raise

    def _resume(self, decision: Resume) -> Generation | None:
        """Go on with an earlier try's generation.

        :returns: None where it was handed over early, and nothing can come of it; the record then says what it cost.
        """
        self._log.info(
            "Resuming EvoLink task %s and submitting nothing: %s.",
            decision.evolink_task_id,
            decision.because,
        )
        if decision.changed:
            self._log.warning(
                "The request has changed since EvoLink task %s was submitted. This try delivers that one, so that "
                "nothing is paid twice. For the new request clear the task with on_clear='regenerate', or set "
                "on_change='submit'.",
                decision.evolink_task_id,
            )
        record, generation = self._record, self._reread(Generation(evolink_task_id=decision.evolink_task_id))
        if record is not None:
            is_cleared = record.epoch != self._identity.epoch
            if self._hands_over_early and is_cleared and self._is_spent(generation, after_clear=True):
                self._record = record.ended("failed", generation)
                return None
            sent = self._sent_before()
            self.sent = (sent and sent.described) or (None if decision.changed else self._described)
            self._keeper.keep(replace(record, phase="submitted", epoch=self._identity.epoch))
        return generation

    def _submit(
        self,
        request: ImageRequest,
        decision: Submit,
        announced: SubmissionRecord | None,
        recorded: ImageRequest | None,
    ) -> Generation:
        identity, key = decision.identity, decision.key
        # The record that the next one follows; self._record is what a refusal puts back.
        earlier = self._record
        while True:
            # A request with uploads has its own way to repeat what was sent.
            repeats = recorded is not None and self._uploads is None
            sending = recorded if recorded is not None and repeats else self._with_uploads(request, key)
            sent = self._sent_before() if repeats else None
            self.sent = self._described if sent is None else sent.described
            record = announced or record_before_post(
                identity,
                key,
                epoch=self._identity.epoch,
                hook=self._hook,
                earlier=earlier,
                most=most_of(sending),
                tried=self._tried,
                sealed=SentRequest(body=sending.body(), described=self.sent).sealed(
                    self._hook.settings.account.api_key
                ),
            )
            announced = None
            if self._before_post is not None:
                self._before_post()
            self._keeper.keep(
                record, required=self._requires_record or not self._trusted or bool(self._tried)
            )
            try:
                submitted = self._post(sending, request, key, None if repeats else recorded)
            except EvoImageError as error:
                # Certainly refused, so no later try need fear that it was accepted: the record is again what
                # it was before. A conflict says that an earlier submission was accepted.
                if error.billed is False and not isinstance(error, IdempotencyConflictError):
                    self._keeper.keep(self._record)
                    if self._may_have_been_accepted(key):
                        mention_earlier_try(error)
                raise
            generation = submitted.generation
            record = replace(
                record,
                phase="submitted",
                evolink_task_id=generation.evolink_task_id,
                credits_reserved=generation.usage.credits_reserved,
            )
            self._keeper.keep(record)
            if not submitted.replayed:
                # One that has ended already was accepted before, whatever the answer forgot to say or to
                # hold.
                return self._reread(generation) if generation.is_terminal else generation
            self._log.info(
                "EvoLink accepted this request earlier as task %s; nothing was paid again.",
                generation.evolink_task_id,
            )
            generation = self._reread(generation)
            if not self._is_spent(generation, after_clear=decision.moved):
                return generation
            # The replayed failure ended an earlier try, so this one submits a new request.
            identity = replace(self._identity, epoch=identity.epoch, sequence=identity.sequence + 1)
            key = identity.idempotency_key
            earlier = record.ended("failed", generation)
            self.spent_before = earlier.spent_before_key(key)
            if self._before_submit is not None:
                # It may have been charged, and leave too little of a limit.
                self._before_submit(request)
            recorded = None

    def _may_have_been_accepted(self, key: str) -> bool:
        """Whether an earlier try may have been accepted under this key."""
        if self._record is not None and self._record.key == key:
            return True
        return self._is_retry and not self._keeper.has_store

    def _is_spent(self, generation: Generation, *, after_clear: bool) -> bool:
        """Whether an earlier try's generation can no longer bring images."""
        if not after_clear:
            return is_retryable_failure(generation)
        is_expired = generation.has_expired(self._hook.now())
        return generation.is_terminal and (generation.status != "completed" or is_expired)

    def _with_uploads(self, request: ImageRequest, key: str) -> ImageRequest:
        """Upload the references before the record says "submitting", as an upload costs nothing."""
        if self._uploads is None:
            return request
        try:
            return self._uploads.sendable(request, key)
        except EvoImageError as error:
            if self._may_have_been_accepted(key):
                mention_earlier_try(error)
            raise

    def _post(
        self, sending: ImageRequest, request: ImageRequest, key: str, recorded: ImageRequest | None
    ) -> Submitted:
        """Submit the request; on a conflict, with the URLs that an earlier try may have sent under this key."""
        options: dict[str, Any] = {"submit_timeout": self._submit_timeout}
        # Of an outcome that is unknown already, a refusal says nothing.
        if self._may_fall_back and not self._may_have_been_accepted(key):
            options["stops_at"] = is_model_refusal
        try:
            return self._hook.submit(sending, key, **options)
        except IdempotencyConflictError:
            as_sent_before = self._uploads.as_sent_before(request) if self._uploads is not None else []
            for earlier in [*as_sent_before, *([] if recorded is None else [recorded])]:
                try:
                    return self._hook.submit(earlier, key, submit_timeout=self._submit_timeout)
                except IdempotencyConflictError:
                    continue
            raise

    def _reread(self, generation: Generation) -> Generation:
        """Read the generation's present state; if that fails, the wait reads it later."""
        try:
            return self._hook.get_generation(generation.evolink_task_id)
        except (EvoLinkUnreachableError, EvoLinkApiError, UnreadableAnswerError) as error:
            # A generation that was just accepted may not be readable everywhere yet.
            if not error.retryable and not isinstance(error, GenerationNotFoundError):
                raise
            self._log.warning(
                "EvoLink task %s could not be read: %s", generation.evolink_task_id, error.message
            )
            return generation

    def _warn_of_earlier(self, decision: Submit) -> None:
        record = self._record
        if record is None:
            return
        if decision.changed:
            self._log.warning(
                "The request has changed since an earlier try sent it and no response arrived. This try sends the "
                "earlier request again under its key, so that nothing is paid twice. For the new request clear the "
                "task with on_clear='regenerate', or set on_change='submit'."
            )
        elif record.evolink_task_id is None:
            if decision.key != record.key and not decision.moved:
                self._log.warning(
                    "An earlier try sent another request and no response arrived: it may be paid for. This try "
                    "submits a new one, because %s. Look for the earlier one in EvoLink's list of tasks, and collect "
                    "it with EvoImageSaveOperator within 24 hours.",
                    decision.because,
                )
        elif decision.moved:
            self._log.info(
                "EvoLink task %s belongs to another item, because %s; each item resumes its own.",
                record.evolink_task_id,
                decision.because,
            )
        elif record.phase == "submitted":
            self._log.warning(
                "An earlier try submitted EvoLink task %s, which was paid for and not delivered; this try "
                "submits a new request, because %s. Collect the earlier one with EvoImageSaveOperator within 24 hours.",
                record.evolink_task_id,
                decision.because,
            )
        else:
            self._log.info(
                "Submitting a new request after EvoLink task %s: %s.",
                record.evolink_task_id,
                decision.because,
            )


def is_model_refusal(error: EvoImageError) -> bool:
    """Whether EvoLink certainly refused a submission because of its model."""
    return model_refusal(error) is not None


def account_of(hook: EvoImageHook) -> tuple[str, str]:
    """Return the id and the base URL of a hook's connection, as records keep them."""
    return hook.evoimage_conn_id, hook.settings.account.base_url


def most_of(request: ImageRequest) -> Decimal | None:
    """Return the credits that a request may cost; None where no price is known."""
    found = estimate_with_prompt(request)
    return None if found is None else found.credits_high


def sealed_item(request: ImageRequest, hook: EvoImageHook) -> str | None:
    """Seal the request of a batch item; None where its fingerprint alone says what was sent."""
    body = request.body()
    if body == billable_body(request, unsigned):
        return None
    return SentRequest(body=body).sealed(hook.settings.account.api_key)


def mention_earlier_try(error: EvoImageError) -> None:
    """Add to an error before the POST that an earlier try may have been accepted."""
    on_retry = (
        "Nothing was submitted by this try, but an earlier one may have been accepted: look in EvoLink's list of "
        f"tasks, and collect it with EvoImageSaveOperator. {'A retry tries again.' if error.retryable else ''}"
    )
    error.restate(billed=None, on_retry=on_retry.strip())


@contextmanager
def naming_what_is_paid(evolink_task_id: Callable[[], str | None]) -> Iterator[None]:
    """Let an error that stops this try name the generation that was submitted before.

    :param evolink_task_id: returns its id; None if nothing was submitted.
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
