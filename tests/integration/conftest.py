"""One simulated EvoLink over real HTTP, one clock for it and for us, and an Airflow connection to it."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

# Before the first import of Airflow, which reads it once.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-of-the-tests-"))

import airflow.sdk.bases.sensor
import pytest
import tenacity
import tenacity.nap
from structlog.testing import capture_logs
from task_driver import API_KEY, CONNECTION, StateStore, connection

from airflow_provider_evoimage.client import Account, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.simulator import SimulatorServer


class FakeTime:
    """A clock that sleeping moves: nothing waits, and the simulator's generations go on all the same.

    The simulator's own thread keeps the real time.

    :param evolink: whose clock is moved along.
    """

    def __init__(self, evolink: SimulatorServer) -> None:
        self._evolink = evolink
        self._real_async_sleep = asyncio.sleep
        self._thread = threading.get_ident()
        self._advanced = 0.0
        self.slept: list[float] = []
        self.on_sleep: Any = lambda seconds: None

    @property
    def passed(self) -> float:
        """Seconds that did not really pass."""
        return self._advanced + sum(self.slept)

    def time(self) -> float:
        return time.time() + self.passed

    def monotonic(self) -> float:
        return time.monotonic() + self.passed

    def sleep(self, seconds: float) -> None:
        self._pass(seconds)

    async def async_sleep(self, seconds: float, result: Any = None) -> Any:
        if threading.get_ident() != self._thread:
            return await self._real_async_sleep(seconds, result)
        self._pass(seconds)
        return await self._real_async_sleep(0, result)

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody sleeping."""
        self._advanced += seconds
        self._evolink.state.clock.advance(seconds)

    def _pass(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self._evolink.state.clock.advance(seconds)
        self.on_sleep(seconds)


@pytest.fixture(scope="session")
def _evolink() -> Iterator[SimulatorServer]:
    with SimulatorServer(speed=1) as server:
        yield server


@pytest.fixture
def evolink(_evolink: SimulatorServer) -> SimulatorServer:
    """A simulated EvoLink as on its first day, at real speed."""
    _evolink.state.reset()
    return _evolink


@pytest.fixture
def fake_time(evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Replace the clocks of the provider, of tenacity and of Airflow's sensors; nothing sleeps for real."""
    clock = FakeTime(evolink)
    shim = SimpleNamespace(time=clock.time, monotonic=clock.monotonic, sleep=clock.sleep)
    ours = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("airflow_provider_evoimage") and ".simulator" not in name
    ]
    for module in [*ours, tenacity, tenacity.nap, airflow.sdk.bases.sensor]:
        if getattr(module, "time", None) is time:
            monkeypatch.setattr(module, "time", shim)
    monkeypatch.setattr(asyncio, "sleep", clock.async_sleep)
    return clock


@pytest.fixture
def airflow_connection(evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The connection evoimage_default to the simulator; call it with other settings to change it."""

    def connect(**settings: Any) -> None:
        monkeypatch.setenv(CONNECTION, connection(evolink, **settings))

    connect()
    return connect


@pytest.fixture
def submitted(evolink: SimulatorServer) -> Callable[..., str]:
    """Have a generation made by somebody else: returns its id."""

    def submit(prompt: str = "a red fox", **fields: Any) -> str:
        request = ImageRequest.build(model="gpt-image-1.5", prompt=prompt, quality="low", **fields)
        with EvoLinkClient(Account(base_url=evolink.url, api_key=API_KEY)) as client:
            key = f"somebody-elses-{uuid.uuid4()}"
            return client.submit(request, key).generation.evolink_task_id

    return submit


@pytest.fixture
def store() -> StateStore:
    return StateStore()


@pytest.fixture
def log_lines() -> Iterator[list[Any]]:
    """What operators and triggers log."""
    with capture_logs() as lines:
        yield lines
