"""Submit now, collect later: the submitting task ends at once, a sensor waits, another task saves."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor

with DAG(
    dag_id="evoimage_submit_then_collect",
    description="Submit now, wait in a sensor, save in a third task.",
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    doc_md=__doc__,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={"save_to": "file:///tmp/evoimage"},
) as dag:
    submit = EvoImageGenerateOperator(
        task_id="submit",
        model="gpt-image-1",
        prompt="A paper boat on a city puddle, seen from above",
        size="1024x1536",
        quality="medium",
        n=2,
        wait_for_completion=False,
    )
    collect = EvoImageGenerationSensor(
        task_id="collect",
        evolink_task_id=submit.output,
        timeout=timedelta(hours=2),
    )
    EvoImageSaveOperator(
        task_id="save",
        generation=collect.output,
        save_to="{{ params.save_to }}",
    )
