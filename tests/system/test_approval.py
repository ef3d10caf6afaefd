"""Approvals on a real Airflow: what is asked, who may answer, and that exactly what was shown is approved."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import airflow as airflow_package
import httpx
import pytest
from PIL import Image

from tests.system.airflow_users import AirflowUsers
from tests.system.shared import wait_until_worker_has_ended
from tools.local_airflow.processes import poll

# Longer than any state needs, as the machine may be busy.
DEADLINE = 400
pytestmark = [pytest.mark.system, pytest.mark.timeout(4 * DEADLINE)]

VERSION = tuple(int(each) for each in airflow_package.__version__.split(".")[:2])
WAITING = "awaiting_input" if VERSION >= (3, 3) else "deferred"

# With a plus and a colon, as scheduled runs have.
RUN = "manual__2026-11-25T01:02:03+00:00"
DRAWS = "draws"
DAG_FILE = """
import os
from datetime import timedelta

from airflow.sdk import DAG, Asset, task

from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator

FOLDER = os.environ["TEST_FOLDER"] + "/approvals"
OUT = f"file://{FOLDER}/images"
GIVEN = f"file://{FOLDER}/given.json"

with DAG("draws", schedule=None, default_args={"retries": 3, "retry_delay": timedelta(seconds=1)}):
    draw = EvoImageGenerateOperator(
        task_id="draw", model="gpt-image-1.5", prompt="A blue tram", save_to=OUT, quality="low", n=4
    )
    EvoImageRenditionsOperator(
        task_id="cut", images=draw.output, save_to=OUT + "/cut", renditions=["meta.square"]
    )
    EvoImageGenerateOperator(task_id="draw_hidden", prompt="x", save_to=OUT + "-other", quality="low")


@task
def publish(given):
    return [image["path"] for manifest in given for image in manifest["images"]]


def ask(dag_id, images=GIVEN, is_last=False, **arguments):
    # An untyped param of the DAG must not become a field of the form.
    with DAG(dag_id, schedule=None, params={"untyped": None}):
        asked = EvoImageApprovalOperator(task_id="ask", images=images, **{"retries": 0, **arguments})
        if not is_last:
            publish(asked.output)


ask("many", subject="For {{ dag.dag_id }}", body="Take the *calm* ones.", outlets=[Asset("approved")])
ask("nothing")
ask("rejected", choose="all")
ask("everything", choose="all")
ask("of_three", f"file://{FOLDER}/three.json", choose="one")
ask("of_four", choose="one", is_last=True)
ask("unclear")
ask("assigned", assigned_users="ada", is_last=True)
ask("cleared")
ask("changed", f"file://{FOLDER}/changed.json")
ask("changed_while_waiting", f"file://{FOLDER}/changed_while_waiting.json")
ask("late_rejects", response_timeout=10)
ask("late_approves", response_timeout=10, on_timeout="approve")
ask("late_fails", response_timeout=10, on_timeout="fail")
ask("hidden", f"file://{FOLDER}/hidden.json", is_last=True)

with DAG("mapped", schedule=None):
    mapped = EvoImageApprovalOperator.partial(task_id="ask", choose="one", retries=0).expand(images=[[GIVEN], [GIVEN]])
    publish.override(trigger_rule="none_failed").expand(given=mapped.output)
"""


class Approvals:
    """Runs of DAGs that ask, and what is answered."""

    def __init__(self, found: AirflowUsers) -> None:
        self.airflow, self.anonymous, self.users = found.airflow, found.anonymous, found.users
        self.folder = found.folder / "approvals"
        self.given: dict[str, Any] = {}

    def start(self, dag_id: str) -> None:
        self.airflow.unpause(dag_id, seconds=DEADLINE)
        self.airflow.trigger(dag_id, run_id=RUN)

    def details(self, dag_id: str, map_index: int = -1) -> str:
        return f"/api/v2/dags/{dag_id}/dagRuns/{RUN}/taskInstances/ask/{map_index}/hitlDetails"

    def page(self, dag_id: str, map_index: int = -1) -> dict[str, Any]:
        return self.users["admin"].get(self.details(dag_id, map_index)).json()

    def waits(self, dag_id: str, map_index: int = -1) -> dict[str, Any]:
        waiting = self.airflow.wait_for_state(
            dag_id, RUN, "ask", WAITING, seconds=DEADLINE, map_index=map_index
        )
        wait_until_worker_has_ended(self.airflow, waiting)
        return self.page(dag_id, map_index)

    def asks(self, dag_id: str) -> dict[str, Any]:
        self.start(dag_id)
        return self.waits(dag_id)

    def answer(
        self, dag_id: str, *chosen: str, user: str = "admin", map_index: int = -1, **params: Any
    ) -> httpx.Response:
        body = {"chosen_options": list(chosen), "params_input": params}
        return self.users[user].patch(self.details(dag_id, map_index), json=body)

    def ends(self, dag_id: str, state: str, task_id: str = "ask", map_index: int = -1) -> None:
        self.airflow.wait_for_state(dag_id, RUN, task_id, state, seconds=DEADLINE, map_index=map_index)

    def published(self, dag_id: str) -> list[str]:
        self.ends(dag_id, "success", "publish")
        return self.airflow.xcom(dag_id, RUN, "publish")

    def approved(self, dag_id: str, map_index: int = -1) -> dict[str, Any]:
        (manifest,) = self.airflow.xcom(dag_id, RUN, "ask", map_index=map_index)
        return manifest

    @property
    def paths(self) -> list[str]:
        return [image["path"] for image in self.given["images"]]

    def give(self, name: str, images: slice) -> None:
        """Write the manifest that a DAG asks about, with some of the images."""
        manifest = {**self.given, "images": self.given["images"][images]}
        (self.folder / f"{name}.json").write_text(json.dumps(manifest))

    def sidecar(self) -> Any:
        first = Path(self.paths[0].removeprefix("file://"))
        return json.loads((first.parent / f"{first.stem}.ask.approval.json").read_text())

    def card(self, dag_id: str, task_id: str = "ask") -> dict[str, Any]:
        query = {"dag_id": dag_id, "run_id": RUN, "task_id": task_id, "map_index": -1}
        (card,) = self.users["viewer"].get("/evoimage/api/task", params=query).json()["cards"]
        return card

    def failed_with(self, dag_id: str, words: str, try_number: int = 1) -> None:
        self.ends(dag_id, "failed")
        log = self.airflow.task_log(dag_id, RUN, "ask", try_number=try_number)
        assert any(words in line for line in log), log
        self.ends(dag_id, "upstream_failed", "publish")


@pytest.fixture(scope="module")
def approvals(airflow_users: AirflowUsers) -> Approvals:
    found = Approvals(airflow_users)
    found.folder.mkdir()
    airflow_users.add_dags("approvals", DAG_FILE)
    found.start(DRAWS)
    found.airflow.wait_for_success(DRAWS, RUN, deadline=DEADLINE)
    hidden = found.airflow.xcom(DRAWS, RUN, "draw_hidden")
    (found.folder / "hidden.json").write_text(json.dumps(hidden))
    found.given = found.airflow.xcom(DRAWS, RUN, "cut")
    found.give("given", slice(4))
    found.give("three", slice(3))
    return found


def pictures(body: str) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", body)


@dataclass(frozen=True)
class Answered:
    """One run of `many`, in which ada chose the second and the fourth image.

    :ivar page: the question.
    :ivar waiting: the card of the task in the UI, before the answer.
    :ivar kept: the sidecar of the answer.
    """

    page: dict[str, Any]
    waiting: dict[str, Any]
    kept: dict[str, Any]


@pytest.fixture(scope="module")
def many(approvals: Approvals) -> Answered:
    page = approvals.asks("many")
    waiting = approvals.card("many")
    instance = approvals.airflow.task_instance("many", RUN, "ask")
    poll(lambda: not approvals.airflow.task_processes(instance), seconds=30, what="the worker to be free")
    assert approvals.answer("many", "2", "4", user="ada", comment="calm").status_code == 200
    approvals.ends("many", "success")
    return Answered(page, waiting, approvals.sidecar())


def test_two_of_four_are_chosen_and_the_next_task_gets_exactly_these(approvals: Approvals, many: Answered):
    page = many.page
    assert page["subject"] == "For many"
    assert page["body"].startswith("Take the *calm* ones.")
    assert page["options"] == ["1", "2", "3", "4", "All", "None"]
    assert page["multiple"]
    assert list(page["params"]) == ["comment"]
    assert page["params"]["comment"]["schema"]["type"] == ["null", "string"]
    waiting = many.waiting
    assert (waiting["state"], waiting["approval"]["chosen"], len(waiting["files"])) == ("waiting", None, 4)
    assert approvals.published("many") == [approvals.paths[1], approvals.paths[3]]

    manifest = approvals.approved("many")
    approval = manifest["approval"]
    assert (approval["by"], approval["chosen"], approval["comment"]) == (
        {"id": "ada", "name": "ada"},
        [2, 4],
        "calm",
    )
    files = [file["path"] for image in manifest["images"] for file in (image, *image["renditions"])]
    assert approval["sha256"] == [
        hashlib.sha256(Path(path.removeprefix("file://")).read_bytes()).hexdigest() for path in files
    ]
    assert many.kept["approval"] == approval
    assert many.kept["made_by"] == {"dag_id": "many", "run_id": RUN, "task_id": "ask", "map_index": -1}
    assert "url" not in many.kept["images"][0]


@pytest.mark.usefixtures("many")
def test_only_chosen_images_are_announced(approvals: Approvals):
    (event,) = approvals.airflow.asset_events(source_dag_id="many")
    assert event["extra"]["paths"] == [approvals.paths[1], approvals.paths[3]]


def test_pictures_of_the_page_load_also_after_the_answer(approvals: Approvals, many: Answered):
    urls = pictures(many.page["body"])
    assert len(urls) == 8
    contents = set()
    for url in urls:
        assert not url.startswith("/")
        answer = approvals.users["viewer"].get(f"/{url}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        assert max(Image.open(io.BytesIO(answer.content)).size) == 384
        contents.add(answer.content)
        assert approvals.anonymous.get(f"/{url}").status_code == 401
    assert len(contents) == 8


@pytest.mark.usefixtures("many")
def test_tab_shows_who_approved_what(approvals: Approvals):
    card = approvals.card("many")
    assert card["state"] == "made"
    assert (card["approval"]["by"], card["approval"]["chosen"]) == ("ada", [2, 4])
    assert [each["chosen"] for each in card["files"]] == [False, True, False, True]
    assert [each["renditions"][0]["channel"] for each in card["files"]] == ["meta.square"] * 4
    assert all(each["visible"] and each["renditions"][0]["visible"] for each in card["files"])
    assert [each["channel"] for each in approvals.card(DRAWS, "cut")["files"][0]["renditions"]] == [
        "meta.square"
    ]


@pytest.mark.parametrize(("dag_id", "option"), [("nothing", "None"), ("rejected", "Reject")])
def test_nothing_chosen_skips_what_follows(approvals: Approvals, dag_id: str, option: str):
    approvals.asks(dag_id)
    assert approvals.answer(dag_id, option, user="bob").status_code == 200
    approvals.ends(dag_id, "skipped")
    approvals.ends(dag_id, "skipped", "publish")
    card = approvals.card(dag_id)
    assert (card["approval"]["by"], card["approval"]["chosen"]) == ("bob", [])
    kept = approvals.sidecar()
    assert (kept["images"], kept["approval"]["by"]["id"], kept["made_by"]["dag_id"]) == ([], "bob", dag_id)


def test_all_are_approved_together(approvals: Approvals):
    assert approvals.asks("everything")["options"] == ["Approve", "Reject"]
    approvals.answer("everything", "Approve")
    assert approvals.published("everything") == approvals.paths


def test_single_choice_never_has_four_options_where_airflow_hides_them(approvals: Approvals):
    options = approvals.asks("of_three")["options"]
    assert options == ["1", "2", "3", "None", *(["Reject"] if VERSION < (3, 2) else [])]
    approvals.answer("of_three", "3")
    assert approvals.published("of_three") == [approvals.paths[2]]


def test_single_choice_takes_one(approvals: Approvals):
    assert approvals.asks("of_four")["options"] == ["1", "2", "3", "4", "None"]
    approvals.answer("of_four", "2")
    approvals.ends("of_four", "success")
    assert [each["path"] for each in approvals.approved("of_four")["images"]] == [approvals.paths[1]]


def test_contradicting_answer_approves_nothing(approvals: Approvals):
    approvals.asks("unclear")
    assert approvals.answer("unclear", "All", "2").status_code == 200
    approvals.failed_with("unclear", "contradicts itself")


def test_only_assigned_users_may_answer(approvals: Approvals):
    approvals.asks("assigned")
    assert approvals.answer("assigned", "1", user="bob").status_code == 403
    assert approvals.answer("assigned", "1", user="viewer").status_code == 403
    nobody = approvals.anonymous.patch(approvals.details("assigned"), json={"chosen_options": ["1"]})
    assert nobody.status_code == 401
    assert approvals.airflow.task_instance("assigned", RUN, "ask")["state"] == WAITING
    assert approvals.answer("assigned", "1", user="ada").status_code == 200
    approvals.ends("assigned", "success")


def clear_and_wait(approvals: Approvals, dag_id: str) -> None:
    """Clear the task that asks, and wait until a later try asks again."""
    tries = approvals.airflow.task_instance(dag_id, RUN, "ask")["try_number"]
    approvals.airflow.clear(dag_id, RUN, ["ask"])

    def asks_again() -> bool:
        found = approvals.airflow.task_instance(dag_id, RUN, "ask")
        return found["try_number"] > tries and found["state"] == WAITING

    poll(asks_again, seconds=DEADLINE, what=f"{dag_id} to ask again")
    approvals.waits(dag_id)


def test_clear_asks_again_about_the_same_images(approvals: Approvals):
    before = approvals.asks("cleared")
    clear_and_wait(approvals, "cleared")
    page = approvals.page("cleared")
    assert (page["body"], page["options"]) == (before["body"], before["options"])
    for url in pictures(page["body"]):
        assert approvals.users["viewer"].get(f"/{url}").status_code == 200
    approvals.answer("cleared", "1", "2")
    assert approvals.published("cleared") == approvals.paths[:2]

    # Cleared after the answer, it forgets it. A clear at the moment when the run ends is lost in Airflow.
    approvals.airflow.wait_for_success("cleared", RUN, deadline=DEADLINE)
    clear_and_wait(approvals, "cleared")
    assert not approvals.page("cleared")["response_received"]
    approvals.answer("cleared", "3")
    assert approvals.published("cleared") == approvals.paths[2:3]


def test_page_of_earlier_images_approves_no_others(approvals: Approvals):
    approvals.give("changed", slice(2))
    approvals.asks("changed")
    approvals.give("changed", slice(2, 4))
    approvals.airflow.clear("changed", RUN, ["ask"])
    approvals.failed_with("changed", "Airflow still shows the page of an earlier try", try_number=2)


def test_images_that_change_while_they_wait_are_not_approved(approvals: Approvals):
    approvals.give("changed_while_waiting", slice(2))
    approvals.asks("changed_while_waiting")
    approvals.give("changed_while_waiting", slice(2, 4))
    approvals.answer("changed_while_waiting", "1")
    approvals.failed_with("changed_while_waiting", "The images changed while they waited")


def test_no_answer_means_what_the_dag_says(approvals: Approvals):
    for dag_id in ("late_rejects", "late_approves", "late_fails"):
        approvals.start(dag_id)
    approvals.ends("late_rejects", "skipped")
    approvals.ends("late_rejects", "skipped", "publish")
    assert approvals.published("late_approves") == approvals.paths
    assert approvals.approved("late_approves")["approval"]["by"] is None
    approvals.failed_with("late_fails", "Nobody answered within 0:00:10")


def test_each_mapped_task_asks_for_itself(approvals: Approvals):
    approvals.start("mapped")
    for map_index in (0, 1):
        url = pictures(approvals.waits("mapped", map_index)["body"])[0]
        assert f"map_index={map_index}" in url
        assert approvals.users["viewer"].get(f"/{url}").status_code == 200
    approvals.answer("mapped", "None", map_index=0)
    approvals.answer("mapped", "4", map_index=1)
    approvals.ends("mapped", "skipped", map_index=0)
    approvals.ends("mapped", "success", map_index=1)
    assert approvals.approved("mapped", 1)["approval"]["chosen"] == [4]
    approvals.airflow.wait_for_success("mapped", RUN, deadline=DEADLINE)


def test_page_says_which_setting_is_missing(approvals: Approvals):
    url = pictures(approvals.asks("hidden")["body"])[0]
    answer = approvals.users["viewer"].get(f"/{url}")
    assert (answer.status_code, answer.headers["content-type"]) == (403, "image/svg+xml")
    assert "[evoimage]" in answer.text
    assert "image_roots" in answer.text
    words = re.sub(r"<[^>]+>", "", answer.text).replace(" ", "").replace("\n", "")
    assert f"{approvals.folder}/images-other" in words
    # Nothing but words where a script of the page asks.
    assert "detail" in approvals.users["viewer"].get(f"/{url.replace('say=why', 'say=')}").json()
