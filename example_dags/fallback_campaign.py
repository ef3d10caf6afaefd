"""Another model where the first is not available; names, labels, and what the run cost."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, task

from airflow_provider_evoimage.manifest import credits_of
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.shapes import CostSum, SavedManifest

PRODUCTS = [
    {"name": "mug", "prompt": "An enamel mug on a camp table at dawn"},
    {"name": "torch", "prompt": "A head torch on wet stones"},
]

with DAG(
    dag_id="evoimage_fallback_campaign",
    description="Another model where one is gone; names, labels, the total cost.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (Airflow reads it as UTC)
    catchup=False,
    tags=["evoimage", "example"],
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={"save_to": "file:///tmp/evoimage", "model": "gpt-image-1"},
):
    draw = EvoImageGenerateOperator.partial(
        task_id="draw",
        model="{{ params.model }}",
        fallback_models=["gpt-image-1.5", "gpt-image-2"],
        fallback_after=60,
        quality="low",
        size="1024x1024",
        max_credits=3,
        labels={"campaign": "spring", "run": "{{ run_id }}"},
        save_to="{{ params.save_to }}",
        filename_template="{run_id}/{name}{map_suffix}.{ext}",
    ).expand_kwargs(PRODUCTS)

    @task
    def total(manifests: list[SavedManifest]) -> CostSum:
        """Add up what the run cost."""
        return credits_of(manifests)

    total(draw.output)
