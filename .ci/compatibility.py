"""Run the tests and the example DAGs on each supported Airflow and Python, and write what passed as a table.

Each cell has an environment of its own, `.venv-compat-...`, which is removed afterwards. What a cell gave is kept in
`out/compatibility/` with its commit, so that a cell can be repeated alone; the table shows the newest of each.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "out" / "compatibility"
PAGE = PROJECT / "docs" / "explanation" / "airflow-versions.md"
MARKED = re.compile(r"(<!-- compatibility -->\n).*?(<!-- end of compatibility -->)", re.DOTALL)
PYTHONS = ("3.11", "3.12", "3.13")
AIRFLOWS = ("3.1.8", "3.2.2", "3.3.2")
PRE_RELEASE = "3.4.0b2"
LOWEST = "3.1.8-lowest"
EXAMPLE_TESTS = ("tests/system/test_example_dags.py", "tests/system/test_example_dag_that_watches.py")


@dataclass(frozen=True)
class Cell:
    """An Airflow with a pinned set of packages, and a Python.

    :param packages: names `.ci/requirements/airflow-PACKAGES.txt`.
    """

    packages: str
    python: str

    def __str__(self) -> str:
        return f"{self.packages}/{self.python}"

    @property
    def airflow(self) -> str:
        """The version of Airflow."""
        return self.packages.removesuffix("-lowest")

    @property
    def result(self) -> Path:
        """Where the outcome of the last run is kept."""
        return RESULTS / f"{self.packages}-python-{self.python}.json"


@dataclass(frozen=True)
class Count:
    """What one run of pytest counted."""

    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        return (
            f"**{self.failed:,} of {self.passed + self.failed:,} failed**"
            if self.failed
            else f"{self.passed:,}"
        )


CELLS = (
    *(Cell(airflow, python) for airflow in AIRFLOWS for python in PYTHONS),
    Cell(LOWEST, "3.11"),
    Cell(PRE_RELEASE, "3.13"),
)
ROWS = {
    **dict.fromkeys(AIRFLOWS, "all packages as of its day"),
    LOWEST: "the lowest httpx, pydantic, Pillow and others that it allows",
    PRE_RELEASE: "a pre-release: may fail",
}


def main() -> int:
    """Run the cells that were asked for; return 1 if one of them, pre-releases aside, had a failure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cells", nargs="*", metavar="cell", help=f"{', '.join(map(str, CELLS))} (default: all)"
    )
    parser.add_argument("--first-examples", action="store_true", help="each parametrized test once")
    parser.add_argument("--keep", action="store_true", help="keep the environments, about 1 GB each")
    parser.add_argument("--report", action="store_true", help="write the table into docs/explanation/")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    options = parser.parse_args()
    known = {str(each): each for each in CELLS}
    if unknown := set(options.cells) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    is_green = True
    for name in () if options.only_report else options.cells or known:
        cell = known[name]
        tests, examples = _run(cell, first_examples=options.first_examples, keep=options.keep)
        print(f"{cell}: tests {tests}, example DAGs {examples}", flush=True)
        is_green &= cell.packages == PRE_RELEASE or not (tests.failed or examples.failed)
    table = _table()
    print(table)
    if options.report or options.only_report:
        PAGE.write_text(MARKED.sub(lambda found: f"{found[1]}{table}\n{found[2]}", PAGE.read_text()))
    return 0 if is_green else 1


def _run(cell: Cell, *, first_examples: bool, keep: bool) -> tuple[Count, Count]:
    environment = PROJECT / f".venv-compat-{cell.packages}-{cell.python}"
    requirements = f".ci/requirements/airflow-{cell.packages}.txt"
    python = _output([".ci/find-python", cell.python])
    make = [
        "make",
        "--no-print-directory",
        "venv",
        f"AIRFLOW={cell.airflow}",
        f"PYTHON={python}",
        "BYTECODE=",
    ]
    subprocess.run(
        [*make, f"VENV={environment.name}", f"REQUIREMENTS={requirements}"], cwd=PROJECT, check=True
    )
    run = [str(environment / "bin" / "python"), "-P", "-m", "pytest", "-q", "-n", "2"]
    short = ["--first-examples"] if first_examples else []
    tests = ["tests/unit", "tests/integration", "--dist", "worksteal", *short]
    examples = [*EXAMPLE_TESTS, "--dist", "loadgroup", "--timeout", "1200"]
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        found = (_count([*run, *tests], cell), _count([*run, *examples], cell))
    finally:
        if not keep:
            shutil.rmtree(environment)
    result = {
        "commit": _output(["git", "rev-parse", "HEAD"]),
        "date": datetime.now(tz=UTC).date().isoformat(),
        "first_examples": first_examples,
        "tests": asdict(found[0]),
        "examples": asdict(found[1]),
    }
    cell.result.write_text(json.dumps(result, indent=2) + "\n")
    return found


def _count(command: Sequence[str], cell: Cell) -> Count:
    report = RESULTS / f"{cell.packages}-{cell.python}.xml"
    report.unlink(missing_ok=True)
    subprocess.run([*command, f"--junit-xml={report}"], cwd=PROJECT, check=False)
    if not report.exists():  # pytest itself failed.
        return Count(passed=0, failed=1, skipped=0)
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314 (pytest wrote it)
    number = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = number["failures"] + number["errors"]
    return Count(
        passed=number["tests"] - failed - number["skipped"], failed=failed, skipped=number["skipped"]
    )


def _table() -> str:
    """Return what the cells gave as Markdown: rows are sets of packages, columns Pythons."""
    lines = [
        f"| Airflow | packages | {' | '.join(f'Python {each}' for each in PYTHONS)} |",
        "|---|---|" + "---|" * 3,
    ]
    results = {cell: json.loads(cell.result.read_text()) for cell in CELLS if cell.result.exists()}
    for packages, words in ROWS.items():
        found = [_entry(results.get(Cell(packages, python))) for python in PYTHONS]
        lines.append(f"| {packages.removesuffix('-lowest')} | {words} | {' | '.join(found)} |")
    dates = sorted({result["date"] for result in results.values()})
    told = f"Run on {' and '.join(dates)}." if dates else "Not run."
    return "\n".join([*lines, "", told])


def _entry(result: dict[str, object] | None) -> str:
    if result is None:
        return "not run"
    tests, examples = (Count(**result[name]) for name in ("tests", "examples"))  # type: ignore[arg-type]
    return f"{tests}{' †' if result['first_examples'] else ''}; {examples}"


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
