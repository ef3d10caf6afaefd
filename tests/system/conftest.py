"""One real Airflow and one simulated EvoLink for all system tests."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.evolink import running_simulator, simulator_connection

PROJECT = Path(__file__).parents[2]
DAG_FOLDERS = [PROJECT / "example_dags", PROJECT / "tests" / "system" / "dags"]

# A triggerer that was killed is taken for dead after 10 s instead of 30 s.
FAST_TAKEOVER = {
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
}


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a simulated EvoLink in a process of its own."""
    with running_simulator(tmp_path_factory.mktemp("simulator"), "--speed", "20") as url:
        yield url


class StatsdServer:
    """Keeps what Airflow sends to a StatsD server at this port."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.received: list[str] = []
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def total(self, name: str) -> float:
        """Return the sum of a counter since the start."""
        sent = (line.partition(":") for line in list(self.received))
        return sum(float(value.partition("|")[0]) for found, _, value in sent if found == f"airflow.{name}")

    def stop(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        while True:
            try:
                self.received += self._socket.recv(65_536).decode().splitlines()
            except OSError:  # Closed.
                return


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsdServer]:
    """A StatsD server that the Airflow of these tests sends its metrics to."""
    server = StatsdServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def empty_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a simulated EvoLink that knows one key, whose account has no credits."""
    arguments = ["--credits", "0", "--api-key", "right-key"]
    with running_simulator(tmp_path_factory.mktemp("empty-account"), *arguments) as url:
        yield url


@pytest.fixture(scope="session")
def canary_key() -> str:
    """An API key with characters that every encoding treats in its own way."""
    return "sk-canary/7+Q=&%40?#~:tail-9f3b"


@pytest.fixture(scope="session")
def airflow(
    tmp_path_factory: pytest.TempPathFactory,
    simulator: str,
    empty_account: str,
    canary_key: str,
    statsd: StatsdServer,
) -> Iterator[LocalAirflow]:
    """A healthy Airflow with the example DAGs and those of the system tests, its EvoLink simulated."""
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
    home = tmp_path_factory.mktemp("airflow")
    transport = {"type": "file", "log_file_path": str(home / "openlineage.jsonl"), "append": True}
    openlineage = {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        # Only of DAGs that say so.
        "AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True",
    }
    metrics = {
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
    }
    with LocalAirflow(
        home,
        dags=DAG_FOLDERS,
        connections=connections,
        env=FAST_TAKEOVER | openlineage | metrics,
    ) as running:
        yield running
