"""The simulated EvoLink as a child process, for the demo, `make ui` and the system tests."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.local_airflow.client import Json
from tools.local_airflow.processes import (
    LocalAirflowError,
    ManagedProcess,
    poll,
    stop_processes,
    stop_signals_unwind,
)

SIMULATOR_START_SECONDS = 30


@contextlib.contextmanager
def running_simulator(folder: Path, *arguments: str) -> Iterator[str]:
    """Run the EvoLink simulator as a child process; gives its URL.

    :param folder: its log is written there.
    :param arguments: further arguments of `python -m airflow_provider_evoimage.simulator`.
    """
    simulator = ManagedProcess(
        name="simulator",
        command=[
            sys.executable,
            "-P",
            "-m",
            "airflow_provider_evoimage.simulator",
            "--port",
            "0",
            *arguments,
        ],
        environment={**os.environ, "PYTHONUNBUFFERED": "1"},
        log=folder / "simulator.log",
        folder=folder,
    )

    def announced_url() -> str | None:
        if simulator.exit_code is not None:
            raise LocalAirflowError(
                f"The simulator ended with {simulator.exit_code}:\n{simulator.log_tail()}"
            )
        line = re.search(r"EvoLink simulator on (http://\S+)", simulator.log.read_text(errors="replace"))
        return line and line[1]

    simulator.log.unlink(missing_ok=True)
    with stop_signals_unwind():
        try:
            simulator.start()
            yield poll(
                announced_url, seconds=SIMULATOR_START_SECONDS, what="the simulator to start", interval=0.05
            )
        finally:
            stop_processes([simulator], grace=5)


def simulator_connection(url: str) -> dict[str, Json]:
    """Return the connection that makes the provider's default connection id lead to the simulator."""
    return {"evoimage_default": {"conn_type": "evoimage", "host": url, "password": "demo-key"}}
