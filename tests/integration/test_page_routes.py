"""The pages' routes on Airflow's own database and logins, without its processes: what is shown, and to whom."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from airflow import settings
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk.execution_time import task_runner
from sqlalchemy.orm import scoped_session, sessionmaker
from starlette.testclient import TestClient

from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.plugins import images as plugin
from airflow_provider_evoimage.plugins import records, web
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.task_driver import CONNECTION, TaskRun, batch, connection, generate
from tests.integration.test_approval import Airflow, Asking

DAG, RUN = "shop", "manual__2026-11-25T01:02:03+00:00"
BEGAN = datetime(2026, 11, 25, 1, 2, 3, tzinfo=UTC)
GENERATE = "EvoImageGenerateOperator"


class Pages:
    """The web application, and the rows that Airflow would have written.

    :param folder: the only folder whose files may be shown.
    """

    def __init__(self, engine: sqlalchemy.Engine, client: TestClient, login: dict[str, str], folder: Path):
        self.engine, self.client, self.login, self.folder = engine, client, login, folder
        self._minutes = itertools.count()

    def get(self, path: str, task_id: str = "", **parameters: Any) -> Any:
        named = {"dag_id": DAG, "run_id": RUN, "task_id": task_id} if task_id else {}
        headers = self.login | parameters.pop("headers", {})
        return self.client.get(f"/{path}", params=named | parameters, headers=headers)

    def card(self, task_id: str, **parameters: Any) -> dict[str, Any]:
        (found,) = self.get("api/task", task_id, **parameters).json()["cards"]
        return found

    def add_run(self, run_id: str, number: int) -> None:
        run = {"id": number, "dag_id": DAG, "run_id": run_id, "run_type": "manual", "state": "success"}
        self._insert(DagRun, run | {"run_after": BEGAN, "logical_date": BEGAN + timedelta(days=number)})

    def add(
        self, task_id: str, xcoms: dict[str, Any], *, operator: str = GENERATE, map_index: int = -1, **of: Any
    ) -> None:
        """Add a task instance and its XComs, each a minute after the one before."""
        state, run_id, number = of.get("state", "success"), of.get("run_id", RUN), of.get("number", 1)
        key = {"dag_id": DAG, "run_id": run_id, "task_id": task_id, "map_index": map_index}
        names = {"operator": operator, "custom_operator_name": of.get("custom", operator)}
        self._insert(TaskInstance, key | names | {"state": state, "try_number": 1, "max_tries": 0})
        for name, value in xcoms.items():
            self.say(key | {"dag_run_id": number}, name, value)

    def say(self, key: dict[str, Any], name: str, value: Any) -> None:
        at = BEGAN + timedelta(minutes=next(self._minutes))
        stored = XComModel.serialize_value(value)
        self._insert(XComModel, key | {"key": name, "value": stored, "timestamp": at})

    def _insert(self, model: Any, values: dict[str, Any]) -> None:
        table = model.__table__
        # What no page reads is empty; each Airflow has other columns.
        empty = {
            each.name: each.type.python_type()
            for each in table.columns
            if not (each.nullable or each.primary_key or each.default or each.server_default)
        }
        known = {name: value for name, value in values.items() if name in table.columns}
        with self.engine.begin() as database:
            database.execute(table.insert().values(empty | known))


def kept(task: TaskRun, result: Any) -> dict[str, Any]:
    """What Airflow keeps of a task that has ended."""
    return task.ti.xcoms | {records.RETURN_VALUE: result}


def fill(pages: Pages) -> None:
    """Run real tasks against a simulated EvoLink, and keep what they leave."""
    folder = str(pages.folder)
    pages.add_run(RUN, 1)
    hero = TaskRun(generate(prompt="A red bicycle", n=2, save_to=folder, deferrable=False), task_id="hero")
    manifest = hero.run()
    pages.add("hero", kept(hero, manifest))
    several = TaskRun(batch(["one", "two", "three"], folder, deferrable=False), task_id="batch")
    pages.add("batch", kept(several, several.run()), operator="EvoImageBatchOperator")
    cut = TaskRun(
        lambda: EvoImageRenditionsOperator(
            task_id="cut", images=manifest, save_to=folder, renditions=["meta.square"]
        ),
        task_id="cut",
    )
    pages.add("cut", kept(cut, cut.run()), operator="EvoImageRenditionsOperator")
    asking = Asking(manifest)
    asking.waits()
    pages.add("ask", asking.ti.xcoms, operator="EvoImageApprovalOperator", state="deferred")
    said = {"state": "made", "images": 1, "prompt": "tea"}
    for index in range(3):
        pages.add("mapped", {"evoimage_images": said} if index else {}, map_index=index)
    pages.add("refused", {"evoimage_images": {"state": "failed", "prompt": "x"}}, state="failed")
    pages.add("foreign", {"return_value": 1}, operator="PythonOperator")
    # A user may write anything into an XCom.
    pages.add("edited", {"evoimage_images": json.dumps(said)}, custom="@task.evoimage", operator="_Own")
    pages.add("odd", {"evoimage_images": "{not JSON", "return_value": ["text"]})
    pages.add("outside", {"evoimage_images": said | {"files": [["file:///etc/passwd", "", 1, 1]]}})


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("pages")
    images = folder / "images"
    images.mkdir()
    import_all_models()
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/airflow.db")
    Base.metadata.create_all(engine)
    sessions = sessionmaker(bind=engine)
    with pytest.MonkeyPatch.context() as patch, SimulatorServer(speed=200) as evolink:
        patch.setenv(
            "AIRFLOW__API_AUTH__JWT_SECRET",
            "of these tests alone " * 4,
        )
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "reader:viewer")
        patch.setenv("AIRFLOW__EVOIMAGE__IMAGE_ROOTS", json.dumps([f"file://{images}"]))
        patch.setenv(CONNECTION, connection(evolink))
        patch.setattr(settings, "NonScopedSession", sessions)
        patch.setattr(settings, "Session", scoped_session(sessions))
        if hasattr(airflow_app, "_AuthManagerState"):
            patch.setattr(airflow_app._AuthManagerState, "instance", None)
        else:  # Airflow 3.1.
            patch.setattr(airflow_app, "auth_manager", None)
        patch.setattr(task_runner, "SUPERVISOR_COMMS", Airflow(), raising=False)
        patch.setattr(plugin, "_loaded", [])
        logins: Any = airflow_app.create_auth_manager()
        token = logins.generate_jwt(SimpleAuthManagerUser(username="reader", role="viewer"))
        found = Pages(engine, TestClient(plugin.serve), {"authorization": f"Bearer {token}"}, images)
        found._insert(DagBundleModel, {"name": "dags"})
        found._insert(DagModel, {"dag_id": DAG, "bundle_name": "dags"})
        fill(found)
        yield found
    engine.dispose()


@pytest.mark.parametrize(
    ("path", "task_id"),
    [
        *(("page", ""), ("assets/page.js", ""), ("api/list", ""), ("api/run", "hero"), ("api/task", "hero")),
        *(("api/details", "hero"), ("api/batch", "batch"), ("image", "hero")),
    ],
)
def test_only_users_of_airflow_see_anything(pages: Pages, path: str, task_id: str):
    assert pages.get(path, task_id, headers={"authorization": ""}).status_code == 401
    assert pages.get(path, task_id, headers={"authorization": "Bearer forged"}).status_code in {401, 403}
    assert pages.get(path, task_id).status_code == 200


def test_only_the_pages_own_files_are_served(pages: Pages):
    assert pages.get("assets/web.py").status_code == 404


def test_image_is_shown_small_and_whole_and_kept_by_browsers_under_its_hash(pages: Pages):
    for file in pages.card("hero")["files"]:
        whole = pages.get("image", "hero", index=file["index"], size="full", v=file["v"])
        assert whole.content == Path(file["path"].removeprefix("file://")).read_bytes()
        assert "immutable" in whole.headers["cache-control"]
        again = {"if-none-match": whole.headers["etag"]}
        known = pages.get("image", "hero", index=file["index"], size="full", v=file["v"], headers=again)
        assert (known.status_code, known.content) == (304, b"")
        other = pages.get("image", "hero", index=file["index"], v="of another file", headers=again)
        assert (other.status_code, other.headers["content-type"]) == (200, "image/webp")
        assert "immutable" not in other.headers["cache-control"]


def test_too_many_small_pictures_at_once_are_asked_to_come_back(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(web, "MAX_WAITING", 0)
    busy = pages.get("image", "hero")
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize(
    ("task_id", "place", "status"),
    [
        ("hero", {"index": 2}, 404),
        ("hero", {"reference": 0}, 404),
        ("batch", {"item": 3}, 404),
        ("hero", {"item": 0}, 404),
        ("foreign", {}, 404),
        ("odd", {}, 404),
        ("outside", {}, 403),
        ("cut", {"rendition": 7}, 404),
    ],
)
def test_missing_picture_says_why(pages: Pages, task_id: str, place: dict[str, Any], status: int):
    answer = pages.get("image", task_id, **place)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    drawn = pages.get("image", task_id, **place, say="why")
    assert (drawn.status_code, drawn.headers["content-type"]) == (status, "image/svg+xml")


def test_mapped_task_without_an_index_lists_all_instances(pages: Pages):
    found = pages.get("api/task", "mapped").json()["cards"]
    assert [(each["map_index"], each["prompt"]) for each in found] == [(0, ""), (1, "tea"), (2, "tea")]
    assert pages.card("mapped", map_index=1)["map_index"] == 1


def test_renditions_are_listed_below_their_image(pages: Pages):
    (file, _) = pages.card("cut")["files"]
    (rendition,) = file["renditions"]
    assert rendition["visible"]
    picture = pages.get("image", "cut", index=file["index"], rendition=rendition["place"])
    assert picture.headers["content-type"] == "image/webp"


def test_images_that_a_person_is_asked_about_are_shown_before_the_answer(pages: Pages):
    card = pages.card("ask")
    assert card["approval"]
    assert [each["visible"] for each in card["files"]] == [True, True]
    assert pages.get("image", "ask", index=1).status_code == 200


def test_batch_lists_its_items_page_by_page(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web, "BATCH_PAGE_SIZE", 2)
    first = pages.get("api/batch", "batch").json()
    assert ([each["prompt"] for each in first["items"]], first["next"], first["of"]) == (["one", "two"], 2, 3)
    last = pages.get("api/batch", "batch", offset=2).json()
    assert ([each["prompt"] for each in last["items"]], last["next"]) == (["three"], None)
    assert pages.get("image", "batch", item=2).status_code == 200
    (detail,) = pages.get("api/details", "batch", item=1).json()["generations"]
    assert detail["prompt"] == "two"
    assert pages.get("api/batch", "hero").status_code == 404


def test_edited_xcom_is_read_as_far_as_it_makes_sense(pages: Pages):
    edited = pages.card("edited")
    assert (edited["prompt"], edited["operator"]) == ("tea", "@task.evoimage")
    assert pages.card("odd")["files"] == []
    assert pages.get("api/details", "odd").json() == {"generations": []}


def test_run_comes_in_pages_and_its_totals_with_the_first(pages: Pages):
    whole = pages.get("api/run", "x").json()
    names = [each["task_id"] for each in whole["cards"]]
    assert names == sorted(names)
    assert "foreign" not in names
    assert whole["totals"]["failed"] == 1
    pieces, place, totals = [], "", []
    while place is not None:
        piece = pages.get("api/run", "x", limit=2, after=place).json()
        pieces += [each["task_id"] for each in piece["cards"]]
        totals.append(piece["totals"])
        place = piece["next"]
    assert pieces == names
    assert totals[0] == whole["totals"]
    assert set(map(str, totals[1:])) == {"None"}
    assert pages.get("api/run", dag_id=DAG, run_id="no such run").json()["cards"] == []


def gallery(pages: Pages, **parameters: Any) -> list[str]:
    """Go through all pages of the gallery."""
    found, place = [], ""
    while place is not None:
        piece = pages.get("api/list", before=place, **parameters).json()
        found += [f"{each['task_id']} {each['map_index']}" for each in piece["cards"]]
        place = piece["next"]
    return found


@pytest.mark.parametrize("limit", [1, 2, 9, 10])
def test_gallery_has_each_task_once_however_long_its_pages(pages: Pages, limit: int):
    whole = gallery(pages, limit=100)
    assert whole[-1] == "hero -1"
    assert gallery(pages, limit=limit) == whole


def test_search_looks_at_some_rows_and_hands_on_its_place(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "SEARCHED_ROWS", 3)
    monkeypatch.setattr(records, "_ROWS_AT_ONCE", 2)
    first = pages.get("api/list", text="RED bicycle", limit=1).json()
    assert first["cards"] == []
    assert first["next"]
    assert "hero -1" in gallery(pages, text="red BICYCLE", limit=1)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"state": "failed"}, ["refused -1"]),
        ({"dag_id": "other"}, []),
        ({"hours": 1}, []),
        ({"text": "no such words"}, []),
    ],
)
def test_gallery_shows_what_is_wanted(pages: Pages, wanted: dict[str, Any], found: list[str]):
    assert gallery(pages, **wanted) == found


def test_search_in_time_ends_where_older_rows_begin(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "SEARCHED_ROWS", 1)
    assert pages.get("api/list", hours=1, limit=1).json()["next"] is None


@pytest.mark.parametrize(
    "place", ["nonsense", "W10=", "WzEsMl0=", "WzEsMiwzLDRd", "WyJub3ciLDEsImEiLDFd", "é", "e30="]
)
def test_place_that_no_page_gave_is_refused(pages: Pages, place: str):
    assert pages.get("api/list", before=place).status_code == 400


def test_plugin_answers_nothing_but_http():
    async def neither(*_: Any) -> Any:
        raise AssertionError("nothing is read or sent")

    asyncio.run(plugin.serve({"type": "websocket"}, neither, neither))
