"""A signal while an Airflow of the harness starts leaves no process behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.system.shared import alive
from tools.local_airflow.processes import poll, session_processes

DAGS = Path(__file__).parents[1] / "system" / "dags"

# Starts an Airflow and would stay for ever; a signal has to end it.
DRIVER = """
import signal, sys
from tools.local_airflow.airflow import LocalAirflow
with LocalAirflow(sys.argv[1], dags=sys.argv[2]):
    signal.pause()
"""


def heed_ctrl_c() -> None:
    """Undo what a shell does to commands in the background: they, and all they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "log", "line"),
    [
        (signal.SIGINT, "db-migrate.log", ""),
        (signal.SIGINT, "triggerer.log", ""),
        (signal.SIGTERM, "scheduler.log", "Worker starting up"),
    ],
    ids=["ctrl-c-while-migrating", "ctrl-c-while-starting", "sigterm-with-workers-up"],
)
def test_signal_during_start_leaves_no_process(tmp_path: Path, number: signal.Signals, log: str, line: str):
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "home"), str(DAGS)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as driver:
        file = tmp_path / "home" / log
        poll(
            lambda: file.exists() and line in file.read_text(errors="replace"),
            seconds=90,
            what=f"{line or 'a first line'} in {log}",
            interval=0.05,
        )
        poll(lambda: psutil.Process(driver.pid).children(), seconds=5, what="a child", interval=0.01)
        started = psutil.Process(driver.pid).children(recursive=True)
        sessions = {os.getsid(each.pid) for each in psutil.Process(driver.pid).children()}
        driver.send_signal(number)
        _, errors = driver.communicate(timeout=30)

    assert driver.returncode != 0
    assert "KeyboardInterrupt" in errors or "Terminated" in errors
    assert alive(started) == []
    assert session_processes(sessions) == []
