"""Keep everything the account makes, also in the playground and other systems: its links die after a day."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import AssetAlias, dag

from airflow_provider_evoimage.operators.ingest import EvoImageIngestOperator


@dag(
    dag_id="evoimage_keep_account_images",
    description="Every six hours: save everything the account made anywhere.",
    doc_md=__doc__,
    schedule="0 */6 * * *",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (Airflow reads it as UTC)
    catchup=False,
    # Runs only once a person turns it on, whatever [core] dags_are_paused_at_creation says.
    is_paused_upon_creation=True,
    # A run that is late finds what the one before has saved.
    max_active_runs=1,
    tags=["evoimage", "example"],
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    params={"save_to": "file:///tmp/evoimage"},
)
def evoimage_keep_account_images():
    """Four runs a day: each generation is seen by three of them before its links die."""
    EvoImageIngestOperator(
        task_id="keep",
        save_to="{{ params.save_to }}/account",
        # Where your own DAGs save to: what they made is not saved a second time.
        own_folders=["{{ params.save_to }}"],
        # An alias gets an event only if something new was saved.
        outlets=[AssetAlias("evoimage_account_images")],
    )


evoimage_keep_account_images()
