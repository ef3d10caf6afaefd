"""How long a batch takes to find saved images: on local files and on S3.

    python benchmarks/reuse.py [--entries 10000] [--requests 2000] [--rounds 3]

Needs what `make test-stores` installs (`make bench-reuse` sees to it). A moto server on this machine is the S3: no
network lies between, and moto itself takes some milliseconds for each request. So boto3 alone makes the same reads, as
many at a time: the search cannot be faster than that. Each folder holds ``--entries`` sidecars, as many images of one
byte and as many index entries, 100 to a run. Prints medians, and how busy the machine was.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.saving import BUCKET, s3, s3_client

A_RUN = 100
NAMES = "{run_id}/{item}-{index}.{ext}"


def fingerprint(number: int) -> str:
    """Return a fingerprint that nothing else has."""
    return f"{number:064x}"


def files_of(root: str, number: int) -> Iterator[tuple[str, str]]:
    """Return the files of one saved image: name and text."""
    stem = f"run-{number // A_RUN}/{number % A_RUN}-0"
    task = f"task-unified-1757156400-{number:08}"
    image = {
        "index": 0,
        "path": f"{root}/{stem}.png",
        "sha256": "0" * 64,
        "bytes": 1,
        "content_type": "image/png",
        "width": 1,
        "height": 1,
    }
    made_by = {"dag_id": "nightly", "run_id": f"run-{number // A_RUN}", "task_id": "draw", "map_index": -1}
    key = {"fingerprint": fingerprint(number), "occurrence": 0}
    yield f"{stem}.png", "x"
    sidecar: dict[str, Any] = {
        "v": 1,
        "evolink_task_id": task,
        "status": "completed",
        "asked": 1,
        "made": 1,
        "request": {"model": "gpt-image-1.5", "prompt": "x" * 500},
        "images": [image],
        "usage": {},
        "made_by": made_by,
        "reusable_for": {**key, "provenance": "mark", "alt_text_sha256": None},
    }
    yield f"{stem}.json", json.dumps(sidecar)
    entry = {"v": 1, **key, "evolink_task_id": task, "sidecar": f"{stem}.json"}
    entry["saved_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    yield f"_index/{fingerprint(number)}.json", json.dumps(entry)


def measured(root: str, entries: int, requests: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of a search that finds all, half and none of its requests, and of one request."""
    from airflow_provider_evoimage.reuse.search import Found, ImageSearch, Wanted
    from airflow_provider_evoimage.storage.destination import Destination
    from airflow_provider_evoimage.storage.file_names import FileNames
    from airflow_provider_evoimage.storage.index import ImagesKey

    def wanted(numbers: range) -> list[Wanted]:
        return [
            Wanted(key=ImagesKey(fingerprint=fingerprint(number)), provenance="mark") for number in numbers
        ]

    def search() -> ImageSearch:
        return ImageSearch(destination=Destination(root), names=FileNames(NAMES), max_age=None)

    def seconds(work: Callable[[], int], expected: int) -> float:
        times = []
        for _ in range(rounds):
            begin = time.perf_counter()
            found = work()
            times.append(time.perf_counter() - begin)
            if found != expected:
                raise SystemExit(f"{found} found, not {expected}")
        return statistics.median(times)

    def all_of(numbers: range) -> int:
        return sum(isinstance(each, Found) for each in search().find_all(wanted(numbers)))

    first = entries - requests // 2
    return {
        "all": seconds(lambda: all_of(range(requests)), requests),
        "half": seconds(lambda: all_of(range(first, first + requests)), requests // 2),
        "none": seconds(lambda: all_of(range(entries, entries + requests)), 0),
        "one": seconds(lambda: int(isinstance(search().find(wanted(range(1))[0]), Found)), 1),
    }


@contextmanager
def local_folder(entries: int) -> Iterator[str]:
    """Fill a folder of this machine."""
    with tempfile.TemporaryDirectory(prefix="evoimage-reuse-") as folder:
        for number in range(entries):
            for name, text in files_of(folder, number):
                file = Path(folder, name)
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
        yield folder


@contextmanager
def s3_folder(entries: int) -> Iterator[str]:
    """Fill a bucket."""
    with s3() as url:
        extra = {"endpoint_url": url, "region_name": "us-east-1"}
        os.environ["AIRFLOW_CONN_REUSE"] = json.dumps(
            {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
        )
        root, client = f"s3://reuse@{BUCKET}/catalogue", s3_client(url)

        def put(number: int) -> None:
            for name, text in files_of(root, number):
                client.put_object(Bucket=BUCKET, Key=f"catalogue/{name}", Body=text.encode())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(put, range(entries)))
        yield root


def bare_reads(root: str, entries: int, requests: int, rounds: int) -> float:
    """Return the median seconds in which boto3 alone makes the requests of a search that finds all."""
    from airflow_provider_evoimage.reuse.search import PARALLEL

    connection = json.loads(os.environ["AIRFLOW_CONN_REUSE"])
    client = s3_client(connection["extra"]["endpoint_url"], connections=PARALLEL)
    prefix = root.removeprefix(f"s3://reuse@{BUCKET}/")
    names = [
        name for number in range(requests) for name, _ in files_of(root, number) if name.endswith(".json")
    ]

    def read(name: str) -> int:
        return len(client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read())

    def listed(folder: str) -> int:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/{folder}/")
        return sum(len(page["Contents"]) for page in pages)

    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        if listed("_index") != entries:
            raise SystemExit("the index is not as it was filled")
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(read, names))
            list(pool.map(listed, sorted({name.partition("/")[0] for name in names} - {"_index"})))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Measure, and print the table of docs/reuse.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores; load before: {os.getloadavg()[0]:.1f}")
    print("| store | all found | half found | none found | one request |")
    print("|---|---|---|---|---|")
    for name, folder in (("local files", local_folder), ("S3", s3_folder)):
        with folder(given.entries) as root:
            took = measured(root, given.entries, given.requests, given.rounds)
            bare = bare_reads(root, given.entries, given.requests, given.rounds) if name == "S3" else None
        cells = (f"{took[each]:.2f} s" for each in ("all", "half", "none"))
        print(f"| {name} | {' | '.join(cells)} | {took['one'] * 1000:.1f} ms |", flush=True)
        if bare is not None:
            print(f"| S3, boto3 alone | {bare:.2f} s | | | |")
        print(f"load after {name}: {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
