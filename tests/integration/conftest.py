"""One simulated EvoLink over real HTTP, one clock for it and for us, and an Airflow connection to it."""
# ruff: noqa: E402 (Airflow reads where its home is when it is first imported)

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

_HOME = tempfile.TemporaryDirectory(prefix="airflow-of-the-tests-")
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)

import airflow.sdk.bases.sensor
import pytest
import tenacity
import tenacity.nap
from structlog.testing import capture_logs

import airflow_provider_evoimage
from airflow_provider_evoimage.client import Account, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import API_KEY, CONNECTION, StateStore, connection

# Operators import what only a running task needs when they run: too late for a clock that is put in place before.
for _module in pkgutil.walk_packages(airflow_provider_evoimage.__path__, "airflow_provider_evoimage."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)


@pytest.fixture(scope="session")
def _evolink() -> Iterator[SimulatorServer]:
    with SimulatorServer(speed=1) as server:
        yield server


@pytest.fixture
def evolink(_evolink: SimulatorServer) -> SimulatorServer:
    """A simulated EvoLink as on its first day, at real speed."""
    _evolink.reset()
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
