"""Kill -9 between POST, image, sidecar and index: nothing is paid twice, and no index entry is without its image."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.forked import forked
from tests.integration.reuse_in_process import attempt
from tests.integration.task_driver import CONNECTION, connection

MOMENTS = [
    *("before POST", "after POST", "before image", "after image", "before sidecar", "after sidecar"),
    *("before index", "after index", "before note", "after note"),
]


@pytest.fixture(scope="module")
def fast_evolink() -> Iterator[SimulatorServer]:
    """A simulated EvoLink at 200 times the real speed."""
    with SimulatorServer(speed=200) as server:
        yield server


Tries = Callable[..., list[tuple[int, Any]]]


@pytest.fixture
def tries(fast_evolink: SimulatorServer, tmp_path_factory: pytest.TempPathFactory) -> Tries:
    """Run tries at the same time, each in a process of its own; returns exit code and result of each."""
    environment = {**os.environ, CONNECTION: connection(fast_evolink)}
    results = tmp_path_factory.mktemp("results")

    def run(*asked: dict[str, Any]) -> list[tuple[int, Any]]:
        defaults = {"try_number": 1, "store": None, "moment": ""}
        files = [results / f"{uuid.uuid4()}.json" for _ in asked]
        processes = [
            forked(attempt, defaults | each | {"result": str(file)}, env=environment)
            for each, file in zip(asked, files, strict=True)
        ]
        found = []
        for process, file in zip(processes, files, strict=True):
            process.join(120)
            assert process.exitcode in {0, -signal.SIGKILL}
            found.append((process.exitcode, json.loads(file.read_text()) if process.exitcode == 0 else None))
        return found

    return run


def check_index(folder: Path) -> list[Path]:
    """Every entry leads to a whole sidecar, and that to whole images."""
    found = sorted((folder / "_index").glob("*.json"))
    for file in found:
        entry = json.loads(file.read_text())
        sidecar = json.loads((folder / entry["sidecar"]).read_text())
        assert sidecar["evolink_task_id"] == entry["evolink_task_id"]
        for image in sidecar["images"]:
            assert Path(image["path"].removeprefix("file://")).stat().st_size == image["bytes"]
    return found


@pytest.mark.parametrize("airflow", ["3.3", "3.1"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["generate", "batch"])
def test_kill_pays_once_and_leaves_no_entry_without_its_image(
    fast_evolink: SimulatorServer, tries: Tries, tmp_path: Path, kind: str, moment: str, airflow: str
) -> None:
    fast_evolink.reset()
    folder = tmp_path / "images"
    mine = {
        "kind": kind,
        "save_to": str(folder),
        "run_id": "mine",
        "store": str(tmp_path / "store") if airflow == "3.3" else None,
    }
    images = 1 if kind == "generate" else 2

    assert tries(mine | {"moment": moment}) == [(-signal.SIGKILL, None)]
    check_index(folder)

    ((_, delivered),) = tries(mine | {"try_number": 2})
    assert fast_evolink.state.counters.paid == images
    if kind == "generate":
        # This run paid for it, so it is delivered as its own.
        assert "reused" not in delivered
        assert delivered["usage"]["charged"] > 0
    else:
        assert (delivered["drawn"], delivered["reused"]) == (2, 0)
    assert len(check_index(folder)) == images

    ((_, later),) = tries({"kind": kind, "save_to": str(folder), "run_id": "later"})
    assert "reused" in later if kind == "generate" else later["reused"] == 2
    assert fast_evolink.state.counters.paid == images


@pytest.mark.long
def test_tasks_that_write_one_entry_at_the_same_time_leave_a_whole_one(
    fast_evolink: SimulatorServer, tries: Tries, tmp_path: Path
) -> None:
    fast_evolink.reset()
    asked = {"kind": "generate", "save_to": str(tmp_path)}
    made = tries(*({**asked, "run_id": f"run-{number}"} for number in range(4)))
    ids = {manifest["evolink_task_id"] for _, manifest in made}
    (entry,) = check_index(tmp_path)
    assert json.loads(entry.read_text())["evolink_task_id"] in ids
    ((_, later),) = tries({**asked, "run_id": "later"})
    assert later["reused"]["evolink_task_id"] in ids
    assert not list(tmp_path.rglob("*.part"))
