"""A real SIGKILL in mid-file: nothing partial under a final name, and the next try leaves the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.killed_process import ENDS, work_of
from tests.integration.task_driver import TaskRun, batch

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")
HERE = Path(__file__).parent


def images_in(folder: Path) -> dict[str, str]:
    """Hash all images below a folder that have their final name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in ENDS and not path.name.startswith(".")
    }


def kill_in_mid_file(wanted: dict[str, Any]) -> None:
    """Let another process do it, and end that with SIGKILL when half of a file is written."""
    process = subprocess.Popen(
        [sys.executable, "-P", HERE / "killed_process.py", json.dumps(wanted)],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert any(line.endswith(b"in mid-file\n") for line in process.stdout), "it came to its end"
        assert process.poll() is None
    finally:
        process.kill()
        assert process.wait() == -9


def check(wanted: dict[str, Any], whole: dict[str, str], stop_at: int) -> None:
    folder = Path(wanted["save_to"])
    kill_in_mid_file(wanted | {"stop_at": stop_at})
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
