"""The pages of images on a real Airflow: what they show, to whom, and which files."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from airflow_provider_evoimage.plugins import cards
from tests.system.airflow_users import AirflowUsers
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.system

# With a plus and a colon, as scheduled runs have.
RUN = "manual__2026-11-25T01:02:03+00:00"
DAG = "pictures"
DAG_FILE = """
import os
from airflow.sdk import DAG, task
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator

OUT = "file://" + os.environ["TEST_FOLDER"] + "/pages/images"

with DAG("pictures", schedule=None):
    hero = EvoImageGenerateOperator(task_id="hero", prompt="A <b>red</b> bicycle", save_to=OUT, quality="low", n=2)
    EvoImageGenerateOperator.partial(task_id="mapped", save_to=OUT, quality="low").expand(prompt=["tea", "cake"])
    EvoImageBatchOperator(task_id="batch", save_to=OUT, requests=["one", "two", "three"], quality="low")
    links = EvoImageGenerateOperator(task_id="links", prompt="only links", quality="low")
    EvoImageSaveOperator(task_id="saved", generation=links.output, save_to=OUT)
    EvoImageGenerateOperator(task_id="hidden", prompt="elsewhere", save_to=OUT + "-other", quality="low")
    EvoImageGenerateOperator(task_id="refused", prompt="[[fail:content_policy_violation]] x", quality="low")
    EvoImageGenerateOperator(task_id="waits", prompt="[[never]] slow", save_to=OUT, timeout=3600, quality="low")

    @task
    def foreign():
        return 1

    foreign()
"""


class Pages:
    """What was made in an Airflow, and who may see it."""

    def __init__(self, found: AirflowUsers) -> None:
        self.airflow, self.anonymous = found.airflow, found.anonymous
        self.viewer, self.admin = found.users["viewer"], found.users["admin"]
        self.out = found.folder / "pages" / "images"

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return self.viewer.get(f"/evoimage/{path}", params=parameters)

    def card(self, task_id: str, map_index: int | None = -1) -> dict[str, Any]:
        answer = self.get(
            "api/task", **of(task_id), **({} if map_index is None else {"map_index": map_index})
        )
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["cards"]
        return found

    def say(self, value: object, key: str = "evoimage_images") -> None:
        """Let the foreign task's XCom say something, as a user of Airflow may."""
        path = f"/api/v2/dags/{DAG}/dagRuns/{RUN}/taskInstances/foreign/xcomEntries"
        answer = self.admin.post(path, json={"key": key, "value": value, "map_index": -1})
        if answer.status_code == 409:
            # Airflow 3.1 takes and keeps JSON as text.
            for edited in (value, json.dumps(value)):
                answer = self.admin.patch(f"{path}/{key}", json={"value": edited, "map_index": -1})
                if answer.is_success:
                    break
        assert answer.is_success, answer.text


def of(task_id: str) -> dict[str, Any]:
    return {"dag_id": DAG, "run_id": RUN, "task_id": task_id}


@pytest.fixture(scope="module")
def pages(airflow_users: AirflowUsers) -> Pages:
    found = Pages(airflow_users)
    airflow_users.add_dags("pictures", DAG_FILE)
    found.airflow.unpause(DAG)
    found.airflow.trigger(DAG, run_id=RUN)
    poll(lambda: ended(found.airflow), seconds=180, what="the tasks to end")
    return found


def ended(airflow: LocalAirflow) -> bool:
    states = {each["task_id"]: each["state"] for each in airflow.task_instances(DAG, RUN)}
    return states.pop("waits", None) == "deferred" and all(
        each in {"success", "failed"} for each in states.values()
    )


ROUTES = {
    "page": {},
    "assets/page.js": {},
    "assets/page.css": {},
    "assets/icon.svg": {},
    "api/list": {},
    "api/run": {"dag_id": DAG, "run_id": RUN},
    "api/task": of("hero"),
    "api/details": of("hero"),
    "api/batch": of("batch"),
    "image": of("hero"),
}


def test_every_route_is_in_the_table_below():
    source = (Path(cards.__file__).parent / "web.py").read_text()
    routes = re.findall(r'app\.get\("/([^"]+)"', source)
    assert {each.replace("{name}", "page.js") for each in routes} <= set(ROUTES)


@pytest.mark.parametrize("path", ROUTES)
def test_strangers_see_nothing_and_viewers_see_it(pages: Pages, path: str):
    assert pages.anonymous.get(f"/evoimage/{path}", params=ROUTES[path]).status_code == 401
    forged = httpx.Headers({"Authorization": "Bearer forged"})
    answer = pages.anonymous.get(f"/evoimage/{path}", params=ROUTES[path], headers=forged)
    assert answer.status_code in {401, 403}
    assert pages.get(path, **ROUTES[path]).status_code == 200


@pytest.mark.parametrize(
    "path", ["docs", "redoc", "openapi.json", "assets/..%2fweb.py", "assets/page.html", ""]
)
def test_there_is_no_other_route(pages: Pages, path: str):
    assert pages.get(path).status_code == 404


def test_no_import_error_of_the_plugin_is_shown(pages: Pages):
    assert pages.admin.get("/api/v2/plugins/importErrors").json()["total_entries"] == 0
    (plugin,) = [
        each for each in pages.viewer.get("/api/v2/plugins").json()["plugins"] if each["name"] == "evoimage"
    ]
    assert {each["destination"] for each in plugin["external_views"]} == {"nav", "dag_run", "task_instance"}


def test_saved_images_are_shown_small_and_whole(pages: Pages):
    hero = pages.card("hero")
    assert (hero["state"], hero["images"], hero["prompt"]) == ("made", 2, "A <b>red</b> bicycle")
    assert hero["credits"] > 0
    for file in hero["files"]:
        small = pages.get("image", **of("hero"), index=file["index"], v=file["v"])
        assert small.headers["content-type"] == "image/webp"
        assert max(Image.open(io.BytesIO(small.content)).size) == 384
        assert small.headers["cache-control"] == "private, max-age=31536000, immutable"
        whole = pages.get("image", **of("hero"), index=file["index"], size="full", v=file["v"])
        assert whole.content == Path(file["path"].removeprefix("file://")).read_bytes()
        assert whole.headers["content-type"] == "image/png"
        assert int(whole.headers["content-length"]) == len(whole.content)
        for answer in (small, whole):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in answer.headers["content-security-policy"]
        again = pages.viewer.get(
            "/evoimage/image",
            params={**of("hero"), "index": file["index"], "size": "full", "v": file["v"]},
            headers={"If-None-Match": whole.headers["etag"]},
        )
        assert (again.status_code, again.content) == (304, b"")


def test_every_kind_of_task_says_what_there_is(pages: Pages):
    assert pages.card("mapped", 1)["prompt"] == "cake"
    assert pages.card("saved")["files"]
    waiting = pages.card("waits")
    assert (waiting["state"], waiting["airflow_state"]) == ("waiting", "deferred")
    assert waiting["ids"]
    assert waiting["credits_reserved"] > 0
    refused = pages.card("refused")
    assert (refused["state"], refused["error"]["billed"]) == ("failed", False)
    assert "content_policy_violation" in refused["error"]["message"]
    assert "[[fail:" in refused["prompt"]
    assert "only EvoLink's links" in pages.card("links")["note"]
    hidden = pages.card("hidden")
    assert not hidden["files"][0]["visible"]
    assert "image_roots" in hidden["note"]
    assert pages.get("image", **of("hidden")).status_code == 403


def test_mapped_task_without_an_index_lists_all_instances(pages: Pages):
    answer = pages.get("api/task", **of("mapped")).json()
    assert [each["map_index"] for each in answer["cards"]] == [0, 1]


def test_batch_shows_each_item(pages: Pages):
    batch = pages.card("batch")
    assert batch["batch"]["items_saved"] == 3
    items = pages.get("api/batch", **of("batch")).json()
    assert [each["prompt"] for each in items["items"]] == ["one", "two", "three"]
    for place in range(3):
        assert pages.get("image", **of("batch"), item=place).headers["content-type"] == "image/webp"
    assert pages.get("image", **of("batch"), item=3).status_code == 404
    detail = pages.get("api/details", **of("batch"), item=1).json()["generations"][0]
    assert (detail["prompt"], detail["code"].count("prompt='two'")) == ("two", 1)


def test_run_has_all_tasks_and_true_totals(pages: Pages):
    answer = pages.get("api/run", dag_id=DAG, run_id=RUN).json()
    shown = [each for each in answer["cards"] if each["task_id"] != "foreign"]
    assert [(each["task_id"], each["map_index"]) for each in shown] == [
        ("batch", -1),
        ("hero", -1),
        ("hidden", -1),
        ("links", -1),
        ("mapped", 0),
        ("mapped", 1),
        ("refused", -1),
        ("saved", -1),
        ("waits", -1),
    ]
    assert (answer["totals"]["failed"], answer["totals"]["waiting"]) == (1, 1)
    pieces, place = [], ""
    while place is not None:
        piece = pages.get("api/run", dag_id=DAG, run_id=RUN, limit=2, after=place).json()
        pieces += piece["cards"]
        place = piece["next"]
    assert [each["task_id"] for each in pieces] == [each["task_id"] for each in answer["cards"]]


def test_gallery_pages_filters_and_searches(pages: Pages):
    whole = pages.get("api/list", dag_id=DAG, limit=100).json()["cards"]
    assert len(whole) >= 9
    assert [each["pushed"] for each in whole] == sorted((each["pushed"] for each in whole), reverse=True)
    pieces, place = [], ""
    while place is not None:
        piece = pages.get("api/list", dag_id=DAG, limit=2, before=place).json()
        pieces += piece["cards"]
        place = piece["next"]
    keys = [(each["task_id"], each["map_index"]) for each in pieces]
    assert keys == [(each["task_id"], each["map_index"]) for each in whole]
    found = pages.get("api/list", dag_id=DAG, text="RED bicycle").json()["cards"]
    assert [each["task_id"] for each in found] == ["hero"]
    assert [
        each["task_id"] for each in pages.get("api/list", state="failed", dag_id=DAG).json()["cards"]
    ] == ["refused"]
    assert pages.get("api/list", dag_id="other").json()["cards"] == []
    assert len(pages.get("api/list", dag_id=DAG, hours=1, limit=100).json()["cards"]) == len(whole)
    assert pages.get("api/list", before="nonsense").status_code == 400


def test_files_outside_the_roots_are_never_shown(pages: Pages):
    """A user who may edit an XCom can put any path into it."""
    secret = pages.out.parent / "secret.png"
    Image.new("RGB", (5, 5)).save(secret)
    (pages.out / "link.png").symlink_to(secret)
    (pages.out / "text.png").write_text("root:x:0:0")
    (pages.out / "note.batch.jsonl").write_text(
        '{"submission": {}, "position": 0, "images": [{"path": "/etc/passwd"}]}'
    )
    for path, status in {
        "file:///etc/passwd": 403,
        "/etc/passwd": 403,
        f"file://{secret}": 403,
        f"file://{pages.out}/../secret.png": 403,
        f"file://{pages.out}/link.png": 403,
        f"file://{pages.out}/text.png": 415,
        f"file://{pages.out}": 403,
        f"file://{pages.out}/none.png": 404,
        "s3://nobody@bucket/a.png": 403,
        "http://127.0.0.1:1/a.png": 403,
    }.items():
        pages.say({"state": "made", "images": 1, "files": [[path, "", 1, 1]]})
        for size in ("small", "full"):
            answer = pages.get("image", **of("foreign"), size=size)
            assert answer.status_code == status, (path, answer.text)
            assert "detail" in answer.json()
        manifest = {"evolink_task_id": "t", "images": [{"path": path}], "request": {"image_urls": [path]}}
        pages.say({"state": "made", "images": 1})
        pages.say(manifest, key="return_value")
        assert pages.get("image", **of("foreign")).status_code == status
        assert pages.get("image", **of("foreign"), reference=0).status_code == status
        pages.say({"state": "made", "manifest": path, "items": 1})
        assert pages.get("api/batch", **of("foreign")).status_code in {403, 404, 415}
    pages.say({"state": "made", "manifest": f"file://{pages.out}/note.batch.jsonl", "items": 1})
    assert pages.get("api/batch", **of("foreign")).status_code == 200
    assert pages.get("image", **of("foreign"), item=0).status_code == 403


def test_links_of_evolink_and_the_key_stay_on_the_server(pages: Pages):
    texts = [
        pages.get("api/list", limit=100).text,
        pages.get("api/run", dag_id=DAG, run_id=RUN).text,
        *(pages.get("api/details", **of(each)).text for each in ("hero", "links", "saved")),
    ]
    for text in texts:
        assert "http://127.0.0.1" not in text


def test_extra_link_leads_to_the_tab(pages: Pages):
    links = pages.viewer.get(f"/api/v2/dags/{DAG}/dagRuns/{RUN}/taskInstances/waits/links").json()[
        "extra_links"
    ]
    assert links["Images"].startswith(
        f"{pages.airflow.url}/dags/{DAG}/runs/manual__2026-11-25T01%3A02%3A03%2B00%3A00/"
    )
    assert links["Images"].endswith("/tasks/waits/plugin/evoimage-task")
    assert not links["EvoLink account"]
