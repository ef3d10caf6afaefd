"""Measures how work scales, and writes the figures into docs/scaling.md between their marks.

    python -m benchmarks.scaling [--only one-machine,celery] [--report FILE]

Needs PostgreSQL and Redis servers (Debian: `apt-get install postgresql redis-server`).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import batch_and_mapped, celery_scaling, growth, postgres
from benchmarks.cluster import (
    WORKER_SLOTS,
    Cluster,
    running_evolink,
    running_redis,
    server_version,
)

PACKAGES = ("apache-airflow", "apache-airflow-providers-celery", "celery", "redis", "psycopg2-binary")
MEASUREMENTS = ("one-machine", "celery")
DAG_IDS = ("batch", "mapped", "loop")


def versions() -> str:
    """Return what was measured with, in words."""
    installed = ", ".join(f"{each} {version(each)}" for each in PACKAGES)
    broker = server_version("redis-server").split()[2].removeprefix("v=")
    return (
        f"{datetime.now(UTC):%-d %B %Y}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}, {postgres.version()}, Redis {broker}; "
        f"{installed}; {WORKER_SLOTS} worker processes.\n"
    )


def measure(wanted: list[str], pictures: Path, keep: Path | None) -> dict[str, str]:
    """Measure what is wanted; return a section for each."""
    sections = {"versions": versions()}
    with tempfile.TemporaryDirectory(prefix="evoimage-scaling-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if "one-machine" in wanted:
            sections |= on_one_machine(folder, pictures)
        if "celery" in wanted:
            sections |= on_celery(folder)
    return sections


def on_one_machine(folder: Path, pictures: Path) -> dict[str, str]:
    """Measure with LocalExecutor."""
    sections = {}
    with (
        postgres.running() as database,
        running_evolink(folder) as evolink,
        Cluster(folder / "local", evolink, database=database) as airflow,
    ):
        warm_up(airflow, folder)
        batches = growth.measure(airflow, folder / "growth")
        sections["growth"] = told(growth.section(batches, pictures))
        thousand = batches[batch_and_mapped.THOUSAND]
        sections["comparison"] = told(batch_and_mapped.measure(airflow, folder, thousand))
    return sections


def on_celery(folder: Path) -> dict[str, str]:
    """Measure with CeleryExecutor and two triggerers."""
    sections = {}
    with (
        postgres.running() as database,
        running_redis(folder) as broker,
        running_evolink(folder) as evolink,
        Cluster(
            folder / "celery",
            evolink,
            database=database,
            broker=broker,
            triggerers=2,
            connections=celery_scaling.limited_connection(evolink.url),
        ) as airflow,
    ):
        warm_up(airflow, folder)
        sections["celery"] = told(celery_scaling.measure(airflow, folder))
        sections["bounds"] = told(celery_scaling.bounds(airflow, folder))
    return sections


def warm_up(airflow: Cluster, folder: Path) -> None:
    """Run something small, so that every DAG is known and the workers are there."""
    for dag_id in DAG_IDS:
        airflow.unpause(dag_id)
    airflow.evolink.configure(duration=0)
    save_to = folder / f"warm-up-{airflow.home.name}"
    conf = {"items": WORKER_SLOTS, "save_to": save_to.as_uri()}
    for dag_id, run_id in [(each, airflow.trigger(each, conf)) for each in ("mapped", "batch")]:
        airflow.wait_for_run(dag_id, run_id, deadline=120)


def told(section: str) -> str:
    """Print a section and return it."""
    print(f"{datetime.now(UTC):%H:%M:%S}\n{section}", flush=True)
    return section


def put(page: Path, sections: dict[str, str]) -> None:
    """Write each section between its marks."""
    text = page.read_text(encoding="utf-8")
    for name, section in sections.items():
        marks = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = re.compile(f"{marks[0]}.*?{marks[1]}", re.DOTALL)
        text = pattern.sub(lambda _, new=f"{marks[0]}\n{section}{marks[1]}": new, text)
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="comma-separated measurements")
    parser.add_argument("--report", type=Path, help="the page to write the figures into")
    parser.add_argument(
        "--keep", type=Path, help="folder for everything the runs leave; default: a temporary one"
    )
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(MEASUREMENTS):
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}")
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"{options.keep} is not empty: files of another run would be counted")
    began = time.monotonic()
    pictures = options.report.parent if options.report else Path(tempfile.gettempdir())
    sections = measure(wanted, pictures, options.keep)
    print(f"{sections['versions']}\n({time.monotonic() - began:.0f} s)", flush=True)
    if options.report is not None:
        put(options.report, sections)


if __name__ == "__main__":
    main()
