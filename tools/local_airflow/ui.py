"""An Airflow to click in, and a simulated EvoLink behind it: `make ui`.

The connection and the example DAGs are ready; a desktop's browser opens on the gallery of pictures. Whenever a run has
ended, it says where its pictures are. Enter (or Ctrl-C) stops everything; Airflow's history stays in its folder for the
next time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx
from rich.console import Console

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.client import TERMINAL_RUN_STATES, AirflowClient
from tools.local_airflow.evolink import running_simulator, simulator_connection
from tools.local_airflow.processes import LocalAirflowError, Terminated, stop_signals_unwind

USUAL_PORT = 8080
#: Where the example DAGs save, unless they are told otherwise.
EXAMPLE_IMAGES = "file:///tmp/evoimage"
GALLERY = "/plugin/evoimage-images"
RUNS_ARE_ASKED_FOR_EVERY = 2.0


def free_or_any(port: int) -> int:
    """Return the port if nothing listens there, else 0 for any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def has_desktop() -> bool:
    """Tell whether somebody sits at this machine: a browser in the terminal would take the terminal."""
    return sys.stdout.isatty() and bool(
        sys.platform in {"darwin", "win32"} or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def announce_runs(airflow: LocalAirflow, say: Callable[[str], None], stop: threading.Event) -> None:
    """Say of each run that ends from now on where its pictures are, until stopped."""
    # A client of its own: that of another thread may be closed while this one asks.
    client = AirflowClient(airflow.url)
    since = datetime.now(UTC)
    known: set[str] = set()
    while not stop.wait(RUNS_ARE_ASKED_FOR_EVERY):
        try:
            ended = ended_runs(client, since)
        except (LocalAirflowError, OSError, ValueError, httpx.HTTPError):
            continue  # It is busy, or about to stop.
        for dag_id, run_id, state in ended:
            if f"{dag_id} {run_id}" not in known:
                known.add(f"{dag_id} {run_id}")
                path = f"/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}/plugin/evoimage-run"
                say(f"{dag_id}: {state}. Pictures: {airflow.url}{path}")
                say(f"  Files below {EXAMPLE_IMAGES}, unless the run was told otherwise")
    client.close()


def ended_runs(client: AirflowClient, since: datetime) -> list[tuple[str, str, str]]:
    """Return DAG id, run id and state of the runs that have ended since then."""
    query = {"end_date_gte": since.isoformat(), "order_by": "end_date", "limit": "100"}
    runs = client.request("GET", "/dags/~/dagRuns", params=query).json()["dag_runs"]
    return [
        (each["dag_id"], each["dag_run_id"], each["state"])
        for each in runs
        if each["state"] in TERMINAL_RUN_STATES
    ]


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
            gallery = f"{airflow.url}{GALLERY}"
            console.print(
                f"Pictures           {gallery}  (menu Browse > Images; the tab Images of runs and tasks)"
            )
            console.print(f"Airflow            {airflow.url}  (no log-in)")
            console.print(f"Simulated EvoLink  {url}/  (requests, with pictures)")
            console.print(f"Logs and history   {home}")
            console.print("[bold]Press Enter to stop.[/]")
            if has_desktop():
                webbrowser.open(gallery)
            stop = threading.Event()
            announcing = threading.Thread(
                target=announce_runs, args=(airflow, console.print, stop), daemon=True
            )
            announcing.start()
            try:
                wait_for_enter()
            finally:
                stop.set()
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
