"""Draws two images, and asks which of them may be used."""

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

# A busy machine may lose a worker; and Airflow may fail a task that waited for a moment only.
RETRIES = {"retries": 20, "retry_delay": timedelta(seconds=1)}

with DAG("asks", schedule=None, params={"save_to": ""}, default_args=RETRIES):
    draw = EvoImageGenerateOperator(
        task_id="draw",
        prompt="A blue tram",
        save_to="{{ params.save_to }}",
        quality="low",
        n=2,
        deferrable=False,
    )
    EvoImageApprovalOperator(task_id="ask", images=draw.output)
