"""What we count reaches a StatsD server over UDP, as [metrics] of Airflow's configuration says."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import ContentPolicyError
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import TaskRun, generate, sense


class StatsdServer:
    """A StatsD server that keeps what it is sent."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(20)
        self.port = self.socket.getsockname()[1]

    def lines(self, until: str) -> dict[str, str]:
        """Take metrics until one of this name has come; Airflow's own are left out."""
        found = {}
        while f"airflow.{until}" not in found:
            name, _, value = self.socket.recv(65_536).decode().partition(":")
            found[name] = value
        return {
            name.removeprefix("airflow."): value
            for name, value in found.items()
            if name.startswith("airflow.evoimage.")
        }


@pytest.fixture
def statsd() -> Iterator[StatsdServer]:
    server = StatsdServer()
    yield server
    server.socket.close()


def in_process(code: str, statsd: StatsdServer, **environment: str) -> None:
    """Run code in a process of its own, as a worker or a triggerer does, with StatsD switched on."""
    subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={
            **os.environ,
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
            **environment,
        },
        check=True,
        timeout=120,
    )


COUNT_ALL = """
import json, sys
from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.evolink.answers import Generation
metrics.image_saved(1234)
metrics.generation_ended(Generation.read(json.loads(sys.argv[1])))
metrics.ids_read(50)
"""


def test_every_metric_reaches_the_server(statsd: StatsdServer):
    generation = {
        "id": "task-unified-1-a",
        "model": "gpt-image-1.5",
        "status": "completed",
        "created": int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()),
        "results": ["https://files.evolink.ai/1.png", "https://files.evolink.ai/2.png"],
        "usage": {"credits_used": 4.1362},
    }
    in_process(f"import sys; sys.argv.append({json.dumps(generation)!r})\n{COUNT_ALL}", statsd)

    found = statsd.lines(until="evoimage.ids_read")
    waited = float(found.pop("evoimage.wait_seconds").removesuffix("|ms"))
    since = datetime.now(tz=UTC) - datetime(2026, 1, 1, tzinfo=UTC)
    assert waited == pytest.approx(since.total_seconds() * 1000, rel=0.01)
    assert "evoimage.wait_seconds.gpt-image-1_5" in found
    del found["evoimage.wait_seconds.gpt-image-1_5"]
    assert found == {
        "evoimage.bytes_saved": "1234|c",
        "evoimage.generations": "1|c",
        "evoimage.generations.gpt-image-1_5.completed": "1|c",
        "evoimage.images": "2|c",
        "evoimage.images.gpt-image-1_5": "2|c",
        "evoimage.credits_used": "4.1362|c",
        "evoimage.credits_used.gpt-image-1_5": "4.1362|c",
        "evoimage.ids_read": "50|c",
    }


def test_tags_are_sent_where_the_server_takes_them(statsd: StatsdServer):
    generation = {"id": "task-unified-1-a", "model": "gpt-image-1.5", "status": "failed"}
    in_process(
        f"import sys; sys.argv.append({json.dumps(generation)!r})\n{COUNT_ALL}",
        statsd,
        AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED="True",
    )

    assert statsd.lines(until="evoimage.ids_read")[
        "evoimage.generations,model=gpt-image-1.5,outcome=failed"
    ] == ("1|c")


def test_a_trigger_counts_too(statsd: StatsdServer):
    """Nobody initialises metrics in the process that runs triggers on Airflow 3.2 and later."""
    in_process(
        "import asyncio\n"
        "from airflow_provider_evoimage import metrics\n"
        "async def run():\n"
        "    await metrics.prepare_for_asyncio()\n"
        "    metrics.ids_read(7)\n"
        "asyncio.run(run())\n",
        statsd,
    )

    assert statsd.lines(until="evoimage.ids_read") == {"evoimage.ids_read": "0|c"}
    assert statsd.lines(until="evoimage.ids_read") == {"evoimage.ids_read": "7|c"}


def test_metrics_that_cannot_be_sent_fail_nothing(mocker: Any):
    mocker.patch.object(metrics, "airflow_stats", side_effect=RuntimeError("no such server"))

    metrics.generation_ended(Generation(evolink_task_id="task-unified-1-a"))


@pytest.fixture
def counted(mocker: Any) -> list[tuple[str, str, float, dict[str, str]]]:
    """Every metric that an operator sends in this process, without the names that repeat the tags."""
    sent: list[tuple[str, str, float, dict[str, str]]] = []

    class Recorder:
        def incr(self, stat: str, count: float, *, tags: dict[str, str]) -> None:
            sent.append(("incr", stat, count, tags))

        def timing(self, stat: str, dt: float, *, tags: dict[str, str]) -> None:
            sent.append(("timing", stat, dt, tags))

    mocker.patch.object(metrics, "airflow_stats", return_value=Recorder())
    return sent


@pytest.mark.usefixtures("airflow_connection", "fake_time")
def test_delivered_generation_is_counted_once(counted: list[Any], tmp_path: Path):
    manifest = TaskRun(generate(n=2, save_to=str(tmp_path))).run()

    tags = {"model": "gpt-image-1.5"}
    assert ("incr", "evoimage.generations", 1, {**tags, "outcome": "completed"}) in counted
    assert ("incr", "evoimage.images", 2, tags) in counted
    assert ("incr", "evoimage.credits_used", manifest["usage"]["charged"], tags) in counted
    saved = sum(amount for _, name, amount, _ in counted if name == "evoimage.bytes_saved")
    assert saved == sum(image["bytes"] for image in manifest["images"])
    (waited,) = (amount for _, name, amount, found in counted if name == "evoimage.wait_seconds" and found)
    assert timedelta(seconds=5) < waited < timedelta(seconds=200)
    assert sum(name == "evoimage.generations" for _, name, *_ in counted) == 1


@pytest.mark.usefixtures("airflow_connection", "fake_time")
@pytest.mark.parametrize("script", ["", " [[fail:content_policy_violation]]"])
def test_generation_that_was_only_submitted_is_counted_by_its_sensor(counted: list[Any], script: str):
    submitted = TaskRun(generate(prompt=f"a red fox{script}", wait_for_completion=False)).run()
    assert "evoimage.generations" not in [name for _, name, *_ in counted]
    with pytest.raises(ContentPolicyError) if script else contextlib.nullcontext():
        TaskRun(sense(submitted), task_id="sense", retries=0).run()

    (outcome,) = (tags["outcome"] for _, name, _, tags in counted if name == "evoimage.generations")
    assert outcome == ("failed" if script else "completed")
    assert ("evoimage.credits_used" in [name for _, name, *_ in counted]) is not bool(script)


@pytest.mark.usefixtures("airflow_connection")
def test_failed_generation_is_counted_as_failed(
    counted: list[Any], evolink: SimulatorServer, fake_time: FakeTime, submitted: Callable[..., str]
):
    del fake_time, submitted
    with pytest.raises(ContentPolicyError):
        TaskRun(generate(prompt="a red fox [[fail:content_policy_violation]]"), retries=0).run()

    outcomes = [tags["outcome"] for _, name, _, tags in counted if name == "evoimage.generations"]
    assert outcomes == ["failed"]
    assert "evoimage.credits_used" not in [name for _, name, *_ in counted]
    assert evolink.state.generations
