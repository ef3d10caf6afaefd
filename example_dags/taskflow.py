"""TaskFlow: a function writes the prompt, its task makes the picture; mapped over what another task returns."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from airflow_provider_evoimage.shapes import ImageRequestFields, SavedManifest


@dag(
    dag_id="evoimage_taskflow",
    description="@task.evoimage: a function writes the prompt, its task makes the picture.",
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    doc_md=__doc__,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={"save_to": "file:///tmp/evoimage"},
)
def evoimage_taskflow():
    """Draw a card for each city."""

    @task
    def cities() -> list[dict]:
        """Stand for rows of a table."""
        return [
            {"name": "Lisbon", "mood": "warm evening light"},
            {"name": "Oslo", "mood": "first snow"},
        ]

    @task.evoimage(model="gpt-image-1.5", quality="low", save_to="{{ params.save_to }}")
    def card(city: dict) -> ImageRequestFields:
        """Return a prompt, or any of the request's fields."""
        return {"prompt": f"Postcard of {city['name']}, {city['mood']}, no text", "size": "3:2"}

    @task
    def report(manifests: list[SavedManifest]) -> list[str]:
        """Use the manifests: here, list the files."""
        return [image["path"] for manifest in manifests for image in manifest["images"]]

    report(card.expand(city=cities()))


evoimage_taskflow()
