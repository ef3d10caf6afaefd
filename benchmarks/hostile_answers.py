"""Measures how late the triggerer's event loop runs, and how much memory it takes, while EvoLink's answers are hostile.

Run it with ``make bench-hostile``. It fails when the loop is later, or the memory larger, than the limits below.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import statistics
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

import psutil

SECONDS = 6.0
WAITS = 20
TICK_SECONDS = 0.005
#: The 99th percentile of the loop's lateness, and the growth of this process.
MOST_LATE_MS = 25.0
MOST_GROWTH_BYTES = 20 * 2**20

Send = Callable[[asyncio.StreamWriter], Awaitable[None]]


def _answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = "".join(f"{each}\r\n" for each in headers)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def _packed(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    return b"".join([*(packer.compress(b" " * 1_000_000) for _ in range(megabytes)), packer.flush()])


def _once(content: bytes) -> Send:
    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    return send


async def _endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    while not writer.is_closing():
        writer.write(piece)
        await writer.drain()


async def _dripping(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.2)


def attacks() -> dict[str, Send]:
    """Return the answers, by name."""
    many_ids = [{"id": f"task-{number}", "status": "processing"} for number in range(9_000)]
    thrice = _packed(1)
    for _ in range(2):
        packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
        thrice = packer.compress(thrice) + packer.flush()
    return {
        "an ordinary answer": _once(_answer(b'{"id": "any", "status": "processing", "progress": 5}')),
        "gzip that unpacks to 40 MB": _once(_answer(_packed(40), "Content-Encoding: gzip")),
        "gzip in gzip in gzip": _once(_answer(thrice, "Content-Encoding: gzip, gzip, gzip")),
        "0.5 MB of JSON, 9,000 ids nobody asked for": _once(_answer(json.dumps({"data": many_ids}).encode())),
        "0.49 MB of nested JSON": _once(
            _answer(b'{"a":' * 900 + b"[" + b"1," * 240_000 + b"1]" + b"}" * 900)
        ),
        "40 MB of JSON": _once(_answer(b'{"data": [' + b"0," * 20_000_000 + b"0]}")),
        "a body without end": _endless,
        "one byte every 0.2 s": _dripping,
        "a firewall's page": _once(
            _answer(b"<html>" * 1000, "Content-Type: text/html", status="403 Forbidden")
        ),
        "a redirect": _once(_answer(b"", "Location: https://login.example.com/", status="302 Found")),
    }


def serve(told: Connection, name: str) -> None:
    """Answer every request in the same way, in a process of its own."""
    send = attacks()[name]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline():
                length = 0
                while (header := (await reader.readline()).lower().strip()) != b"":
                    if header.startswith(b"content-length:"):
                        length = int(header.partition(b":")[2])
                await reader.readexactly(length)
                await send(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def _measured(seconds: float) -> tuple[list[float], int]:
    from airflow_provider_evoimage.triggers.watch import Watch
    from airflow_provider_evoimage.waiting.polling import Wait

    async def wait(name: str) -> None:
        one = Wait(evolink_task_id=name, deadline=time.time() + seconds, poll_interval=1)
        async with Watch("evoimage_default", [one]) as watch:
            while not watch.is_over:
                await watch.changes()

    late: list[float] = []
    process = psutil.Process()
    gc.collect()
    before = most = process.memory_info().rss
    waits = [asyncio.create_task(wait(f"task-{number}")) for number in range(WAITS)]
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        await asyncio.sleep(TICK_SECONDS)
        late.append((time.monotonic() - began - TICK_SECONDS) * 1000)
        most = max(most, process.memory_info().rss)
    await asyncio.wait(waits)
    return late, most - before


def measure(name: str, seconds: float, told: Connection) -> None:
    """Wait on a service that answers in one way; send lateness (p50, p99, most; ms) and growth (bytes)."""
    here, there = multiprocessing.Pipe()
    service = multiprocessing.get_context("spawn").Process(target=serve, args=(there, name))
    service.start()
    try:
        os.environ["AIRFLOW_CONN_EVOIMAGE_DEFAULT"] = json.dumps(
            {
                "conn_type": "evoimage",
                "host": f"http://127.0.0.1:{here.recv()}",
                "password": "any-key",
                "extra": {"request_timeout": 3},
            }
        )

        async def run() -> tuple[list[float], int]:
            await _measured(0.5)  # Imports and the first connection.
            return await _measured(seconds)

        late, growth = asyncio.run(run())
    finally:
        service.terminate()
    told.send((statistics.median(late), statistics.quantiles(late, n=100)[98], max(late), growth))


def main() -> int:
    """Measure each attack in a process of its own, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of each attack (default: %(default)s)"
    )
    seconds = parser.parse_args().seconds
    print(
        "| EvoLink answers with | loop late, ms: median | p99 | most | memory, MiB |\n|---|---|---|---|---|"
    )
    failed = False
    for name in attacks():
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(name, seconds, there))
        process.start()
        middle, p99, most, growth = here.recv()
        process.join()
        failed |= p99 > MOST_LATE_MS or growth > MOST_GROWTH_BYTES
        print(f"| {name} | {middle:.1f} | {p99:.1f} | {most:.1f} | +{growth / 2**20:.1f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
