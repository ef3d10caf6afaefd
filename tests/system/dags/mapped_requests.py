"""Mapped tasks that log what they ask Airflow for before EvoLink gets the request."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from airflow.sdk import DAG, task

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.transport import Transport


class Counted(EvoImageGenerateOperator):
    """Counts its requests to Airflow, which go through the process above it."""

    def execute(self, context: Any) -> Any:
        from airflow.sdk.execution_time import task_runner  # noqa: PLC0415 (only a running task has one)

        comms = task_runner.SUPERVISOR_COMMS
        asked: list[str] = []
        ask, send = comms.send, Transport.send

        def counted(comms: Any, message: Any) -> Any:
            del comms
            # The process above keeps what is to be masked to itself.
            if type(message).__name__ != "MaskSecret":
                asked.append(type(message).__name__)
            return ask(message)

        def posts(transport: Transport, outgoing: Any) -> Any:
            if outgoing.method == "POST":
                self.log.info("Before the POST Airflow was asked %d times: %s.", len(asked), ", ".join(asked))
            return send(transport, outgoing)

        with patch.object(type(comms), "send", counted), patch.object(Transport, "send", posts):
            return super().execute(context)


with DAG("mapped_requests", schedule=None, params={"save_to": "file:///tmp/evoimage"}):

    @task
    def subjects() -> list[str]:
        return ["one subject of a long list", "another subject of a long list"]

    found = subjects()
    Counted.partial(task_id="draw", quality="low", save_to="{{ params.save_to }}").expand(
        prompt=found.map(lambda subject: f"{subject}, drawn")
    )
    Counted.partial(task_id="draw_rows", quality="low", save_to="{{ params.save_to }}").expand_kwargs(
        found.map(lambda subject: {"prompt": f"{subject}, in a row", "name": subject[:3]})
    )
