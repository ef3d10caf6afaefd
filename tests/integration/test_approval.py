"""Approvals of really saved files: what is asked about is what is approved, whatever happens between the two."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from airflow.exceptions import AirflowSkipException, TaskDeferred
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CreateHITLDetailPayload

from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.approval import page as approval_page
from airflow_provider_evoimage.exceptions import (
    AnswerUnclearError,
    ApprovalTimeoutError,
    DestinationError,
    ImagesChangedError,
    InvalidRequestError,
)
from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.storage.stores import LocalFiles
from airflow_provider_evoimage.version_compat import TaskAwaitingInput
from tests.integration.task_driver import TaskInstance, TaskRun, batch, generate
from tests.unit.test_manifest_schema import CHECK

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

Waits = (TaskDeferred,) if TaskAwaitingInput is None else (TaskDeferred, TaskAwaitingInput)
ADA = {"id": "7", "name": "Ada"}


class Airflow:
    """What Airflow keeps of a page: the first question of a task instance for good."""

    def __init__(self) -> None:
        self.page: CreateHITLDetailPayload | None = None

    def send(self, msg: Any) -> Any:
        if isinstance(msg, CreateHITLDetailPayload):
            if self.page is None:
                self.page = CreateHITLDetailPayload.model_validate_json(msg.model_dump_json())
            return self.page
        # A worker's supervisor answers nothing else of this kind.
        raise AssertionError(msg)


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    found = Airflow()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", found, raising=False)
    return found


def answer(*chosen: str, comment: str | None = None) -> dict[str, Any]:
    return {
        "chosen_options": list(chosen),
        "params_input": {"comment": comment},
        "responded_at": datetime.datetime(2026, 11, 27, 10, tzinfo=datetime.UTC),
        "responded_by_user": ADA,
    }


TIMEOUT = {"error": "The response timeout has passed.", "error_type": "timeout"}


class Asking:
    """A task instance that asks, leg by leg, each with an operator of its own."""

    def __init__(self, images: Any, **arguments: Any) -> None:
        self.images, self.arguments = images, arguments
        self.ti = TaskInstance(task_id="ask")
        self.events: Any = {}

    def operator(self) -> EvoImageApprovalOperator:
        return EvoImageApprovalOperator(task_id="ask", images=self.images, **self.arguments)

    @property
    def context(self) -> Any:
        return {"ti": self.ti, "outlet_events": self.events}

    def waits(self) -> Any:
        self.ti.xcoms.clear()
        with pytest.raises(Waits) as waiting:
            self.operator().execute(self.context)
        # Airflow keeps it as JSON.
        return json.loads(json.dumps(waiting.value.kwargs))

    def resumed(self, kept: dict[str, Any], event: dict[str, Any]) -> Any:
        result = self.operator().resume_execution("execute_complete", {**kept, "event": event}, self.context)
        return json.loads(json.dumps(result))

    def answered(self, *chosen: str, comment: str | None = None) -> Any:
        return self.resumed(self.waits(), answer(*chosen, comment=comment))


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, Any]:
    return TaskRun(generate(model="gpt-image-1.5", n=3, save_to=str(tmp_path / "drawn"))).run()


def local(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def test_chosen_images_are_handed_over_with_what_was_decided(airflow: Airflow, drawn: dict[str, Any]):
    manifest = Asking(drawn).answered("1", "3", comment="schön ruhig")
    assert [image["index"] for image in manifest["images"]] == [0, 2]
    assert manifest["approval"] == {
        "by": ADA,
        "at": "2026-11-27T10:00:00+00:00",
        "chosen": [1, 3],
        "comment": "schön ruhig",
        "sha256": [
            hashlib.sha256(local(image["path"]).read_bytes()).hexdigest() for image in manifest["images"]
        ],
    }
    CHECK.validate(manifest)
    sidecar = local(drawn["images"][0]["path"]).with_suffix(".ask.approval.json")
    assert "schön ruhig" in sidecar.read_text()
    kept = json.loads(sidecar.read_text())
    CHECK.validate(kept)
    assert (kept["approval"], kept["made_by"]["task_id"]) == (manifest["approval"], "ask")
    assert all("url" not in image for image in kept["images"])
    assert airflow.page is not None
    assert airflow.page.options == ["1", "2", "3", "All", "None"]


def test_original_sidecar_stays_as_it_is(airflow: Airflow, drawn: dict[str, Any]):
    sidecar = local(drawn["images"][0]["path"]).with_suffix(".json")
    before = sidecar.read_bytes()
    Asking(drawn).answered("All")
    assert sidecar.read_bytes() == before


def test_renditions_are_approved_with_their_image(airflow: Airflow, drawn: dict[str, Any], tmp_path: Path):
    cut = TaskRun(
        lambda: EvoImageRenditionsOperator(
            task_id="cut", images=drawn, save_to=str(tmp_path / "cut"), renditions=["meta.square"]
        ),
        task_id="cut",
    ).run()
    manifest = Asking([cut]).answered("2")[0]
    image = cut["images"][1]
    assert manifest["approval"]["sha256"] == [image["sha256"], image["renditions"][0]["sha256"]]
    assert airflow.page is not None
    assert "meta.square" in airflow.page.body


def test_batch_is_asked_about_by_its_summary(airflow: Airflow, tmp_path: Path):
    summary = TaskRun(batch(["one", "two [[fail:content_policy_violation]]", "three"], tmp_path))
    approved = Asking(summary.run()).answered("2")
    assert [manifest["request"]["prompt"] for manifest in approved] == ["three"]


@pytest.mark.parametrize("nothing", ["None", "Reject"])
def test_nothing_chosen_skips_and_is_recorded(airflow: Airflow, drawn: dict[str, Any], nothing: str):
    asking = Asking(drawn, choose="all" if nothing == "Reject" else "many", outlets=[Asset("approved")])
    with pytest.raises(AirflowSkipException):
        asking.answered(nothing)
    assert asking.ti.xcoms["evoimage_images"]["approval"]["chosen"] == []
    kept = json.loads(local(drawn["images"][0]["path"]).with_suffix(".ask.approval.json").read_text())
    CHECK.validate(kept)
    assert (kept["images"], kept["approval"]["by"]) == ([], ADA)


def test_what_was_shown_is_kept_whole_and_what_the_page_says_is_small(
    airflow: Airflow, drawn: dict[str, Any]
):
    asking = Asking(drawn)
    asking.waits()
    shown = asking.ti.xcoms["evoimage_approval"]["images"]
    assert [(each["number"], each["path"], each["sha256"]) for each in shown] == [
        (image["index"] + 1, image["path"], image["sha256"]) for image in drawn["images"]
    ]
    said = asking.ti.xcoms["evoimage_images"]
    assert (said["state"], said["approval"], len(said["files"])) == ("waiting", {"of": 3}, 3)
    assert "credits" not in said


def test_file_that_changed_before_the_question_is_not_shown(airflow: Airflow, drawn: dict[str, Any]):
    local(drawn["images"][1]["path"]).write_bytes(b"other")
    with pytest.raises(ImagesChangedError, match="its SHA-256 is another"):
        Asking(drawn).operator().execute({"ti": TaskInstance(task_id="ask")})
    assert airflow.page is None


def test_file_that_changed_before_the_answer_is_not_approved(airflow: Airflow, drawn: dict[str, Any]):
    asking = Asking(drawn)
    kept = asking.waits()
    local(drawn["images"][1]["path"]).write_bytes(b"other")
    with pytest.raises(ImagesChangedError, match="its SHA-256 is another"):
        asking.resumed(kept, answer("2"))
    assert not list(local(drawn["images"][0]["path"]).parent.glob("*.approval.json"))
    # One that was not chosen does not matter.
    assert len(asking.resumed(kept, answer("1"))["images"]) == 1


def test_file_that_is_gone_is_a_failure_that_a_retry_may_mend(airflow: Airflow, drawn: dict[str, Any]):
    local(drawn["images"][0]["path"]).unlink()
    with pytest.raises(DestinationError, match="cannot be read") as failure:
        Asking(drawn).operator().execute({"ti": TaskInstance(task_id="ask")})
    assert failure.value.retryable
    assert failure.value.billed is False
    assert failure.value.on_retry == "A retry reads it again."


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["images"].pop(),
        lambda manifest: manifest["images"].reverse(),
        lambda manifest: manifest["images"][0].update(manifest["images"][1]),
    ],
    ids=["fewer", "another order", "another image"],
)
def test_manifest_that_changed_while_it_waited_is_refused(
    airflow: Airflow, drawn: dict[str, Any], change: Callable[[Any], None]
):
    asking = Asking(drawn)
    kept = asking.waits()
    change(asking.images)
    with pytest.raises(ImagesChangedError, match="changed while they waited"):
        asking.resumed(kept, answer("1"))
    # And by the page of the first try, which Airflow shows after a clear.
    with pytest.raises(ImagesChangedError, match="still shows the page of an earlier try"):
        asking.operator().execute(asking.context)


def test_clear_asks_again_about_the_same_images(airflow: Airflow, drawn: dict[str, Any]):
    asking = Asking(drawn)
    asking.waits()
    first = airflow.page
    assert asking.answered("2")["approval"]["chosen"] == [2]
    assert airflow.page is first


def test_page_of_another_way_to_choose_is_refused(airflow: Airflow, drawn: dict[str, Any]):
    Asking(drawn, choose="many").waits()
    asking = Asking(drawn, choose="all")
    with pytest.raises(ImagesChangedError):
        asking.operator().execute(asking.context)


@pytest.mark.parametrize(
    ("choose", "on_timeout", "chosen"),
    [("many", "approve", [1, 2, 3]), ("one", "approve", [1]), ("all", "approve", [1, 2, 3])],
)
def test_timeout_that_approves(
    airflow: Airflow, drawn: dict[str, Any], choose: Any, on_timeout: Any, chosen: list[int]
):
    asking = Asking(drawn, choose=choose, on_timeout=on_timeout, response_timeout=60)
    approval = asking.resumed(asking.waits(), TIMEOUT)["approval"]
    assert (approval["by"], approval["chosen"]) == (None, chosen)


def test_timeout_that_rejects_and_one_that_fails(airflow: Airflow, drawn: dict[str, Any]):
    asking = Asking(drawn, response_timeout=60)
    with pytest.raises(AirflowSkipException):
        asking.resumed(asking.waits(), TIMEOUT)
    asking = Asking(drawn, on_timeout="fail", response_timeout=datetime.timedelta(minutes=1))
    with pytest.raises(ApprovalTimeoutError, match="within 0:01:00"):
        asking.resumed(asking.waits(), TIMEOUT)
    assert asking.ti.xcoms["evoimage_images"]["error"]["kind"] == "ApprovalTimeoutError"


def test_no_default_is_given_to_the_page(airflow: Airflow, drawn: dict[str, Any]):
    """The page would preselect it, and a person who adds a number would approve both."""
    Asking(drawn, on_timeout="approve", response_timeout=60).waits()
    assert airflow.page is not None
    assert airflow.page.defaults is None


@pytest.mark.parametrize(
    "event", [answer("All", "1"), {"error": "comment: no text", "error_type": "validation"}]
)
def test_unclear_answer_fails_by_name_and_a_retry_asks_again(
    airflow: Airflow, drawn: dict[str, Any], event: dict[str, Any]
):
    asking = Asking(drawn)
    with pytest.raises(AnswerUnclearError) as failure:
        asking.resumed(asking.waits(), event)
    assert failure.value.retryable
    assert asking.answered("1")["approval"]["chosen"] == [1]


def test_sidecar_that_cannot_be_written_loses_no_answer(
    airflow: Airflow,
    drawn: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def refuse(*_: Any) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(LocalFiles, "publish", refuse)
    assert Asking(drawn).answered("1")["approval"]["by"] == ADA
    assert "The approval is not written" in capsys.readouterr().out


def test_assets_get_the_approved_images_alone(airflow: Airflow, drawn: dict[str, Any]):
    event = SimpleNamespace(extra={})

    class Events:
        def __getitem__(self, outlet: object) -> SimpleNamespace:
            # The alias gets no event.
            assert isinstance(outlet, Asset)
            return event

    asking = Asking(drawn, outlets=[Asset("approved"), AssetAlias("approved_folder")])
    asking.events = Events()
    asking.answered("2")
    assert event.extra["paths"] == [drawn["images"][1]["path"]]


def test_answers_are_counted(airflow: Airflow, drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    counted = []
    monkeypatch.setattr(metrics, "_count", lambda *sent: counted.append(sent))
    Asking(drawn).answered("1", "2")
    assert counted == [("approvals", 1, {"outcome": "approved"}), ("images_approved", 2, {})]


def test_listeners_read_what_was_asked_and_what_was_answered(airflow: Airflow, drawn: dict[str, Any]):
    asking = Asking(drawn)
    kept = asking.waits()
    operator = asking.operator()
    with pytest.raises(Waits):
        operator.execute(asking.context)
    assert airflow.page is not None
    asked = {"subject": airflow.page.subject, "body": airflow.page.body, "options": airflow.page.options}
    assert asked.items() <= operator.hitl_summary.items()
    operator = asking.operator()
    operator.resume_execution("execute_complete", {**kept, "event": answer("2")}, asking.context)
    answered = {"chosen": [2], "responded_by_user": ADA, "responded_at": "2026-11-27T10:00:00+00:00"}
    assert answered.items() <= operator.hitl_summary.items()


def test_params_of_the_dag_are_no_fields_and_its_execution_timeout_is_no_response_timeout(
    airflow: Airflow, drawn: dict[str, Any]
):
    limit = datetime.timedelta(minutes=5)
    with DAG("d", params={"untyped": None}, default_args={"execution_timeout": limit}):
        asking = Asking(drawn)
        operator = asking.operator()
    assert (operator.response_timeout, operator.execution_timeout) == (None, limit)
    with pytest.raises(Waits):
        operator.execute(asking.context)
    assert airflow.page is not None
    assert airflow.page.params is not None
    assert list(airflow.page.params) == ["comment"]
    # The page of Airflow 3.1 and 3.2 sends the field's whole definition in place of a value that is null.
    assert airflow.page.params["comment"]["value"] == ""
    # As a plain JSON Schema.
    jsonschema.Draft202012Validator.check_schema(airflow.page.params["comment"]["schema"])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("ada", [("ada", "ada")]),
        (["ada", {"id": "7", "name": "Bob"}], [("ada", "ada"), ("7", "Bob")]),
        ({"id": "7", "name": "Bob"}, [("7", "Bob")]),
    ],
)
def test_assigned_users_by_id_or_with_a_name(airflow: Airflow, drawn: dict[str, Any], given: Any, kept: Any):
    Asking(drawn, assigned_users=given).waits()
    assert airflow.page is not None
    assert [(user.id, user.name) for user in airflow.page.assigned_users or []] == kept


@pytest.mark.parametrize("images", [None, [], 7, "text", {"evolink_task_id": "t", "images": [{"index": 0}]}])
def test_other_images_are_refused_before_anybody_is_asked(airflow: Airflow, images: Any):
    with pytest.raises(InvalidRequestError):
        Asking(images).operator().execute({"ti": TaskInstance(task_id="ask")})
    assert airflow.page is None


@pytest.mark.parametrize(
    "arguments",
    [{"choose": "some"}, {"on_timeout": "wait"}, {"response_timeout": 0}, {"response_timeout": True}],
)
def test_wrong_arguments_fail_when_the_dag_is_read(arguments: dict[str, Any]):
    with pytest.raises(InvalidRequestError):
        EvoImageApprovalOperator(task_id="ask", images=[], **arguments)


def test_headline_has_a_default_for_each_way_to_choose():
    for choose in approval_page.CHOOSE:
        assert EvoImageApprovalOperator(task_id="ask", images=[], choose=choose).subject
