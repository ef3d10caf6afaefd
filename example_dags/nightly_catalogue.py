"""Nightly catalogue: every product every night, but only what is new or changed is drawn and paid for."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import dag, task

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.shapes import BatchRequest, BatchSummary


@dag(
    dag_id="evoimage_nightly_catalogue",
    description="Every product every night; only what changed is drawn and paid for.",
    doc_md=__doc__,
    schedule="@daily",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (Airflow reads it as UTC)
    catchup=False,
    # Spends nothing before a person turns it on, whatever [core] dags_are_paused_at_creation says.
    is_paused_upon_creation=True,
    max_active_runs=1,
    tags=["evoimage", "example"],
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={"save_to": "file:///tmp/evoimage-catalogue", "product": "Enamel mug"},
)
def evoimage_nightly_catalogue():
    """Draw what changed since the last night."""

    @task
    def requests(params: dict) -> list[BatchRequest]:
        """Stand for a query of your catalogue."""
        # No date and no run id in the prompt: it would be another request every night.
        return [
            {"name": name, "prompt": f"Product photo of a {name} on a plain background, no text"}
            for name in ("Trail shoe", "Rain jacket", params["product"])
        ]

    drawn = EvoImageBatchOperator(
        task_id="draw",
        requests=requests(),
        model="gpt-image-1.5",
        quality="low",
        save_to="{{ params.save_to }}",
        # With the run id in it, no later run overwrites a picture that is reused.
        filename_template="{run_id}/{name}-{index}.{ext}",
        # Pictures of the last 90 days are good enough.
        reuse=timedelta(days=90),
        max_credits=20,
    )

    @task
    def report(summary: BatchSummary) -> dict:
        """Say how many were drawn, and what that cost."""
        return {
            "drawn": summary["drawn"],
            "reused": summary["reused"],
            "credits": summary["credits"]["charged"],
        }

    report(drawn.output)


evoimage_nightly_catalogue()
