"""The operator that asks EvoLink for images, waits without a worker, and saves them."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from airflow.sdk import BaseOperator

from airflow_provider_evoimage.arguments import filled, one_of, seconds
from airflow_provider_evoimage.defaults import (
    DEFAULT_CONN_ID,
    DEFAULT_SUBMIT_TIMEOUT,
    ONE_GENERATION,
    OnClear,
)
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    GenerationNotFoundError,
    InvalidRequestError,
    LinkExpiredError,
)
from airflow_provider_evoimage.retry_policy import DEFAULT_RETRY_POLICY, retry_policy_argument
from airflow_provider_evoimage.version_compat import TaskDeferralError, TaskDeferralTimeout

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from airflow_provider_evoimage.evolink.answers import Generation
    from airflow_provider_evoimage.evolink.request import ImageRequest
    from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
    from airflow_provider_evoimage.lineage import NewImages
    from airflow_provider_evoimage.manifest import Asked, Manifest
    from airflow_provider_evoimage.references.files import References
    from airflow_provider_evoimage.references.task import TaskReferences
    from airflow_provider_evoimage.storage.saver import ImageSaver
    from airflow_provider_evoimage.submission.record import RecordKeeper
    from airflow_provider_evoimage.submission.submit import Submission
    from airflow_provider_evoimage.version_compat import RetryPolicy
    from airflow_provider_evoimage.waiting.event import WaitEvent

XCOM_EVOLINK_TASK_ID = "evolink_task_id"
XCOM_ASKED = "evoimage_asked"

# The trigger ends the wait itself; this much later Airflow does, should the trigger be lost.
DEFERRAL_MARGIN_SECONDS = 120.0


class EvoImageGenerateOperator(BaseOperator):
    """Ask EvoLink for images; wait for them without holding a worker; save them.

    Each try of one task instance is the same request under the same idempotency key, so a retry after any
    crash never pays twice: it goes on with the generation that was paid for. The EvoLink task id is in the
    XCom ``evolink_task_id`` as soon as the request is accepted. Returns the manifest, see
    :mod:`airflow_provider_evoimage.manifest`. Assets and asset aliases among ``outlets`` get one event when the
    images exist, which tells of them in its ``extra``; see
    :attr:`airflow_provider_evoimage.lineage.NewImages.extra`.

    Costs: EvoLink charges for each completed generation, by model, size, quality and ``n``; failed ones are
    documented as free. Defaults are EvoLink's documented ones, which for GPT models mean ``quality="high"``.

    :param prompt: what to draw, or how to edit the references; a name ending in ``.prompt`` or ``.j2`` is read
        from that file beside the DAG.
    :param model: model id; default: the connection's ``default_model``, else ``gpt-image-1.5``.
    :param size: ``1:1``, ``2:3``, ``3:2``, ``1024x1024``, ``1024x1536``, ``1536x1024``; others by model.
    :param quality: ``low``, ``medium``, ``high``; others by model.
    :param n: number of images.
    :param image_urls: references: http(s) URLs that EvoLink can read without logging in; URLs of Airflow's object
        storage and absolute paths, which are uploaded just before the submission; manifests of earlier tasks
        (or paths of their sidecars), which stand for their images. The mask of ``extra_body`` likewise.
    :param cleanup_references: True removes this task's uploads from EvoLink as soon as the generation has ended.
        Otherwise all tasks of the DAG run share them, and EvoLink deletes them after 72 hours.
    :param callback_url: https URL that EvoLink calls when the generation has ended.
    :param extra_body: fields of other models, sent as they are.
    :param max_credits: the most this request may cost, in credits (68 are 1 USD). When the upper end of its
        estimate is above that, or no price is known, the task fails before anything is sent.
    :param save_to: folder by any URL of Airflow's object storage, for instance ``file:///data/images``; the
        images are saved as soon as they exist. Without it the result holds links that live 24 hours.
    :param filename_template: names below ``save_to``; fields in ``storage.file_names.NAME_FIELDS``.
    :param wait_for_completion: False returns once the request is accepted, to collect later.
    :param deferrable: wait in the triggerer. True by default, whatever Airflow's own default: holding no
        worker is what this operator is for. False waits on the worker.
    :param timeout: seconds (or a timedelta) to wait for one generation, in each try. A generation that takes
        longer is kept: a retry goes on waiting for it.
    :param poll_interval: seconds between looks; default adapts to the generation.
    :param submit_timeout: seconds to go on asking while EvoLink certainly accepts nothing (429, 503).
    :param on_clear: what a cleared task does: ``auto`` goes on with what was paid and not delivered, and asks
        anew after delivery or failure; ``regenerate`` always asks anew; ``reuse`` delivers what is there again.
        Needs Airflow 3.3; before, a cleared task always asks anew.
    :param evoimage_conn_id: id of the Airflow connection.
    :param retry_policy: how long to wait before a retry (Airflow 3.3 and later); default: as EvoLink asked.
        None leaves it to ``retry_delay``.
    """

    template_fields: Sequence[str] = (
        "prompt",
        "model",
        "size",
        "quality",
        "n",
        "image_urls",
        "callback_url",
        "extra_body",
        "max_credits",
        "save_to",
        "filename_template",
        "evoimage_conn_id",
    )
    # Not ".md" or ".txt": the suffix of *any* templated text makes Airflow look for a file.
    template_ext: Sequence[str] = (".prompt", ".j2")
    template_fields_renderers: ClassVar[dict[str, str]] = {"extra_body": "json"}
    ui_color = "#efe6ff"

    def __init__(
        self,
        *,
        prompt: str,
        model: str | None = None,
        size: str | None = None,
        quality: str | None = None,
        n: int | str | None = None,
        image_urls: Sequence[Any] | Mapping[str, Any] | str | None = None,
        cleanup_references: bool = False,
        callback_url: str | None = None,
        extra_body: dict[str, Any] | None = None,
        max_credits: float | str | None = None,
        save_to: str | None = None,
        filename_template: str = ONE_GENERATION,
        wait_for_completion: bool = True,
        deferrable: bool = True,
        timeout: float | timedelta = 1800,
        poll_interval: float | None = None,
        submit_timeout: float = DEFAULT_SUBMIT_TIMEOUT,
        on_clear: OnClear = "auto",
        evoimage_conn_id: str = DEFAULT_CONN_ID,
        # A default of the signature survives .partial(); one set in kwargs would not.
        retry_policy: RetryPolicy | None = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**retry_policy_argument(retry_policy), **kwargs)
        self.prompt = prompt
        self.model = model
        self.size = size
        self.quality = quality
        self.n = n
        self.image_urls = image_urls
        self.cleanup_references = cleanup_references
        if cleanup_references and not wait_for_completion:
            raise InvalidRequestError(
                "cleanup_references needs wait_for_completion: EvoLink reads the references until it is done."
            )
        self.callback_url = callback_url
        self.extra_body = extra_body
        self.max_credits = max_credits
        self.save_to = save_to
        self.filename_template = filename_template
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.timeout = seconds("timeout", timeout)
        self.poll_interval = None if poll_interval is None else seconds("poll_interval", poll_interval)
        self.submit_timeout = seconds("submit_timeout", submit_timeout)
        self.on_clear = one_of("on_clear", on_clear, get_args(OnClear))
        self.evoimage_conn_id = evoimage_conn_id
        self._waiting_for: str | None = None
        self._credits_reserved: float | None = None
        self._made: NewImages | None = None

    @functools.cached_property
    def hook(self) -> EvoImageHook:
        """The hook of this task's connection."""
        from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

        return EvoImageHook(self.evoimage_conn_id)

    def execute(self, context: Context) -> Manifest:
        """Submit or resume; then wait, or leave the waiting to the trigger."""
        from airflow_provider_evoimage.submission.budget import credit_limit
        from airflow_provider_evoimage.submission.submit import naming_what_is_paid

        with naming_what_is_paid(lambda: self._recorded_id(context)):
            max_credits = credit_limit(self.max_credits)
            read = self._read_references(context)
        with read as references:
            return self._run(context, references, max_credits)

    def _run(self, context: Context, references: References, max_credits: Decimal | None) -> Manifest:
        from airflow_provider_evoimage.manifest import build_manifest, made_by
        from airflow_provider_evoimage.submission.submit import naming_what_is_paid
        from airflow_provider_evoimage.waiting.blocking import wait_on_worker
        from airflow_provider_evoimage.waiting.polling import Wait

        with naming_what_is_paid(lambda: self._recorded_id(context)):
            request = self._build_request(references)
            asked = self._ask(context, request, references)
            # What can be wrong about the destination is found out before anything is paid.
            saver = self._saver(context)
            self._check_names(request, saver)
        self.log.info("Asking EvoLink for %s: %s", request.summary, request.short_prompt)
        for warning in request.warnings:
            self.log.warning("%s", warning)
        generation = self._ensure(context, request, references, max_credits)
        self._waiting_for = generation.evolink_task_id
        self._credits_reserved = generation.usage.credits_reserved
        # Before the wait, so that it shows meanwhile; Airflow deletes it when another try starts.
        context["ti"].xcom_push(key=XCOM_EVOLINK_TASK_ID, value=generation.evolink_task_id)
        self._log_accepted(generation)
        if not self.wait_for_completion:
            self._keeper(context).mark("delivered", generation)
            asked = self._with_reserved(context, generation, asked)
            return build_manifest(generation, asked=asked, made_by=made_by(context))
        if generation.is_terminal:
            return self._deliver(context, generation, asked, saver)
        deadline = time.time() + self.timeout
        if self.deferrable:
            self._defer(generation, deadline)
        wait = Wait(
            evolink_task_id=generation.evolink_task_id,
            deadline=deadline,
            poll_interval=self.poll_interval,
            estimated_time=generation.estimated_time,
        )
        event = wait_on_worker(self.hook, [wait], self.log)
        return self._collect(context, generation.evolink_task_id, event)

    def execute_complete(
        self, context: Context, event: Any = None, credits_reserved: float | None = None
    ) -> Manifest:
        """Go on after the trigger's event; harmless when it runs twice."""
        from airflow_provider_evoimage.waiting.event import WaitEvent

        self._credits_reserved = credits_reserved
        ended = WaitEvent.read(event)
        evolink_task_id = ended.only_task
        return self._collect(context, evolink_task_id, ended)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Turn Airflow's own end of a deferral into our error with the id, after one last look."""
        from airflow_provider_evoimage.waiting.event import WaitEvent

        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError) as error:
            evolink_task_id = self._recorded_id(context)
            if evolink_task_id is None:
                raise
            is_timeout = isinstance(error, TaskDeferralTimeout)
            event = WaitEvent(
                endings={evolink_task_id: "timeout" if is_timeout else "lost"},
                reason="" if is_timeout else f"Airflow's triggerer gave it up ({error})",
            )
            return self._collect(context, evolink_task_id, event)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:
        """Tell OpenLineage, where it is installed, which folder was written."""
        del task_instance
        return self._made.openlineage() if self._made is not None else None

    def on_kill(self) -> None:
        """Say what goes on being billed when this task is killed on its worker."""
        if self._waiting_for is not None:
            self.log.warning(
                "Killed while EvoLink task %s goes on: EvoLink cannot cancel it and bills it when it completes. "
                "A later try of this Airflow task goes on with it and submits nothing.",
                self._waiting_for,
            )

    @property
    def _model(self) -> str:
        return filled("model", self.model) or self.hook.settings.default_model

    def _references(self, context: Context) -> TaskReferences:
        from airflow_provider_evoimage.references.task import TaskReferences

        return TaskReferences(hook=self.hook, context=context, cleanup=self.cleanup_references, log=self.log)

    def _read_references(self, context: Context) -> References:
        return self._references(context).read(
            self.image_urls, self.extra_body, model=self._model, is_retry=self._is_retry(context)
        )

    def _ask(self, context: Context, request: ImageRequest, references: References) -> Asked:
        """Describe the request; with references it is kept for the manifest, as they may be gone after the wait."""
        from airflow_provider_evoimage.manifest import Asked
        from airflow_provider_evoimage.references.task import has_references, with_sources

        asked = with_sources(Asked.by(request), references)
        if has_references(self.image_urls, self.extra_body):
            self._keep_asked(context, asked)
        return asked

    def _ensure(
        self, context: Context, request: ImageRequest, references: References, max_credits: Decimal | None
    ) -> Generation:
        try:
            return self._submission(context, request, references, max_credits).ensure(request)
        except EvoImageError as error:
            if error.billed is False and not error.retryable:
                self._references(context).remove()
            raise
        finally:
            references.close()

    def _build_request(self, references: References) -> ImageRequest:
        from airflow_provider_evoimage.evolink.request import ImageRequest

        return ImageRequest.build(
            model=self._model,
            prompt=self.prompt,
            size=self.size,
            quality=self.quality,
            n=self.n,
            image_urls=references.image_urls,
            callback_url=self.callback_url,
            extra_body=references.extra_body,
        )

    def _saver(self, context: Context) -> ImageSaver | None:
        from airflow_provider_evoimage.manifest import made_by
        from airflow_provider_evoimage.storage.destination import Destination
        from airflow_provider_evoimage.storage.file_names import FileNames
        from airflow_provider_evoimage.storage.saver import ImageSaver

        save_to = filled("save_to", self.save_to)
        if save_to is None:
            return None
        return ImageSaver(
            hook=self.hook,
            destination=Destination(save_to),
            names=FileNames(self.filename_template),
            # A re-run of the same DAG run replaces its files; another run has other names.
            if_exists="overwrite",
            made_by=made_by(context),
            log=self.log,
            may_follow_a_kill=context["ti"].try_number > 1,
        )

    def _check_names(self, request: ImageRequest, saver: ImageSaver | None) -> None:
        """Find out before anything is paid whether the storage could take the images."""
        from airflow_provider_evoimage.storage.file_names import SOME_ID, task_fields

        if saver is None:
            return
        names = saver.names
        if request.asked > 1 and "index" not in names.fields:
            raise InvalidRequestError(
                f"filename_template {self.filename_template!r} gives the {request.asked} images of this request "
                "the same name: add {index} to it."
            )
        fields = {
            **task_fields(saver.made_by),
            "item": 0,
            "name": "0",
            "index": request.asked - 1,
            "evolink_task_id": SOME_ID.format(0),
            "model": request.model,
            "ext": "json",
        }
        saver.destination.check_length(names.name(fields), is_paid=False)

    def _submission(
        self, context: Context, request: ImageRequest, references: References, max_credits: Decimal | None
    ) -> Submission:
        from airflow_provider_evoimage.submission.identity import fingerprint
        from airflow_provider_evoimage.submission.submit import Submission, identity_of

        return Submission(
            hook=self.hook,
            identity=identity_of(
                context,
                namespace=self.hook.settings.idempotency_namespace,
                fingerprint=fingerprint(request),
            ),
            keeper=self._keeper(context),
            log=self.log,
            on_clear=self.on_clear,
            is_retry=self._is_retry(context),
            may_be_cleared=context["ti"].max_tries != self.retries,
            submit_timeout=self.submit_timeout,
            before_submit=lambda: self._check_cost(request, max_credits),
            uploads=self._references(context).uploads(references),
        )

    def _check_cost(self, request: ImageRequest, max_credits: Decimal | None) -> None:
        from airflow_provider_evoimage.submission.budget import require_within

        found = require_within(request, max_credits)
        limit = "" if max_credits is None else f"; max_credits is {max_credits:f}"
        self.log.info("Estimated cost: %s%s.", found or "no price is known for this model", limit)

    def _is_retry(self, context: Context) -> bool:
        ti = context["ti"]
        first_try = (ti.max_tries or 0) - (self.retries or 0) + 1
        return bool(ti.try_number > first_try)

    def _keeper(self, context: Context) -> RecordKeeper:
        from airflow_provider_evoimage.submission.record import RecordKeeper

        # Airflow 3.3 and later.
        return RecordKeeper(context.get("task_state_store"), self.log)

    def _log_accepted(self, generation: Generation) -> None:
        from airflow_provider_evoimage.waiting.result import duration_in_words

        reserved, expected = generation.usage.credits_reserved, generation.estimated_time
        facts = [f"EvoLink task {generation.evolink_task_id} is {generation.status}"]
        if reserved is not None:
            facts.append(f"{reserved:,.4f} credits reserved")
        if expected is not None and not generation.is_terminal:
            facts.append(f"EvoLink expects it to take about {duration_in_words(expected)}")
        self.log.info("%s.", "; ".join(facts))

    def _defer(self, generation: Generation, deadline: float) -> None:
        from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger
        from airflow_provider_evoimage.waiting.result import duration_in_words

        self.log.info(
            "Waiting for it in the triggerer for up to %s; no worker is held.",
            duration_in_words(self.timeout),
        )
        self.defer(
            trigger=EvoImageGenerationTrigger(
                evolink_task_ids=[generation.evolink_task_id],
                evoimage_conn_id=self.evoimage_conn_id,
                deadline=deadline,
                poll_interval=self.poll_interval,
                estimated_time=generation.estimated_time,
            ),
            method_name="execute_complete",
            # Only the answer to the POST tells it, and before Airflow 3.3 there is no record to keep it in.
            kwargs={"credits_reserved": generation.usage.credits_reserved},
            timeout=timedelta(seconds=self.timeout + DEFERRAL_MARGIN_SECONDS),
        )

    def _collect(self, context: Context, evolink_task_id: str, event: WaitEvent) -> Manifest:
        from airflow_provider_evoimage.submission.submit import naming_what_is_paid
        from airflow_provider_evoimage.waiting.result import read_ended

        self._waiting_for = evolink_task_id
        try:
            generation = read_ended(self.hook, evolink_task_id, event.endings[evolink_task_id], event.reason)
        except GenerationNotFoundError as error:
            if self._keeper(context).forget_if_old(evolink_task_id):
                error.on_retry = (
                    "No retry follows. Its images would be gone by now: clear the task to ask anew."
                )
            raise
        with naming_what_is_paid(lambda: evolink_task_id):
            saver = self._saver(context)
        return self._deliver(context, generation, self._asked(context), saver)

    def _asked(self, context: Context) -> Asked:
        """Describe the request again; what was paid is delivered also when that no longer works."""
        from airflow_provider_evoimage.manifest import Asked
        from airflow_provider_evoimage.references.task import has_references

        if has_references(self.image_urls, self.extra_body):
            return self._kept_asked(context)
        try:
            with self._read_references(context) as references:
                return Asked.by(self._build_request(references))
        except EvoImageError as error:
            self.log.warning("The manifest will lack the request: %s", error.message)
            return Asked()

    def _keep_asked(self, context: Context, asked: Asked) -> None:
        context["ti"].xcom_push(key=XCOM_ASKED, value=asked.kept())

    def _kept_asked(self, context: Context) -> Asked:
        from airflow_provider_evoimage.manifest import Asked

        ti = context["ti"]
        return Asked.in_manifest(ti.xcom_pull(task_ids=ti.task_id, key=XCOM_ASKED, map_indexes=ti.map_index))

    def _deliver(
        self, context: Context, generation: Generation, asked: Asked, saver: ImageSaver | None
    ) -> Manifest:
        try:
            return self._hand_over(context, generation, asked, saver)
        finally:
            self._references(context).remove()

    def _hand_over(
        self, context: Context, generation: Generation, asked: Asked, saver: ImageSaver | None
    ) -> Manifest:
        from airflow_provider_evoimage.lineage import NewImages
        from airflow_provider_evoimage.manifest import build_manifest, cost_in_words, made_by
        from airflow_provider_evoimage.metrics import generation_ended
        from airflow_provider_evoimage.waiting.result import outcome_in_words, require_images

        self._waiting_for = None
        asked = self._with_reserved(context, generation, asked)
        keeper = self._keeper(context)
        try:
            require_images(generation)
        except EvoImageError:
            keeper.mark("failed", generation)
            generation_ended(generation)
            raise
        self.log.info("%s.", outcome_in_words(generation, asked.images))
        made = len(generation.image_urls)
        if asked.images is not None and made < asked.images:
            self.log.warning(
                "EvoLink made %d of the %d images asked for in task %s; the charge follows what was made.",
                made,
                asked.images,
                generation.evolink_task_id,
            )
        if saver is None:
            if generation.has_expired(time.time()):
                self.log.warning(
                    "The result links of EvoLink task %s died at %s, and nothing was saved: they are handed on all "
                    "the same. Cleared once more, this task asks for new images.",
                    generation.evolink_task_id,
                    f"{generation.expires_at:%Y-%m-%d %H:%M} UTC",
                )
            manifest = build_manifest(generation, asked=asked, made_by=made_by(context))
        else:
            try:
                (manifest,) = saver.save([generation], [asked])
            except LinkExpiredError:
                # Nothing is left to go on with: only then does a cleared task ask anew.
                keeper.mark("failed", generation)
                generation_ended(generation, is_expired=True)
                raise
        self._made = NewImages(
            manifests=[manifest], save_to=None if saver is None else filled("save_to", self.save_to)
        )
        self._made.announce(context, self.outlets, self.log)
        keeper.mark("delivered", generation)
        generation_ended(generation)
        self.log.info("%s.", cost_in_words(manifest))
        return manifest

    def _with_reserved(self, context: Context, generation: Generation, asked: Asked) -> Asked:
        """Add what EvoLink reserved, as this try or an earlier one was told."""
        reserved = self._credits_reserved
        if reserved is None:
            record = self._keeper(context).read()
            if record is not None and record.evolink_task_id == generation.evolink_task_id:
                reserved = record.credits_reserved
        return replace(asked, credits_reserved=reserved)

    def _recorded_id(self, context: Context) -> str | None:
        from airflow_provider_evoimage.evolink.answers import EVOLINK_TASK_ID

        record = self._keeper(context).read()
        if record is not None and record.evolink_task_id is not None:
            return record.evolink_task_id
        ti = context["ti"]
        pushed = ti.xcom_pull(task_ids=ti.task_id, key=XCOM_EVOLINK_TASK_ID, map_indexes=ti.map_index)
        return pushed if isinstance(pushed, str) and EVOLINK_TASK_ID.fullmatch(pushed) else None
