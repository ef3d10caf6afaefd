"""The operator that requests images, waits without a worker, and saves them."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from airflow.sdk import BaseOperator

from airflow_provider_evoimage.arguments import (
    as_folder,
    one_of,
    poll_seconds,
    require_memory_of_models,
    reuse_of,
    seconds,
    templated,
)
from airflow_provider_evoimage.defaults import (
    DEFAULT_CONN_ID,
    DEFAULT_FALLBACK_AFTER,
    DEFAULT_SUBMIT_TIMEOUT,
    IF_EXISTS,
    ONE_GENERATION,
    PROVENANCE,
    IfExists,
    Model,
    OnChange,
    OnClear,
    Provenance,
    Quality,
    Size,
)
from airflow_provider_evoimage.exceptions import GenerationFailedError, InvalidRequestError
from airflow_provider_evoimage.images_xcom import ImagesXCom
from airflow_provider_evoimage.links import OPERATOR_LINKS
from airflow_provider_evoimage.mapped_names import NamedWhenMapped
from airflow_provider_evoimage.operators.after_success import call_after_success
from airflow_provider_evoimage.rendered_fields import HidesSecretsOfUrls
from airflow_provider_evoimage.retry_policy import DEFAULT_RETRY_POLICY, retry_policy_argument
from airflow_provider_evoimage.typed_output import HasTypedOutput
from airflow_provider_evoimage.version_compat import TaskDeferralError, TaskDeferralTimeout

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context, ObjectStoragePath, XComArg

    from airflow_provider_evoimage.generation.run import GenerationRun
    from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
    from airflow_provider_evoimage.shapes import Manifest
    from airflow_provider_evoimage.version_compat import RetryPolicy


class EvoImageGenerateOperator(NamedWhenMapped, HidesSecretsOfUrls, HasTypedOutput, BaseOperator):
    """Request images from EvoLink; wait for them without holding a worker; save them.

    Each try of one task instance is the same request under the same idempotency key, so a retry after any
    crash never pays twice: it resumes the generation that was paid for. The EvoLink task id is in the
    XCom ``evolink_task_id`` as soon as the request is accepted. Returns the manifest, see
    :mod:`airflow_provider_evoimage.manifest`. Assets and asset aliases among ``outlets`` get one event when the
    images exist, which describes them in its ``extra``; see
    :attr:`airflow_provider_evoimage.lineage.NewImages.extra`.

    Costs: EvoLink charges for each completed generation, by model, size, quality and ``n``; failed ones are
    documented as free. Defaults are EvoLink's documented ones, which for GPT models mean ``quality="high"``.

    :param prompt: what to draw, or how to edit the references; a name ending in ``.prompt`` or ``.j2`` is
        read from that file beside the DAG.
    :param model: model id; default: the connection's ``default_model``, else ``gpt-image-1.5``.
    :param size: ``1:1``, ``2:3``, ``3:2``, ``1024x1024``, ``1024x1536``, ``1536x1024``; others by model.
        ``for:meta.story`` requests the size that is nearest to a channel of ``images.channels.CHANNELS``.
    :param quality: ``low``, ``medium``, ``high``; others by model.
    :param n: number of images.
    :param image_urls: references: http(s) URLs that EvoLink can read without logging in; URLs of Airflow's
        object storage and absolute paths, which are uploaded just before the submission; manifests of earlier
        tasks (or paths of their sidecars), which stand for their images. The mask of ``extra_body`` likewise.
    :param cleanup_references: True removes this task's uploads from EvoLink as soon as the generation has
        ended. Otherwise all tasks of the DAG run share them, and EvoLink deletes them after 72 hours.
    :param callback_url: https URL that EvoLink calls when the generation has ended.
    :param extra_body: fields of other models, sent as they are.
    :param max_credits: the most this request may cost, in credits (68 are 1 USD). When the upper end of its
        estimate is above that, or no price is known, the task fails before anything is sent.
    :param fallback_models: models to ask, in order, where ``model`` is not available or fails with a transient error.
        The request moves on only when that certainly cost nothing; ``max_credits`` holds for each model and over
        all. Size and quality are put into each model's words, or refused before anything is sent. Below Airflow
        3.3 it needs ``save_to``. See docs/fallback.md.
    :param fallback_after: seconds (or a timedelta) that a model may be unavailable before the next one is asked.
    :param name: of what is drawn, for people: ``{name}`` in file names, the map index in the UI, manifest and log.
        Changes neither the request nor its idempotency key.
    :param labels: up to 10 texts by key, such as ``{"campaign": "spring"}``, for manifest, sidecar, metrics and asset
        events: ``evoimage costs`` sums by them. They change neither the request nor its idempotency key.
    :param save_to: folder by any URL of Airflow's object storage, for instance ``file:///data/images``; the
        images are saved as soon as they exist. Without it the result holds links that live 24 hours.
    :param filename_template: names below ``save_to``; fields in ``storage.file_names.NAME_FIELDS``.
    :param if_exists: ``overwrite`` (a re-run replaces its own files), ``skip`` (keep a file of the same name, and
        fetch nothing), or ``error``. Files of another task of the same DAG run are never overwritten.
    :param provenance: ``mark`` writes into each saved PNG, JPEG and WebP that an AI made it, without touching its
        pixels; ``keep`` saves EvoLink's bytes as they are. See docs/provenance.md.
    :param alt_text: the image in words, for people who do not see it; goes into the mark. At most 2,000 characters.
    :param reuse: what to do where ``save_to`` holds images of the same request: None draws new ones; True returns the
        manifest of those, submits nothing and is charged nothing; a timedelta does so if they are not older. Not after
        a clear. See docs/reuse.md.
    :param variant: any text; makes an equal request another one, for another picture of the same words.
    :param wait_for_completion: False returns once the request is accepted, to collect later.
    :param deferrable: wait in the triggerer. True by default, whatever Airflow's own default: holding no
        worker is what this operator is for. False waits on the worker.
    :param timeout: seconds (or a timedelta) to wait for one generation, in each try. A generation that takes
        longer is kept: a retry goes on waiting for it.
    :param poll_interval: seconds between polls; default adapts to the generation.
    :param submit_timeout: seconds to keep retrying while EvoLink certainly accepts nothing (429, 503).
    :param on_clear: what a cleared task does: ``auto`` resumes what was paid and not delivered, and submits a
        new request after delivery or failure; ``regenerate`` always submits a new one; ``reuse`` delivers the
        earlier images again. Needs Airflow 3.3; below, a cleared task always submits a new request.
    :param on_change: what a retry does when its request differs from the one that an earlier try sent,
        because a template gave another text or the DAG was edited: ``resume`` delivers what was sent, with a
        warning, so that nothing is paid twice; ``submit`` submits the new request. Needs Airflow 3.3; below,
        a retry whose request differs always submits it.
    :param evoimage_conn_id: id of the Airflow connection.
    :param retry_policy: how long to wait before a retry (Airflow 3.3 and later); default: as long as EvoLink
        asks. None uses ``retry_delay``.
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
        "alt_text",
        "variant",
        "fallback_models",
        "name",
        "labels",
        "evoimage_conn_id",
    )
    # Not ".md" or ".txt": the suffix of *any* templated text makes Airflow look for a file.
    template_ext: Sequence[str] = (".prompt", ".j2")
    template_fields_renderers: ClassVar[dict[str, str]] = {"extra_body": "json", "labels": "json"}
    operator_extra_links = OPERATOR_LINKS
    ui_color = "#efe6ff"
    #: Arguments that a function under ``@task.evoimage`` returned, which may differ from item to item.
    varies_by_item: frozenset[str] = frozenset()

    def __init__(
        self,
        *,
        prompt: str | XComArg,
        model: Model | str | XComArg | None = None,
        size: Size | str | XComArg | None = None,
        quality: Quality | str | XComArg | None = None,
        n: int | str | XComArg | None = None,
        image_urls: Sequence[Any] | Mapping[str, Any] | str | XComArg | None = None,
        cleanup_references: bool = False,
        callback_url: str | XComArg | None = None,
        extra_body: dict[str, Any] | XComArg | None = None,
        max_credits: float | str | XComArg | None = None,
        fallback_models: Sequence[Model | str] | str | XComArg | None = None,
        fallback_after: float | timedelta = DEFAULT_FALLBACK_AFTER,
        name: str | XComArg | None = None,
        labels: dict[str, str] | XComArg | None = None,
        save_to: str | os.PathLike[str] | ObjectStoragePath | XComArg | None = None,
        filename_template: str = ONE_GENERATION,
        if_exists: IfExists = "overwrite",
        provenance: Provenance = "mark",
        alt_text: str | XComArg | None = None,
        reuse: bool | timedelta | None = None,
        variant: str | int | XComArg | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = True,
        timeout: float | timedelta = 1800,
        poll_interval: float | None = None,
        submit_timeout: float = DEFAULT_SUBMIT_TIMEOUT,
        on_clear: OnClear = "auto",
        on_change: OnChange = "resume",
        evoimage_conn_id: str = DEFAULT_CONN_ID,
        # A default of the signature survives .partial(); one set in kwargs would not.
        retry_policy: RetryPolicy | None = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**retry_policy_argument(retry_policy), **kwargs)
        self.prompt = templated(prompt)
        self.model = templated(model)
        self.size = templated(size)
        self.quality = templated(quality)
        self.n = templated(n)
        self.image_urls = templated(image_urls)
        self.cleanup_references = cleanup_references
        if cleanup_references and not wait_for_completion:
            raise InvalidRequestError(
                "cleanup_references needs wait_for_completion: EvoLink reads the references until it is done."
            )
        self.callback_url = templated(callback_url)
        self.extra_body = templated(extra_body)
        self.max_credits = templated(max_credits)
        # Checked before templates are rendered: a limit that renders to nothing must not vanish.
        self.has_limit = max_credits is not None
        self.fallback_models = templated(fallback_models)
        self.fallback_after = seconds("fallback_after", fallback_after)
        require_memory_of_models(fallback_models, save_to)
        self.name = templated(name)
        self.labels = templated(labels)
        # Airflow's templates and rendered fields know texts.
        self.save_to: str | None = as_folder(save_to)
        self.filename_template = filename_template
        self.if_exists = one_of("if_exists", if_exists, IF_EXISTS)
        self.provenance = one_of("provenance", provenance, PROVENANCE)
        self.alt_text = templated(alt_text)
        self.reuse = reuse_of(reuse)
        if self.reuse is not None and (save_to is None or not wait_for_completion):
            raise InvalidRequestError(
                "reuse needs save_to, the folder whose images are reused, and wait_for_completion."
            )
        self.variant = templated(variant)
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.timeout = seconds("timeout", timeout)
        self.poll_interval = None if poll_interval is None else poll_seconds(poll_interval)
        self.submit_timeout = seconds("submit_timeout", submit_timeout)
        self.on_clear = one_of("on_clear", on_clear, get_args(OnClear))
        self.on_change = one_of("on_change", on_change, get_args(OnChange))
        self.evoimage_conn_id = evoimage_conn_id
        self._run: GenerationRun | None = None

    @functools.cached_property
    def hook(self) -> EvoImageHook:
        """The hook of this task's connection."""
        from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

        return EvoImageHook(self.evoimage_conn_id)

    def execute(self, context: Context) -> Manifest:
        """Submit or resume; then wait, or leave the waiting to the trigger."""
        images = ImagesXCom(context["ti"], self.log)
        with images.telling_failures():
            run = self._begin(context)
            try:
                manifest = run.submit()
                if manifest is None:
                    deadline = time.time() + self.timeout
                    images.waiting(run.under_way, run.requested)
                    if self.deferrable:
                        self._defer(run, deadline)
                    manifest = run.wait_on_worker(deadline)
            except GenerationFailedError as error:
                if not run.falls_back(error):
                    raise
                manifest = None
            else:
                images.made([manifest])
        return self._fall_back(context) if manifest is None else manifest

    def _fall_back(self, context: Context) -> Manifest:
        """Go on with the next model, as a retry would: the record says which."""
        return self.execute(context)

    def execute_complete(
        self, context: Context, event: Any = None, credits_reserved: float | None = None
    ) -> Manifest:
        """Go on after the trigger's event; harmless when it runs twice."""
        from airflow_provider_evoimage.waiting.event import WaitEvent

        images = ImagesXCom(context["ti"], self.log)
        with images.telling_failures():
            run = self._begin(context)
            try:
                manifest = run.collect(WaitEvent.read(event), credits_reserved=credits_reserved)
            except GenerationFailedError as error:
                if not run.falls_back(error):
                    raise
            else:
                images.made([manifest])
                return manifest
        return self._fall_back(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """When Airflow itself ended the deferral, read the generation once more and raise an error with its id."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError) as error:
            from airflow_provider_evoimage.waiting.deferral import event_of_ended_deferral

            images = ImagesXCom(context["ti"], self.log)
            with images.telling_failures():
                run = self._begin(context)
                evolink_task_id = run.recorded_id
                if evolink_task_id is None:
                    raise
                manifest = run.collect(event_of_ended_deferral(error, [evolink_task_id]))
                images.made([manifest])
            return manifest

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:
        """Name the folder that was written, where OpenLineage is installed."""
        del task_instance
        made = self._run.made if self._run is not None else None
        return made.openlineage() if made is not None else None

    def on_kill(self) -> None:
        """Name the generation that is still billed when this task is killed on its worker."""
        if self._run is not None and self._run.waiting_for is not None:
            self.log.warning(
                "Killed while EvoLink task %s goes on: EvoLink cannot cancel it and bills it when it completes. "
                "A later try of this Airflow task resumes it and submits nothing.",
                self._run.waiting_for.evolink_task_id,
            )

    def _begin(self, context: Context) -> GenerationRun:
        from airflow_provider_evoimage.generation.run import GenerationArguments, GenerationRun

        arguments = GenerationArguments(
            prompt=self.prompt,
            model=self.model,
            size=self.size,
            quality=self.quality,
            n=self.n,
            image_urls=self.image_urls,
            cleanup_references=self.cleanup_references,
            callback_url=self.callback_url,
            extra_body=self.extra_body,
            max_credits=self.max_credits,
            has_limit=self.has_limit,
            save_to=self.save_to,
            filename_template=self.filename_template,
            if_exists=self.if_exists,
            provenance=self.provenance,
            alt_text=self.alt_text,
            reuse=self.reuse,
            variant=self.variant,
            wait_for_completion=self.wait_for_completion,
            poll_interval=self.poll_interval,
            submit_timeout=self.submit_timeout,
            on_clear=self.on_clear,
            on_change=self.on_change,
            retries=self.retries or 0,
            fallback_models=self.fallback_models,
            fallback_after=self.fallback_after,
            name=self.name,
            varies_by_item=self.varies_by_item,
            labels=self.labels,
        )
        self._run = GenerationRun(
            context, hook=self.hook, arguments=arguments, outlets=self.outlets, log=self.log
        )
        call_after_success(self, self._run.mark_delivered)
        return self._run

    def _defer(self, run: GenerationRun, deadline: float) -> None:
        from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger
        from airflow_provider_evoimage.waiting.deferral import deferral_timeout
        from airflow_provider_evoimage.waiting.result import duration_in_words

        generation = run.under_way
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
                was_accepted=True,
            ),
            method_name="execute_complete",
            # Only the answer to the POST says it, and below Airflow 3.3 there is no record to keep it in.
            kwargs={"credits_reserved": generation.usage.credits_reserved},
            timeout=deferral_timeout(self.timeout),
        )
