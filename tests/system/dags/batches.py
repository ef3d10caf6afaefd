"""A batch of whatever file of requests the run is given; one accepts failed items, one not, one takes turns."""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator

PARAMS = {
    "requests": "file:///tmp/never-used.json",
    "save_to": "file:///tmp/never-used",
    "conn_id": "evoimage_default",
}

ARGUMENTS: dict[str, dict[str, Any]] = {
    "batch": {},
    "strict_batch": {"on_item_failure": "fail"},
    "batch_in_turns": {"max_active_generations": 6},
}

for dag_id, arguments in ARGUMENTS.items():
    with DAG(
        dag_id=dag_id,
        schedule=None,
        catchup=False,
        params=PARAMS,
        default_args={"retries": 1, "retry_delay": timedelta(seconds=1)},
    ):
        EvoImageBatchOperator(
            task_id="draw",
            requests="{{ params.requests }}",
            model="gpt-image-1",
            size="1024x1024",
            quality="low",
            save_to="{{ params.save_to }}",
            save_every=20,
            parallel=2,
            evoimage_conn_id="{{ params.conn_id }}",
            **arguments,
        )
