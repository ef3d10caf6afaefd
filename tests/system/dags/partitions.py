"""A batch whose asset has a partition for each name, and the DAGs that listen to it."""

from __future__ import annotations

import json
from datetime import timedelta

from airflow.sdk import DAG, Asset, ObjectStoragePath, task

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.version_compat import HAS_ASSET_PARTITIONS

PRODUCT_IMAGES = Asset("evoimage_product_images")

# On a busy machine Airflow may fail a try whose process it has not heard of for long.
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=1)}

# Older releases have neither the timetable nor the partitions: `partition_by` is an error there.
if HAS_ASSET_PARTITIONS:
    from airflow.sdk import PartitionedAssetTimetable

    with DAG(
        dag_id="partitioned_batch",
        schedule=None,
        params={"requests": "file:///tmp/never-used.json", "save_to": "file:///tmp/never-used"},
        default_args=RETRIES,
    ):
        EvoImageBatchOperator(
            task_id="draw",
            requests="{{ params.requests }}",
            quality="low",
            save_to="{{ params.save_to }}",
            outlets=[PRODUCT_IMAGES],
            partition_by="name",
        )

    with DAG(
        dag_id="publish_product",
        schedule=PartitionedAssetTimetable(assets=PRODUCT_IMAGES),
        default_args=RETRIES,
    ):

        @task
        def publish(*, dag_run, triggering_asset_events) -> dict:
            """Return the product that this run is about, its pictures and how many events started it."""
            events = triggering_asset_events[PRODUCT_IMAGES]
            product = dag_run.partition_key
            with ObjectStoragePath(events[-1].extra["manifest"]).open(encoding="utf-8") as lines:
                items = [json.loads(line) for line in lines]
            paths = [image["path"] for item in items if item["name"] == product for image in item["images"]]
            return {"product": product, "paths": paths, "events": len(events)}

        publish()

    with DAG(dag_id="on_any_product", schedule=[PRODUCT_IMAGES], default_args=RETRIES):

        @task
        def never_runs() -> None:
            raise NotImplementedError

        never_runs()
