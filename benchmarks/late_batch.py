"""How long after its slowest generation a batch ends, where EvoLink and its links answer late.

    python -m benchmarks.late_batch [--items 2000] [--late 0.1]

A simulated EvoLink in a process of its own begins each answer that many seconds late. The batch runs as a task does
that waits on its worker (`deferrable=False`), and saves to local files. Prints the seconds from the start to the last
POST's generation, and from the end of the slowest generation to the end of the task.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

CONNECTION = "AIRFLOW_CONN_EVOIMAGE_DEFAULT"
SECONDS_OF_A_GENERATION = 10.0
GOAL_SECONDS = 30
PACKAGES = ("apache-airflow", "httpx")


def serve(late: float) -> None:
    """Be an EvoLink that answers late, until this process is ended."""
    from starlette.applications import Starlette

    from airflow_provider_evoimage.simulator import SimulatorServer
    from airflow_provider_evoimage.simulator.drawing import images as drawing

    # Drawn once: a real service does not draw on this machine.
    drawn: list[bytes] = []
    draw = drawing.draw

    def draw_once(picture: drawing.Picture) -> bytes:
        drawn[:] = drawn or [draw(picture)]
        return drawn[0]

    drawing.draw = draw_once
    answer = Starlette.__call__

    async def answer_late(*arguments: Any) -> None:
        await asyncio.sleep(late)
        await answer(*arguments)

    Starlette.__call__ = answer_late  # type: ignore[method-assign]
    with SimulatorServer(speed=1) as server:
        server.state.configure({"credits": 1_000_000, "duration": SECONDS_OF_A_GENERATION})
        print(json.dumps({"url": server.url}), flush=True)
        sys.stdin.read()


@contextmanager
def evolink(late: float) -> Iterator[str]:
    """Start it in a process of its own; yields its address."""
    command = [sys.executable, "-P", "-m", "benchmarks.late_batch", "--serve", "--late", str(late)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101
        try:
            yield json.loads(next(line for line in process.stdout if line.startswith('{"url"')))["url"]
        finally:
            process.kill()


def run(url: str, items: int, folder: str) -> dict[str, float]:
    """Run the batch; return what the docstring of this module names, in seconds."""
    import httpx

    from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator

    os.environ[CONNECTION] = json.dumps({"conn_type": "evoimage", "host": url, "password": "sk-benchmark"})
    operator = EvoImageBatchOperator(
        task_id="draw",
        requests=[f"subject {number}" for number in range(items)],
        quality="low",
        save_to=f"file://{folder}/images",
        deferrable=False,
    )
    ti = SimpleNamespace(
        dag_id="benchmark",
        run_id="run",
        task_id="draw",
        map_index=-1,
        try_number=1,
        max_tries=0,
        task=None,
        id="",
        xcom_push=lambda **_: None,
        xcom_pull=lambda **_: None,
    )
    started, cpu = time.time(), time.process_time()
    summary: Any = operator.execute({"ti": ti})  # type: ignore[typeddict-item]
    ended, cpu = time.time(), time.process_time() - cpu
    if summary["saved"] != items:
        raise SystemExit(f"{summary['saved']} of {items} images were saved.")
    made = httpx.get(f"{url}/_simulator/generations", trust_env=False, timeout=60).json()["data"]
    slowest = max(each["ends_at"] for each in made)
    return {"until": slowest - started, "after": ended - slowest, "cpu": cpu}


def main() -> None:
    """Measure once, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--late", type=float, default=0.1, help="seconds until an answer begins")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.late)
        return
    with tempfile.TemporaryDirectory(prefix="late-batch-") as folder, evolink(options.late) as url:
        os.environ["AIRFLOW_HOME"] = folder
        os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
        found = run(url, options.items, folder)
    print(
        f"{options.items:,} items, answers {options.late * 1000:.0f} ms late, {SECONDS_OF_A_GENERATION:.0f} s a "
        f"generation: the slowest had ended after {found['until']:.1f} s, the task {found['after']:.1f} s later "
        f"(goal for 2,000: {GOAL_SECONDS} s); {found['cpu']:.1f} s of CPU."
    )
    print(", ".join(f"{each} {version(each)}" for each in PACKAGES), f"Python {platform.python_version()}")


if __name__ == "__main__":
    main()
