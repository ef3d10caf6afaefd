"""Edit an existing asset: a picture on disk is uploaded as the reference of an edit, and the edit is saved."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator


@dag(
    dag_id="evoimage_edit_asset",
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={"save_to": "file:///tmp/evoimage"},
)
def evoimage_edit_asset():
    """Draw a scene, then edit it."""
    scene = EvoImageGenerateOperator(
        task_id="scene",
        model="gpt-image-1",
        prompt="An empty wooden table beside a window",
        quality="low",
        save_to="{{ params.save_to }}",
    )

    # The URL is open to whoever knows it: not for the log.
    @task(show_return_value_in_logs=False)
    def upload(manifest: dict) -> str:
        """Bring the saved file to where EvoLink can read it; yours may be any image on disk."""
        path = manifest["images"][0]["path"].removeprefix("file://")
        # A retry uploads again: uploads are free, and EvoLink forgets them after 72 hours.
        return EvoImageHook().upload_reference(path).file_url

    EvoImageGenerateOperator(
        task_id="edit",
        model="gpt-image-1",
        prompt="Put a red enamel mug on the table, keep everything else",
        quality="low",
        image_urls=[upload(scene.output)],
        save_to="{{ params.save_to }}",
    )


evoimage_edit_asset()
