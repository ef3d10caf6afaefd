"""Channel sizes: draw one image for a story, and cut it for three channels; each file carries the mark of the image."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, Param

from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator

CHANNEL_FILES = Asset("evoimage_channel_files")

with DAG(
    dag_id="evoimage_channel_sizes",
    description="One image, cut to the sizes of three channels.",
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    doc_md=__doc__,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={
        "save_to": Param(
            "file:///tmp/evoimage", type="string", title="Folder, for instance s3://my_conn@bucket/folder"
        ),
    },
) as dag:
    drawn = EvoImageGenerateOperator(
        task_id="draw",
        model="gpt-image-1",
        prompt="An enamel mug on a camp table at dawn, no text",
        size="for:meta.story",
        quality="low",
        save_to="{{ params.save_to }}",
        alt_text="An enamel mug on a camp table",
    )
    EvoImageRenditionsOperator(
        task_id="cut",
        images=drawn.output,
        save_to="{{ params.save_to }}",
        renditions=[
            "meta.story",
            "meta.square",
            Rendition("hero", width=1200, height=900, format="webp", max_kb=150),
        ],
        contact_sheet=True,
        outlets=[CHANNEL_FILES],
    )
