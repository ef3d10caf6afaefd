"""An Airflow to click in, and a simulated EvoLink behind it: `make ui`.

The connection and the example DAGs are ready. Enter (or Ctrl-C) stops everything; Airflow's history stays in
its folder for the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.evolink import running_simulator, simulator_connection
from tools.local_airflow.processes import LocalAirflowError, Terminated, stop_signals_unwind

USUAL_PORT = 8080
#: Where the example DAGs save, unless they are told otherwise.
EXAMPLE_IMAGES = "file:///tmp/evoimage"

#: The example that waits for a person.
ASKING, ASKING_FILE = "evoimage_approved_campaign", "approved_campaign.py"


def free_or_any(port: int) -> int:
    """Return the port if nothing listens there, else 0 for any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def serve(*, dags: Path, home: Path, port: int, speed: float, console: Console) -> None:
    """Start both, say where they are, and stay until Enter, Ctrl-C or SIGTERM."""
    home.mkdir(parents=True, exist_ok=True)
    with running_simulator(home, "--speed", str(speed)) as url:
        console.print("Airflow starts, which takes about 20 s …")
        roots = {"AIRFLOW__EVOIMAGE__IMAGE_ROOTS": json.dumps([EXAMPLE_IMAGES])}
        with LocalAirflow(home, dags=dags, env=roots, port=port) as airflow:
            # In the database rather than the environment, so that its form can be tried.
            for conn_id, fields in simulator_connection(url).items():
                airflow.keep_connection(conn_id, fields)
            if is_asking := (dags / ASKING_FILE).is_file():
                airflow.run(ASKING)
            console.print(f"Airflow            {airflow.url}  (no log-in)")
            console.print(f"Simulated EvoLink  {url}/  (requests, with pictures)")
            console.print("Pictures           menu Browse > Images, and the tab Images of a run or a task")
            if is_asking:
                console.print(f"Waiting for you    run of {ASKING}: tab Required Actions, in half a minute")
            console.print(f"Logs and history   {home}")
            console.print("[bold]Press Enter to stop.[/]")
            wait_for_enter()
            console.print("Stopping …")


def wait_for_enter() -> None:
    """Return at Enter; where nobody can press it, stay until a signal comes."""
    if sys.stdin is not None and sys.stdin.readable() and sys.stdin.readline():
        return
    threading.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until stopped; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.local_airflow.ui",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dags", type=Path, default=Path("example_dags"), help="folder of DAG files")
    parser.add_argument(
        "--home", type=Path, default=Path(".airflow"), help="Airflow's folder (default .airflow)"
    )
    parser.add_argument(
        "--port", type=int, default=free_or_any(USUAL_PORT), help="default 8080, else a free one"
    )
    parser.add_argument("--speed", type=float, default=5, help="times faster than EvoLink (default 5)")
    chosen = parser.parse_args(arguments)
    if not chosen.dags.is_dir():
        parser.error(f"there is no folder {chosen.dags}; start in the project's folder, or give --dags")
    console = Console(highlight=False, soft_wrap=True)
    try:
        with stop_signals_unwind(), contextlib.suppress(Terminated):
            serve(
                dags=chosen.dags,
                home=chosen.home.resolve(),
                port=chosen.port,
                speed=chosen.speed,
                console=console,
            )
    except KeyboardInterrupt:
        console.print("Stopped; no process is left.")
    except (LocalAirflowError, TimeoutError) as error:
        console.print(str(error), markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
