"""A batch of whatever file of requests the run is given; one that accepts failed items, and one that does not."""

from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator

PARAMS = {
    "requests": "file:///tmp/never-used.json",
    "save_to": "file:///tmp/never-used",
    "conn_id": "evoimage_default",
}

for dag_id, on_item_failure in (("batch", "continue"), ("strict_batch", "fail")):
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
            on_item_failure=on_item_failure,
            evoimage_conn_id="{{ params.conn_id }}",
        )
