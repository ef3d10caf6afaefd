"""What the pages read from Airflow's database: only permitted rows, every row once, whatever people edited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import Column, Engine, MetaData, Table, create_engine, insert
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from airflow_provider_evoimage.images_xcom import XCOM_IMAGES
from airflow_provider_evoimage.plugins import records

BEGAN = datetime(2026, 11, 27, 10, tzinfo=UTC)
OURS = "EvoImageGenerateOperator"


class Database:
    """Airflow's three tables with their own columns and types, in memory."""

    def __init__(self) -> None:
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        models: tuple[Any, ...] = (DagRun, TaskInstance, XComModel)
        self.tables = {
            model: Table(
                model.__tablename__,
                MetaData(),
                *(Column(each.name, each.type) for each in model.__table__.columns),
            )
            for model in models
        }
        for table in self.tables.values():
            table.create(self.engine)

    def add(self, model: Any, **values: Any) -> None:
        with Session(self.engine) as session:
            session.execute(insert(self.tables[model]).values(**values))
            session.commit()

    def run(self, number: int, dag_id: str = "shop") -> None:
        self.add(DagRun, id=number, dag_id=dag_id, run_id=f"run{number}")

    def xcom(
        self,
        number: int,
        task_id: str = "draw",
        *,
        dag_id: str = "shop",
        map_index: int = -1,
        key: str = XCOM_IMAGES,
        value: Any = None,
        minutes: int = 0,
    ) -> None:
        self.add(
            XComModel,
            dag_run_id=number,
            task_id=task_id,
            map_index=map_index,
            key=key,
            dag_id=dag_id,
            run_id=f"run{number}",
            value={"images": 1} if value is None else value,
            timestamp=BEGAN + timedelta(minutes=minutes),
        )

    def task(
        self,
        number: int,
        task_id: str = "draw",
        *,
        dag_id: str = "shop",
        map_index: int = -1,
        operator: str = OURS,
        custom: str | None = None,
        state: str | None = "success",
    ) -> None:
        self.add(
            TaskInstance,
            dag_id=dag_id,
            run_id=f"run{number}",
            task_id=task_id,
            map_index=map_index,
            operator=operator,
            custom_operator_name=custom,
            state=state,
            start_date=BEGAN,
            end_date=BEGAN + timedelta(minutes=1),
            try_number=2,
            max_tries=3,
            rendered_map_index="cup" if map_index >= 0 else None,
        )


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    found = Database()
    engine: Engine = found.engine

    @contextmanager
    def sessions(*, scoped: bool) -> Iterator[Session]:
        assert not scoped
        with Session(engine) as session:
            yield session

    monkeypatch.setattr(records, "create_session", sessions)
    yield found
    engine.dispose()


def newest(**changed: Any) -> tuple[list[records.Task], records.Place | None]:
    arguments: dict[str, Any] = {"before": None, "limit": 10, "matches": lambda _: True, "dag_id": ""}
    return records.newest(changed.pop("permitted", lambda query: query), **{**arguments, **changed})


def test_newest_come_first_with_what_airflow_knows_of_them(database: Database):
    database.xcom(1, minutes=1)
    database.task(1)
    database.xcom(2, minutes=2, map_index=4, value={"images": 3})
    database.task(
        2, map_index=4, operator="_PythonDecoratedOperator", custom="@task.evoimage", state="failed"
    )
    database.xcom(2, minutes=3, key="return_value")
    (second, first), place = newest()
    assert place is None
    assert first == records.Task(
        dag_id="shop",
        run_id="run1",
        task_id="draw",
        map_index=-1,
        images={"images": 1},
        pushed=BEGAN + timedelta(minutes=1),
        state="success",
        operator=OURS,
        started=BEGAN,
        ended=BEGAN + timedelta(minutes=1),
        try_number=2,
        max_tries=3,
        run_number=1,
    )
    assert (second.key, second.images) == (("shop", "run2", "draw", 4), {"images": 3})
    assert (second.state, second.operator, second.label) == ("failed", "@task.evoimage", "cup")


def test_task_instance_that_is_gone_keeps_its_images(database: Database):
    database.xcom(1)
    (found,), _ = newest()
    assert (found.images, found.state, found.operator, found.started) == ({"images": 1}, None, None, None)
    assert found.is_ours


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7])
def test_pages_hold_every_task_once_though_many_have_one_time(database: Database, limit: int):
    for number, task_id, map_index in [
        (1, "a", -1),
        (1, "b", 0),
        (1, "b", 1),
        (2, "a", -1),
        (2, "b", 0),
        (3, "a", -1),
    ]:
        database.xcom(number, task_id, map_index=map_index, minutes=number // 3)
    found: list[Any] = []
    before = None
    while True:
        page, before = newest(before=before, limit=limit)
        assert len(page) <= limit
        found += [(task.run_number, task.task_id, task.map_index) for task in page]
        if before is None:
            break
        assert len(page) == limit
    assert found == [(3, "a", -1), (2, "b", 0), (2, "a", -1), (1, "b", 1), (1, "b", 0), (1, "a", -1)]


def test_nobody_sees_tasks_of_a_dag_that_is_not_permitted(database: Database):
    database.xcom(1)
    database.xcom(2, dag_id="payroll", minutes=1)
    found, _ = newest(permitted=lambda query: query.where(XComModel.dag_id == "shop"))
    assert [task.dag_id for task in found] == ["shop"]
    assert [task.dag_id for task in newest(dag_id="payroll")[0]] == ["payroll"]
    assert len(newest()[0]) == 2


def test_search_looks_at_so_many_rows_and_says_where_to_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "SEARCHED_ROWS", 6)
    monkeypatch.setattr(records, "_ROWS_AT_ONCE", 2)
    for minutes in range(10):
        database.xcom(1, f"t{minutes}", minutes=minutes)
    asked: list[str] = []

    def matches(task: records.Task) -> bool:
        asked.append(task.task_id)
        return task.task_id == "t0"

    found, before = newest(limit=3, matches=matches)
    assert (found, asked) == ([], ["t9", "t8", "t7", "t6", "t5", "t4"])
    assert before == ((BEGAN + timedelta(minutes=4)).isoformat(), 1, "t4", -1)
    found, before = newest(limit=3, matches=matches, before=before)
    assert ([task.task_id for task in found], before) == (["t0"], None)
    assert len(asked) == len(set(asked)) == 10


def test_page_that_ends_with_its_last_row_has_a_next_one(database: Database):
    for minutes in range(4):
        database.xcom(1, f"t{minutes}", minutes=minutes)
    found, before = newest(limit=1, matches=lambda task: task.task_id != "t3")
    assert [task.task_id for task in found] == ["t2"]
    assert before is not None
    assert [task.task_id for task in newest(before=before)[0]] == ["t1", "t0"]
    found, before = newest(limit=1, matches=lambda task: task.task_id == "t0", before=None)
    assert ([task.task_id for task in found], before) == (["t0"], None)


@pytest.mark.parametrize(
    ("kept", "read"),
    [
        ({"images": 2}, {"images": 2}),
        # Airflow 3.1 encodes an edited XCom twice.
        (json.dumps({"images": 2}), {"images": 2}),
        ("[1]", {}),
        ("{no JSON", {}),
        ("words", {}),
        (7, {}),
    ],
)
def test_edited_xcom_is_read_whatever_it_holds(database: Database, kept: Any, read: dict[str, Any]):
    database.xcom(1, value=kept)
    ((found,), _) = newest()
    assert found.images == read


def test_task_is_found_with_and_without_images_and_all_its_instances(database: Database):
    for number in (1, 2):
        database.run(number)
    for map_index in (2, 0, 1):
        database.task(1, map_index=map_index)
    database.task(1, "other")
    database.task(2)
    database.xcom(1, map_index=1)
    database.xcom(1, map_index=2, key="return_value")
    database.xcom(2)
    found = records.of_task("shop", "run1", "draw", None, limit=9)
    assert [(task.map_index, task.images) for task in found] == [(0, {}), (1, {"images": 1}), (2, {})]
    assert [task.map_index for task in records.of_task("shop", "run1", "draw", None, limit=2)] == [0, 1]
    (one,) = records.of_task("shop", "run1", "draw", 1, limit=9)
    assert (one.images, one.pushed, one.run_number) == ({"images": 1}, BEGAN, 1)
    (other,) = records.of_task("shop", "run1", "draw", 0, limit=9)
    assert (other.images, other.pushed, other.run_number, other.is_ours) == ({}, None, 0, True)
    assert records.of_task("shop", "run1", "gone", None, limit=9) == []
    assert records.of_task("payroll", "run1", "draw", None, limit=9) == []


def test_run_has_our_tasks_in_order_and_goes_on_after_one(database: Database):
    for number in (1, 2):
        database.run(number)
    database.task(1, "b", map_index=1)
    database.task(1, "b", map_index=0)
    database.task(1, "a", operator="_PythonDecoratedOperator", custom="@task.evoimage")
    database.task(1, "c", operator="BashOperator")
    database.task(2, "d")
    database.xcom(1, "b", map_index=1)
    database.xcom(1, "a", key="return_value")
    database.xcom(2, "b", map_index=0)

    def places(**changed: Any) -> list[tuple[str, int, bool]]:
        arguments: dict[str, Any] = {"after": None, "limit": 9}
        found = records.of_run("shop", "run1", **{**arguments, **changed})
        return [(task.task_id, task.map_index, bool(task.images)) for task in found]

    whole = [("a", -1, False), ("b", 0, False), ("b", 1, True)]
    assert places() == whole
    assert places(limit=2) == whole[:2]
    assert places(after=("a", -1)) == whole[1:]
    assert places(after=("b", 0)) == whole[2:]
    assert places(after=("b", 1)) == []


def test_totals_of_a_run_count_our_tasks_by_state(database: Database):
    for number in (1, 2):
        database.run(number)
    for map_index, state in enumerate(["success", "success", "failed", None]):
        database.task(1, map_index=map_index, state=state)
    database.task(1, "custom", operator="_PythonDecoratedOperator", custom="@task.evoimage", state="running")
    database.task(1, "bash", operator="BashOperator")
    database.task(2)
    database.xcom(1, map_index=0)
    database.xcom(1, map_index=1, key="return_value")
    database.xcom(1, map_index=2, value=["edited"])
    database.xcom(2)
    states, said = records.totals_of_run("shop", "run1")
    assert states == {"success": 2, "failed": 1, "None": 1, "running": 1}
    assert said == [{"images": 1}]


def test_value_of_one_xcom_is_that_of_its_task_instance_and_name(database: Database):
    database.run(1)
    for map_index, task_id, key in [(0, "draw", "a"), (1, "draw", "a"), (0, "draw", "b"), (0, "cut", "a")]:
        database.xcom(1, task_id, map_index=map_index, key=key, value=[map_index, task_id, key])
    assert records.value_of(("shop", "run1", "draw", 1), "a") == [1, "draw", "a"]
    assert records.value_of(("shop", "run1", "draw", 0), "b") == [0, "draw", "b"]
    assert records.value_of(("shop", "run1", "cut", 0), "a") == [0, "cut", "a"]
    assert records.value_of(("shop", "run1", "draw", 2), "a") is None
    assert records.value_of(("payroll", "run1", "draw", 0), "a") is None
