"""Waits without end on a service that answers, drips, bombs, redirects and refuses in turn, to see what grows.

Run it with ``make bench-soak``. It fails when memory, descriptors or tasks grow, or a wait outlives its deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import multiprocessing
import os
import random
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import psutil

#: What the service does, and for how many seconds on average. The real spans are drawn by a seed: at fixed ones the
#: polls of a wait could meet the same mood each time.
MOODS = (
    ("answers", 3.0),
    ("drips", 1.5),
    ("bombs", 1.0),
    ("refuses", 1.0),
    ("redirects", 0.5),
    ("is silent", 1.0),
)
SEED = 20261127
IDS_A_WATCH = 50
WATCHES_A_WAVE = 100
CANCELLED_A_WAVE = 50
PUNCTUAL_A_WAVE = 10
DEADLINE_SECONDS = 4.0
LATEST_SECONDS = 5.0
MOST_GROWTH_BYTES = 20_000_000


def serve(told: Connection) -> None:
    """Be the service, in a process of its own."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    bomb = b"".join([*(packer.compress(b" " * 1_000_000) for _ in range(40)), packer.flush()])
    chance = random.Random(SEED)
    spans = itertools.cycle(MOODS)
    now, until = "", 0.0

    def mood() -> str:
        nonlocal now, until
        while time.monotonic() >= until:
            now, seconds = next(spans)
            until = max(until, time.monotonic()) + seconds * chance.uniform(0.5, 1.5)
        return now

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                path, length = line.split()[1].decode(), 0
                while (header := (await reader.readline()).lower().strip()) != b"":
                    if header.startswith(b"content-length:"):
                        length = int(header.partition(b":")[2])
                body = await reader.readexactly(length)
                await MOOD[mood()](path, body, writer, bomb)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def _send(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK", *headers: str) -> None:
    lines = "".join(f"{each}\r\n" for each in headers)
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body)


async def _answers(path: str, body: bytes, writer: asyncio.StreamWriter, bomb: bytes) -> None:
    del bomb
    ids = json.loads(body)["task_ids"] if body else [path.rpartition("/")[2]]
    tasks = [
        {"id": each, "status": "processing" if each.startswith("never") else "completed", "progress": 50}
        for each in ids
    ]
    _send(writer, json.dumps({"data": tasks} if body else tasks[0]).encode())


async def _drips(path: str, body: bytes, writer: asyncio.StreamWriter, bomb: bytes) -> None:
    del path, body, bomb
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.2)


async def _bombs(path: str, body: bytes, writer: asyncio.StreamWriter, bomb: bytes) -> None:
    del path, body
    _send(writer, bomb, "200 OK", "Content-Encoding: gzip")


async def _refuses(path: str, body: bytes, writer: asyncio.StreamWriter, bomb: bytes) -> None:
    del path, body, bomb
    _send(writer, b"<html><title>Attention</title></html>", "403 Forbidden")


async def _redirects(path: str, body: bytes, writer: asyncio.StreamWriter, bomb: bytes) -> None:
    del path, body, bomb
    _send(writer, b"", "302 Found", "Location: https://login.example.com/")


async def _is_silent(path: str, body: bytes, writer: asyncio.StreamWriter, bomb: bytes) -> None:
    del path, body, bomb, writer
    await asyncio.sleep(20)


MOOD: dict[str, Callable] = {
    "answers": _answers,
    "drips": _drips,
    "bombs": _bombs,
    "refuses": _refuses,
    "redirects": _redirects,
    "is silent": _is_silent,
}


@dataclass
class Soak:
    """What was waited for, and what was seen of this process."""

    finished: int = 0
    cancelled: int = 0
    late: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)

    async def wave(self, number: int) -> None:
        """Wait for many at once, and cancel some."""
        waiting = [self._finish(f"{number}-{watch}") for watch in range(WATCHES_A_WAVE)]
        cancelled = [
            asyncio.create_task(self._wait(f"never-{number}-c{each}", 60)) for each in range(CANCELLED_A_WAVE)
        ]
        punctual = [self._time_out(f"never-{number}-p{each}") for each in range(PUNCTUAL_A_WAVE)]
        asyncio.get_running_loop().call_later(0.7, lambda: [each.cancel() for each in cancelled])
        await asyncio.gather(*waiting, *punctual)
        await asyncio.wait(cancelled)
        self.cancelled += sum(each.cancelled() for each in cancelled)
        await asyncio.sleep(0.1)
        gc.collect()
        process = psutil.Process()
        self.memory.append(process.memory_info().rss)
        self.descriptors.append(process.num_fds())
        self.tasks.append(len(asyncio.all_tasks()))

    async def _finish(self, name: str) -> None:
        # A generation whose wait ended without it is waited for again, as by a retry.
        left = {f"task-{name}-{place}" for place in range(IDS_A_WATCH)}
        while left:
            left -= await self._wait_for(left, 60)
        self.finished += IDS_A_WATCH

    async def _time_out(self, name: str) -> None:
        began = time.time()
        await self._wait(name, DEADLINE_SECONDS)
        self.late.append(time.time() - began - DEADLINE_SECONDS)

    async def _wait(self, name: str, seconds: float) -> None:
        await self._wait_for({name}, seconds)

    async def _wait_for(self, ids: set[str], seconds: float) -> set[str]:
        from airflow_provider_evoimage.triggers.watch import Watch
        from airflow_provider_evoimage.waiting.polling import Wait

        deadline = time.time() + seconds
        waits = [Wait(evolink_task_id=each, deadline=deadline, poll_interval=1) for each in ids]
        done: set[str] = set()
        async with Watch("evoimage_default", waits) as watch:
            while not watch.is_over:
                for change in await watch.changes():
                    if change.end is not None and change.end.ending == "completed":
                        done.add(change.evolink_task_id)
        return done

    def problems(self) -> list[str]:
        """Name what grew or was late; the first wave warms up."""
        found = []
        if max(self.memory[1:]) - self.memory[1] > MOST_GROWTH_BYTES:
            found.append("memory grew")
        if max(self.descriptors[1:]) > self.descriptors[1] + 2:
            found.append("descriptors grew")
        if max(self.tasks) > self.tasks[0]:
            found.append("tasks grew")
        if max(self.late) > LATEST_SECONDS:
            found.append("a wait outlived its deadline")
        return found


def main() -> int:
    """Soak, print the figures, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--waves", type=int, default=20, help="waves of 5,000 generations (default: %(default)s)"
    )
    waves = parser.parse_args().waves
    here, there = multiprocessing.Pipe()
    service = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    service.start()
    extra = {"request_timeout": 3}
    connection = {
        "conn_type": "evoimage",
        "host": f"http://127.0.0.1:{here.recv()}",
        "password": "any-key",
        "extra": extra,
    }
    os.environ["AIRFLOW_CONN_EVOIMAGE_DEFAULT"] = json.dumps(connection)
    soak = Soak()

    async def run() -> None:
        for number in range(waves):
            await soak.wave(number)
            print(
                f"{soak.finished:,} finished, {soak.cancelled:,} cancelled; {soak.memory[-1] / 1e6:,.1f} MB, "
                f"{soak.descriptors[-1]} descriptors, {soak.tasks[-1]} tasks; latest {max(soak.late):.2f} s",
                flush=True,
            )

    began = time.monotonic()
    asyncio.run(run())
    service.terminate()
    problems = soak.problems()
    print(f"{time.monotonic() - began:,.0f} s; {'; '.join(problems) or 'nothing grew, nothing was late'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
