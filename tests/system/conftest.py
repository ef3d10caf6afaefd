"""One real Airflow and one simulated EvoLink for all system tests, also where several pytest workers run them."""

import contextlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.airflow_users import ADMIN, AirflowUsers
from tests.system.shared import Facts, SharedAirflow, shared_by_workers
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.evolink import running_simulator, simulator_connection

PROJECT = Path(__file__).parents[2]
DAGS, EXAMPLES = PROJECT / "tests" / "system" / "dags", PROJECT / "example_dags"
DAG_FOLDERS = [EXAMPLES, DAGS]
# Of tests that need `private_airflow`.
PRIVATE_DAGS = [
    DAGS / "asks.py",
    DAGS / "shared_poller.py",
    DAGS / "waiting.py",
    DAGS / "watched.py",
    EXAMPLES / "on_finished_generations.py",
]

# A triggerer that was killed is taken for dead after 10 s instead of 30 s.
FAST_TAKEOVER = {
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
}


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run know."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"


@pytest.fixture(scope="session")
def simulator(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a simulated EvoLink in a process of its own."""
    yield from shared_simulator(shared_folder, tmp_path_factory, "simulator", "--speed", "20")


def shared_simulator(
    shared_folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str, *arguments: str
) -> Iterator[str]:
    @contextlib.contextmanager
    def start() -> Iterator[Facts]:
        with running_simulator(tmp_path_factory.mktemp(name), *arguments) as url:
            yield {"url": url}

    with shared_by_workers(shared_folder / name, start) as facts:
        yield facts["url"]


class StatsdServer:
    """Writes what Airflow sends to a StatsD server at this port to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            while True:
                try:
                    received = self._socket.recv(65_536).decode()
                except OSError:  # Closed.
                    return
                file.write("".join(f"{line}\n" for line in received.splitlines()))
                file.flush()


class Metrics:
    """What a StatsD server has been sent, wherever it runs."""

    def __init__(self, port: int, file: Path) -> None:
        self.port = port
        self._file = file

    def total(self, name: str) -> float:
        """Return the sum of a counter since the start."""
        # The last line may be one that is being written.
        lines = self._file.read_text(encoding="utf-8").split("\n")[:-1]
        sent = (line.partition(":") for line in lines)
        return sum(float(value.partition("|")[0]) for found, _, value in sent if found == f"airflow.{name}")


@pytest.fixture(scope="session")
def statsd(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metrics]:
    """What the Airflow of these tests reports to StatsD."""

    @contextlib.contextmanager
    def start() -> Iterator[Facts]:
        file = tmp_path_factory.mktemp("statsd") / "received.txt"
        file.touch()
        server = StatsdServer(file)
        yield {"port": server.port, "file": str(file)}
        server.stop()

    with shared_by_workers(shared_folder / "statsd", start) as facts:
        yield Metrics(facts["port"], Path(facts["file"]))


@pytest.fixture(scope="session")
def empty_account(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a simulated EvoLink that knows one key, whose account has no credits."""
    arguments = ["--credits", "0", "--api-key", "right-key"]
    yield from shared_simulator(shared_folder, tmp_path_factory, "empty-account", *arguments)


@pytest.fixture(scope="session")
def canary_key() -> str:
    """An API key with characters that every encoding treats in its own way."""
    return "sk-canary/7+Q=&%40?#~:tail-9f3b"


@pytest.fixture(scope="session")
def folder_of_added_dags(shared_folder: Path) -> Path:
    """Where tests add DAGs: the shared Airflow reads the subfolder `dags`, and they save beside it."""
    folder = shared_folder / "added"
    (folder / "dags").mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def airflow(
    shared_folder: Path,
    folder_of_added_dags: Path,
    tmp_path_factory: pytest.TempPathFactory,
    simulator: str,
    empty_account: str,
    canary_key: str,
    statsd: Metrics,
) -> Iterator[LocalAirflow]:
    """A healthy Airflow with the example DAGs and those of the system tests, its EvoLink simulated.

    All tests share it, so none may stop its components: that is what `private_airflow` is for.
    """
    connections = {
        **simulator_connection(simulator),
        "canary": {"conn_type": "evoimage", "host": simulator, "password": canary_key},
        "wrong_key": {"conn_type": "evoimage", "host": empty_account, "password": "wrong-key"},
        "no_credit": {"conn_type": "evoimage", "host": empty_account, "password": "right-key"},
        "small_budget": {
            "conn_type": "evoimage",
            "host": simulator,
            "password": "small-budget-key",
            "extra": {"budget_credits_per_month": 1},
        },
        "unknown_host": {"conn_type": "evoimage", "host": "https://evolink.invalid", "password": "any-key"},
    }

    @contextlib.contextmanager
    def start() -> Iterator[Facts]:
        home = tmp_path_factory.mktemp("airflow")
        transport = {"type": "file", "log_file_path": str(home / "openlineage.jsonl"), "append": True}
        environment = {
            # Tests ask it side by side. With one api-server, requests that wait for SQLite's lock keep its holder from
            # finishing.
            "AIRFLOW__API__WORKERS": "2",
            # Unchanged files are parsed every 5 minutes: with Airflow's 30 s some thirty files keep a core busy. A DAG
            # that was unpaused is watched after the next time only, so watchers are tested elsewhere.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
            # A busy machine is no fault of an operator.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            **AirflowUsers.settings(home, folder_of_added_dags, "approvals", "pages"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.resolve()}/airflow.db?timeout=10",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            # Only of DAGs that say so.
            "AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True",
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
        }
        dags = [*DAG_FOLDERS, folder_of_added_dags / "dags"]
        with LocalAirflow(home, dags=dags, connections=connections, env=environment) as running:
            yield SharedAirflow.facts(running, user=ADMIN)

    with shared_by_workers(shared_folder / "airflow", start) as facts:
        shared = SharedAirflow(facts)
        yield shared
        shared.close()


@pytest.fixture(scope="session")
def private_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a simulated EvoLink that only `private_airflow` uses."""
    with running_simulator(tmp_path_factory.mktemp("private-simulator"), "--speed", "20") as url:
        yield url


@pytest.fixture(scope="session")
def private_airflow(
    tmp_path_factory: pytest.TempPathFactory, private_simulator: str
) -> Iterator[LocalAirflow]:
    """An Airflow whose components a test may stop, kill and start; its tests run one after the other."""
    dags = tmp_path_factory.mktemp("private-dags")
    for file in PRIVATE_DAGS:
        shutil.copy(file, dags)
    with LocalAirflow(
        tmp_path_factory.mktemp("private-airflow"),
        dags=dags,
        connections=simulator_connection(private_simulator),
        env=FAST_TAKEOVER,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def airflow_users(airflow: LocalAirflow, folder_of_added_dags: Path) -> AirflowUsers:
    """Users of the shared Airflow, and a way to add DAGs to it."""
    return AirflowUsers(airflow, folder_of_added_dags)
