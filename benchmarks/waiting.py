"""A thousand waiting tasks in one event loop: how late the loop runs, and what CPU and memory they cost.

    python -m benchmarks.waiting SUBJECT URL TASKS ROUNDS SECONDS_PER_ROUND
    python -m benchmarks.waiting idle

Prints a line of JSON. The second runs a loop with nothing in it; it reads from its standard input the
stretches of time in which the first measured, and tells how late it ran in these.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from typing import Any

import httpx
import structlog

from benchmarks.server import task_number
from benchmarks.subjects import SUBJECTS, connect

TICK_SECONDS = 0.01
# Some peers need this long until each trigger has a client.
LONGEST_START_SECONDS = 60.0


class Ticker:
    """Notes when the loop gets round to a callback that is due every 10 ms."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            self.moments.append(time.perf_counter())
            await asyncio.sleep(TICK_SECONDS)

    def lateness(self, begin: float, end: float) -> list[float]:
        """Return for every 10 ms of a stretch of time how many seconds late a callback due then was run."""
        moments = [each for each in self.moments if begin <= each <= end]
        late = []
        for earlier, later in zip([begin, *moments], [*moments, end], strict=True):
            over = later - earlier - TICK_SECONDS
            # A loop that stands for a second is late for each callback that falls due in that second.
            while over > 0:
                late.append(over)
                over -= TICK_SECONDS
            late.append(0.0) if not late else None
        return late


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def counts(url: str) -> tuple[int, int]:
    """Return the requests and ids that the server has seen."""
    seen = httpx.get(f"{url}/counts", trust_env=False).json()
    return sum(seen["requests"].values()), sum(seen["ids"].values())


def measure(url: str, tasks: int, rounds: int, seconds: float, ticker: Ticker) -> list[dict[str, Any]]:
    """Measure rounds, from a thread of its own: the loop may stand still."""
    before, started = counts(url), time.monotonic()
    while tasks and time.monotonic() < started + LONGEST_START_SECONDS:
        time.sleep(0.5)
        if counts(url)[1] - before[1] >= 2 * tasks:
            break
    measured = []
    for _ in range(rounds):
        begin, cpu, seen = time.perf_counter(), time.process_time(), counts(url)
        time.sleep(seconds)
        end, spent, now_seen = time.perf_counter(), time.process_time() - cpu, counts(url)
        minutes = (end - begin) / 60
        measured.append(
            {
                "late_p99_ms": percentile(ticker.lateness(begin, end), 0.99) * 1000,
                "cpu_per_1000_minutes": spent / (max(tasks, 1) / 1000 * minutes),
                "reads_per_task_minute": (now_seen[1] - seen[1]) / max(tasks, 1) / minutes,
                "requests_per_task_minute": (now_seen[0] - seen[0]) / max(tasks, 1) / minutes,
                "begin": begin,
                "end": end,
            }
        )
    return measured


async def wait_in_loop(name: str, tasks: int, ticker: Ticker) -> None:
    """Start the triggers of tasks that end long after the measurement."""
    running = [asyncio.create_task(ticker.run())]
    make = SUBJECTS[name].make if name in SUBJECTS else None

    async def consume(number: int) -> None:
        if make is not None:
            async for _ in make(number).run():
                pass

    running += [asyncio.create_task(consume(task_number(time.time() + 3600, each))) for each in range(tasks)]
    await asyncio.gather(*running)


def measure_idle(ticker: Ticker) -> list[dict[str, float]]:
    """Measure for the requested periods how late the loop ran in each."""
    began, cpu = time.perf_counter(), time.process_time()
    # The clock is that of the machine, so processes understand each other.
    stretches = json.loads(sys.stdin.readline())
    share = (time.process_time() - cpu) / (time.perf_counter() - began)
    return [
        {"late_p99_ms": percentile(ticker.lateness(begin, end), 0.99) * 1000, "cpu_share": share}
        for begin, end in stretches
    ]


def main() -> None:
    """Measure one subject."""
    name = sys.argv[1]
    is_idle = name == "idle"
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    ticker = Ticker()
    url, tasks, rounds, seconds = ("", 0, 0, 0.0) if is_idle else (sys.argv[2], *map(float, sys.argv[3:6]))
    if not is_idle:
        connect(url)

    def report() -> None:
        try:
            found = (
                measure_idle(ticker) if is_idle else measure(url, int(tasks), int(rounds), seconds, ticker)
            )
            print(json.dumps(found), flush=True)
        finally:
            # A loop that stands still would not end.
            os._exit(0)

    threading.Thread(target=report).start()
    asyncio.run(wait_in_loop(name, int(tasks), ticker))


if __name__ == "__main__":
    main()
