"""Daily campaign: one picture a product, mapped; each item is paid, retried and saved on its own."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import dag, task

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator


@dag(
    dag_id="evoimage_daily_campaign",
    description="One picture for each product, mapped.",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (Airflow reads it as UTC)
    catchup=False,
    # Spends nothing before a person turns it on, whatever [core] dags_are_paused_at_creation says.
    is_paused_upon_creation=True,
    tags=["evoimage", "example"],
    doc_md=__doc__,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={"save_to": "file:///tmp/evoimage"},
)
def evoimage_daily_campaign():
    """Draw today's products."""

    @task
    def products() -> list[dict]:
        """Stand for a query of your catalogue."""
        return [
            {"name": "Trail shoe", "scene": "on wet rocks beside a stream"},
            {"name": "Rain jacket", "scene": "on a hanger, drops on the fabric"},
            {"name": "Enamel mug", "scene": "on a camp table at dawn"},
        ]

    @task
    def briefs(items: list[dict]) -> list[str]:
        """Turn products into prompts."""
        return [f"Product photo of a {item['name']} {item['scene']}, no text" for item in items]

    EvoImageGenerateOperator.partial(
        task_id="draw",
        model="gpt-image-1.5",
        size="1536x1024",
        quality="low",
        save_to="{{ params.save_to }}",
        # The run id, not {{ ds }}: a run started by hand has no date.
        filename_template="campaign/{run_id}/{map_index}-{index}.{ext}",
    ).expand(prompt=briefs(products()))


evoimage_daily_campaign()
