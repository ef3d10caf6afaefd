"""Every store in turn, with a real server of it; images that a simulated EvoLink has made."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

# Zonal buckets are asked after over gRPC at Google's own hosts, whatever endpoint is set.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.stores import store_servers
from tests.integration.stores.store_servers import RunningStore
from tests.integration.task_driver import TaskRun, save

STORES: dict[str, Callable[[Path], AbstractContextManager[RunningStore]]] = {
    "file": store_servers.local_files,
    "s3": store_servers.s3,
    "gcs": store_servers.google,
    "azure": store_servers.azure,
    "sftp": store_servers.sftp,
}


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    """A store that is up, and Airflow's connections to it."""
    with (
        pytest.MonkeyPatch.context() as patch,
        STORES[request.param](tmp_path_factory.mktemp(request.param)) as running,
    ):
        for name, connection in running.connections.items():
            patch.setenv(name, connection)
        yield running


@pytest.fixture
def finished(submitted: Callable[..., str], evolink: SimulatorServer) -> Callable[..., str]:
    """Have a generation made by somebody else, and let it end; returns its id."""

    def finish(prompt: str = "a red fox", **fields: Any) -> str:
        task = submitted(prompt, **fields)
        evolink.state.clock.advance(600)
        evolink.state.settle()
        return task

    return finish


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """The name of a folder of this test alone."""
    return request.node.originalname


@pytest.fixture
def save_to(store: RunningStore, folder: str, airflow_connection: Any) -> Callable[..., Any]:
    """Save generations below this test's folder of the store; returns the manifests."""

    def saved(generation: Any, *, root: str | None = None, run_id: str = "run", **arguments: Any) -> Any:
        target = f"{root or store.root}/{folder}"
        return TaskRun(save(generation, target, **arguments), task_id="save", run_id=run_id).run()

    return saved
