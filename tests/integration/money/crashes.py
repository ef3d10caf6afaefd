"""Lets a worker die at a chosen step of its try, and counts what was paid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.protocol import Answer
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.transport import Outgoing, Transport
from tests.integration.task_driver import Killed, TaskRun

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

POST = "/v1/images/generations"


def paid(evolink: SimulatorServer) -> int:
    """Count the accepted generations."""
    return evolink.state.counters.paid


def only_id(evolink: SimulatorServer) -> str:
    """Return the id of the one generation there is."""
    (evolink_task_id,) = evolink.state.generations
    return evolink_task_id


# Each step between "about to post" and "deferred".
STEPS = [
    "before get",
    "after get",
    "before set",
    "after set",
    "before POST",
    "after POST",
    "before set 2",
    "after set 2",
    "before xcom_push",
    "after xcom_push",
    "before defer",
]
STEPS_WITHOUT_STORE = [step for step in STEPS if "set" not in step and "get" not in step]


@contextmanager
def killed_at(step: str, task: TaskRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the worker die when it comes to a step of its try."""
    moment, _, nth = step.rpartition(" ") if step.endswith(" 2") else (step, "", "1")
    seen = 0

    def reach(here: str) -> None:
        nonlocal seen
        seen += here == moment
        if here == moment and seen == int(nth):
            raise Killed(step)

    send = Transport.send

    def request(transport: Transport, outgoing: Outgoing) -> Answer:
        posts = outgoing.url.endswith(POST)
        if posts:
            reach("before POST")
        response = send(transport, outgoing)
        if posts:
            reach("after POST")
        return response

    operator = task.operator

    def doomed() -> Any:
        made = operator()
        made.defer = lambda **_: reach("before defer")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Transport, "send", request)
        patch.setattr(task, "operator", doomed)
        patch.setattr(task.ti, "on", reach)
        if task.store is not None:
            patch.setattr(task.store, "on", reach)
        yield


def crash(task: TaskRun, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_at(step, task, monkeypatch), pytest.raises(Killed):
        task.start()
