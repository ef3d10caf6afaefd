"""What a waiting trigger costs in memory: the growth of a process from none to thousands.

    python -m benchmarks.memory SUBJECT URL TASKS

Prints a line of JSON: bytes for each trigger, after each has been looked at.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import os
import sys
import time
from typing import Any

import psutil
import structlog

from benchmarks.server import task_number
from benchmarks.subjects import SUBJECTS, connect

SETTLE_SECONDS = 15.0


async def grow(name: str, count: int) -> float:
    """Return the bytes that each of so many waiting triggers adds."""
    make = SUBJECTS[name].make

    async def consume(trigger: Any) -> None:
        async for _ in trigger.run():
            pass

    # The first one pays for what all share.
    running = [asyncio.create_task(consume(make(task_number(time.time() + 3600, 0))))]
    await asyncio.sleep(1)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for counter in range(1, count + 1):
        trigger = make(task_number(time.time() + 3600, counter))
        # The triggerer gives each trigger a context of its own.
        running.append(asyncio.create_task(consume(trigger), context=contextvars.copy_context()))
    await asyncio.sleep(SETTLE_SECONDS)
    gc.collect()
    return (psutil.Process().memory_info().rss - before) / count


def main() -> None:
    """Measure one subject."""
    name, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    logging.disable(logging.INFO)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    connect(url)
    asyncio.run(_report(name, count))


async def _report(name: str, count: int) -> None:
    print(json.dumps(await grow(name, count)), flush=True)
    # Without stopping thousands of triggers one by one.
    os._exit(0)


if __name__ == "__main__":
    main()
