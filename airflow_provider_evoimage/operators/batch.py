"""The operator for many requests in one task: submits each once, waits without a worker, saves as they end."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from airflow.sdk import BaseOperator

from airflow_provider_evoimage.arguments import (
    as_folder,
    filled,
    one_of,
    poll_seconds,
    reuse_of,
    seconds,
    templated,
    whole_number,
)
from airflow_provider_evoimage.defaults import (
    DEFAULT_CONN_ID,
    DEFAULT_FALLBACK_AFTER,
    DEFAULT_SUBMIT_TIMEOUT,
    MANY_GENERATIONS,
    PROVENANCE,
    Model,
    OnClear,
    Provenance,
    Quality,
    Size,
)
from airflow_provider_evoimage.exceptions import (
    TRANSIENT_ERRORS,
    EvoImageError,
    InvalidRequestError,
)
from airflow_provider_evoimage.images_xcom import ImagesXCom
from airflow_provider_evoimage.links import OPERATOR_LINKS
from airflow_provider_evoimage.mapped_names import NamedWhenMapped
from airflow_provider_evoimage.operators.after_success import call_after_success
from airflow_provider_evoimage.rendered_fields import HidesSecretsOfUrls
from airflow_provider_evoimage.retry_policy import DEFAULT_RETRY_POLICY, retry_policy_argument
from airflow_provider_evoimage.typed_output import HasTypedOutput
from airflow_provider_evoimage.version_compat import (
    HAS_ASSET_PARTITIONS,
    TaskDeferralError,
    TaskDeferralTimeout,
)

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context, ObjectStoragePath, XComArg

    from airflow_provider_evoimage.batch.run import BatchRun
    from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
    from airflow_provider_evoimage.lineage import NewImages
    from airflow_provider_evoimage.shapes import BatchSummary
    from airflow_provider_evoimage.version_compat import RetryPolicy
    from airflow_provider_evoimage.waiting.event import WaitEvent

OnItemFailure = Literal["continue", "fail"]


class EvoImageBatchOperator(NamedWhenMapped, HidesSecretsOfUrls, HasTypedOutput, BaseOperator):
    """Submit up to 2,000 requests in one task; wait for all without a worker; save images as they are done.

    Each request is submitted once, whatever crashes: it is identified by its content, so inserting or moving
    rows buys nothing again. The batch manifest records the state of each, a JSONL file with one line an item,
    at ``{dag_id}/{run_id}/{task_id}.batch.jsonl`` below ``save_to``; a retry reads it and repeats only what
    may succeed. The worker wakes now and then to save, long before links expire.

    Returns a small summary: ``{v, manifest, items, saved, drawn, reused, failed, left_out, images, credits,
    failures, made_by}``, where ``manifest`` is the URL of the batch manifest, ``credits`` holds ``estimate`` and
    ``charged``, and ``failures`` describes the first twenty items without images.

    :param requests: a list (each item a prompt, or a mapping of request fields), the output of another task,
        or the path of a ``.json``, ``.jsonl``, ``.csv`` or ``.tsv`` file on any storage. An item's ``name``
        is ``{name}`` in file names.
    :param save_to: folder by any URL of Airflow's object storage, for instance ``s3://conn@bucket/campaign``.
    :param prompt: of items that have none of their own; likewise the other fields of a request.
    :param model: model id; default: the connection's ``default_model``, else ``gpt-image-1.5``.
    :param size: see EvoImageGenerateOperator.
    :param quality: see EvoImageGenerateOperator; EvoLink's default for GPT Image 1 and 1.5 is ``high``.
    :param n: number of images of each item.
    :param image_urls: references of each item, see EvoImageGenerateOperator.
    :param cleanup_references: True removes the batch's uploads from EvoLink once all generations have ended.
    :param callback_url: https URL that EvoLink calls when a generation has ended.
    :param extra_body: fields of other models, sent as they are.
    :param filename_template: names below ``save_to``; fields in ``storage.file_names.NAME_FIELDS``.
    :param provenance: ``mark`` writes into each saved PNG, JPEG and WebP that an AI made it, without touching its
        pixels; ``keep`` saves EvoLink's bytes as they are. See docs/provenance.md.
    :param alt_text: the image in words, for people who do not see it; goes into the mark. An item's own
        ``alt_text`` wins.
    :param reuse: what to do about items of which ``save_to`` holds images of the same request: None draws new ones;
        True takes those, submits nothing and is charged nothing; a timedelta does so if they are not older. Not
        after a clear. See docs/reuse.md.
    :param variant: any text; makes equal requests other ones, for other pictures of the same words. An item's own
        ``variant`` wins.
    :param max_credits: the most the whole batch may cost, in credits (68 are 1 USD). Nothing is submitted
        beyond it, counting reservations and charges; items left out are listed.
    :param fallback_models: models to ask, in order, where an item's own is not available or fails with a transient
        error; an item moves on only when that certainly cost nothing. See docs/fallback.md.
    :param fallback_after: seconds (or a timedelta) that a model may be unavailable before the next one is asked.
    :param labels: up to 10 texts by key, such as ``{"campaign": "spring"}``, for manifests, metrics and asset events:
        ``evoimage costs`` sums by them. An item's own ``labels`` are added, and win.
    :param partition_by: ``name`` gives each asset among ``outlets`` an event for each name of an item that has images,
        with the name as its partition: a DAG with ``PartitionedAssetTimetable`` runs once for each. Airflow 3.3 and
        later; every item needs a name. See docs/labels.md.
    :param check_credits: fail before the first request when account or API key have too few credits for all.
    :param on_item_failure: ``continue`` delivers the saved images once retries no longer help; ``fail`` fails
        the task at the end, after saving everything possible. A refused key or an empty account always fails
        it.
    :param save_every: wake the worker to save when so many requests have ended.
    :param save_after: or when the first of those that ended did so this many seconds (or a timedelta) ago.
    :param parallel: submissions at a time.
    :param max_active_generations: how many generations may run at a time; the rest is submitted as they end.
        None submits as many as EvoLink accepts.
    :param deferrable: wait in the triggerer. True by default, whatever Airflow's own default.
    :param timeout: seconds (or a timedelta) to wait for all, in each try; a retry resumes what is unfinished.
    :param poll_interval: seconds between polls; default adapts to each generation.
    :param submit_timeout: seconds to keep retrying one item while EvoLink certainly accepts nothing.
    :param on_clear: what a cleared task does: ``auto`` resumes a batch of which anything is missing, and
        submits all items of a complete one again; ``regenerate`` always submits all again; ``reuse`` never
        does.
    :param evoimage_conn_id: id of the Airflow connection.
    :param retry_policy: how long to wait before a retry (Airflow 3.3 and later); None uses ``retry_delay``.
    """

    template_fields: Sequence[str] = (
        "requests",
        "save_to",
        "prompt",
        "model",
        "size",
        "quality",
        "n",
        "image_urls",
        "callback_url",
        "extra_body",
        "filename_template",
        "alt_text",
        "variant",
        "max_credits",
        "fallback_models",
        "labels",
        "evoimage_conn_id",
    )
    # Not ".csv" or ".json": the file is read when the task runs, not with the DAG.
    template_ext: Sequence[str] = (".prompt", ".j2")
    template_fields_renderers: ClassVar[dict[str, str]] = {"requests": "json", "extra_body": "json"}
    naming_fields: ClassVar[Sequence[str]] = ("requests",)
    operator_extra_links = OPERATOR_LINKS
    ui_color = "#efe6ff"

    def __init__(
        self,
        *,
        requests: Any,
        save_to: str | os.PathLike[str] | ObjectStoragePath | XComArg,
        prompt: str | XComArg | None = None,
        model: Model | str | XComArg | None = None,
        size: Size | str | XComArg | None = None,
        quality: Quality | str | XComArg | None = None,
        n: int | str | XComArg | None = None,
        image_urls: Sequence[Any] | Mapping[str, Any] | str | XComArg | None = None,
        cleanup_references: bool = False,
        callback_url: str | XComArg | None = None,
        extra_body: dict[str, Any] | XComArg | None = None,
        filename_template: str = MANY_GENERATIONS,
        provenance: Provenance = "mark",
        alt_text: str | XComArg | None = None,
        reuse: bool | timedelta | None = None,
        variant: str | int | XComArg | None = None,
        max_credits: float | str | XComArg | None = None,
        fallback_models: Sequence[Model | str] | str | XComArg | None = None,
        fallback_after: float | timedelta = DEFAULT_FALLBACK_AFTER,
        labels: dict[str, str] | XComArg | None = None,
        partition_by: Literal["name"] | None = None,
        check_credits: bool = False,
        on_item_failure: OnItemFailure = "continue",
        save_every: int = 100,
        save_after: float | timedelta = 900,
        parallel: int = 8,
        max_active_generations: int | None = None,
        deferrable: bool = True,
        timeout: float | timedelta = 6 * 3600,
        poll_interval: float | None = None,
        submit_timeout: float = DEFAULT_SUBMIT_TIMEOUT,
        on_clear: OnClear = "auto",
        evoimage_conn_id: str = DEFAULT_CONN_ID,
        # A default of the signature survives .partial(); one set in kwargs would not.
        retry_policy: RetryPolicy | None = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**retry_policy_argument(retry_policy), **kwargs)
        self.requests = requests
        # Airflow's templates and rendered fields know texts.
        self.save_to: str = as_folder(save_to)
        self.prompt = templated(prompt)
        self.model = templated(model)
        self.size = templated(size)
        self.quality = templated(quality)
        self.n = templated(n)
        self.image_urls = templated(image_urls)
        self.cleanup_references = cleanup_references
        self.callback_url = templated(callback_url)
        self.extra_body = templated(extra_body)
        self.filename_template = filename_template
        self.provenance = one_of("provenance", provenance, PROVENANCE)
        self.alt_text = templated(alt_text)
        self.reuse = reuse_of(reuse)
        self.variant = templated(variant)
        self.max_credits = templated(max_credits)
        # Checked before templates are rendered: a limit that renders to nothing must not vanish.
        self.has_limit = max_credits is not None
        self.fallback_models = templated(fallback_models)
        self.fallback_after = seconds("fallback_after", fallback_after)
        self.labels = templated(labels)
        self.partition_by = None if partition_by is None else one_of("partition_by", partition_by, ["name"])
        if partition_by is not None and not HAS_ASSET_PARTITIONS:
            raise InvalidRequestError(
                "partition_by needs Airflow 3.3: older releases know no partitions of an asset that a task names."
            )
        self.check_credits = check_credits
        self.on_item_failure = one_of("on_item_failure", on_item_failure, get_args(OnItemFailure))
        self.save_every = whole_number("save_every", save_every)
        self.save_after = seconds("save_after", save_after)
        self.parallel = whole_number("parallel", parallel)
        self.max_active_generations = (
            None
            if max_active_generations is None
            else whole_number("max_active_generations", max_active_generations)
        )
        self.deferrable = deferrable
        self.timeout = seconds("timeout", timeout)
        self.poll_interval = None if poll_interval is None else poll_seconds(poll_interval)
        self.submit_timeout = seconds("submit_timeout", submit_timeout)
        self.on_clear = one_of("on_clear", on_clear, get_args(OnClear))
        self.evoimage_conn_id = evoimage_conn_id
        self._waiting_for = 0
        self._made: NewImages | None = None
        self._shown: ImagesXCom | None = None

    @functools.cached_property
    def hook(self) -> EvoImageHook:
        """The hook of this task's connection."""
        from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

        return EvoImageHook(self.evoimage_conn_id)

    def execute(self, context: Context) -> BatchSummary:
        """Submit what is missing; then save ended generations and wait for the rest, in turn."""
        with self._images(context).telling_failures():
            run = self._run(context, has_submitted=context["ti"].try_number > 1)
            run.submit()
            return self._go_on(context, run, deadline=time.time() + self.timeout)

    def execute_complete(
        self, context: Context, event: Any = None, deadline: float | None = None
    ) -> BatchSummary:
        """Save ended generations and submit queued items; wait again, or finish. Harmless when run twice."""
        from airflow_provider_evoimage.waiting.event import WaitEvent

        ended = WaitEvent.read(event)
        with self._images(context).telling_failures():
            run = self._run(context, has_submitted=True)
            run.resume()
            if deadline is None:  # dag.test() does not hand it over.
                deadline = time.time() + self.timeout
            self._collect(run, ended, deadline)
            return self._go_on(context, run, deadline=deadline)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """When Airflow itself ended the deferral, read the generations once more, and end the wait."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError) as error:
            from airflow_provider_evoimage.waiting.deferral import event_of_ended_deferral

            self.log.warning("Airflow ended the wait: %s", error)
            with self._images(context).telling_failures():
                run = self._run(context, has_submitted=True)
                run.resume()
                event = event_of_ended_deferral(error, run.waiting)
                run.collect(event.endings, event.reason)
                return self._finish(context, run)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage[Any, Any] | None:
        """Name the folder that was written, where OpenLineage is installed."""
        del task_instance
        return self._made.openlineage() if self._made is not None else None

    def on_kill(self) -> None:
        """Log what is still billed when this task is killed on its worker."""
        if self._waiting_for:
            self.log.warning(
                "Killed while %d EvoLink tasks go on: EvoLink cannot cancel them and bills them when they complete. "
                "A later try of this Airflow task resumes them; the batch manifest names them.",
                self._waiting_for,
            )

    def _go_on(self, context: Context, run: BatchRun, *, deadline: float) -> BatchSummary:
        from airflow_provider_evoimage.waiting.blocking import wait_on_worker
        from airflow_provider_evoimage.waiting.polling import Wait

        is_resumed = False
        while waiting := run.waiting:
            self._waiting_for = len(waiting)
            if time.time() >= deadline:
                run.collect(dict.fromkeys(waiting, "timeout"))
                break
            self._images(context).batch_waiting(run.progress)
            if self.deferrable:
                self._defer(run, deadline)
            event = wait_on_worker(
                self.hook,
                [
                    Wait(
                        evolink_task_id=each,
                        deadline=deadline,
                        poll_interval=self.poll_interval,
                        was_accepted=True,
                    )
                    for each in waiting
                ],
                self.log,
                save_every=self._save_every(run),
                save_after=self.save_after,
                is_resumed=is_resumed,
            )
            self._collect(run, event, deadline)
            is_resumed = len(run.waiting) < len(waiting)
        self._waiting_for = 0
        return self._finish(context, run)

    def _collect(self, run: BatchRun, ended: WaitEvent, deadline: float) -> None:
        """Save ended generations, and submit queued items in their place."""
        # A wait that broke off without any ending would break off again.
        broke_off = not ended.endings and ended.reason
        try:
            run.collect(dict.fromkeys(run.waiting, "lost") if broke_off else ended.endings, ended.reason)
        except TRANSIENT_ERRORS as error:
            if time.time() >= deadline:
                raise
            # The generations go on at EvoLink, and the trigger can wait longer than a worker.
            self.log.warning("The generations that ended cannot be read now; waiting on: %s", error.message)
            return
        if time.time() < deadline:
            run.submit_queued()

    def _save_every(self, run: BatchRun) -> int:
        """How many must end before the worker wakes: fewer if others are queued."""
        if not run.queued:
            return self.save_every
        active = self.max_active_generations or len(run.waiting)
        return min(self.save_every, max(1, active // 2))

    def _finish(self, context: Context, run: BatchRun) -> BatchSummary:
        try:
            summary, self._made = run.finish(context, self.outlets)
        finally:
            # Also of a batch that fails: its error is added to it.
            self._images(context).batch_made(run.progress)
        return summary

    def _images(self, context: Context) -> ImagesXCom:
        if self._shown is None:
            self._shown = ImagesXCom(context["ti"], self.log)
        return self._shown

    def _defer(self, run: BatchRun, deadline: float) -> None:
        from airflow_provider_evoimage.triggers.batch import EvoImageBatchTrigger
        from airflow_provider_evoimage.waiting.deferral import deferral_timeout
        from airflow_provider_evoimage.waiting.result import duration_in_words

        waiting, left = run.waiting, max(1.0, deadline - time.time())
        self.log.info(
            "Waiting for %d generation%s in the triggerer for up to %s; no worker is held.%s",
            len(waiting),
            "" if len(waiting) == 1 else "s",
            duration_in_words(left),
            f" {run.queued} more are queued." if run.queued else "",
        )
        self.defer(
            trigger=EvoImageBatchTrigger(
                evolink_task_ids=waiting,
                evoimage_conn_id=self.evoimage_conn_id,
                deadline=deadline,
                save_every=self._save_every(run),
                save_after=self.save_after,
                poll_interval=self.poll_interval,
            ),
            method_name="execute_complete",
            kwargs={"deadline": deadline},
            timeout=deferral_timeout(left),
        )

    def _run(self, context: Context, *, has_submitted: bool) -> BatchRun:
        """Make the run of this leg.

        :param has_submitted: whether an earlier leg or try may have paid for generations.
        """
        try:
            run = self._new_run(context, has_submitted=has_submitted)
        except EvoImageError as error:
            if has_submitted and error.billed is False:
                then = (
                    "a retry" if error.retryable else "correct it and clear the task within 24 hours, which"
                )
                error.restate(
                    billed=None,
                    on_retry="This try submitted nothing. The batch manifest below save_to names the generations that "
                    f"were submitted before; {then} resumes them.",
                )
            raise
        call_after_success(self, run.mark_delivered)
        return run

    def _new_run(self, context: Context, *, has_submitted: bool) -> BatchRun:
        from airflow_provider_evoimage.batch.run import BatchArguments, BatchRun

        save_to = filled("save_to", self.save_to)
        if save_to is None:
            raise InvalidRequestError("save_to is empty: name the folder that the images go to.")
        default_model = self.hook.settings.default_model
        arguments = BatchArguments(
            requests=self.requests,
            defaults={
                "model": filled("model", self.model) or default_model,
                "size": self.size,
                "quality": self.quality,
                "n": self.n,
                "image_urls": self.image_urls,
                "callback_url": self.callback_url,
                "extra_body": self.extra_body,
            }
            | ({} if self.prompt is None else {"prompt": self.prompt}),
            save_to=save_to,
            filename_template=self.filename_template,
            provenance=self.provenance,
            alt_text=self.alt_text,
            reuse=self.reuse,
            variant=self.variant,
            retries=self.retries or 0,
            max_credits=self.max_credits,
            has_limit=self.has_limit,
            check_credits=self.check_credits,
            cleanup_references=self.cleanup_references,
            accepts_failures=self.on_item_failure == "continue",
            parallel=self.parallel,
            max_active_generations=self.max_active_generations,
            submit_timeout=self.submit_timeout,
            on_clear=self.on_clear,
            fallback_models=self.fallback_models,
            fallback_after=self.fallback_after,
            labels=self.labels,
            partition_by=self.partition_by,
        )
        return BatchRun(
            context, hook=self.hook, arguments=arguments, has_submitted=has_submitted, log=self.log
        )
