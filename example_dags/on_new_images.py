"""Work that follows new images: one DAG makes them, another starts by itself whenever there are new ones."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Asset, ObjectStoragePath, dag, task

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

SHOP_IMAGES = Asset("evoimage_shop_images")


@dag(
    dag_id="evoimage_new_images",
    description="Makes images; its event starts another DAG.",
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    doc_md=__doc__,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={"save_to": "file:///tmp/evoimage"},
)
def evoimage_new_images():
    """Make images; the task's event says how many and where."""
    EvoImageGenerateOperator(
        task_id="draw",
        model="gpt-image-1.5",
        prompt="Product photo of an enamel mug on a camp table, no text",
        quality="low",
        n=2,
        save_to="{{ params.save_to }}",
        outlets=[SHOP_IMAGES],
    )


@dag(
    dag_id="evoimage_on_new_images",
    description="Starts by itself whenever there are new images.",
    schedule=[SHOP_IMAGES],
    catchup=False,
    # Runs only once a person turns it on, whatever [core] dags_are_paused_at_creation says.
    is_paused_upon_creation=True,
    tags=["evoimage", "example"],
    doc_md=__doc__,
)
def evoimage_on_new_images():
    """Look at what is new; yours may resize, publish or tell somebody."""

    @task
    def sizes(*, triggering_asset_events) -> dict[str, int]:
        """Return the size in bytes of each new image, by its path."""
        # Several saves may have happened since the last run: each is one event.
        paths = [path for event in triggering_asset_events[SHOP_IMAGES] for path in event.extra["paths"]]
        return {path: ObjectStoragePath(path).stat().st_size for path in paths}

    sizes()


evoimage_new_images()
evoimage_on_new_images()
