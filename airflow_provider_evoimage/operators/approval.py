"""The operator that asks a person which images may go on, in Airflow's own Required Actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

# Of the standard provider, which every Airflow since 3.1 installs; nothing else here needs it.
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param

from airflow_provider_evoimage.approval.page import (
    CHOOSE,
    SUBJECTS,
    Choose,
    asks_about,
    body_of,
    options_of,
)
from airflow_provider_evoimage.arguments import filled, one_of, seconds
from airflow_provider_evoimage.images_xcom import XCOM_APPROVAL, ImagesXCom
from airflow_provider_evoimage.links import OPERATOR_LINKS
from airflow_provider_evoimage.typed_output import HasTypedOutput
from airflow_provider_evoimage.version_compat import (
    HIDES_FOUR_OPTIONS,
    AirflowSkipException,
    TaskAwaitingInput,
)

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.bases.notifier import BaseNotifier
    from airflow.sdk.execution_time.hitl import HITLUser

    from airflow_provider_evoimage.approval.answer import Answer
    from airflow_provider_evoimage.approval.shown import ShownImage
    from airflow_provider_evoimage.shapes import Manifest

OnTimeout = Literal["reject", "approve", "fail"]
ON_TIMEOUT: tuple[OnTimeout, ...] = ("reject", "approve", "fail")
_COMMENT = Param(
    # Not None: for it the page of Airflow 3.1 and 3.2 may send the whole definition of the field as its value.
    "",
    # Typed: the form of an untyped one is a JSON editor that must be filled in.
    type=["null", "string"],
    format="multiline",
    title="Comment",
    description="Kept with the approval; may stay empty",
)


class EvoImageApprovalOperator(HasTypedOutput, HITLOperator):
    """Let a person choose among saved images, with pictures, in Airflow's Required Actions.

    Asks EvoLink for nothing and costs nothing. Holds no worker slot while it waits: Airflow 3.3 waits in the state
    ``awaiting_input`` and needs no triggerer, before that the task is deferred.

    Returns the manifests (one if ``images`` is one manifest, else a list) narrowed to the chosen images, each with
    ``approval``: ``{by, at, chosen, comment, sha256}``. Manifests of which nothing was chosen are left out. If nothing
    was chosen at all, the task is skipped, and so are the tasks after it by their trigger rule. Beside each image's
    manifest it writes ``<image>.<task id>.approval.json``.

    Assets among ``outlets`` get one event, which describes the approved images; aliases get none, as nothing is saved.

    Exactly the files whose SHA-256 the person was shown are approved: a file or a manifest that changed meanwhile
    fails the task. Airflow keeps the first page of a task instance after a clear, so a clear asks again about the
    same images only.

    :param images: a manifest, the summary of a batch, the URL of a ``.json`` or ``.jsonl`` manifest, or a list; up
        to 200 images, with their renditions.
    :param subject: headline of the page.
    :param body: Markdown above the pictures.
    :param choose: ``one`` image, any number (``many``), or ``all`` or none of them.
    :param response_timeout: how long to wait for an answer, in seconds or as a timedelta. Default: without end.
    :param on_timeout: what no answer means: ``reject``, ``approve`` (all; with ``one`` the first), or ``fail``.
    :param assigned_users: who may answer, by user id or as ``{"id": …, "name": …}``. Default: everybody who may
        answer actions of this DAG.
    :param notifiers: called once the page is there.
    :param execution_timeout: bounds the work before and after the wait, never the wait.
    """

    template_fields: Sequence[str] = ("images", "subject", "body")
    operator_extra_links = OPERATOR_LINKS
    ui_color = "#e6f0ff"

    def __init__(
        self,
        *,
        images: Any,
        subject: str | None = None,
        body: str | None = None,
        choose: Choose = "many",
        response_timeout: float | timedelta | None = None,
        on_timeout: OnTimeout = "reject",
        assigned_users: str | HITLUser | Sequence[str | HITLUser] | None = None,
        notifiers: Sequence[BaseNotifier] | BaseNotifier | None = None,
        execution_timeout: timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        self.choose = one_of("choose", choose, CHOOSE)
        self.on_timeout = one_of("on_timeout", on_timeout, ON_TIMEOUT)
        super().__init__(
            subject=subject or SUBJECTS[choose],
            # Those of the page depend on how many images there are.
            options=options_of(choose, 1, hides_four=False),
            body=body,
            # No defaults: the page would preselect them, beside what a person chooses.
            defaults=None,
            multiple=choose == "many",
            response_timeout=None
            if response_timeout is None
            else timedelta(seconds=seconds("response_timeout", response_timeout)),
            assigned_users=_users(assigned_users),
            notifiers=notifiers,
            # The base class would take it for response_timeout.
            execution_timeout=None,
            **kwargs,
        )
        self.images = images
        self.execution_timeout = execution_timeout

    @property
    def serialized_params(self) -> dict[str, dict[str, Any]]:
        """The fields of the form: a comment, and none of the DAG's own params."""
        return {"comment": _COMMENT.serialize()}

    def execute(self, context: Context) -> Manifest | list[Manifest]:
        """Ask, and wait for the answer."""
        from airflow_provider_evoimage.approval.shown import (
            fingerprint,
            require_unchanged,
            to_xcom,
        )

        told = ImagesXCom(context["ti"], self.log)
        with told.telling_failures():
            manifests, images = self._given()
            require_unchanged(images)
            asked = fingerprint(images, self.choose)
            # Before the page is there, as its pictures are looked up in it.
            context["ti"].xcom_push(key=XCOM_APPROVAL, value=to_xcom(images, self.choose))
            told.approval(manifests, {"of": len(images)}, state="waiting")
            self._ask(context, images, asked)
        self.log.info("Waiting for an answer about %d images.", len(images))
        for notifier in self.notifiers:
            notifier(context)
        return self._wait(context, asked)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any], asked: str | None = None
    ) -> Manifest | list[Manifest]:
        """Read the answer, and return what was approved.

        :param asked: fingerprint of what the person was asked about. Kept by Airflow beside the wait, where nobody
            can edit it; None in ``dag.test()``, which drops it.
        """
        from airflow_provider_evoimage import metrics
        from airflow_provider_evoimage.approval import answer as answers
        from airflow_provider_evoimage.approval.shown import fingerprint, require_unchanged
        from airflow_provider_evoimage.approval.sidecar import write_sidecars
        from airflow_provider_evoimage.exceptions import ImagesChangedError
        from airflow_provider_evoimage.lineage import NewImages
        from airflow_provider_evoimage.manifest import made_by

        told = ImagesXCom(context["ti"], self.log)
        with told.telling_failures():
            manifests, images = self._given()
            if asked is not None and asked != fingerprint(images, self.choose):
                raise ImagesChangedError(
                    "The images changed while they waited for an answer, so the answer is about others."
                )
            answer = self._answer(event, len(images))
            require_unchanged(image for image in images if image.number in answer.chosen)
            described = answers.described(manifests, images, answer)
            write_sidecars(manifests, described, made_by(context), self.log)
            told.approval(manifests, answers.summary(answer, len(images)), state="made")
            metrics.approval_ended(answer.outcome, len(answer.chosen))
        self._summarize(chosen=list(answer.chosen), responded_by_user=answer.by, responded_at=answer.at)
        who = "Nobody in time" if answer.by is None else answer.by["name"] or answer.by["id"]
        self.log.info("%s chose %s of %d images.", who, list(answer.chosen) or "none", len(images))
        approved = [each for each in described if each["images"]]
        if not approved:
            raise AirflowSkipException(f"Nothing was chosen of {len(images)} images.")
        NewImages(manifests=approved, save_to=None).announce(context, self.outlets, self.log)
        is_single = isinstance(self.images, dict) and isinstance(self.images.get("images"), list)
        return approved[0] if is_single else approved

    def _given(self) -> tuple[list[Manifest], list[ShownImage]]:
        from airflow_provider_evoimage.approval.shown import shown_images
        from airflow_provider_evoimage.storage.saved_manifests import manifests_given

        manifests = manifests_given(self.images)
        return manifests, shown_images(manifests)

    def _ask(self, context: Context, images: Sequence[ShownImage], asked: str) -> None:
        """Put the page into Airflow, and check that it is the one that is shown."""
        from airflow.sdk.api.datamodels._generated import HITLUser as AssignedUser
        from airflow.sdk.execution_time.comms import CreateHITLDetailPayload
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        from airflow_provider_evoimage.exceptions import ImagesChangedError
        from airflow_provider_evoimage.manifest import made_by

        self.options = options_of(self.choose, len(images), hides_four=HIDES_FOUR_OPTIONS)
        self.body = body_of(
            images,
            choose=self.choose,
            fingerprint=asked,
            made_by=made_by(context),
            introduction=filled("body", self.body),
        )
        self._summarize(subject=self.subject, body=self.body, options=self.options)
        # HITLOperator.execute would drop the answer, which is the only place that tells which page is shown.
        kept = SUPERVISOR_COMMS.send(
            msg=CreateHITLDetailPayload(
                ti_id=context["ti"].id,
                options=self.options,
                subject=self.subject,
                body=self.body,
                defaults=None,
                multiple=self.multiple,
                params=self.serialized_params,
                assigned_users=[AssignedUser(**user) for user in self.assigned_users or []],
            )
        )
        if not asks_about(getattr(kept, "body", None), asked):
            raise ImagesChangedError(
                "Airflow still shows the page of an earlier try of this task instance, and the images changed since: "
                "an answer there would be about others."
            )

    def _wait(self, context: Context, asked: str) -> NoReturn:
        if TaskAwaitingInput is not None:
            raise TaskAwaitingInput(
                method_name="execute_complete", kwargs={"asked": asked}, timeout=self.response_timeout
            )
        from airflow.providers.standard.triggers.hitl import HITLTrigger

        ends = None if self.response_timeout is None else datetime.now(UTC) + self.response_timeout
        self.defer(
            trigger=HITLTrigger(
                ti_id=context["ti"].id,
                options=self.options,
                params=self.serialized_params,
                defaults=None,
                multiple=self.multiple,
                timeout_datetime=ends,
            ),
            method_name="execute_complete",
            kwargs={"asked": asked},
        )
        raise AssertionError("defer returned")

    def _answer(self, event: Mapping[str, Any], images: int) -> Answer:
        from airflow_provider_evoimage.approval import answer as answers
        from airflow_provider_evoimage.exceptions import AnswerUnclearError, ApprovalTimeoutError

        if event.get("error_type") == "timeout":
            if self.on_timeout == "fail":
                raise ApprovalTimeoutError(f"Nobody answered within {self.response_timeout}.")
            return answers.Answer(
                chosen=answers.by_default(self.on_timeout, self.choose, images),
                by=None,
                at=answers.moment_of(datetime.now(UTC)),
            )
        if "error" in event:
            raise AnswerUnclearError(f"Airflow cannot use the answer: {event['error']}")
        return answers.Answer(
            chosen=answers.chosen_numbers(event["chosen_options"], self.choose, images),
            by=answers.person_of(event.get("responded_by_user")),
            at=answers.moment_of(event.get("responded_at")),
            comment=answers.comment_of(event.get("params_input")),
        )

    def _summarize(self, **values: Any) -> None:
        """Add to what listeners of Airflow read; a plain dict before Airflow 3.3."""
        extra = getattr(self, "hitl_summary_extra", None)
        (self.hitl_summary if extra is None else extra).update(values)


def _users(
    given: str | HITLUser | Sequence[str | HITLUser] | None,
) -> list[HITLUser] | None:
    if given is None:
        return None
    listed: list[Any] = [given] if isinstance(given, (str, Mapping)) else list(given)
    return [{"id": each, "name": each} if isinstance(each, str) else each for each in listed]
