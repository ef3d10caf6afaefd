"""One Airflow for all faults; those that a run selects happen side by side, a few at a time."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tests.faults.fault_rows_clear
import tests.faults.fault_rows_ended
import tests.faults.fault_rows_fallback
import tests.faults.fault_rows_network
import tests.faults.fault_rows_refused
import tests.faults.fault_rows_tries
import tests.faults.fault_rows_triggerer
import tests.faults.fault_rows_worker  # noqa: F401 - fills the matrix
from tests.faults.fault_bench import DAGS, MATRIX, Bench, Row
from tests.faults.fault_rows_seeded import SeededKills
from tests.faults.fault_table import ALL_KILLS, as_text, is_whole, write_report
from tools.local_airflow.airflow import LocalAirflow

AT_ONCE = 4
DAG_IDS = (
    "fault_one",
    "fault_on_worker",
    "fault_steady",
    "fault_many",
    "fault_failing",
    "fault_seeded",
    "fault_short_run",
    "fault_short_deferral",
    "fault_batch",
    "fault_batch_on_worker",
    "fault_fallback",
    *(f"fault_{kind}_{mode}" for kind in ("clear", "late") for mode in ("auto", "regenerate", "reuse")),
)

# A lost worker and a lost triggerer are noticed within seconds instead of minutes.
FAST_TAKEOVER = {
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__CORE__PARALLELISM": "8",
    # Two api-servers in one: with one, requests that wait for SQLite's lock keep its holder from finishing.
    "AIRFLOW__API__WORKERS": "2",
}

Outcome = Row | str
ROWS = pytest.StashKey[dict[str, Row]]()
STARTED = pytest.StashKey[float]()
RESTARTS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    faults = parser.getgroup("faults")
    faults.addoption(
        "--kills", type=int, default=ALL_KILLS, help="seeded kills in all (default: %(default)s)"
    )
    faults.addoption("--seed", type=int, default=20261121, help="of the seeded kills (default: %(default)s)")
    faults.addoption("--report", type=Path, help="write the table as Markdown to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = {}
    config.stash[RESTARTS] = []
    config.stash[STARTED] = time.monotonic()


@pytest.fixture(scope="session")
def airflow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalAirflow]:
    """A healthy Airflow with the DAGs of the matrix, and a folder for those that a fault writes."""
    edited = tmp_path_factory.mktemp("edited-dags")
    home = tmp_path_factory.mktemp("airflow")
    # Seconds to wait for SQLite's lock.
    database = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.resolve()}/airflow.db?timeout=10"}
    with LocalAirflow(home, dags=[DAGS, edited], env=FAST_TAKEOVER | database) as running:
        for dag_id in DAG_IDS:
            running.unpause(dag_id)
        with kept_up(running, request.config.stash[RESTARTS]):
            yield running


@contextlib.contextmanager
def kept_up(airflow: LocalAirflow, restarts: list[str]) -> Iterator[None]:
    """Start again, as a service manager would, what ended by itself: scheduler and triggerer do when SQLite,
    which many runs share here, keeps them waiting for its lock too long.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            for name in ("scheduler", "triggerer"):
                component = airflow.components.get(name)
                if component is None or component.exit_code is None:
                    continue
                restarts.append(name)
                airflow._finished.append(airflow.components.pop(name))
                airflow.start_component(name, wait=False)

    watcher = threading.Thread(target=watch, name="keeps Airflow up", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """What became of every fault that was selected: its row, or the words of its failure."""
    # Named by the parameter of the tests that this run has selected.
    chosen = {
        each.callspec.params.get("fault") for each in request.session.items if hasattr(each, "callspec")
    }
    names = [name for name in MATRIX.faults if name in chosen]

    def happen(name: str) -> Outcome:
        number = list(MATRIX.faults).index(name)
        try:
            with Bench(airflow, tmp_path_factory.mktemp(name), number) as bench:
                row = MATRIX.faults[name](bench)
        except Exception:  # noqa: BLE001 - one fault's trouble must not hide the other rows
            tell(f"{name}: {traceback.format_exc(limit=-1)}")
            return traceback.format_exc()
        request.config.stash[ROWS][name] = row
        tell(f"{name}: {row.seconds:.0f} s, {row.mistakes() or 'as expected'}")
        return row

    def tell(line: str) -> None:
        if request.config.get_verbosity() > 0:
            request.config.get_terminal_writer().line(line, flush=True)

    together = [name for name in names if name not in MATRIX.alone]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(together, pool.map(happen, together), strict=True))
    return found | {name: happen(name) for name in names if name in MATRIX.alone}


@pytest.fixture(scope="session")
def seeded(
    request: pytest.FixtureRequest, airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory
) -> Row:
    """The row of the seeded kills."""
    with Bench(airflow, tmp_path_factory.mktemp("seeded"), len(MATRIX.faults)) as bench:
        option = request.config.getoption
        row = SeededKills(bench, kills=option("--kills"), seed=option("--seed")).row()
    request.config.stash[ROWS]["seeded"] = row
    return row


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash[ROWS]
    rows = [found[name] for name in [*MATRIX.faults, "seeded"] if name in found]
    if not rows:
        return
    terminalreporter.section("fault matrix")
    terminalreporter.write_line(as_text(rows))
    restarts = config.stash[RESTARTS]
    if restarts:
        terminalreporter.write_line(f"Ended by themselves and started again: {', '.join(restarts)}")
    file = config.getoption("--report", None)
    if file is not None and not is_whole(found, MATRIX.faults, config.getoption("--kills")):
        terminalreporter.write_line(
            f"{file} is unchanged: not every fault gave a row, or --kills is lower than usual."
        )
    elif file is not None:
        write_report(rows, file, "make test-faults", time.monotonic() - config.stash[STARTED])
