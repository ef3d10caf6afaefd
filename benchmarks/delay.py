"""Tasks of 5 to 90 s: how many requests they take, and how long after the end their event comes.

    python -m benchmarks.delay SUBJECT URL TASKS ROUNDS

Prints a line of JSON for each round. The rounds run at the same time, each in an event loop and with an account
of its own, as one takes two minutes. A subject that ends in ``-without-batch`` has no endpoint for many ids.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import statistics
import sys
import threading
import time
from typing import Any

import httpx
import structlog

from benchmarks import subjects
from benchmarks.server import ends_at, task_number
from benchmarks.waiting import percentile

SHORTEST, LONGEST = 5.0, 90.0
MEDIAN = math.sqrt(SHORTEST * LONGEST)
# 99 of 100 lie between the two; the others are drawn again.
SIGMA = math.log(LONGEST / MEDIAN) / 2.576
START_SECONDS = 10.0


def durations(count: int, seed: int) -> list[float]:
    """Draw how long tasks take: log-normal, 5 to 90 s."""
    chance = random.Random(seed)
    drawn = []
    while len(drawn) < count:
        seconds = chance.lognormvariate(math.log(MEDIAN), SIGMA)
        if SHORTEST <= seconds <= LONGEST:
            drawn.append(seconds)
    return drawn


async def wait_for_all(name: str, count: int, seed: int) -> list[float]:
    """Start the tasks over ten seconds; return the seconds from the end of each to its event."""
    chance = random.Random(-seed)
    conn_id = f"round_{seed}"

    async def one(counter: int, seconds: float) -> float:
        await asyncio.sleep(chance.uniform(0, START_SECONDS))
        number = task_number(time.time() + seconds, counter)
        trigger: Any = subjects.SUBJECTS[name].make(number)
        trigger.evoimage_conn_id = conn_id
        async for _ in trigger.run():
            break
        return time.time() - ends_at(str(number))

    drawn = durations(count, seed)
    return await asyncio.gather(*(one(counter, seconds) for counter, seconds in enumerate(drawn)))


def main() -> None:
    """Measure one subject."""
    kind, url, count, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    name = kind.removesuffix("-without-batch")
    for seed in range(1, rounds + 1):
        os.environ[f"AIRFLOW_CONN_ROUND_{seed}"] = json.dumps(
            {"conn_type": "evoimage", "host": url, "password": f"{kind.replace(' ', '-')}-round-{seed}"}
        )
    results: dict[int, list[float]] = {}

    def run(seed: int) -> None:
        results[seed] = asyncio.run(wait_for_all(name, count, seed))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(1, rounds + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = httpx.get(f"{url}/counts", trust_env=False).json()
    measured = []
    for seed, delays in sorted(results.items()):
        key = f"{kind.replace(' ', '-')}-round-{seed}"
        measured.append(
            {
                "requests_per_task": seen["requests"][key] / count,
                "ids_per_task": seen["ids"][key] / count,
                "delay_median": statistics.median(delays),
                "delay_mean": statistics.fmean(delays),
                "delay_p95": percentile(delays, 0.95),
            }
        )
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
