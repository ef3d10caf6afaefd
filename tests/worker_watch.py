"""Ends what a pytest worker has started, when the worker dies before it does so itself.

pytest-xdist kills its workers ten seconds after Ctrl-C, and as soon as its own process dies: too soon for an Airflow.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tools.local_airflow.processes import kill_processes, session_processes


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Have all sessions that this process starts in the block killed, if it dies inside the block."""
    command = [sys.executable, "-m", "tests.worker_watch", str(os.getpid())]
    project = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=project, start_new_session=True, stdin=subprocess.DEVNULL) as watch:
        try:
            yield
        finally:
            watch.kill()


def watch(worker: psutil.Process) -> None:
    """Look at the worker until it has died, then kill what it had started."""
    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            started = started_by(worker)
            time.sleep(0.5)
    # A process is known by its start too, so that none that has got the id of an ended one is killed.
    kill_processes(started)


def started_by(worker: psutil.Process) -> list[psutil.Process]:
    """Return the processes of all sessions that the worker's children lead."""
    leaders = set()
    for child in worker.children():
        with contextlib.suppress(ProcessLookupError):
            leaders.add(os.getsid(child.pid))
    return session_processes(leaders - {os.getsid(0), os.getsid(worker.pid)})


if __name__ == "__main__":
    watch(psutil.Process(int(sys.argv[1])))
