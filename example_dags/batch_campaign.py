"""Batch campaign: all products of a CSV file in one task, each paid once; the task after it reads what was made."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import ObjectStoragePath, dag, task

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.shapes import BatchSummary


@dag(
    dag_id="evoimage_batch_campaign",
    description="All products of a CSV file in one task.",
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    doc_md=__doc__,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={"save_to": "file:///tmp/evoimage"},
)
def evoimage_batch_campaign():
    """Draw every product of the file."""
    drawn = EvoImageBatchOperator(
        task_id="draw",
        # Columns: name, prompt, size. A file on any storage does as well, for instance s3://conn@bucket/products.csv.
        requests=str(Path(__file__).with_name("batch_campaign.csv")),
        model="gpt-image-1.5",
        quality="low",
        save_to="{{ params.save_to }}",
        filename_template="campaign/{run_id}/{name}-{index}.{ext}",
        # Nothing is asked for that could take the whole batch above it; 68 credits are 1 USD.
        max_credits=20,
    )

    @task
    def catalogue(summary: BatchSummary) -> dict:
        """Say what it cost, and where the picture of each product is."""
        # The summary is small whatever the size of the batch; its manifest has one line for each item.
        with ObjectStoragePath(summary["manifest"]).open(encoding="utf-8") as lines:
            items = [json.loads(line) for line in lines]
        pictures = {item["name"]: item["images"][0]["path"] for item in items if item["state"] == "saved"}
        return {"credits": summary["credits"]["charged"], "pictures": pictures}

    catalogue(drawn.output)


evoimage_batch_campaign()
