"""Runs a task as Airflow would: worker, triggerer, worker again; tries, retries and clears.

``TaskRun`` stands for one task instance. What Airflow keeps between legs is kept here in the same form: the
trigger as plain JSON, the event as plain JSON, XComs that a new try deletes, the task state store that it does not.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from airflow.exceptions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent
from pydantic import JsonValue, TypeAdapter

import airflow_provider_evoimage
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.triggers.batch import EvoImageBatchTrigger
from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger

PACKAGE = Path(airflow_provider_evoimage.__file__).parent
API_KEY = "sk-evo-secret-of-the-tests"
CONNECTION = "AIRFLOW_CONN_EVOIMAGE_DEFAULT"
TRIGGERS = (EvoImageGenerationTrigger, EvoImageBatchTrigger)


_JSON: TypeAdapter[Any] = TypeAdapter(JsonValue)


class Killed(BaseException):
    """A worker that dies: nothing of ours catches it, as nothing of ours sees a SIGKILL."""


class ResultRefusedError(Exception):
    """An XCom backend that does not take the return value."""


class KillAtLine:
    """Lets the worker die when it first comes to one line of our code; also notes which lines it came to."""

    def __init__(self, line: tuple[str, int] | None = None) -> None:
        self.line = line
        self.lines: dict[tuple[str, int], None] = {}

    def __enter__(self) -> KillAtLine:
        # Coverage traces as well.
        self._earlier = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._earlier)

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        del event, argument
        path = frame.f_code.co_filename
        return self._traced if path.startswith(str(PACKAGE)) and "simulator" not in path else None

    def _traced(self, frame: FrameType, event: str, argument: object) -> Any:
        del argument
        if event == "line":
            here = place_of(frame)
            self.lines[here] = None
            if here == self.line:
                sys.settrace(None)
                raise Killed(f"{here[0]}:{here[1]}")
        return self._traced


def place_of(frame: FrameType) -> tuple[str, int]:
    """Return file name and line; a Path for each line would take a tenth of the time."""
    return frame.f_code.co_filename.rpartition("/")[2], frame.f_lineno


def is_thorough() -> bool:
    """Tell whether this is `make test-thorough`."""
    return os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


def lines_to_die_at(lines: list[tuple[str, int]], *, one_in: int) -> list[tuple[str, int]]:
    """Return the lines at which the worker dies: with ``one_in=10`` every tenth; all in `make test-thorough`."""
    return lines if is_thorough() else lines[::one_in]


def parts_of_lines(count: int) -> range:
    """Number the tests that share the lines of one path: one does where only a sample of the lines is tried."""
    return range(count if is_thorough() else 1)


class StateStore:
    """Airflow's task state store: JSON values that survive tries and clears.

    ``on`` is called before and after each access, with "before get" and so on.
    """

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.on: Callable[[str], None] = lambda moment: None

    def get(self, key: str, default: Any = None) -> Any:
        self.on("before get")
        value = json.loads(self.rows[key]) if key in self.rows else default
        self.on("after get")
        return value

    def set(self, key: str, value: Any) -> None:
        self.on("before set")
        assert value is not None
        # As Airflow checks it: a tuple, for instance, is refused.
        _JSON.validate_python(value)
        self.rows[key] = json.dumps(value)
        self.on("after set")

    def delete(self, key: str) -> None:
        self.on("before delete")
        self.rows.pop(key, None)
        self.on("after delete")

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(self.rows["evoimage"])


@dataclass
class TaskInstance:
    """The parts of Airflow's task instance that operators use."""

    dag_id: str = "campaign"
    run_id: str = "scheduled__2026-05-01"
    task_id: str = "draw"
    map_index: int = -1
    max_tries: int = 0
    try_number: int = 0
    id: str = "01890000-0000-7000-8000-000000000000"
    task: Any = None
    xcoms: dict[str, Any] = field(default_factory=dict)
    on: Callable[[str], None] = lambda moment: None

    def xcom_push(self, key: str, value: Any) -> None:
        self.on("before xcom_push")
        self.xcoms[key] = json.loads(json.dumps(value))
        self.on("after xcom_push")

    def xcom_pull(self, task_ids: str, key: str = "return_value", map_indexes: int | None = None) -> Any:
        assert (task_ids, map_indexes) == (self.task_id, self.map_index)
        return self.xcoms.get(key)

    def get_first_reschedule_date(self, context: Any) -> Any:
        del context
        return None


class TaskRun:
    """One task instance and its tries.

    :param make: makes the operator, anew for each leg, as each leg is another process.
    :param retries: automatic retries of the task.
    :param store: None for Airflow < 3.3.
    """

    def __init__(
        self,
        make: Callable[[], BaseOperator],
        *,
        retries: int = 2,
        store: StateStore | None = None,
        **ti: Any,
    ) -> None:
        self.make = make
        self.retries = retries
        self.store = store
        self.ti = TaskInstance(max_tries=retries, **ti)
        #: Whether Airflow fails to store the return value.
        self.result_is_refused = False
        self.deferrals: list[dict[str, Any]] = []
        self.events: list[Any] = []

    @property
    def context(self) -> dict[str, Any]:
        context: dict[str, Any] = {"ti": self.ti}
        return context if self.store is None else context | {"task_state_store": self.store}

    def operator(self) -> Any:
        operator = self.make()
        operator.retries = self.retries
        self.ti.task = self._last = operator
        return operator

    def start(self) -> Any:
        """Run the first leg of a new try; return its result, or raise TaskDeferred or what it raises."""
        self.ti.try_number += 1
        # Airflow deletes the XComs of a task at the start of each try.
        self.ti.xcoms.clear()
        return self.operator().execute(self.context)

    def run(self) -> Any:
        """Run one try to its end, through the triggerer where it defers."""
        leg = self.start
        while True:
            try:
                result = leg()
                break
            except TaskDeferred as deferred:
                leg = functools.partial(self._after_the_wait, deferred)
        return self._succeed(result)

    def _succeed(self, result: Any) -> Any:
        """Store the return value as an XCom and count the try as a success, as Airflow does after ``execute``."""
        if self.result_is_refused:
            raise ResultRefusedError
        stored = json.loads(json.dumps(result))
        for callback in self._last.on_success_callback:
            callback(self.context)
        return stored

    def _after_the_wait(self, deferred: TaskDeferred) -> Any:
        return self.resume(deferred, self.wait_in_triggerer(self.stored(deferred)))

    def run_with_retries(self) -> Any:
        """Run try after try until one succeeds or Airflow would give up."""
        while True:
            try:
                return self.run()
            except (AirflowFailException, AirflowSensorTimeout, AirflowSkipException):
                raise
            except Exception:
                if self.ti.try_number > self.ti.max_tries:
                    raise

    def clear(self) -> None:
        """Clear the task, as a user does in the UI."""
        self.ti.max_tries = self.ti.try_number + self.retries

    def stored(self, deferred: TaskDeferred) -> dict[str, Any]:
        """Put a deferral through the database: plain JSON in which nothing is secret."""
        classpath, kwargs = deferred.trigger.serialize()
        row = json.dumps({"classpath": classpath, "kwargs": kwargs}, allow_nan=False)
        assert_holds_no_secret(row)
        self.deferrals.append(json.loads(row))
        return self.deferrals[-1]

    def wait_in_triggerer(self, row: Mapping[str, Any]) -> Any:
        """Run the stored trigger to its event; return the event as it reaches the task."""
        events = asyncio.run(events_of(recreated(row)))
        assert len(events) == 1
        payload = json.dumps(events[0].payload, allow_nan=False)
        assert_holds_no_secret(payload)
        self.events.append(json.loads(payload))
        return self.events[-1]

    def resume(self, deferred: TaskDeferred, event: Any) -> Any:
        """Run the leg after the event, on a new operator."""
        return self.operator().resume_execution(
            deferred.method_name, {**(deferred.kwargs or {}), "event": event}, self.context
        )

    def go_on(self, deferred: TaskDeferred) -> Any:
        """Run the legs of a try that are left after a deferral."""
        while True:
            try:
                return self._succeed(self._after_the_wait(deferred))
            except TaskDeferred as again:
                deferred = again

    def resume_failed(self, deferred: TaskDeferred, error: str) -> Any:
        """Run the leg after a deferral that Airflow ended itself."""
        return self.operator().resume_execution("__fail__", {"error": error}, self.context)


def first_leg(task: TaskRun) -> TaskDeferred:
    """Run a new try until it defers."""
    try:
        task.start()
    except TaskDeferred as deferred:
        return deferred
    raise AssertionError("the task did not defer")


def recreated(row: Mapping[str, Any]) -> BaseTrigger:
    """Make the trigger of a stored row, as the triggerer does."""
    by_path = {f"{each.__module__}.{each.__qualname__}": each for each in TRIGGERS}
    return by_path[row["classpath"]](**row["kwargs"])


async def events_of(trigger: BaseTrigger) -> list[TriggerEvent]:
    """Take every event of a trigger."""
    return [event async for event in trigger.run()]


def assert_holds_no_secret(text: str) -> None:
    """Neither key nor link nor prompt may stand in what Airflow stores as plain text."""
    assert API_KEY not in text
    # With colon and blank: a random id may well hold the letters alone.
    assert "http:" not in text
    assert "https:" not in text
    assert " fox" not in text


def generate(**arguments: Any) -> Callable[[], EvoImageGenerateOperator]:
    """Tell how to make a generating operator, anew for each leg."""
    fields: dict[str, Any] = {"prompt": "a red fox", "quality": "low"} | arguments
    return lambda: EvoImageGenerateOperator(task_id="draw", **fields)


def batch(requests: Any, save_to: object, **arguments: Any) -> Callable[[], EvoImageBatchOperator]:
    """Tell how to make a batch operator, anew for each leg."""
    fields: dict[str, Any] = {"quality": "low", "model": "gpt-image-1"} | arguments
    return lambda: EvoImageBatchOperator(task_id="draw", requests=requests, save_to=str(save_to), **fields)


def sense(evolink_task_id: Any, **arguments: Any) -> Callable[[], EvoImageGenerationSensor]:
    """Tell how to make a sensor."""
    return lambda: EvoImageGenerationSensor(task_id="sense", evolink_task_id=evolink_task_id, **arguments)


def save(generation: Any, save_to: object, **arguments: Any) -> Callable[[], EvoImageSaveOperator]:
    """Tell how to make a saving operator."""
    return lambda: EvoImageSaveOperator(
        task_id="save", generation=generation, save_to=str(save_to), **arguments
    )


def connection(evolink: SimulatorServer, *, api_key: str = API_KEY, **extra: Any) -> str:
    """Write the Airflow connection to a simulator as an environment variable holds it."""
    return json.dumps({"conn_type": "evoimage", "host": evolink.url, "password": api_key, "extra": extra})


@contextmanager
def kept_keys(evolink: SimulatorServer) -> Iterator[set[str | None]]:
    """Collect the idempotency keys of the generations that are paid within the block."""
    before = set(evolink.state.generations)
    keys: set[str | None] = set()
    yield keys
    keys |= {
        generation.idempotency_key
        for evolink_task_id, generation in evolink.state.generations.items()
        if evolink_task_id not in before
    }
