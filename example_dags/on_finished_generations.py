"""Save what the account makes within seconds: an asset watcher tells of each end. Needs Airflow 3.3."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Asset, AssetWatcher, dag

from airflow_provider_evoimage.operators.ingest import EvoImageIngestOperator
from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED, EvoImageFinishedTrigger

# Below Airflow 3.3 the trigger refuses; keep_account_images.py works everywhere.
if IS_SUPPORTED:
    FINISHED = Asset(
        "evoimage_finished",
        watchers=[
            AssetWatcher(name="account", trigger=EvoImageFinishedTrigger(asset="evoimage_finished")),
        ],
    )

    @dag(
        dag_id="evoimage_on_finished_generations",
        description="Within seconds: save what the account has finished.",
        doc_md=__doc__,
        schedule=[FINISHED],
        catchup=False,
        # Runs only once a person turns it on, whatever [core] dags_are_paused_at_creation says.
        is_paused_upon_creation=True,
        max_active_runs=1,
        tags=["evoimage", "example"],
        default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
        params={"save_to": "file:///tmp/evoimage"},
    )
    def evoimage_on_finished_generations():
        """Run whenever generations have finished; each run saves all that is missing."""
        EvoImageIngestOperator(
            task_id="keep",
            save_to="{{ params.save_to }}/account",
            # Nothing on this account is made by DAGs, so there is nothing to wait for.
            made_elsewhere_only=False,
            within=timedelta(hours=12),
        )

    evoimage_on_finished_generations()
