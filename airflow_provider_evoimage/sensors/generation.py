"""The sensor that waits for a generation started elsewhere."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue

from airflow_provider_evoimage.arguments import poll_seconds, seconds
from airflow_provider_evoimage.defaults import DEFAULT_CONN_ID
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    GenerationNotFoundError,
    GenerationTimeoutError,
    InvalidRequestError,
    SensorTimeoutError,
)
from airflow_provider_evoimage.images_xcom import ImagesXCom
from airflow_provider_evoimage.links import OPERATOR_LINKS
from airflow_provider_evoimage.mapped_names import NamedWhenMapped
from airflow_provider_evoimage.rendered_fields import HidesSecretsOfUrls
from airflow_provider_evoimage.typed_output import HasTypedOutput
from airflow_provider_evoimage.version_compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferralError,
    TaskDeferralTimeout,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_evoimage.evolink.answers import Generation
    from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
    from airflow_provider_evoimage.shapes import Manifest
    from airflow_provider_evoimage.waiting.event import WaitEvent

# The method that Airflow calls instead of execute_complete when it ends a deferral itself.
_TRIGGER_FAILED = "__fail__"


class EvoImageGenerationSensor(NamedWhenMapped, HidesSecretsOfUrls, HasTypedOutput, BaseSensorOperator):
    """Wait until a generation that was submitted elsewhere has ended; return its manifest.

    Pays nothing and submits nothing. A failed or cancelled generation fails the sensor at once; with
    ``soft_fail=True`` it is skipped instead, in every mode. When ``timeout`` is over the sensor fails and, as
    with every Airflow sensor, is **not** retried; the generation goes on at EvoLink.

    :param evolink_task_id: EvoLink's id of the generation, or the manifest of a task that has one.
    :param deferrable: wait in the triggerer (default); False pokes on a worker, by ``mode``.
    :param poll_interval: seconds between polls while deferred; default adapts to the generation. The other
        modes poll every ``poke_interval`` seconds.
    :param timeout: seconds (or a timedelta) to wait in all.
    :param evoimage_conn_id: id of the Airflow connection.
    """

    template_fields: Sequence[str] = ("evolink_task_id", "evoimage_conn_id")
    naming_fields: ClassVar[Sequence[str]] = ("evolink_task_id",)
    operator_extra_links = OPERATOR_LINKS
    ui_color = "#e6fff2"

    def __init__(
        self,
        *,
        evolink_task_id: Any,
        deferrable: bool = True,
        poll_interval: float | None = None,
        timeout: float | timedelta = 1800,
        poke_interval: float | timedelta = 15,
        evoimage_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        seconds("timeout", timeout)
        super().__init__(timeout=timeout, poke_interval=poke_interval, **kwargs)
        self.evolink_task_id = evolink_task_id
        self.deferrable = deferrable
        self.poll_interval = None if poll_interval is None else poll_seconds(poll_interval)
        self.evoimage_conn_id = evoimage_conn_id
        self._looking_since: float | None = None

    @functools.cached_property
    def hook(self) -> EvoImageHook:
        """The hook of this task's connection."""
        from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

        return EvoImageHook(self.evoimage_conn_id)

    def execute(self, context: Context) -> Any:
        """Poll once; then defer, or poke."""
        with ImagesXCom(context["ti"], self.log).telling_failures():
            return self._begin(context)

    def _begin(self, context: Context) -> Any:
        if not self.deferrable:
            return self._poke_until_done(context)
        try:
            result = self.poke(context)
        except AirflowFailException as error:
            # As BaseSensorOperator does in the other modes and after a deferral.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipped, as this sensor must not fail. {error}") from error
            raise
        if not result.is_done:
            from airflow_provider_evoimage.evolink.answers import Generation

            ImagesXCom(context["ti"], self.log).waiting(Generation(evolink_task_id=self._id))
            self._defer()
        return result.xcom_value

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """When Airflow itself ended the deferral, poll once more, then raise our error with the id."""
        if next_method == _TRIGGER_FAILED:
            # The base class would skip a soft-failing sensor before that poll.
            next_method, next_kwargs = (
                "execute_complete",
                {"event": self._end_of_deferral(next_kwargs, context)},
            )
        return super().resume_execution(next_method, next_kwargs, context)

    def _end_of_deferral(self, next_kwargs: dict[str, Any] | None, context: Context) -> dict[str, Any]:
        """Return the event that stands for Airflow's own end of a deferral."""
        from airflow_provider_evoimage.waiting.deferral import event_of_ended_deferral

        try:
            BaseOperator.resume_execution(self, _TRIGGER_FAILED, next_kwargs, context)
        except (TaskDeferralTimeout, TaskDeferralError) as error:
            ended = error
        return event_of_ended_deferral(ended, [self._id]).to_json()

    def _defer(self) -> None:
        from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger
        from airflow_provider_evoimage.waiting.deferral import deferral_timeout
        from airflow_provider_evoimage.waiting.result import duration_in_words

        self.log.info(
            "Waiting for EvoLink task %s in the triggerer for up to %s; no worker is held.",
            self._id,
            duration_in_words(self.timeout),
        )
        self.defer(
            trigger=EvoImageGenerationTrigger(
                evolink_task_ids=[self._id],
                evoimage_conn_id=self.evoimage_conn_id,
                deadline=time.time() + self.timeout,
                poll_interval=self.poll_interval,
            ),
            method_name="execute_complete",
            timeout=deferral_timeout(self.timeout),
        )

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll once. Transient errors count as "not yet": the generation goes on."""
        try:
            generation = self.hook.get_generation(self._id)
        except EvoImageError as error:
            if not error.retryable and not self._may_appear(error, context):
                raise
            self.log.warning("EvoLink task %s could not be read: %s", self._id, error.message)
            return PokeReturnValue(is_done=False)
        if not generation.is_terminal:
            self.log.info("EvoLink task %s is %s.", self._id, generation.status)
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._manifest(context, generation))

    def _may_appear(self, error: EvoImageError, context: Context) -> bool:
        """Whether a 404 may mean "not known yet": the generation may have been submitted a moment ago."""
        from airflow_provider_evoimage.waiting.polling import NOT_FOUND_GRACE_SECONDS

        # 400 means that the id does not have EvoLink's form.
        if not isinstance(error, GenerationNotFoundError) or error.http_status != HTTPStatus.NOT_FOUND:
            return False
        if self.reschedule and (first := context["ti"].get_first_reschedule_date(context)) is not None:
            self._looking_since = first.timestamp()
        elif self._looking_since is None:
            self._looking_since = time.time()
        return time.time() - self._looking_since < NOT_FOUND_GRACE_SECONDS

    def execute_complete(self, context: Context, event: Any = None) -> Manifest:
        """Go on after the trigger's event."""
        from airflow_provider_evoimage.waiting.event import WaitEvent

        with ImagesXCom(context["ti"], self.log).telling_failures():
            return self._manifest(context, self._ended(WaitEvent.read(event)))

    def _ended(self, ended: WaitEvent) -> Generation:
        from airflow_provider_evoimage.waiting.result import read_ended

        evolink_task_id = ended.only_task
        try:
            return read_ended(self.hook, evolink_task_id, ended.endings[evolink_task_id], ended.reason)
        except GenerationTimeoutError as error:
            raise SensorTimeoutError(error.message, evolink_task_id=evolink_task_id) from error

    def _poke_until_done(self, context: Context) -> Any:
        from airflow_provider_evoimage.waiting.result import duration_in_words

        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            raise SensorTimeoutError(
                f"EvoLink task {self._id} had not ended after {duration_in_words(self.timeout)}.",
                evolink_task_id=self._id,
            ) from error

    @functools.cached_property
    def _id(self) -> str:
        from airflow_provider_evoimage.evolink.protocol import checked_id
        from airflow_provider_evoimage.manifest import generations_named_by

        named = list(generations_named_by([self.evolink_task_id]))
        if len(named) > 1:
            raise InvalidRequestError(
                f"evolink_task_id names {len(named)} generations and a sensor waits for one: map it over them."
            )
        return checked_id(named[0])

    def _manifest(self, context: Context, generation: Generation) -> Manifest:
        from airflow_provider_evoimage.manifest import RequestSummary, build_manifest, made_by
        from airflow_provider_evoimage.metrics import generation_ended
        from airflow_provider_evoimage.submission.budget import charge_warning
        from airflow_provider_evoimage.waiting.result import outcome_in_words, require_images

        generation_ended(generation)
        require_images(generation, may_ask_again=False)
        requested = RequestSummary.in_manifest(self.evolink_task_id)
        self.log.info("%s.", outcome_in_words(generation, requested.images))
        manifest = build_manifest(generation, requested=requested, made_by=made_by(context))
        ImagesXCom(context["ti"], self.log).made([manifest])
        warning = charge_warning(manifest["usage"])
        if warning:
            self.log.warning("%s", warning)
        return manifest
