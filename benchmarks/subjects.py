"""Who is measured: our trigger, the triggers of well-known providers, and two for reference.

Each peer polls every 5 s. Where a peer can be helped, it is: dbt Cloud's hook speaks plain HTTP here instead of
TLS, and nobody's log lines below WARNING are written.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger

POLL_SECONDS = 5.0
TERMINAL = frozenset({"completed", "failed", "cancelled"})
FAR_AWAY = 86_400.0


class FixedPollTrigger(BaseTrigger):
    """The usual way: each trigger has a client of its own and reads its task every 5 s."""

    def __init__(self, *, evolink_task_id: str, evoimage_conn_id: str) -> None:
        super().__init__()
        self.evolink_task_id = evolink_task_id
        self.evoimage_conn_id = evoimage_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        arguments = {"evolink_task_id": self.evolink_task_id, "evoimage_conn_id": self.evoimage_conn_id}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the end."""
        client = await EvoImageHook(self.evoimage_conn_id).aget_conn(read_attempts=1)
        try:
            while True:
                await asyncio.sleep(POLL_SECONDS)
                if (await client.get_state(self.evolink_task_id)).status in TERMINAL:
                    break
        finally:
            await client.aclose()
        yield TriggerEvent({"id": self.evolink_task_id})


class NoOpTrigger(BaseTrigger):
    """Does nothing: what Airflow itself needs for a waiting trigger."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()
        yield TriggerEvent(None)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One way to wait.

    :param package: its distribution; empty for what stands here.
    :param make: makes the trigger of a task, from its number.
    """

    package: str
    make: Callable[[int], BaseTrigger]

    @property
    def version(self) -> str:
        """The version that is installed."""
        return importlib.metadata.version(self.package) if self.package else ""


def connect(url: str, key: str = "key") -> None:
    """Give this process a connection of each kind to the local server."""
    connections = {
        "EVOIMAGE_DEFAULT": {"conn_type": "evoimage", "host": url, "password": key},
        "OPENAI_DEFAULT": {"conn_type": "openai", "host": f"{url}/v1", "password": "openai"},
        "COMMON_AI": {"conn_type": "pydanticai", "host": f"{url}/v1", "password": "common-ai"},
        "DBT_CLOUD_DEFAULT": {
            "conn_type": "dbt_cloud",
            "login": "1",
            "password": "dbt",
            "host": url.removeprefix("http://"),
        },
        "HTTP_DEFAULT": {"conn_type": "http", "host": url},
        "AIRBYTE_DEFAULT": {"conn_type": "airbyte", "host": f"{url}/airbyte"},
    }
    for name, connection in connections.items():
        os.environ[f"AIRFLOW_CONN_{name}"] = json.dumps(connection)


def evoimage(number: int) -> BaseTrigger:
    """Make our trigger, as the operator does."""
    return EvoImageGenerationTrigger(
        evolink_task_ids=[f"task-unified-{number}"],
        evoimage_conn_id="evoimage_default",
        deadline=time.time() + FAR_AWAY,
        estimated_time=100,
    )


def fixed(number: int) -> BaseTrigger:
    """Make the poller of reference."""
    return FixedPollTrigger(evolink_task_id=f"task-unified-{number}", evoimage_conn_id="evoimage_default")


def no_op(number: int) -> BaseTrigger:
    """Make the trigger that does nothing."""
    del number
    return NoOpTrigger()


def openai(number: int) -> BaseTrigger:
    """Make the trigger of the official OpenAI provider."""
    from airflow.providers.openai.triggers.openai import OpenAIBatchTrigger

    return OpenAIBatchTrigger(
        conn_id="openai_default", batch_id=f"batch_{number}", poll_interval=POLL_SECONDS, timeout=FAR_AWAY
    )


def common_ai(number: int) -> BaseTrigger:
    """Make the batch trigger of common-ai, over OpenAI's protocol."""
    from airflow.providers.common.ai.triggers.llm_batch import LLMBatchTrigger

    return LLMBatchTrigger(
        llm_conn_id="common_ai",
        adapter="openai",
        batch_id=f"batch_{number}",
        poll_interval=int(POLL_SECONDS),
        end_time=time.time() + FAR_AWAY,
        cancel_on_kill=False,
        cancel_on_timeout=False,
    )


def dbt_cloud(number: int) -> BaseTrigger:
    """Make the trigger of the dbt Cloud provider; over plain HTTP, which costs it less."""
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    def plain_url(tenant: str, endpoint: str, *_: object, **__: object) -> tuple[str, dict[str, Any]]:
        return f"http://{tenant}/api/v2/accounts/{endpoint}", {}

    DbtCloudHook.get_request_url_params = staticmethod(plain_url)
    return DbtCloudRunJobTrigger(
        conn_id="dbt_cloud_default",
        run_id=number,
        end_time=time.time() + FAR_AWAY,
        poll_interval=POLL_SECONDS,
        account_id=1,
    )


def http(number: int) -> BaseTrigger:
    """Make the sensor trigger of the HTTP provider: 404 until the end."""
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return HttpSensorTrigger(endpoint=f"http-sensor/{number}", poke_interval=POLL_SECONDS)


def airbyte(number: int) -> BaseTrigger:
    """Make the trigger of the Airbyte provider."""
    from airflow.providers.airbyte.triggers.airbyte import AirbyteSyncTrigger

    return AirbyteSyncTrigger(
        job_id=number,
        conn_id="airbyte_default",
        end_time=time.time() + FAR_AWAY,
        poll_interval=POLL_SECONDS,
    )


OURS = "evoimage"
REFERENCE = "5 s poller"
SUBJECTS = {
    OURS: Subject(package="airflow-provider-evoimage", make=evoimage),
    REFERENCE: Subject(package="", make=fixed),
    "http": Subject(package="apache-airflow-providers-http", make=http),
    "dbt-cloud": Subject(package="apache-airflow-providers-dbt-cloud", make=dbt_cloud),
    "common-ai": Subject(package="apache-airflow-providers-common-ai", make=common_ai),
    "openai": Subject(package="apache-airflow-providers-openai", make=openai),
    "airbyte": Subject(package="apache-airflow-providers-airbyte", make=airbyte),
    "no-op": Subject(package="", make=no_op),
}
