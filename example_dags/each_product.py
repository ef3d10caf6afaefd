"""One run for each product: a batch draws them all, and what follows starts once for each. Needs Airflow 3.3."""

from __future__ import annotations

import json
from datetime import timedelta

from airflow.sdk import Asset, ObjectStoragePath, dag, task

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.version_compat import HAS_ASSET_PARTITIONS

PRODUCT_IMAGES = Asset("evoimage_product_images")
RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=30)}

# Below Airflow 3.3 a task can name no partitions; on_new_images.py works everywhere.
if HAS_ASSET_PARTITIONS:
    from airflow.sdk import PartitionedAssetTimetable

    @dag(
        dag_id="evoimage_products",
        description="Draws products; each is a partition of its asset.",
        doc_md=__doc__,
        schedule=None,
        catchup=False,
        tags=["evoimage", "example"],
        default_args=RETRIES,
        params={
            "products": [
                {"name": "enamel mug", "prompt": "Product photo of an enamel mug on a camp table, no text"},
                {"name": "head torch", "prompt": "Product photo of a head torch on wet stones, no text"},
            ],
            "save_to": "file:///tmp/evoimage",
        },
    )
    def evoimage_products():
        """Draw every product; the names become the partitions."""

        @task
        def products(*, params) -> list[dict[str, str]]:
            """Yours may read a catalogue."""
            return params["products"]

        EvoImageBatchOperator(
            task_id="draw",
            requests=products(),
            quality="low",
            save_to="{{ params.save_to }}/products",
            outlets=[PRODUCT_IMAGES],
            partition_by="name",
        )

    @dag(
        dag_id="evoimage_each_product",
        description="Starts by itself, once for each product with new images.",
        doc_md=__doc__,
        schedule=PartitionedAssetTimetable(assets=PRODUCT_IMAGES),
        catchup=False,
        # Runs only once a person turns it on, whatever [core] dags_are_paused_at_creation says.
        is_paused_upon_creation=True,
        tags=["evoimage", "example"],
        default_args=RETRIES,
    )
    def evoimage_each_product():
        """Look at one product; yours may publish it."""

        @task
        def publish(*, dag_run, triggering_asset_events) -> list[str]:
            """Return the files of the product that this run is about."""
            newest = triggering_asset_events[PRODUCT_IMAGES][-1]
            with ObjectStoragePath(newest.extra["manifest"]).open(encoding="utf-8") as lines:
                items = [json.loads(line) for line in lines]
            return [
                image["path"]
                for item in items
                if item["name"] == dag_run.partition_key and item["state"] == "saved"
                for image in item["images"]
            ]

        publish()

    evoimage_products()
    evoimage_each_product()
