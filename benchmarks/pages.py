"""Measures the pages in the Airflow UI: a PostgreSQL with 100,000 task instances and 200,000 XComs, one api-server.

The pictures lie in a folder and in a server of S3 on this machine (moto, which answers slower than the real one does).
Run it with ``make bench-ui``. It prints a table, and fails where a figure is above its goal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx
from PIL import Image

from benchmarks import postgres
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import ManagedProcess, free_ports, poll, stop_processes

DAGS, RUNS, MAPPED = 50, 2, 1000
PICTURES = 50
ROUNDS = 30
COLD = 40
IN_PARALLEL = 12

BUCKET = "pictures"
# The map indexes from here on have their pictures in S3.
IN_S3 = 900

# Half of the task instances are ours; each has two XComs.
SEED = """
import json, sys
from datetime import datetime, timezone
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import text

dags, runs, mapped, pictures, in_s3 = map(int, sys.argv[1:6])
folder, bucket = sys.argv[6:]
now = datetime.now(timezone.utc)
request = {"prompt": "A product on a table in morning light, with room for text on the left, number ",
           "model": "gpt-image-1.5", "size": "1024x1024", "quality": "medium", "n": 1}
small = {"v": 1, "state": "made", "at": now.isoformat(), "images": 1, "saved": 1, "credits": 2.0681,
         "evolink_task_ids": ["task-unified-1757156400-abcdefgh"], "expires_at": now.isoformat(), **request}
large = {"v": 1, "evolink_task_id": "task-unified-1757156400-abcdefgh", "status": "completed", "request": request,
         "images": [{"index": 0, "url": "https://files.example/" + "u" * 200, "sha256": "ab" * 32, "bytes": 2000000}],
         "usage": {"estimate": {"credits_low": 1, "credits_high": 3, "source": "x" * 200}, "charged": 2.0681},
         "made_by": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 1}, "more": "m" * 300}
with create_session() as session:
    session.add(DagBundleModel(name="bench"))
    session.flush()
    for dag in range(dags):
        session.add(DagModel(dag_id=f"shop_{dag:02}", bundle_name="bench", is_paused=False, is_stale=False))
        for run in range(runs):
            session.add(DagRun(dag_id=f"shop_{dag:02}", run_id=f"manual__{run}", run_type="manual", run_after=now,
                               state="success"))
    session.flush()
    session.execute(text('''
        INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, try_number, max_tries, pool, pool_slots,
                                   state, operator, start_date, end_date)
        SELECT gen_random_uuid(), 'images', dag_id, run_id, n, 1, 0, 'default_pool', 1, 'success',
               CASE WHEN n % 2 = 0 OR dag_id = 'shop_00' THEN 'EvoImageGenerateOperator' ELSE 'BashOperator' END,
               now(), now()
        FROM dag_run, generate_series(0, :last) n'''), {"last": mapped - 1})
    for key, value in (("evoimage_images", small), ("return_value", large)):
        session.execute(text('''
            INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp)
            SELECT id, 'images', n,
                   CASE WHEN :key = 'return_value' OR n % 2 = 0 OR dag_id = 'shop_00' THEN :key ELSE 'other' END,
                   dag_id, run_id,
                   CAST(:value AS jsonb) || CASE WHEN :key = 'return_value' THEN '{}'::jsonb ELSE jsonb_build_object(
                       'files', jsonb_build_array(jsonb_build_array(
                           CASE WHEN n >= :in_s3 THEN :bucket ELSE :folder END || '/' || (n % :pictures) || '.png',
                           'v' || (n % :pictures), 1024, 1024))) END,
                   now() - (random() * 90) * interval '1 day'
            FROM dag_run, generate_series(0, :last) n'''),
            {"key": key, "value": json.dumps(value), "last": mapped - 1, "pictures": pictures,
             "folder": folder, "bucket": bucket, "in_s3": in_s3})
    session.commit()
    session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(text("ANALYZE"))
"""


def draw(folder: Path) -> None:
    """Save pictures of about 2 MB each that resemble photographs: soft noise."""
    for number in range(PICTURES):
        noise = Image.frombytes("RGB", (256, 256), os.urandom(256 * 256 * 3))
        noise.resize((1024, 1024), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run a server of S3 that holds the pictures of a folder; gives its address."""
    import boto3

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    server = ManagedProcess(
        name="s3",
        command=[sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        environment=dict(os.environ),
        log=folder / "s3.log",
        folder=folder,
    )

    def is_up() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/moto-api/", trust_env=False).is_success
        return False

    try:
        server.start()
        poll(is_up, seconds=60, what="the server of S3")
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        bucket = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        bucket.create_bucket(Bucket=BUCKET)
        for file in folder.glob("images/*.png"):
            bucket.upload_file(str(file), BUCKET, file.name)
        yield url
    finally:
        stop_processes([server])


def timed(work: Callable[[], httpx.Response], rounds: int = ROUNDS) -> list[float]:
    """Return the milliseconds of each round; the first is left out."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        answer = work()
        found.append((time.perf_counter() - began) * 1000)
        answer.raise_for_status()
    return found[1:]


def measure(http: httpx.Client) -> list[tuple[str, float, float]]:
    """Return each figure: name, milliseconds, goal."""
    run = {"dag_id": "shop_00", "run_id": "manual__0"}

    def picture(number: int, size: str) -> dict[str, str | int]:
        return {**run, "task_id": "images", "map_index": number, "size": size, "v": f"v{number}"}

    def first_byte(number: int) -> httpx.Response:
        with http.stream("GET", "/evoimage/image", params=picture(number, "full")) as answer:
            next(answer.iter_raw())
        return answer

    middle = statistics.median
    newest = timed(lambda: http.get("/evoimage/api/list", params={"limit": 20}))
    one_dag = timed(lambda: http.get("/evoimage/api/list", params={"limit": 20, "dag_id": "shop_07"}))
    page = timed(lambda: http.get("/evoimage/api/run", params=run))
    quiet = timed(lambda: http.get("/api/v2/version"), 100)
    http.get("/evoimage/image", params=picture(PICTURES - 1, "small"))  # Imports Pillow.
    cold = [
        timed_once(lambda number=number: http.get("/evoimage/image", params=picture(number, "small")))
        for number in range(5)
    ]
    cached = timed(lambda: http.get("/evoimage/image", params=picture(1, "small")))
    whole = timed(lambda: first_byte(1))
    # The first use imports s3fs and botocore; the hash makes the browser's copy, and a key of its own here.
    timed_once(lambda: first_byte(IN_S3))
    whole_s3 = timed(lambda: first_byte(IN_S3 + 1))
    cold_s3 = [
        timed_once(lambda number=number: http.get("/evoimage/image", params=picture(IN_S3 + number, "small")))
        for number in range(5)
    ]
    return [
        ("newest 20 of all DAGs", middle(newest), 100),
        ("newest 20 of one DAG", middle(one_dag), 100),
        ("run page, first 200 of 1,000", middle(page), 150),
        ("small picture, cold", middle(cold), 120),
        ("small picture, kept", middle(cached), 20),
        ("small picture, cold, S3", middle(cold_s3), 120),
        ("whole picture, first byte, file", middle(whole), 30),
        ("whole picture, first byte, S3", middle(whole_s3), 30),
        ("Airflow's version route, quiet, p99", statistics.quantiles(quiet, n=100)[98], 150),
        (f"the same while {COLD} cold small pictures are made, p99", _beside_cold(http, picture), 150),
    ]


def timed_once(work: Callable[[], httpx.Response]) -> float:
    """Return the milliseconds of one request."""
    began = time.perf_counter()
    work().raise_for_status()
    return (time.perf_counter() - began) * 1000


def _beside_cold(http: httpx.Client, picture: Callable[[int, str], dict[str, str | int]]) -> float:
    over = threading.Event()
    late: list[float] = []

    def ask() -> None:
        while not over.is_set():
            late.append(timed_once(lambda: http.get("/api/v2/version")))

    asking = threading.Thread(target=ask)
    asking.start()
    with ThreadPoolExecutor(IN_PARALLEL) as pool:
        numbers = range(5, 5 + COLD)
        for answer in pool.map(
            lambda each: http.get("/evoimage/image", params=picture(each, "small")), numbers
        ):
            answer.raise_for_status()
    over.set()
    asking.join()
    return statistics.quantiles(late, n=100)[98]


def main() -> int:
    """Measure, print a table, and return the exit code."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres.running())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evoimage-pages-")))
        (folder / "images").mkdir()
        (folder / "dags").mkdir()
        draw(folder / "images")
        s3 = stack.enter_context(s3_server(folder))
        bucket = f"s3://shop@{BUCKET}"
        airflow = LocalAirflow(
            folder / "home",
            dags=folder / "dags",
            connections={
                "shop": {
                    "conn_type": "aws",
                    "login": "any",
                    "password": "any",
                    "extra": {"endpoint_url": s3, "region_name": "us-east-1"},
                }
            },
            env={
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
                "AIRFLOW__EVOIMAGE__IMAGE_ROOTS": json.dumps([f"file://{folder}/images", bucket]),
                # Small pictures of an earlier run would not be cold.
                "TMPDIR": str(folder),
            },
        )
        airflow.home.mkdir()
        try:
            airflow.migrate()
            sizes = [str(each) for each in (DAGS, RUNS, MAPPED, PICTURES, IN_S3)]
            command = [sys.executable, "-P", "-c", SEED, *sizes, f"file://{folder}/images", bucket]
            subprocess.run(command, check=True, env=airflow.environment, stdout=subprocess.DEVNULL)
            airflow.start_component("api-server")
            # The same log-in, for other addresses.
            with contextlib.closing(airflow._log_in()) as http:  # noqa: SLF001
                figures = measure(http)
        finally:
            airflow.stop()
    print(f"{datetime.now(UTC):%d %b %Y}, Airflow {version('apache-airflow')}, {os.cpu_count()} cores\n")
    print("| what | ms | goal |\n|---|---|---|")
    for title, found, goal in figures:
        print(f"| {title} | {found:.1f} | ≤ {goal:.0f} |")
    return 1 if any(found > goal for _, found, goal in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
