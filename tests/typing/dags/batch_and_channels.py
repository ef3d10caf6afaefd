"""A batch from a task, cut for channels, approved by a person; then an ingest."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, AssetAlias, task

from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.ingest import EvoImageIngestOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.sensors.credits import EvoImageCreditsSensor
from airflow_provider_evoimage.shapes import (
    BatchRequest,
    BatchSummary,
    CreditsSensorResult,
    IngestSummary,
    SavedManifest,
)

with DAG(dag_id="typed_batch_and_channels", schedule=None, start_date=datetime(2026, 1, 1)):
    enough = EvoImageCreditsSensor(task_id="enough", min_credits=50, min_days="{{ params.days }}")

    @task
    def left(balance: CreditsSensorResult) -> float:
        """Read the balance."""
        return balance["credits"] or 0.0

    @task
    def products() -> list[BatchRequest]:
        """Stand for rows of a table."""
        rows: list[BatchRequest] = [
            {"name": "mug", "prompt": "An enamel mug", "labels": {"team": "shop"}},
            {"name": "torch", "prompt": "A head torch", "size": "2:3", "variant": 2},
        ]
        return rows

    drawn = EvoImageBatchOperator(
        task_id="draw",
        requests=products(),
        save_to="{{ params.save_to }}",
        model="gpt-image-1",
        size="1024x1536",
        quality="low",
        max_credits=20,
        on_item_failure="fail",
        on_clear="regenerate",
        provenance="mark",
        save_after=timedelta(minutes=5),
        reuse=True,
    )

    @task
    def report(summary: BatchSummary) -> str:
        """Say what became of the batch."""
        for failure in summary["failures"]:
            print(failure["item"], failure["name"], failure["message"] or "still running")
        charged = summary["credits"]["charged"]
        return f"{summary['saved']} of {summary['items']}, {charged} credits. {summary.get('warning', '')}"

    cut = EvoImageRenditionsOperator(
        task_id="cut",
        images=drawn.output,
        save_to="file:///tmp/typed",
        renditions=["meta.story", Rendition("hero", width=1200, height=900, format="webp", max_kb=150)],
        fit="contain",
        focus=(0.5, 0.2),
        upscale="error",
    )
    approved = EvoImageApprovalOperator(
        task_id="approve",
        images=cut.output,
        choose="one",
        on_timeout="approve",
        response_timeout=timedelta(days=2),
    )

    @task
    def publish(manifests: list[SavedManifest]) -> list[str]:
        """List what goes out, and who said so."""
        found = []
        for manifest in manifests:
            approval = manifest.get("approval")
            if approval is not None and approval["by"] is not None:
                print(approval["by"]["name"], approval["chosen"])
            for image in manifest["images"]:
                found += [rendition["path"] for rendition in image.get("renditions", [])]
        return found

    kept = EvoImageIngestOperator(
        task_id="keep",
        save_to="file:///tmp/typed/account",
        own_folders=["file:///tmp/typed"],
        model=["gpt-image-1.5", "gpt-image-1"],
        created_after=datetime(2026, 1, 1),
        outlets=[AssetAlias("typed_account")],
    )

    @task
    def expiring(summary: IngestSummary) -> list[str]:
        """Name what soon is lost."""
        return [*summary["expiring"], *(each["evolink_task_id"] for each in summary["failures"])]

    left(enough.output)
    report(drawn.output)
    publish(approved.output)
    expiring(kept.output)
