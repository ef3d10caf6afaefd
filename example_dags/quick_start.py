"""Quick start: one image in two steps (generate, save), and three variants saved as soon as they exist.

Trigger it in the UI: the form asks for prompt, size, quality and the folder.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator

with DAG(
    dag_id="evoimage_quick_start",
    description="Prompt in, image files out: EvoLink works while no worker waits.",
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    doc_md=__doc__,
    # A retry never pays again: it goes on with the generation that was paid for.
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={
        "prompt": Param(
            "A red bicycle leaning on a white wall, morning light", type="string", title="What to draw"
        ),
        "size": Param("1024x1024", enum=["1024x1024", "1024x1536", "1536x1024"], title="Size in pixels"),
        "quality": Param("low", enum=["low", "medium", "high"], title="Quality (high costs 15 times low)"),
        "save_to": Param("file:///tmp/evoimage", type="string", title="Folder, any Airflow storage URL"),
    },
) as dag:
    generate = EvoImageGenerateOperator(
        task_id="generate",
        model="gpt-image-1.5",
        prompt="{{ params.prompt }}",
        size="{{ params.size }}",
        quality="{{ params.quality }}",
    )
    EvoImageSaveOperator(
        task_id="save",
        generation=generate.output,
        save_to="{{ params.save_to }}",
    )

    EvoImageGenerateOperator.partial(
        task_id="generate_variants",
        model="gpt-image-1",
        size="{{ params.size }}",
        quality="{{ params.quality }}",
        save_to="{{ params.save_to }}",
    ).expand(
        prompt=[
            "The same red bicycle in heavy rain",
            "The same red bicycle covered in snow",
            "The same red bicycle at night under a street lamp",
        ]
    )
