"""Approved campaign: draw three motifs, cut them for two channels, let a person choose, publish what was chosen."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import ObjectStoragePath, Param, dag, task

from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.shapes import SavedManifest

MOTIFS = ["An enamel mug at dawn", "An enamel mug in the rain", "An enamel mug on a desk"]


@dag(
    dag_id="evoimage_approved_campaign",
    description="Motifs, cut for two channels, chosen by a person, then published.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={
        "save_to": Param(
            "file:///tmp/evoimage", type="string", title="Folder, for instance s3://my_conn@bucket/folder"
        ),
    },
)
def evoimage_approved_campaign():
    """Wait under Required Actions until somebody has chosen."""
    drawn = EvoImageBatchOperator(
        task_id="draw",
        requests=[f"{motif}, no text" for motif in MOTIFS],
        model="gpt-image-1",
        size="1024x1536",
        quality="low",
        save_to="{{ params.save_to }}",
    )
    cut = EvoImageRenditionsOperator(
        task_id="cut",
        images=drawn.output,
        save_to="{{ params.save_to }}",
        renditions=["meta.story", "meta.square"],
    )
    approved = EvoImageApprovalOperator(
        task_id="approve",
        images=cut.output,
        subject="Which mugs go out?",
        body="The story covers the top 250 and the bottom 340 pixels.",
        response_timeout=timedelta(days=2),
        on_timeout="reject",
    )

    @task
    def publish(manifests: list[SavedManifest], params: dict, run_id: str) -> list[str]:
        """Copy the chosen renditions to the folder that goes out."""
        folder = ObjectStoragePath(params["save_to"]) / "published" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        published = []
        for manifest in manifests:
            for image in manifest["images"]:
                for rendition in image.get("renditions", []):
                    source = ObjectStoragePath(rendition["path"])
                    (folder / source.name).write_bytes(source.read_bytes())
                    published.append(str(folder / source.name))
        return published

    publish(approved.output)


evoimage_approved_campaign()
