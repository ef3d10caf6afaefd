"""Kill -9 between POST, image, sidecar and index: nothing is paid twice, and no index entry is without its image."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.task_driver import CONNECTION, connection

SCRIPT = Path(__file__).with_name("reuse_in_process.py")
MOMENTS = [
    *("before POST", "after POST", "before image", "after image", "before sidecar", "after sidecar"),
    *("before index", "after index", "before note", "after note"),
]


@pytest.fixture(scope="module")
def fast_evolink() -> Iterator[SimulatorServer]:
    """A simulated EvoLink at 200 times the real speed."""
    with SimulatorServer(speed=200) as server:
        yield server


def run(evolink: SimulatorServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, CONNECTION: connection(evolink)}
    command = [sys.executable, "-P", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def result_of(process: subprocess.CompletedProcess[str]) -> Any:
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.strip().splitlines()[-1])


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


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["generate", "batch"])
def test_kill_pays_once_and_leaves_no_entry_without_its_image(
    fast_evolink: SimulatorServer, tmp_path: Path, kind: str, moment: str
) -> None:
    fast_evolink.reset()
    folder, store = tmp_path / "images", tmp_path / "store"
    # With and without a record of the task: moments take turns, for time's sake.
    kept = str(store) if MOMENTS.index(moment) % 2 else "-"
    images = 1 if kind == "generate" else 2

    killed = run(fast_evolink, kind, str(folder), "mine", "1", kept, moment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    check_index(folder)

    delivered = result_of(run(fast_evolink, kind, str(folder), "mine", "2", kept))
    assert fast_evolink.state.counters.paid == images
    if kind == "generate":
        # This run paid for it, so it is delivered as its own.
        assert "reused" not in delivered
        assert delivered["usage"]["charged"] > 0
    else:
        assert (delivered["drawn"], delivered["reused"]) == (2, 0)
    assert len(check_index(folder)) == images

    later = result_of(run(fast_evolink, kind, str(folder), "later", "1", "-"))
    assert "reused" in later if kind == "generate" else later["reused"] == 2
    assert fast_evolink.state.counters.paid == images


def test_tasks_that_write_one_entry_at_the_same_time_leave_a_whole_one(
    fast_evolink: SimulatorServer, tmp_path: Path
) -> None:
    fast_evolink.reset()
    with ThreadPoolExecutor(3) as pool:
        runs = list(
            pool.map(
                lambda number: run(fast_evolink, "generate", str(tmp_path), f"run-{number}", "1", "-"),
                range(3),
            )
        )
    made = [result_of(each) for each in runs]
    (entry,) = check_index(tmp_path)
    assert json.loads(entry.read_text())["evolink_task_id"] in {each["evolink_task_id"] for each in made}
    later = result_of(run(fast_evolink, "generate", str(tmp_path), "later", "1", "-"))
    assert later["reused"]["evolink_task_id"] in {each["evolink_task_id"] for each in made}
    assert not list(tmp_path.rglob("*.part"))
