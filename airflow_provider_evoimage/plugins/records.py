"""What the pages read from Airflow's database. The only module here that queries it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import and_, func, or_, select, tuple_

from airflow_provider_evoimage.images_xcom import XCOM_IMAGES

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

RETURN_VALUE = "return_value"
#: Rows that one search looks at before it hands on a place to go on from.
SEARCHED_ROWS = 5_000
_ROWS_AT_ONCE = 500
OUR_OPERATORS = frozenset(
    {
        "EvoImageApprovalOperator",
        "EvoImageGenerateOperator",
        "EvoImageBatchOperator",
        "EvoImageRenditionsOperator",
        "EvoImageSaveOperator",
        "EvoImageGenerationSensor",
        "_EvoImageDecoratedOperator",
        "@task.evoimage",
    }
)

TaskKey = tuple[str, str, str, int]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task instance and what it said of its images.

    :param images: the value of ``evoimage_images``; empty if there is none.
    :param state: Airflow's state; None for a task instance that is gone or not scheduled yet.
    :param pushed: when ``images`` was written.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    images: dict[str, Any]
    pushed: datetime | None = None
    state: str | None = None
    operator: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    try_number: int | None = None
    max_tries: int | None = None
    label: str | None = None
    run_number: int = 0

    @property
    def key(self) -> TaskKey:
        """What names it."""
        return self.dag_id, self.run_id, self.task_id, self.map_index

    @property
    def is_ours(self) -> bool:
        """Whether it is one of this provider's operators."""
        return bool(self.images) or self.operator in OUR_OPERATORS


Place = tuple[str, int, str, int]


def newest(
    permitted: Callable[[Any], Any],
    *,
    before: Place | None,
    limit: int,
    matches: Callable[[Task], bool],
    dag_id: str,
) -> tuple[list[Task], Place | None]:
    """Return the newest tasks with images, and the place to go on from; None at the end.

    :param permitted: restricts a query to the DAGs that the user may read.
    :param before: the place of an earlier answer: time, number of the run, task id, map index.
    :param matches: which of them are wanted; it is asked for 5,000 rows at most.
    """
    found: list[Task] = []
    searched = 0
    with create_session(scoped=False) as session:
        while searched < SEARCHED_ROWS:
            # Most searches want all: then the first rows suffice.
            wanted = limit + 1 if searched == 0 else _ROWS_AT_ONCE
            rows = _newest_rows(session, permitted, before, wanted, dag_id)
            searched += len(rows)
            for task in _with_states(session, rows):
                if matches(task):
                    found.append(task)
                    if len(found) == limit:
                        is_last = len(rows) < wanted and task.key == _key(rows[-1])
                        return found, None if is_last else _place(task)
            if len(rows) < wanted:
                return found, None
            before = (
                rows[-1].timestamp.isoformat(),
                rows[-1].dag_run_id,
                rows[-1].task_id,
                rows[-1].map_index,
            )
    return found, before


def _place(task: Task) -> Place:
    assert task.pushed is not None  # noqa: S101 (rows of XComs have it)
    return task.pushed.isoformat(), task.run_number, task.task_id, task.map_index


def _key(row: Any) -> TaskKey:
    return row.dag_id, row.run_id, row.task_id, row.map_index


_COLUMNS: tuple[Any, ...] = (
    XComModel.dag_id,
    XComModel.run_id,
    XComModel.task_id,
    XComModel.map_index,
    XComModel.dag_run_id,
    XComModel.timestamp,
    XComModel.value,
)


def _newest_rows(
    session: Session, permitted: Callable[[Any], Any], before: Place | None, limit: int, dag_id: str
) -> Sequence[Any]:
    query = permitted(select(*_COLUMNS).where(XComModel.key == XCOM_IMAGES))
    if dag_id:
        query = query.where(XComModel.dag_id == dag_id)
    if before is not None:
        moment, run, task_id, map_index = datetime.fromisoformat(before[0]), *before[1:]
        same_time = tuple_(XComModel.dag_run_id, XComModel.task_id, XComModel.map_index) < tuple_(
            run, task_id, map_index
        )
        query = query.where(or_(XComModel.timestamp < moment, and_(XComModel.timestamp == moment, same_time)))
    order = (XComModel.timestamp, XComModel.dag_run_id, XComModel.task_id, XComModel.map_index)
    return session.execute(query.order_by(*(each.desc() for each in order)).limit(limit)).all()


_TASK_COLUMNS: tuple[Any, ...] = (
    TaskInstance.dag_id,
    TaskInstance.run_id,
    TaskInstance.task_id,
    TaskInstance.map_index,
    TaskInstance.state,
    TaskInstance.operator,
    TaskInstance.custom_operator_name,
    TaskInstance.start_date,
    TaskInstance.end_date,
    TaskInstance.try_number,
    TaskInstance.max_tries,
    TaskInstance.rendered_map_index,
)


def _with_states(session: Session, rows: Sequence[Any]) -> list[Task]:
    if not rows:
        return []
    keys = [_key(row) for row in rows]
    columns = tuple_(TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    states = {_key(each): each for each in session.execute(select(*_TASK_COLUMNS).where(columns.in_(keys)))}
    return [_task(row, states.get(_key(row))) for row in rows]


def _task(row: Any | None, state: Any | None) -> Task:
    known = row if row is not None else state
    assert known is not None  # noqa: S101 (one of both is there)
    value = None if row is None else _value(row)
    return Task(
        dag_id=known.dag_id,
        run_id=known.run_id,
        task_id=known.task_id,
        map_index=known.map_index,
        # People can edit an XCom.
        images=value if isinstance(value, dict) else {},
        pushed=None if row is None else row.timestamp,
        run_number=0 if row is None else row.dag_run_id,
        state=None if state is None else state.state,
        operator=None if state is None else _operator(state),
        started=None if state is None else state.start_date,
        ended=None if state is None else state.end_date,
        try_number=None if state is None else state.try_number,
        max_tries=None if state is None else state.max_tries,
        label=None if state is None else state.rendered_map_index,
    )


def _value(row: Any) -> Any:
    value = XComModel.deserialize_value(row)
    if isinstance(value, str) and value.startswith(("{", "[")):  # Airflow 3.1 encodes an edited XCom twice.
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _operator(state: Any) -> str | None:
    names: tuple[str | None, str | None] = (state.custom_operator_name, state.operator)
    return next((each for each in names if each in OUR_OPERATORS), names[1])


def of_task(dag_id: str, run_id: str, task_id: str, map_index: int | None, *, limit: int) -> list[Task]:
    """Return a task instance, or all instances of a mapped task."""
    with create_session(scoped=False) as session:
        query = select(*_TASK_COLUMNS).where(
            TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.task_id == task_id
        )
        if map_index is not None:
            query = query.where(TaskInstance.map_index == map_index)
        states = session.execute(query.order_by(TaskInstance.map_index).limit(limit)).all()
        rows = {_key(row): row for row in _rows_of_run(session, dag_id, run_id, task_id, map_index)}
        return [_task(rows.get(_key(state)), state) for state in states]


def of_run(dag_id: str, run_id: str, *, after: tuple[str, int] | None, limit: int) -> list[Task]:
    """Return our tasks of a DAG run by task id and map index, from the one after ``after``."""
    with create_session(scoped=False) as session:
        query = select(*_TASK_COLUMNS).where(
            TaskInstance.dag_id == dag_id,
            TaskInstance.run_id == run_id,
            or_(
                TaskInstance.operator.in_(OUR_OPERATORS), TaskInstance.custom_operator_name.in_(OUR_OPERATORS)
            ),
        )
        if after is not None:
            query = query.where(tuple_(TaskInstance.task_id, TaskInstance.map_index) > tuple_(*after))
        states = session.execute(
            query.order_by(TaskInstance.task_id, TaskInstance.map_index).limit(limit)
        ).all()
        if not states:
            return []
        number = _run_number(session, dag_id, run_id)
        keys = [(number, each.task_id, each.map_index, XCOM_IMAGES) for each in states]
        columns = tuple_(XComModel.dag_run_id, XComModel.task_id, XComModel.map_index, XComModel.key)
        found = session.execute(select(*_COLUMNS).where(columns.in_(keys)))
        rows = {_key(row): row for row in found}
        return [_task(rows.get(_key(state)), state) for state in states]


def _run_number(session: Session, dag_id: str, run_id: str) -> int | None:
    return session.scalar(select(DagRun.id).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))


def totals_of_run(dag_id: str, run_id: str) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return how many of our tasks are in which state, and what each said of its images."""
    with create_session(scoped=False) as session:
        ours = or_(
            TaskInstance.operator.in_(OUR_OPERATORS), TaskInstance.custom_operator_name.in_(OUR_OPERATORS)
        )
        states = session.execute(
            select(TaskInstance.state, func.count())
            .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, ours)
            .group_by(TaskInstance.state)
        ).all()
        number = _run_number(session, dag_id, run_id)
        values = session.execute(
            select(XComModel.value).where(XComModel.dag_run_id == number, XComModel.key == XCOM_IMAGES)
        ).all()
    read: Iterable[Any] = (_value(each) for each in values)
    return {str(state): count for state, count in states}, [each for each in read if isinstance(each, dict)]


def _rows_of_run(
    session: Session, dag_id: str, run_id: str, task_id: str, map_index: int | None
) -> Sequence[Any]:
    number = _run_number(session, dag_id, run_id)
    query = select(*_COLUMNS).where(
        XComModel.dag_run_id == number, XComModel.task_id == task_id, XComModel.key == XCOM_IMAGES
    )
    if map_index is not None:
        query = query.where(XComModel.map_index == map_index)
    return session.execute(query).all()


def value_of(key: TaskKey, name: str) -> Any:
    """Return the value of one XCom; None if there is none."""
    dag_id, run_id, task_id, map_index = key
    with create_session(scoped=False) as session:
        number = _run_number(session, dag_id, run_id)
        row = session.execute(
            select(XComModel.value).where(
                XComModel.dag_run_id == number,
                XComModel.task_id == task_id,
                XComModel.map_index == map_index,
                XComModel.key == name,
            )
        ).first()
    return None if row is None else _value(row)
