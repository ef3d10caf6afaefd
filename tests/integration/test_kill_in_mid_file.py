"""A real SIGKILL in mid-file: nothing partial under a final name, and the next try leaves the same bytes."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.forked import forked
from tests.integration.killed_process import ENDS, work_of, work_until_killed
from tests.integration.task_driver import TaskRun, batch
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


def images_in(folder: Path) -> dict[str, str]:
    """Hash all images below a folder that have their final name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in ENDS and not path.name.startswith(".")
    }


def kill_in_mid_file(wanted: dict[str, Any], stop_at: int, said: Path) -> None:
    """Let another process do it, and end that with SIGKILL when half of a file is written."""
    process = forked(work_until_killed, wanted, stop_at, str(said))
    try:
        poll(
            lambda: said.exists() or not process.is_alive(), seconds=60, what="half of a file", interval=0.01
        )
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, "it came to its end"


def check(wanted: dict[str, Any], whole: dict[str, str], stop_at: int) -> None:
    folder = Path(wanted["save_to"])
    kill_in_mid_file(wanted, stop_at, folder.with_name("in mid-file"))
    left = images_in(folder)
    # With several at a time, others may have come to their end.
    assert left.items() <= whole.items()
    assert len(left) < len(whole)
    assert [path for path in folder.rglob(".*") if path.is_file()], "it left neither a record nor a part"
    work_of(wanted, tries=1).run()
    assert images_in(folder) == whole
    assert not [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("stop_at", [1, 3])
def test_save_goes_on_after_a_kill(
    tmp_path: Path, submitted: Callable[..., str], evolink: SimulatorServer, stop_at: int
):
    task = submitted("a red fox", n=3)
    evolink.state.clock.advance(600)
    evolink.state.settle()
    work_of({"generation": task, "save_to": str(tmp_path / "whole")}).run()
    whole = images_in(tmp_path / "whole")
    assert len(whole) == 3
    check({"generation": task, "save_to": str(tmp_path / "killed")}, whole, stop_at)


@pytest.mark.parametrize(("stop_at", "parallel"), [(1, 1), (7, 1), (4, 2)])
def test_renditions_go_on_after_a_kill(tmp_path: Path, stop_at: int, parallel: int):
    summary = TaskRun(batch(["a mug", "a cup"], tmp_path / "drawn", size="1:1")).run()
    wanted = {"images": summary, "parallel": parallel}
    work_of(wanted | {"save_to": str(tmp_path / "whole")}).run()
    whole = images_in(tmp_path / "whole")
    # Of two images, three each; the seventh is the contact sheet.
    assert len(whole) == 7
    check(wanted | {"save_to": str(tmp_path / "killed")}, whole, stop_at)
