"""Measures everything beside the peers, in one run, and writes docs/benchmarks.md.

python -m benchmarks [--only waiting,delay,memory,triggerer,imports] [--report FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.import_cost import IMPORTS, measure
from benchmarks.server import TOLD_SPREAD_SECONDS

ROUNDS = 5
LATENCY_SECONDS = 0.3
WAITING_TASKS, WAITING_ROUND_SECONDS = 1000, 12
DELAY_TASKS = 300
MEMORY_TASKS = 5000
TRIGGERER_TASKS = 2000

OURS, REFERENCE = "evoimage", "5 s poller"
PEERS = ("http", "dbt-cloud", "common-ai", "openai", "airbyte")
PACKAGES = (
    "apache-airflow",
    "apache-airflow-task-sdk",
    *(f"apache-airflow-providers-{each}" for each in PEERS),
)

HEAD = """\
# Benchmarks

What waiting costs, beside well-known providers, all measured in one run on one machine against one local server.
This page is written by the run itself: `make bench`.

{cpus} CPUs, Python {python}, Linux. Versions: {versions}.

The server answers each provider in its own protocol, {latency:.0f} ms late, and gives no gift: `estimated_time` is
always 100 and the progress 0 until the end. Peers poll every 5 s, as does the *5 s poller*, which stands for the
usual way: a trigger with a client of its own. Figures are medians of {rounds} rounds unless it says otherwise; other
work on the machine moves milliseconds, the ratios much less.
"""


def environment() -> dict[str, str]:
    """Return the environment of a measurement: its Airflow has a home of its own."""
    home = Path(tempfile.gettempdir()) / "evoimage-benchmarks-airflow-home"
    return {"AIRFLOW_HOME": str(home), **os.environ}


def run(module: str, *arguments: object, seconds: float = 300) -> Any:
    """Run a measurement in a process of its own; return the JSON of its last line."""
    finished = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment(),
    )
    return json.loads(finished.stdout.splitlines()[-1])


@contextlib.contextmanager
def server(latency: float = LATENCY_SECONDS) -> Iterator[str]:
    """Run the local server; gives its URL."""
    command = [sys.executable, "-m", "benchmarks.server", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 (for mypy)
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def median(rounds: Sequence[Mapping[str, float]], figure: str) -> float:
    """Return the median of a figure over the rounds."""
    return statistics.median(each[figure] for each in rounds)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def beside_an_idle_loop(subject: str) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Measure one subject, and in the same seconds a loop that runs nothing."""
    command = [sys.executable, "-m", "benchmarks.waiting", "idle"]
    with (
        server() as url,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        ) as idle,
    ):
        try:
            found = run("waiting", subject, url, WAITING_TASKS, ROUNDS, WAITING_ROUND_SECONDS)
            stretches = json.dumps([(each["begin"], each["end"]) for each in found])
            out, _ = idle.communicate(f"{stretches}\n", timeout=60)
        finally:
            idle.kill()
    return found, json.loads(out.splitlines()[-1])


def waiting() -> str:
    """Measure a thousand waiting tasks in one event loop."""
    rows = []
    for subject in (OURS, REFERENCE, *PEERS):
        found, idle = beside_an_idle_loop(subject)
        late, idle_late = median(found, "late_p99_ms"), median(idle, "late_p99_ms")
        # The loop that notes how late it runs costs something itself.
        own = median(idle, "cpu_share") * 60 / (WAITING_TASKS / 1000)
        cpu = median(found, "cpu_per_1000_minutes") - own
        reads = median(found, "reads_per_task_minute")
        rows.append(
            {
                "subject": subject,
                "late": late,
                "idle": idle_late,
                "cpu": cpu,
                # Who does not come to read at all in that time owes everything.
                "owed": cpu * max(1.0, 12 / reads) if reads else math.inf,
                "reads": reads,
                "requests": median(found, "requests_per_task_minute"),
            }
        )
    ours = next(row for row in rows if row["subject"] == OURS)
    best = min((row for row in rows if row["subject"] != OURS), key=lambda row: row["owed"])
    cells = [
        (
            row["subject"],
            f"{row['late']:,.0f}",
            f"{row['idle']:,.0f}",
            f"{row['cpu']:.2f}",
            "-" if math.isinf(row["owed"]) else f"{row['owed']:.2f}",
            "-" if math.isinf(row["owed"]) else f"{row['owed'] / ours['owed']:.1f}",
            f"{row['reads']:.1f}",
            f"{row['requests']:.2f}",
        )
        for row in rows
    ]
    columns = (
        "",
        "lateness p99, ms",
        "of an idle loop meanwhile",
        "CPU s per 1,000 waiting task-minutes",
        "at the 12 reads a minute it owes",
        "times ours",
        "reads per task-minute",
        "requests per task-minute",
    )
    return (
        f"## A thousand waiting tasks in one event loop\n\n{WAITING_TASKS:,} tasks, {ROUNDS} rounds of "
        f"{WAITING_ROUND_SECONDS} s one after the other, measured once each task has been read twice, or after 60 s "
        "at the latest. Lateness: how late the loop runs a callback that is due every 10 ms, beside a loop that runs "
        "nothing at the same time. A loop that cannot keep up reads less than it should; the fifth column says what "
        "the CPU would be at the rate it promises.\n\n"
        f"{table(columns, cells)}\nOurs takes 1/{best['owed'] / ours['owed']:.1f} of the CPU of the best peer "
        f"({best['subject']}) and runs {max(0.0, ours['late'] - ours['idle']):.0f} ms later than an idle loop "
        "(goals: 1/5, 25 ms).\n"
    )


def delay() -> str:
    """Measure requests and delay of tasks of 5 to 90 s."""
    subjects = {
        "evoimage": "evoimage, 50 ids in a request",
        "evoimage-without-batch": "evoimage, the service reads one id at a time",
        REFERENCE: REFERENCE,
    }
    measured = {}
    with server() as url:
        commands = {
            name: [sys.executable, "-m", "benchmarks.delay", name, url, str(DELAY_TASKS), str(ROUNDS)]
            for name in subjects
        }
        with contextlib.ExitStack() as stack:
            running = {
                name: stack.enter_context(
                    subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                )
                for name, command in commands.items()
            }
            for name, process in running.items():
                measured[name] = json.loads(process.communicate(timeout=300)[0].splitlines()[-1])
    cells = [
        (
            label,
            f"{median(measured[name], 'requests_per_task'):.2f}",
            f"{median(measured[name], 'ids_per_task'):.1f}",
            *(f"{median(measured[name], f'delay_{each}'):.2f}" for each in ("median", "mean", "p95")),
        )
        for name, label in subjects.items()
    ]
    share = median(measured[OURS], "requests_per_task") / median(measured[REFERENCE], "requests_per_task")
    columns = ("", "requests per task", "ids read per task", "delay median, s", "mean", "p95")
    return (
        f"## Requests, and how soon the end is known\n\n{DELAY_TASKS} tasks of 5 to 90 s (log-normal, median 21 s) "
        f"that begin within 10 s; {ROUNDS} rounds at the same time, each with an account of its own. Delay: from done "
        f"on the server to the trigger's event.\n\n{table(columns, cells)}\nWith the endpoint for many ids: "
        f"1/{1 / share:.0f} of the 5 s poller's requests (goals: 1/15, median delay at most 1.0 s).\n"
    )


def memory() -> str:
    """Measure the memory of waiting triggers."""
    grown: dict[str, list[float]] = {"no-op": [], OURS: []}
    with server() as url, ThreadPoolExecutor() as both:
        for _ in range(ROUNDS):
            running = {subject: both.submit(run, "memory", subject, url, MEMORY_TASKS) for subject in grown}
            for subject, found in grown.items():
                found.append(running[subject].result() / 1000)
    over = [ours - nothing for ours, nothing in zip(grown[OURS], grown["no-op"], strict=True)]
    cells = [
        (subject, f"{statistics.median(found):.1f}", f"{min(found):.1f} to {max(found):.1f}")
        for subject, found in grown.items()
    ]
    return (
        f"## Memory\n\nGrowth of a process from 0 to {MEMORY_TASKS:,} waiting triggers, {ROUNDS} fresh processes.\n\n"
        f"{table(('', 'KB per trigger', 'range'), cells)}\nOver a trigger that does nothing: "
        f"{statistics.median(over):.1f} KB (goal: 20).\n"
    )


def triggerer() -> str:
    """Measure a real triggerer."""
    cells = []
    for subject in (OURS, REFERENCE):
        with server() as url, tempfile.TemporaryDirectory(prefix="evoimage-benchmark-") as home:
            found = run("triggerer", subject, url, TRIGGERER_TASKS, Path(home) / "airflow", seconds=600)
        cells.append(
            (
                subject,
                f"{found['events']:,} of {TRIGGERER_TASKS:,}",
                f"{found['all_events_after_last_end']:.0f}",
                f"{found['heartbeat_longest_age']:.0f}",
                f"{found['cpu_percent']:.0f}",
                f"{found['megabytes']:,.0f}",
            )
        )
    columns = (
        "",
        "events",
        "all of them in the database, s after the last end",
        "oldest heartbeat, s",
        "CPU, % of one core",
        "RSS, MB",
    )
    return (
        f"## A real triggerer\n\n{TRIGGERER_TASKS:,} tasks that start in the triggerer, in DAGs of 20, and end within "
        f"{TOLD_SPREAD_SECONDS:.0f} s; Airflow on {found['database']}, one run each. CPU and memory of the "
        "triggerer's two processes while all wait; the heartbeat until the last event, late from 30 s on.\n\n"
        f"{table(columns, cells)}"
    )


def imports() -> str:
    """Measure what a DAG file pays for an import."""
    costs = {provider: [measure(provider) for _ in range(ROUNDS)] for provider in IMPORTS}
    times = {provider: [cost.milliseconds for cost in found] for provider, found in costs.items()}
    cells = [
        (
            provider,
            f"{statistics.median(times[provider]):.0f}",
            f"{min(times[provider]):.0f} to {max(times[provider]):.0f}",
            len(costs[provider][0].added),
        )
        for provider in sorted(times, key=lambda each: statistics.median(times[each]))
    ]
    return (
        "## What a DAG file pays for the import\n\nOperators and sensors over `import airflow.sdk`, fresh processes, "
        "Airflow's own objects not collected meanwhile. The approval operator imports Airflow's HITLOperator.\n\n"
        f"{table(('', 'ms', 'range', 'modules'), cells)}"
    )


MEASUREMENTS: dict[str, Callable[[], str]] = {
    "imports": imports,
    "waiting": waiting,
    "delay": delay,
    "memory": memory,
    "triggerer": triggerer,
}


def kept_sections(page: Path | None) -> dict[str, str]:
    """Return the sections of an earlier page, each of which says when it was measured."""
    if page is None or not page.exists():
        return {}
    _, *parts = re.split(r"(?m)^<!-- (\w+) -->\n", page.read_text())
    return {
        name: f"<!-- {name} -->\n{text.rstrip()}\n"
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description="Measure beside the peers.")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="comma-separated measurements")
    parser.add_argument("--report", type=Path, help="the page to write")
    options = parser.parse_args()
    began = time.monotonic()
    sections = kept_sections(options.report)
    page = HEAD.format(
        cpus=os.cpu_count(),
        python=platform.python_version(),
        versions=", ".join(f"{each} {version(each)}" for each in PACKAGES),
        latency=LATENCY_SECONDS * 1000,
        rounds=ROUNDS,
    )
    print(page, flush=True)
    for name in options.only.split(","):
        measured = MEASUREMENTS[name]()
        when = datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC")
        section = f"<!-- {name} -->\n{measured}\n`python -m benchmarks --only {name}`, {when}.\n"
        print(f"{section}\n({time.monotonic() - began:.0f} s so far)\n", flush=True)
        sections[name] = section
        if options.report is not None:
            options.report.write_text(
                "\n".join([page, *(sections[each] for each in MEASUREMENTS if each in sections)])
            )


if __name__ == "__main__":
    main()
