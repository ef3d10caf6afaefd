"""One leg of a generate task on a worker: submits once, waits or hands over, saves, and describes the result."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.arguments import alt_text_of, filled, variant_of
from airflow_provider_evoimage.defaults import (
    DEFAULT_FALLBACK_AFTER,
    ONE_GENERATION,
    IfExists,
    OnChange,
    OnClear,
    Provenance,
)
from airflow_provider_evoimage.evolink.answers import EVOLINK_TASK_ID, Generation
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    GenerationLostError,
    GenerationNotFoundError,
    InvalidRequestError,
    LinkExpiredError,
)
from airflow_provider_evoimage.generation.record_file import keeper_of
from airflow_provider_evoimage.generation.reuse import GenerationReuse, may_reuse
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.images.native_sizes import resolved_size
from airflow_provider_evoimage.labels import labels_of, name_of
from airflow_provider_evoimage.lineage import NewImages
from airflow_provider_evoimage.manifest import RequestSummary, build_manifest, cost_in_words, made_by
from airflow_provider_evoimage.metrics import generation_ended
from airflow_provider_evoimage.references.files import References
from airflow_provider_evoimage.references.task import TaskReferences, has_references, with_sources
from airflow_provider_evoimage.shapes import Manifest
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames
from airflow_provider_evoimage.storage.index import ImagesKey
from airflow_provider_evoimage.storage.saver import ImageSaver
from airflow_provider_evoimage.submission.budget import (
    charge_warning,
    credit_limit,
    most_credits_of,
    require_within,
)
from airflow_provider_evoimage.submission.fallback import (
    FallbackSubmission,
    Position,
    cost_nothing,
    other_models,
    reason_to_move_on,
    requests_for,
)
from airflow_provider_evoimage.submission.identity import RequestIdentity, fingerprint
from airflow_provider_evoimage.submission.mapped_item import (
    is_given_by_upstream,
    is_same_for_all_items,
    refuse_rendered_data,
    require_names_by_item,
)
from airflow_provider_evoimage.submission.month_budget import MonthBudget
from airflow_provider_evoimage.submission.record import SubmissionRecord
from airflow_provider_evoimage.submission.sealed_request import unseal
from airflow_provider_evoimage.submission.submit import Submission, identity_of, naming_what_is_paid
from airflow_provider_evoimage.waiting.blocking import wait_on_worker
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.polling import Wait
from airflow_provider_evoimage.waiting.result import (
    duration_in_words,
    outcome_in_words,
    read_ended,
    require_images,
)

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import Logger

XCOM_EVOLINK_TASK_ID = "evolink_task_id"
#: The request as it was sent, in the form of a manifest: after the wait templates may render to something
#: else.
XCOM_REQUEST = "evoimage_asked"


@dataclass(frozen=True, kw_only=True)
class GenerationArguments:
    """The operator's arguments, rendered; see :class:`EvoImageGenerateOperator`.

    :param retries: of the Airflow task, to tell its first try from a later one.
    """

    prompt: str
    model: str | None
    size: str | None
    quality: str | None
    n: int | str | None
    image_urls: Any
    cleanup_references: bool
    callback_url: str | None
    extra_body: Any
    max_credits: float | str | None
    has_limit: bool
    save_to: str | None
    filename_template: str
    if_exists: IfExists
    provenance: Provenance
    alt_text: str | None
    reuse: bool | timedelta | None
    variant: str | int | None
    wait_for_completion: bool
    poll_interval: float | None
    submit_timeout: float
    on_clear: OnClear
    on_change: OnChange
    retries: int
    fallback_models: Any = None
    fallback_after: float = DEFAULT_FALLBACK_AFTER
    name: str | None = None
    labels: Mapping[str, str] | None = None
    varies_by_item: frozenset[str] = frozenset()


class GenerationRun:
    """One leg of a generate task: first :meth:`submit` or, after the wait, :meth:`collect`.

    :param outlets: of the Airflow task; each gets an event of the images.
    """

    def __init__(
        self,
        context: Context,
        *,
        hook: EvoImageHook,
        arguments: GenerationArguments,
        outlets: Iterable[object],
        log: Logger,
    ) -> None:
        self._context = context
        self._ti = context["ti"]
        self._hook = hook
        self._arguments = arguments
        self._outlets = outlets
        self._log = log
        self._made_by = made_by(context)
        self._name, self._labels = name_of(arguments.name), labels_of(arguments.labels)
        self._keeper = keeper_of(
            context,
            save_to=filled("save_to", arguments.save_to),
            made_by=self._made_by,
            log=log,
            may_change_model=bool(arguments.fallback_models),
        )
        self._references = TaskReferences(
            hook=hook, context=context, cleanup=arguments.cleanup_references, log=log
        )
        self._requested: RequestSummary | None = None
        self._size_note = ""
        #: The generation that is under way; None when there is nothing to wait for.
        self.waiting_for: Generation | None = None
        #: The images that this leg delivered.
        self.made: NewImages | None = None
        self._handed_over: Generation | None = None

    def submit(self) -> Manifest | None:
        """Give the request a generation: an earlier try's, or a new one.

        :returns: the manifest where there is nothing to wait for; None where ``waiting_for`` is under way.
        """
        refuse_rendered_data(self._context)
        with self._naming_what_is_paid():
            max_credits = self._max_credits()
            read = self._read_references()
        with read as references:
            with self._naming_what_is_paid():
                request = self._build_request(references)
                requests = [request, *self._fallback_requests(references)]
                # Open the destination before anything is paid, to find problems with it.
                saver = self._saver
                planned, *_ = [self._check_names(each) for each in requests]
                # Likewise their own problems.
                reuse = self._reuse
            identities = self._identities(requests)
            named = "" if self._name is None else f" for {self._name}"
            self._log.info("Requesting %s%s: %s", request.summary, named, request.short_prompt)
            if self._size_note:
                self._log.info("%s.", self._size_note)
            for other in requests[1:]:
                self._log.info("If its model is not available: %s.", other.summary)
            for warning in dict.fromkeys(warning for each in requests for warning in each.warnings):
                self._log.warning("%s", warning)
            manifest = None
            if reuse is not None:
                first = self._summary(request, identities[0], references, Position())
                manifest = self._reused(reuse, first, planned)
            if manifest is not None:
                return manifest
            generation = self._ensure(requests, identities, references, max_credits)
        self.waiting_for = generation
        # Before the wait, so that it shows meanwhile; Airflow deletes it when another try starts.
        self._show(XCOM_EVOLINK_TASK_ID, generation.evolink_task_id)
        if not self._arguments.wait_for_completion:
            # Handed over, not delivered: a clear resumes it while it can still bring images.
            requested = self._with_reserved(self._described(), generation, generation.usage.credits_reserved)
            return build_manifest(generation, requested=requested, made_by=self._made_by)
        if generation.is_terminal:
            return self._deliver(generation, saver, credits_reserved=generation.usage.credits_reserved)
        return None

    @property
    def under_way(self) -> Generation:
        """The generation that :meth:`submit` left to wait for.

        :raises ValueError: when there is none.
        """
        if self.waiting_for is None:
            raise ValueError("No generation is under way.")
        return self.waiting_for

    @property
    def requested(self) -> RequestSummary | None:
        """The request that :meth:`submit` sent; None if an earlier leg sent it."""
        return self._requested

    def wait_on_worker(self, deadline: float) -> Manifest:
        """Wait for what is under way, and hand it over.

        :param deadline: Unix seconds.
        """
        generation = self.under_way
        wait = Wait(
            evolink_task_id=generation.evolink_task_id,
            deadline=deadline,
            poll_interval=self._arguments.poll_interval,
            estimated_time=generation.estimated_time,
            was_accepted=True,
        )
        event = wait_on_worker(self._hook, [wait], self._log)
        return self.collect(event, credits_reserved=generation.usage.credits_reserved)

    def collect(self, event: WaitEvent, *, credits_reserved: float | None = None) -> Manifest:
        """Hand over the generation whose wait is over; harmless when it runs twice.

        :param credits_reserved: what the answer to the POST said, where this leg knows it.
        """
        evolink_task_id = event.only_task
        self.waiting_for = Generation(evolink_task_id=evolink_task_id)
        with naming_what_is_paid(lambda: evolink_task_id):
            generation = self._read_ended(event)
            saver = self._saver
        return self._deliver(generation, saver, credits_reserved=credits_reserved)

    def _read_ended(self, event: WaitEvent) -> Generation:
        evolink_task_id = event.only_task
        try:
            return read_ended(
                self._hook, evolink_task_id, event.endings[evolink_task_id], event.reason, was_accepted=True
            )
        except GenerationLostError as error:
            not_found = error.__cause__
            if isinstance(not_found, GenerationNotFoundError) and self._keeper.forget_if_old(
                evolink_task_id, self._hook.now()
            ):
                raise not_found.restate(
                    on_retry="No retry follows. Its images are gone by now: clear the task to submit a new request."
                ) from None
            raise

    @property
    def recorded_id(self) -> str | None:
        """The generation of an earlier leg or try, from the record or the XCom."""
        record = self._keeper.read()
        if record is not None and record.evolink_task_id is not None:
            return record.evolink_task_id
        pushed = _own_xcom(self._ti, XCOM_EVOLINK_TASK_ID)
        return pushed if isinstance(pushed, str) and EVOLINK_TASK_ID.fullmatch(pushed) else None

    def _naming_what_is_paid(self) -> AbstractContextManager[None]:
        return naming_what_is_paid(lambda: self.recorded_id)

    @functools.cached_property
    def _model(self) -> str:
        return filled("model", self._arguments.model) or self._hook.settings.default_model

    def _read_references(self) -> References:
        return self._references.read(
            self._arguments.image_urls,
            self._arguments.extra_body,
            model=self._model,
            is_retry=self._is_retry,
        )

    def _build_request(self, references: References) -> ImageRequest:
        size, self._size_note = resolved_size(self._model, self._arguments.size)
        return ImageRequest.build(**{**self._fields(references), "size": size})

    def _fields(self, references: References) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": self._arguments.prompt,
            "size": self._arguments.size,
            "quality": self._arguments.quality,
            "n": self._arguments.n,
            "image_urls": references.image_urls,
            "callback_url": self._arguments.callback_url,
            "extra_body": references.extra_body,
        }

    @functools.cached_property
    def _models(self) -> tuple[str, ...]:
        """The models in the order in which they are asked."""
        return (self._model, *other_models(self._arguments.fallback_models, self._model))

    def _fallback_requests(self, references: References) -> list[ImageRequest]:
        """Build the request for each other model, so that one that cannot take it is found before the first POST.

        :raises InvalidRequestError: naming the model; also where nothing would remember which model was paid.
        """
        others = self._models[1:]
        if others and not self._keeper.has_store:
            raise InvalidRequestError(
                "fallback_models needs save_to below Airflow 3.3: a file there remembers between tries which model may "
                "have been paid."
            )
        for model in others:
            references.require_fit(model)
        return requests_for(
            others, self._fields(references), lambda model, size: resolved_size(model, size)[0]
        )

    def falls_back(self, error: EvoImageError) -> bool:
        """Whether the generation of this leg failed at no cost and another model is to be asked next.

        Submitting again then asks that model, which the record names.
        """
        if len(self._models) == 1 or reason_to_move_on(error) is None:
            return False
        record = self._keeper.read()
        is_recorded = record is not None and record.evolink_task_id == error.evolink_task_id
        return is_recorded and record is not None and cost_nothing(record) and self._may_follow(record)

    def _may_follow(self, record: SubmissionRecord) -> bool:
        """Whether a model is left that the request has not tried."""
        tried = {each.model for each in record.tried}
        return sum(model not in tried for model in self._models) > 1

    def _keep_request(self, described: Mapping[str, Any]) -> None:
        """Keep the request for the leg after the wait, before it is paid for.

        Where Airflow has a store, the record in it holds the request; where the images are saved, they are delivered
        also if no XCom can be written. With both this XCom follows the POST.

        :raises EvoImageError: when Airflow does not store it; the result would not fare better.
        """
        if self._keeper.has_store and self._saver is not None:
            return
        try:
            self._ti.xcom_push(key=XCOM_REQUEST, value=described)
        except Exception as error:
            raise EvoImageError(
                f"Airflow did not store the XCom {XCOM_REQUEST!r}: {error}",
                billed=False,
                on_retry="Nothing was submitted by this try; a retry tries again.",
            ) from error

    def _show(self, key: str, value: Any) -> None:
        """Push an XCom that people look at; what is paid for is delivered without it."""
        try:
            self._ti.xcom_push(key=key, value=value)
        except Exception as error:  # noqa: BLE001 (any backend, any failure)
            self._log.warning("The XCom %r cannot be written (%s); continuing.", key, error)

    def _described(self) -> RequestSummary:
        """Return the request as it was sent; a paid image is delivered also when that is unknown."""
        if self._requested is not None:
            return self._requested
        kept = kept_request(self._ti)
        if kept is not None:
            return kept
        record = self._keeper.read()
        sent = None if record is None else unseal(record.sealed, self._hook.settings.account.api_key)
        if sent is not None and sent.described is not None:
            return RequestSummary.in_manifest(sent.described)
        if has_references(self._arguments.image_urls, self._arguments.extra_body):
            return RequestSummary()
        try:  # A release before this one kept only requests with references.
            with self._read_references() as references:
                request = self._build_request(references)
        except EvoImageError as error:
            self._log.warning("The manifest will lack the request: %s", error.message)
            return RequestSummary()
        if record is not None and record.fingerprint != fingerprint(request, self._variant):
            self._log.warning("The manifest will lack the request: its templates give another one by now.")
            return RequestSummary()
        return RequestSummary.by(request)

    @functools.cached_property
    def _saver(self) -> ImageSaver | None:
        save_to = filled("save_to", self._arguments.save_to)
        if save_to is None:
            return None
        return ImageSaver(
            hook=self._hook,
            destination=Destination(save_to, is_unpaid=self._ti.try_number == 1 and self.waiting_for is None),
            names=FileNames(self._arguments.filename_template),
            if_exists=self._arguments.if_exists,
            provenance=self._arguments.provenance,
            alt_text=alt_text_of(self._arguments.alt_text),
            made_by=self._made_by,
            log=self._log,
            may_follow_a_kill=self._ti.try_number > 1,
        )

    def _max_credits(self) -> Decimal | None:
        value = self._arguments.max_credits
        is_given = self._arguments.has_limit or (
            value is None and is_given_by_upstream(self._context, "max_credits")
        )
        return credit_limit(value, is_given=is_given)

    @property
    def _is_indexed(self) -> bool:
        """Whether the manifest says which requests the images are for."""
        return self._arguments.reuse is not None or self._variant is not None

    @functools.cached_property
    def _variant(self) -> str | None:
        return variant_of(self._arguments.variant)

    @functools.cached_property
    def _reuse(self) -> GenerationReuse | None:
        reuse, saver = self._arguments.reuse, self._saver
        if reuse is None:
            return None
        if saver is None:
            raise InvalidRequestError("reuse needs save_to, the folder whose images are reused; it is empty.")
        max_age = reuse if isinstance(reuse, timedelta) else None
        return GenerationReuse(saver=saver, max_age=max_age, made_by=self._made_by, log=self._log)

    def _reused(
        self, reuse: GenerationReuse, requested: RequestSummary, planned: list[str]
    ) -> Manifest | None:
        """Return the manifest of saved images of this request; None where it is to be submitted, or was."""
        if not may_reuse(
            keeper=self._keeper,
            is_retry=self._is_retry,
            is_cleared=self._is_cleared,
            on_clear=self._arguments.on_clear,
        ):
            return None
        manifest = reuse.manifest(requested, planned)
        if manifest is not None:
            self.made = NewImages(manifests=[manifest], save_to=filled("save_to", self._arguments.save_to))
            self.made.announce(self._context, self._outlets, self._log)
        return manifest

    def _check_names(self, request: ImageRequest) -> list[str]:
        """Check before anything is paid that the storage can take the images; return their names."""
        saver = self._saver
        if saver is None:
            return []
        require_names_by_item(
            self._context,
            template=saver.names.template,
            tells_tasks_apart=saver.names.tells_tasks_apart
            or "save_to" in self._arguments.varies_by_item
            or ("name" in saver.names.fields and self._name is not None and self._names_differ)
            or ("model" in saver.names.fields and not is_same_for_all_items(self._context, "model")),
            default=ONE_GENERATION,
        )
        planned = saver.names.planned(
            self._made_by,
            item=0,
            own_name=self._name or "0",
            model=request.model,
            images=request.image_count,
            of="this request",
        )
        for name in planned:
            saver.destination.check_length(name, is_paid=False)
        return planned

    def _identities(self, requests: Sequence[ImageRequest]) -> list[RequestIdentity]:
        """Return the identity of the request as each model would get it."""
        marks = [fingerprint(each, self._variant) for each in requests]
        first = identity_of(
            self._context, namespace=self._hook.settings.idempotency_namespace, fingerprint=marks[0]
        )
        return [replace(first, fingerprint=each) for each in marks]

    @property
    def _names_differ(self) -> bool:
        return "name" in self._arguments.varies_by_item or not is_same_for_all_items(self._context, "name")

    def _ensure(
        self,
        requests: Sequence[ImageRequest],
        identities: Sequence[RequestIdentity],
        references: References,
        max_credits: Decimal | None,
    ) -> Generation:
        kept: list[Mapping[str, Any]] = []
        month = MonthBudget.of(self._hook, self._log)

        def submission_for(position: Position) -> Submission:
            request = requests[position.index]
            own = self._summary(request, identities[position.index], references, position).kept()

            def before_submit(to_submit: ImageRequest) -> None:
                spent = Decimal(str(submission.spent_before))
                is_repeated = own in kept
                self._check_cost(to_submit, max_credits, spent, is_logged=not is_repeated)
                for other in requests[position.index + 1 :]:
                    require_within(other, max_credits, spent=spent)
                if month is not None:
                    month.require(most_credits_of(to_submit))
                if not is_repeated:
                    self._keep_request(own)
                    kept.append(own)

            submission = Submission(
                hook=self._hook,
                identity=identities[position.index],
                keeper=self._keeper,
                log=self._log,
                on_clear=self._arguments.on_clear,
                on_change=self._arguments.on_change,
                is_retry=self._is_retry,
                may_be_cleared=self._is_cleared,
                requires_record=self._arguments.reuse is not None,
                hands_over_early=not self._arguments.wait_for_completion,
                submit_timeout=self._arguments.submit_timeout,
                before_submit=before_submit,
                described=own,
                uploads=self._references.uploads(references),
                tried=position.tried,
                may_fall_back=position.index + 1 < len(requests),
            )
            return submission

        try:
            if len(requests) == 1:
                submission = submission_for(Position())
                generation = submission.ensure(requests[0])
            else:
                generation, submission = FallbackSubmission(
                    models=self._models,
                    identities=identities,
                    keeper=self._keeper,
                    on_clear=self._arguments.on_clear,
                    fallback_after=self._arguments.fallback_after,
                    submission_for=submission_for,
                    log=self._log,
                ).ensure(requests)
        except EvoImageError as error:
            if error.billed is False and not error.retryable:
                self._references.remove()
            raise
        self._requested = RequestSummary.in_manifest(submission.sent)
        # Log the id first, so that it is known whatever fails from here on.
        self._log_accepted(generation)
        if self._keeper.has_store or not kept or submission.sent is not kept[-1]:
            # Or resumed, or repeated as an earlier try had sent it: Airflow deleted what that try kept.
            self._show(XCOM_REQUEST, self._requested.kept())
        return generation

    def _summary(
        self, request: ImageRequest, identity: RequestIdentity, references: References, position: Position
    ) -> RequestSummary:
        """Describe the request as one model gets it."""
        key = ImagesKey(fingerprint=identity.fingerprint, occurrence=identity.occurrence)
        return replace(
            with_sources(RequestSummary.by(request), references),
            reusable_for=key.to_json() if self._is_indexed else None,
            name=self._name,
            labels=self._labels or None,
            fell_back=[each.to_json() for each in position.tried] or None,
        )

    def _check_cost(
        self, request: ImageRequest, max_credits: Decimal | None, spent: Decimal, *, is_logged: bool
    ) -> None:
        found = require_within(request, max_credits, spent=spent)
        if not is_logged:
            return
        limit = "" if max_credits is None else f"; max_credits is {max_credits:f}"
        self._log.info("Estimated cost: %s%s.", found or "no price is known for this model", limit)

    @property
    def _is_cleared(self) -> bool:
        return bool(self._ti.max_tries != self._arguments.retries)

    @property
    def _is_retry(self) -> bool:
        first_try = (self._ti.max_tries or 0) - self._arguments.retries + 1
        return bool(self._ti.try_number > first_try)

    def _log_accepted(self, generation: Generation) -> None:
        reserved, expected = generation.usage.credits_reserved, generation.estimated_time
        facts = [f"EvoLink task {generation.evolink_task_id} is {generation.status}"]
        if reserved is not None:
            facts.append(f"{reserved:,.4f} credits reserved")
        if expected is not None and not generation.is_terminal:
            facts.append(f"EvoLink expects it to take about {duration_in_words(expected)}")
        self._log.info("%s.", "; ".join(facts))

    def _deliver(
        self, generation: Generation, saver: ImageSaver | None, *, credits_reserved: float | None
    ) -> Manifest:
        requested = self._with_reserved(self._described(), generation, credits_reserved)
        self.waiting_for = None
        try:
            self._require_images(generation)
            self._log.info("%s.", outcome_in_words(generation, requested.images))
            self._warn_of_fewer_images(generation, requested)
            manifest = self._hand_over(generation, requested, saver)
        finally:
            self._references.remove()
        self._log.info("%s.", cost_in_words(manifest))
        self._warn_of_charge(manifest)
        return manifest

    def _warn_of_charge(self, manifest: Manifest) -> None:
        """Warn if EvoLink charged more than the limit or the estimate; the images are delivered anyway."""
        try:
            limit = credit_limit(self._arguments.max_credits)
        except EvoImageError:
            limit = None
        record = self._keeper.read()
        before = Decimal(0) if record is None else Decimal(str(record.spent_before))
        warning = charge_warning(manifest["usage"], limit=limit, before=before)
        if warning:
            self._log.warning("%s", warning)

    def _require_images(self, generation: Generation) -> None:
        try:
            require_images(generation)
        except EvoImageError:
            self._keeper.mark("failed", generation)
            generation_ended(generation, labels=self._labels)
            raise

    def _warn_of_fewer_images(self, generation: Generation, requested: RequestSummary) -> None:
        made = len(generation.image_urls)
        if requested.images is not None and made < requested.images:
            self._log.warning(
                "EvoLink made %d of the %d requested images; the charge follows what was made (task %s).",
                made,
                requested.images,
                generation.evolink_task_id,
            )

    def _hand_over(
        self, generation: Generation, requested: RequestSummary, saver: ImageSaver | None
    ) -> Manifest:
        """Save the images, or hand on their links; then announce them and record the delivery."""
        if saver is None:
            self._warn_of_dead_links(generation)
            manifest = build_manifest(generation, requested=requested, made_by=self._made_by)
        else:
            try:
                (manifest,) = saver.save([generation], [requested])
            except LinkExpiredError:
                # Nothing is left to resume: only then does a cleared task submit a new request.
                self._keeper.mark("failed", generation)
                generation_ended(generation, is_expired=True, labels=self._labels)
                raise
            if self._reuse is not None:
                self._reuse.drawn(manifest)
        self.made = NewImages(
            manifests=[manifest],
            save_to=None if saver is None else filled("save_to", self._arguments.save_to),
        )
        self.made.announce(self._context, self._outlets, self._log)
        self._handed_over = generation
        generation_ended(generation, labels=self._labels)
        return manifest

    def mark_delivered(self) -> None:
        """Record that the images were handed over, once Airflow has the result of the task.

        Not before: when a task that Airflow counts as failed is cleared, it resumes what was paid.
        """
        if self._handed_over is not None:
            self._keeper.mark("delivered", self._handed_over)

    def _warn_of_dead_links(self, generation: Generation) -> None:
        if generation.has_expired(self._hook.now()):
            self._log.warning(
                "The result links of EvoLink task %s died at %s, and nothing was saved: the task still returns "
                "them. If it is cleared again, it submits a new request.",
                generation.evolink_task_id,
                f"{generation.expires_at:%Y-%m-%d %H:%M} UTC",
            )

    def _with_reserved(
        self, requested: RequestSummary, generation: Generation, credits_reserved: float | None
    ) -> RequestSummary:
        """Add EvoLink's reservation, from this leg or the record."""
        reserved = credits_reserved
        if reserved is None:
            record = self._keeper.read()
            if record is not None and record.evolink_task_id == generation.evolink_task_id:
                reserved = record.credits_reserved
        return replace(requested, credits_reserved=reserved)


def kept_request(ti: Any) -> RequestSummary | None:
    """Return the request as an earlier leg of this try sent it; None where none was kept.

    :param ti: the task instance of the context.
    """
    kept = _own_xcom(ti, XCOM_REQUEST)
    return RequestSummary.in_manifest(kept) if isinstance(kept, Mapping) else None


def _own_xcom(ti: Any, key: str) -> object:
    return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
