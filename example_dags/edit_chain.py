"""Edit chain: draw a scene, save it, edit the saved file twice, save the edits; any storage will do."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator

with DAG(
    dag_id="evoimage_edit_chain",
    description="Draw a scene, then edit the saved file twice.",
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
    scene = EvoImageGenerateOperator(
        task_id="scene",
        model="gpt-image-1",
        prompt="An empty wooden table beside a window",
        quality="low",
    )
    saved = EvoImageSaveOperator(
        task_id="save_scene",
        generation=scene.output,
        save_to="{{ params.save_to }}",
    )
    EvoImageGenerateOperator.partial(
        task_id="edit",
        model="gpt-image-1",
        quality="low",
        # The manifest stands for its saved files. Both edits share one upload, which retries find again.
        image_urls=saved.output,
        save_to="{{ params.save_to }}",
    ).expand(
        prompt=[
            "Put a red enamel mug on the table, keep everything else",
            "Let it be night, keep everything else",
        ]
    )
