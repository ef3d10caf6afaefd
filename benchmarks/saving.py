"""What saving costs: memory, and speed beside a bare download loop and boto3, in one run.

    python benchmarks/saving.py [--rounds 5] [--images 10] [--megabytes 50] [--parallel 4]
    python benchmarks/saving.py --only loop s3 --images 100 --megabytes 3 --late 0.1 --parallel 8

Needs what `make test-stores` installs (`make bench-saving` sees to it). A simulated EvoLink gives the images, a
moto server is the S3; both are processes of their own on this machine. Each measurement is a fresh process,
which saves one small image first, so that what is measured is saving and not importing. Prints medians: the time
that passed, and the processor's time of the saving process, which says more while the machine does other work.
With `--late` EvoLink and S3 begin each answer that many seconds late, as servers far away do. The loop is what a user
writes first: one image after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

CONNECTION = "AIRFLOW_CONN_EVOIMAGE_DEFAULT"
API_KEY = "sk-evo-benchmark"
BUCKET = "pictures"
CHUNK_BYTES = 64 * 1024
PACKAGES = ("apache-airflow", "httpx", "s3fs", "boto3", "moto")


# The servers


def serve(images: int, megabytes: int, late: float) -> None:
    """Be an EvoLink that has made the images; print where, and their ids and links; then wait."""
    import asyncio

    from starlette.applications import Starlette

    from airflow_provider_evoimage.client import Account, EvoLinkClient
    from airflow_provider_evoimage.evolink.request import ImageRequest
    from airflow_provider_evoimage.simulator import SimulatorServer
    from airflow_provider_evoimage.simulator.drawing import images as drawing

    large, small = noise_png(megabytes), drawing.draw
    drawing.draw = lambda picture: small(picture) if "small" in str(picture) else large
    answer = Starlette.__call__

    async def answer_late(*arguments: Any) -> None:
        await asyncio.sleep(late)
        await answer(*arguments)

    Starlette.__call__ = answer_late  # type: ignore[method-assign]
    with (
        SimulatorServer(speed=1) as server,
        EvoLinkClient(Account(base_url=server.url, api_key=API_KEY)) as client,
    ):
        prompts = ["small", *(f"large {number}" for number in range(images))]
        tasks = []
        for number, prompt in enumerate(prompts):
            request = ImageRequest.build(
                model="gpt-image-1.5", prompt=prompt, quality="low", size="1024x1024"
            )
            tasks.append(
                client.submit(request, f"benchmark-of-saving-{number:04}").generation.evolink_task_id
            )
        server.state.clock.advance(600)
        server.state.settle()
        links = [client.get_generation(task).image_urls[0] for task in tasks]
        print(json.dumps({"url": server.url, "tasks": tasks, "links": links}), flush=True)
        sys.stdin.read()


def noise_png(megabytes: int) -> bytes:
    """Return a PNG that cannot be compressed, as photographs hardly can."""
    width, height = 4096, round(megabytes * 1_000_000 / (4096 * 3))
    noise = random.Random(0)
    rows = b"".join(b"\0" + noise.randbytes(width * 3) for _ in range(height))

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    pixels = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@contextmanager
def evolink(images: int, megabytes: int, late: float) -> Iterator[dict[str, Any]]:
    """Start the EvoLink in a process of its own."""
    command = [sys.executable, "-P", __file__, "serve", str(images), str(megabytes), str(late)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101
        try:
            yield json.loads(next(line for line in process.stdout if line.startswith('{"url"')))
        finally:
            process.kill()


def serve_s3(port: int, late: float) -> None:
    """Be an S3 until the end of this process."""
    from moto.server import ThreadedMotoServer
    from werkzeug.serving import WSGIRequestHandler

    answer = WSGIRequestHandler.run_wsgi

    def answer_late(handler: WSGIRequestHandler) -> None:
        time.sleep(late)
        answer(handler)

    WSGIRequestHandler.run_wsgi = answer_late  # type: ignore[method-assign]
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    threading.Event().wait()


@contextmanager
def s3(late: float) -> Iterator[str]:
    """Start a moto server; yield its address."""
    from tools.local_airflow.processes import free_ports, poll

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-P", __file__, "serve_s3", str(port), str(late)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        poll(lambda: _bucket_is_made(url), seconds=60, what="moto")
        yield url
    finally:
        process.kill()
        process.wait()


def s3_client(url: str, *, connections: int = 10) -> Any:
    """Return boto3's own client, with a pool of this many connections."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        config=Config(max_pool_connections=connections),
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",  # noqa: S106
    )


def _bucket_is_made(url: str) -> bool:
    from botocore.exceptions import EndpointConnectionError

    with contextlib.suppress(EndpointConnectionError):
        s3_client(url).create_bucket(Bucket=BUCKET)
        return True
    return False


# What is measured, each in a fresh process


def provider(tasks: Sequence[str], save_to: str, parallel: int) -> None:
    """Save by the operator that a DAG uses."""
    from types import SimpleNamespace

    from airflow_provider_evoimage.operators.save import EvoImageSaveOperator

    operator = EvoImageSaveOperator(
        task_id="save", generation=list(tasks), save_to=save_to, parallel=parallel
    )
    ti = SimpleNamespace(dag_id="benchmark", run_id="run", task_id="save", map_index=-1, try_number=1)
    operator.execute({"ti": ti})


def bare_loop(links: Sequence[str], folder: Path, parallel: int) -> list[Path]:
    """Stream each link to disk with httpx, and nothing else: no check, no hash, no rename."""
    import httpx

    folder.mkdir(parents=True, exist_ok=True)
    # EvoLink's file hosts refuse the name that httpx has by itself.
    agent = {"User-Agent": "benchmark-of-saving/1"}
    with httpx.Client(headers=agent) as client, ThreadPoolExecutor(parallel) as pool:

        def fetch(number: int) -> Path:
            path = folder / f"{number}.png"
            with client.stream("GET", links[number]) as response, path.open("wb") as file:
                response.raise_for_status()
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
            return path

        return list(pool.map(fetch, range(len(links))))


def boto3_upload(files: Sequence[Path], url: str, parallel: int) -> None:
    """Upload with boto3.upload_file."""
    client = s3_client(url)
    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(lambda path: client.upload_file(str(path), BUCKET, f"boto3/{path.name}"), files))


def user_loop(links: Sequence[str], url: str) -> None:
    """Download one image after the other, and put each into S3."""
    import httpx

    bucket = s3_client(url)
    with httpx.Client(headers={"User-Agent": "benchmark-of-saving/1"}) as client:
        for number, link in enumerate(links):
            answer = client.get(link)
            answer.raise_for_status()
            bucket.put_object(
                Bucket=BUCKET, Key=f"loop/{number}.png", Body=answer.content, ContentType="image/png"
            )


class PeakMemory:
    """The most memory (RSS) of this process within the block, over that at its start; bytes."""

    def __enter__(self) -> PeakMemory:
        import psutil

        self._process = psutil.Process()
        self._before = self.grown = 0
        self._before = self._process.memory_info().rss
        self._ends = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._ends.wait(0.01):
            self.grown = max(self.grown, self._process.memory_info().rss - self._before)

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._watch.join()


def measure(what: str, given: dict[str, Any]) -> None:
    """Do one measurement in this process; print it as JSON."""
    tasks, links, folder = given["tasks"], given["links"], Path(given["folder"])
    parallel, url = given["parallel"], given["s3"]
    roots = {"file": f"file://{folder}/provider", "s3": f"s3://bench_s3@{BUCKET}/{uuid.uuid4()}"}
    ways: dict[str, Callable[[Sequence[str], Sequence[str]], object]] = {
        "file": lambda tasks, links: provider(tasks, roots["file"], parallel),
        "s3": lambda tasks, links: provider(tasks, roots["s3"], parallel),
        "bare": lambda tasks, links: bare_loop(links, folder / "bare", parallel),
        "bare+boto3": lambda tasks, links: boto3_upload(
            bare_loop(links, folder / "bare", parallel), url, parallel
        ),
        "loop": lambda tasks, links: user_loop(links, url),
    }
    way = ways[what]
    way(tasks[:1], links[:1])
    with PeakMemory() as memory:
        started, cpu = time.perf_counter(), time.process_time()
        way(tasks[1:], links[1:])
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu, "grown": memory.grown}))


def measured(what: str, given: dict[str, Any]) -> dict[str, float]:
    """Do one measurement in a fresh process."""
    shutil.rmtree(given["folder"], ignore_errors=True)
    home = Path(given["home"])
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        CONNECTION: json.dumps({"conn_type": "evoimage", "host": given["url"], "password": API_KEY}),
        "AIRFLOW_CONN_BENCH_S3": json.dumps(
            {
                "conn_type": "aws",
                "login": "a",
                "password": "b",
                "extra": {"endpoint_url": given["s3"], "region_name": "us-east-1"},
            }
        ),
    }
    command = [sys.executable, "-P", __file__, "measure", what, json.dumps(given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Measure everything round after round, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", default=["bare", "file", "bare+boto3", "s3"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--late", type=float, default=0.0, help="seconds until an answer begins")
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {what: [] for what in options.only}
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-of-saving-") as home,
        evolink(options.images, options.megabytes, options.late) as made,
        s3(options.late) as url,
    ):
        given = made | {"s3": url, "home": home, "folder": f"{home}/images", "parallel": options.parallel}
        for number in range(options.rounds):
            # In turn, so that what else the machine does meets all of them.
            for what, found in results.items():
                found.append(measured(what, given))
                print(f"round {number + 1}  {what:<11} {_in_words(found[-1])}", flush=True)
    print_table(results, options)


def _in_words(figures: dict[str, float]) -> str:
    return (
        f"{figures['seconds']:6.2f} s, {figures['cpu']:5.2f} s of CPU, RSS +{figures['grown'] / 1e6:.0f} MB"
    )


def print_table(results: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Print medians, ratios and versions."""
    seconds = {what: statistics.median(each["seconds"] for each in found) for what, found in results.items()}
    cpu = {what: statistics.median(each["cpu"] for each in found) for what, found in results.items()}
    grown = {what: max(each["grown"] for each in found) / 1e6 for what, found in results.items()}
    total = options.images * options.megabytes
    print(
        f"\n{options.images} images of {options.megabytes} MB, {options.parallel} at a time; "
        f"median seconds and highest memory of {options.rounds} rounds"
    )
    rows = {
        "bare": "bare httpx loop to disk",
        "file": "this provider to file://",
        "bare+boto3": "bare httpx loop, then boto3.upload_file",
        "s3": "this provider to s3://",
        "loop": "loop of httpx.get and boto3.put_object",
    }
    for what, title in ((what, rows[what]) for what in results):
        print(
            f"{title:<42} {seconds[what]:6.2f} s  {total / seconds[what]:5.0f} MB/s"
            f"  {cpu[what]:5.2f} s of CPU  RSS +{grown[what]:.0f} MB"
        )
    for ours, other in (("file", "bare"), ("s3", "bare+boto3"), ("s3", "loop")):
        if {ours, other} <= seconds.keys():
            print(f"{ours}:// at {seconds[other] / seconds[ours]:.2f} x the speed of the {rows[other]}")
    print(
        ", ".join(f"{package} {version(package)}" for package in PACKAGES),
        f"Python {platform.python_version()}",
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", images, megabytes, late]:
            serve(int(images), int(megabytes), float(late))
        case ["serve_s3", port, late]:
            serve_s3(int(port), float(late))
        case ["measure", what, given]:
            measure(what, json.loads(given))
        case _:
            main()
