"""Approvals on a real Airflow: what is asked, who may answer, and that exactly what was shown is approved."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import airflow as airflow_package
import httpx
import pytest
from PIL import Image

from tools.local_airflow.airflow import LocalAirflow, LocalAirflowError
from tools.local_airflow.evolink import simulator_connection
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system

VERSION = tuple(int(each) for each in airflow_package.__version__.split(".")[:2])
NEEDS_NO_TRIGGERER = VERSION >= (3, 3)
WAITING = "awaiting_input" if NEEDS_NO_TRIGGERER else "deferred"

# With a plus and a colon, as scheduled runs have.
RUN = "manual__2026-11-25T01:02:03+00:00"
DAG = "approvals"
DAG_FILE = """
import json
import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, task

from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator

OUT = os.environ["APPROVALS_OUT"]
SWITCH = Path(os.environ["APPROVALS_SWITCH"])

# An untyped param of the DAG must not become a field of the form.
with DAG(
    "approvals",
    schedule=None,
    params={"untyped": None},
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
):
    draw = EvoImageGenerateOperator(
        task_id="draw", model="gpt-image-1.5", prompt="A red bicycle", save_to=OUT, quality="low", n=4
    )
    cut = EvoImageRenditionsOperator(
        task_id="cut", images=draw.output, save_to=OUT + "/cut", renditions=["meta.square"]
    )

    @task
    def first(manifest, count):
        return {**manifest, "images": manifest["images"][:count]}

    @task
    def switched(manifest):
        "Other images, once a person has thrown the switch."
        images = manifest["images"]
        return {**manifest, "images": images[2:] if SWITCH.exists() else images[:2]}

    @task
    def publish(given):
        found = given if isinstance(given, list) else [given]
        return [image["path"] for manifest in found for image in manifest["images"]]

    def ask(task_id, images, is_last=False, **arguments):
        asked = EvoImageApprovalOperator(task_id=task_id, images=images, **{"retries": 0, **arguments})
        if is_last:
            return
        publish.override(task_id=f"after_{task_id}")(asked.output)

    ask("many", cut.output, subject="For {{ dag.dag_id }}", body="Take the *calm* ones.", outlets=[Asset("approved")])
    ask("nothing", draw.output)
    ask("rejected", draw.output, choose="all")
    ask("everything", [draw.output], choose="all")
    ask("of_three", first.override(task_id="three")(draw.output, 3), choose="one")
    ask("of_four", draw.output, choose="one", is_last=True)
    ask("unclear", draw.output)
    ask("assigned", draw.output, assigned_users="ada", is_last=True)
    ask("cleared", draw.output)
    ask("changed", switched(draw.output))
    ask("changed_while_waiting", switched.override(task_id="switched_too")(draw.output))
    ask("instant", draw.output, is_last=True, retries=5)
    ask("no_triggerer", draw.output, is_last=True)
    ask("late_rejects", draw.output, response_timeout=2)
    ask("late_approves", draw.output, response_timeout=2, on_timeout="approve")
    ask("late_fails", draw.output, response_timeout=2, on_timeout="fail")

    mapped = EvoImageApprovalOperator.partial(task_id="mapped", choose="one", retries=0).expand(
        images=[draw.output, cut.output]
    )
    publish.override(task_id="after_mapped", trigger_rule="none_failed").expand(given=mapped.output)

    hidden = EvoImageGenerateOperator(task_id="draw_hidden", prompt="x", save_to=OUT + "-other", quality="low")
    ask("hidden", hidden.output)
"""


class Approvals:
    """A real Airflow with log-in, in which a run waits for answers."""

    def __init__(self, airflow: LocalAirflow, out: Path, switch: Path) -> None:
        self.airflow, self.out, self.switch = airflow, out, switch
        file = airflow.home / "simple_auth_manager_passwords.json.generated"
        passwords = json.loads(
            poll(lambda: file.is_file() and file.read_text(), seconds=30, what="passwords")
        )
        self.anonymous = httpx.Client(base_url=airflow.url, timeout=120, trust_env=False)
        self.users = {name: self._logged_in(name, password) for name, password in passwords.items()}

    def _logged_in(self, name: str, password: str) -> httpx.Client:
        body = {"username": name, "password": password}
        token = self.anonymous.post("/auth/token", json=body).json()["access_token"]
        return httpx.Client(
            base_url=self.airflow.url,
            timeout=120,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
        )

    def details(self, task_id: str, map_index: int = -1) -> str:
        return f"/api/v2/dags/{DAG}/dagRuns/{RUN}/taskInstances/{task_id}/{map_index}/hitlDetails"

    def page(self, task_id: str, map_index: int = -1) -> dict[str, Any]:
        return self.users["admin"].get(self.details(task_id, map_index)).json()

    def waits(self, task_id: str, map_index: int = -1) -> dict[str, Any]:
        self.airflow.wait_for_state(DAG, RUN, task_id, WAITING, seconds=180, map_index=map_index)
        return self.page(task_id, map_index)

    def answer(
        self, task_id: str, *chosen: str, user: str = "admin", map_index: int = -1, **params: Any
    ) -> httpx.Response:
        body = {"chosen_options": list(chosen), "params_input": params}
        return self.users[user].patch(self.details(task_id, map_index), json=body)

    def ends(self, task_id: str, state: str, map_index: int = -1) -> dict[str, Any]:
        return self.airflow.wait_for_state(DAG, RUN, task_id, state, seconds=180, map_index=map_index)

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        return self.airflow.xcom(DAG, RUN, task_id, key=key, map_index=map_index)

    def drawn(self) -> list[str]:
        return [image["path"] for image in self.xcom("draw")["images"]]

    def card(self, task_id: str) -> dict[str, Any]:
        query = {"dag_id": DAG, "run_id": RUN, "task_id": task_id, "map_index": -1}
        (card,) = self.users["viewer"].get("/evoimage/api/task", params=query).json()["cards"]
        return card

    def failed_with(self, task_id: str, words: str, try_number: int = 1) -> None:
        self.ends(task_id, "failed")
        log = self.airflow.task_log(DAG, RUN, task_id, try_number=try_number)
        assert any(words in line for line in log), log


@pytest.fixture(scope="module")
def approvals(simulator: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Approvals]:
    folder = tmp_path_factory.mktemp("approvals")
    (folder / "dags").mkdir()
    (folder / "dags" / "approvals.py").write_text(DAG_FILE)
    out, switch = folder / "images", folder / "switch"
    environment = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,ada:user,bob:user,viewer:viewer",
        "AIRFLOW__EVOIMAGE__IMAGE_ROOTS": json.dumps([f"file://{out}"]),
        "APPROVALS_OUT": f"file://{out}",
        "APPROVALS_SWITCH": str(switch),
    }
    with LocalAirflow(
        folder / "home", dags=folder / "dags", connections=simulator_connection(simulator), env=environment
    ) as airflow:
        found = Approvals(airflow, out, switch)
        airflow._http = found.users["admin"]
        airflow.unpause(DAG)
        airflow.trigger(DAG, run_id=RUN)
        airflow.wait_for_state(DAG, RUN, "draw", "success", seconds=300)
        yield found


def pictures(body: str) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\(([^)]+)\)", body)


def test_answer_as_soon_as_the_page_is_there_counts(approvals: Approvals):
    """Before the worker has begun to wait, or while it ends: Airflow may fail that try, and a retry asks again."""

    def answered() -> bool:
        approvals.answer("instant", "1")
        state = approvals.airflow.task_instance(DAG, RUN, "instant")["state"]
        assert state != "failed"
        return state == "success"

    poll(answered, seconds=300, what="instant to end", interval=0.2)
    assert approvals.xcom("instant")["approval"]["chosen"] == [1]
    print(f"tries: {approvals.airflow.task_instance(DAG, RUN, 'instant')['try_number']}")


def test_two_of_four_are_chosen_and_the_next_task_gets_exactly_these(approvals: Approvals):
    page = approvals.waits("many")
    assert page["subject"] == f"For {DAG}"
    assert page["body"].startswith("Take the *calm* ones.")
    assert page["options"] == ["1", "2", "3", "4", "All", "None"]
    assert page["multiple"]
    assert list(page["params"]) == ["comment"]
    assert page["params"]["comment"]["schema"]["type"] == ["null", "string"]

    assert approvals.answer("many", "2", "4", user="ada", comment="calm").status_code == 200
    approvals.ends("after_many", "success")
    paths = approvals.drawn()
    assert approvals.xcom("after_many") == [paths[1], paths[3]]

    manifest = approvals.xcom("many")
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
    first = Path(paths[0].removeprefix("file://"))
    kept = json.loads((first.parent / f"{first.stem}.many.approval.json").read_text())
    assert kept["approval"] == approval
    assert kept["made_by"] == {"dag_id": DAG, "run_id": RUN, "task_id": "many", "map_index": -1}
    assert "url" not in kept["images"][0]


def test_only_chosen_images_are_announced(approvals: Approvals):
    approvals.ends("many", "success")
    events = (
        approvals.users["admin"].get("/api/v2/assets/events", params={"limit": 100}).json()["asset_events"]
    )
    (event,) = [each for each in events if each["source_task_id"] == "many"]
    paths = approvals.drawn()
    assert event["extra"]["paths"] == [paths[1], paths[3]]


def test_pictures_of_the_page_load_before_and_after_the_answer(approvals: Approvals):
    urls = pictures(approvals.page("many")["body"])
    assert len(urls) == 8
    for url in urls:
        assert not url.startswith("/")
        answer = approvals.users["viewer"].get(f"/{url}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        assert max(Image.open(io.BytesIO(answer.content)).size) == 384
        assert approvals.anonymous.get(f"/{url}").status_code == 401
    assert len({approvals.users["viewer"].get(f"/{url}").content for url in urls}) == 8


def test_tab_shows_who_approved_what(approvals: Approvals):
    card = approvals.card("many")
    assert card["state"] == "made"
    assert (card["approval"]["by"], card["approval"]["chosen"]) == ("ada", [2, 4])
    assert [each["chosen"] for each in card["files"]] == [False, True, False, True]
    assert [each["renditions"][0]["channel"] for each in card["files"]] == ["meta.square"] * 4
    assert all(each["visible"] and each["renditions"][0]["visible"] for each in card["files"])
    waiting = approvals.card("cleared")
    assert (waiting["state"], waiting["approval"]["chosen"], len(waiting["files"])) == ("waiting", None, 4)
    assert [each["channel"] for each in approvals.card("cut")["files"][0]["renditions"]] == ["meta.square"]


@pytest.mark.parametrize(("task_id", "option"), [("nothing", "None"), ("rejected", "Reject")])
def test_nothing_chosen_skips_what_follows(approvals: Approvals, task_id: str, option: str):
    approvals.waits(task_id)
    assert approvals.answer(task_id, option, user="bob").status_code == 200
    approvals.ends(task_id, "skipped")
    approvals.ends(f"after_{task_id}", "skipped")
    card = approvals.card(task_id)
    assert (card["approval"]["by"], card["approval"]["chosen"]) == ("bob", [])
    first = Path(approvals.drawn()[0].removeprefix("file://"))
    kept = json.loads((first.parent / f"{first.stem}.{task_id}.approval.json").read_text())
    assert (kept["images"], kept["approval"]["by"]["id"]) == ([], "bob")


def test_all_are_approved_together(approvals: Approvals):
    assert approvals.waits("everything")["options"] == ["Approve", "Reject"]
    approvals.answer("everything", "Approve")
    approvals.ends("after_everything", "success")
    assert approvals.xcom("after_everything") == approvals.drawn()


def test_single_choice_never_has_four_options_where_airflow_hides_them(approvals: Approvals):
    options = approvals.waits("of_three")["options"]
    assert options == ["1", "2", "3", "None", *(["Reject"] if VERSION < (3, 2) else [])]
    approvals.answer("of_three", "3")
    approvals.ends("after_of_three", "success")
    assert approvals.xcom("after_of_three") == [approvals.drawn()[2]]


def test_single_choice_takes_one(approvals: Approvals):
    assert approvals.waits("of_four")["options"] == ["1", "2", "3", "4", "None"]
    approvals.answer("of_four", "2")
    approvals.ends("of_four", "success")
    assert [each["path"] for each in approvals.xcom("of_four")["images"]] == [approvals.drawn()[1]]


def test_contradicting_answer_approves_nothing(approvals: Approvals):
    approvals.waits("unclear")
    assert approvals.answer("unclear", "All", "2").status_code == 200
    approvals.failed_with("unclear", "contradicts itself")
    approvals.ends("after_unclear", "upstream_failed")


def test_only_assigned_users_may_answer(approvals: Approvals):
    approvals.waits("assigned")
    assert approvals.answer("assigned", "1", user="bob").status_code == 403
    assert approvals.answer("assigned", "1", user="viewer").status_code == 403
    assert (
        approvals.anonymous.patch(approvals.details("assigned"), json={"chosen_options": ["1"]}).status_code
        == 401
    )
    assert approvals.airflow.task_instance(DAG, RUN, "assigned")["state"] == WAITING
    assert approvals.answer("assigned", "1", user="ada").status_code == 200
    approvals.ends("assigned", "success")


def asks_again(approvals: Approvals, task_id: str) -> Callable[[], bool]:
    tries = approvals.airflow.task_instance(DAG, RUN, task_id)["try_number"]

    def look() -> bool:
        found = approvals.airflow.task_instance(DAG, RUN, task_id)
        return found["try_number"] > tries and found["state"] == WAITING

    return look


def test_clear_before_the_answer_asks_again_about_the_same(approvals: Approvals):
    before = approvals.waits("cleared")
    again = asks_again(approvals, "cleared")
    approvals.airflow.clear(DAG, RUN, ["cleared"])
    poll(again, seconds=180, what="cleared to ask again")
    page = approvals.page("cleared")
    assert (page["body"], page["options"]) == (before["body"], before["options"])
    for url in pictures(page["body"]):
        assert approvals.users["viewer"].get(f"/{url}").status_code == 200
    approvals.answer("cleared", "1", "2")
    approvals.ends("after_cleared", "success")
    assert approvals.xcom("after_cleared") == approvals.drawn()[:2]

    # Cleared after the answer, it asks anew and forgets the first answer.
    again = asks_again(approvals, "cleared")
    approvals.airflow.clear(DAG, RUN, ["cleared"])
    poll(again, seconds=180, what="cleared to ask once more")
    assert not approvals.page("cleared")["response_received"]
    approvals.answer("cleared", "3")
    poll(
        lambda: approvals.airflow.task_instance(DAG, RUN, "after_cleared")["state"] == "success",
        seconds=180,
        what="the second answer",
    )
    assert approvals.xcom("after_cleared") == approvals.drawn()[2:3]


def test_images_that_changed_are_not_approved_by_an_old_page(approvals: Approvals):
    approvals.waits("changed")
    approvals.waits("changed_while_waiting")
    approvals.switch.touch()
    try:
        # Cleared, Airflow shows the page of the first images: nobody is asked there about others.
        approvals.airflow.clear(DAG, RUN, ["switched"])
        approvals.failed_with("changed", "Airflow still shows the page of an earlier try", try_number=2)
        approvals.ends("after_changed", "upstream_failed")
        # The task that asks is not cleared, and the answer is about the first images.
        approvals.airflow.clear(DAG, RUN, ["switched_too"], downstream=False)
        approvals.ends("switched_too", "success")
        poll(
            lambda: approvals.xcom("switched_too")["images"][0]["index"] == 2,
            seconds=60,
            what="the other images",
        )
        approvals.answer("changed_while_waiting", "1")
        approvals.failed_with("changed_while_waiting", "The images changed while they waited")
        approvals.ends("after_changed_while_waiting", "upstream_failed")
    finally:
        approvals.switch.unlink()


def test_late_answers_are_what_the_dag_says(approvals: Approvals):
    approvals.ends("late_rejects", "skipped")
    approvals.ends("after_late_rejects", "skipped")
    approvals.ends("late_approves", "success")
    approvals.ends("after_late_approves", "success")
    assert approvals.xcom("after_late_approves") == approvals.drawn()
    assert approvals.xcom("late_approves")["approval"]["by"] is None
    approvals.failed_with("late_fails", "Nobody answered within 0:00:02")
    approvals.ends("after_late_fails", "upstream_failed")


def test_each_mapped_task_asks_for_itself(approvals: Approvals):
    for map_index in (0, 1):
        approvals.waits("mapped", map_index)
        url = pictures(approvals.page("mapped", map_index)["body"])[0]
        assert approvals.users["viewer"].get(f"/{url}").status_code == 200
    approvals.answer("mapped", "None", map_index=0)
    approvals.answer("mapped", "4", map_index=1)
    approvals.ends("mapped", "skipped", 0)
    approvals.ends("mapped", "success", 1)
    assert approvals.xcom("mapped", map_index=1)["approval"]["chosen"] == [4]


def test_page_says_which_setting_is_missing(approvals: Approvals):
    url = pictures(approvals.waits("hidden")["body"])[0]
    answer = approvals.users["viewer"].get(f"/{url}")
    assert (answer.status_code, answer.headers["content-type"]) == (403, "image/svg+xml")
    assert "[evoimage]" in answer.text
    assert "image_roots" in answer.text
    words = re.sub(r"<[^>]+>", "", answer.text)
    assert f"{approvals.out}-other".replace("/", "") in words.replace("/", "").replace("\n", "")
    # Nothing but words where a script of the page asks.
    assert "detail" in approvals.users["viewer"].get(f"/{url.replace('say=why', 'say=')}").json()


@pytest.mark.skipif(not NEEDS_NO_TRIGGERER, reason="Airflow before 3.3 waits in the triggerer")
def test_no_triggerer_is_needed(approvals: Approvals):
    approvals.waits("no_triggerer")
    approvals.airflow.stop_component("triggerer")
    try:
        assert approvals.answer("no_triggerer", "All").status_code == 200
        approvals.ends("no_triggerer", "success")
    finally:
        approvals.airflow.start_component("triggerer")


def test_waiting_holds_no_worker(approvals: Approvals):
    approvals.waits("hidden")
    waiting = approvals.airflow.task_instance(DAG, RUN, "hidden")
    poll(lambda: not approvals.airflow.task_processes(waiting), seconds=10, what="the worker to be free")
    with pytest.raises(LocalAirflowError):
        approvals.xcom("hidden")
