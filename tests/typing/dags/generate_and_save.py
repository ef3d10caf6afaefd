"""Generate, save and wait, with every argument whose values are known."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, ObjectStoragePath, task

from airflow_provider_evoimage.manifest import credits_of
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor
from airflow_provider_evoimage.shapes import Manifest, SavedManifest

IMAGES = Asset("typed_images")

with DAG(dag_id="typed_generate_and_save", schedule=None, start_date=datetime(2026, 1, 1)):

    @task
    def brief() -> str:
        """Write a prompt."""
        return "A red fox in the snow, no text"

    drawn = EvoImageGenerateOperator(
        task_id="draw",
        prompt=brief(),
        model="gpt-image-1.5",
        size="1536x1024",
        quality="low",
        n=2,
        max_credits=2.5,
        fallback_models=["gpt-image-1", "a-model-of-tomorrow"],
        fallback_after=timedelta(minutes=1),
        labels={"campaign": "spring"},
        save_to=ObjectStoragePath("file:///tmp/typed"),
        if_exists="skip",
        provenance="keep",
        reuse=timedelta(days=90),
        timeout=timedelta(minutes=30),
        on_clear="reuse",
        on_change="submit",
        outlets=[IMAGES],
        retries=3,
    )
    templated = EvoImageGenerateOperator(
        task_id="templated",
        prompt="{{ params.prompt }}",
        model="{{ params.model }}",
        size="{{ params.size }}",
        quality="{{ params.quality }}",
        n="{{ params.n }}",
        max_credits="{{ params.limit }}",
        wait_for_completion=False,
    )
    mapped = EvoImageGenerateOperator.partial(
        task_id="mapped", model="gpt-image-1.5", size="1:1", save_to=Path("/tmp/typed")
    ).expand(prompt=["A fox", "A hare"])
    waited = EvoImageGenerationSensor(
        task_id="wait", evolink_task_id=templated.output, timeout=timedelta(hours=2)
    )
    saved = EvoImageSaveOperator(
        task_id="save",
        generation=waited.output,
        save_to="s3://my_conn@bucket/folder",
        if_exists="error",
        alt_text="A fox",
    )

    @task
    def paths(manifest: SavedManifest) -> list[str]:
        """List the files of a task that saves; each image has its path."""
        return [f"{image['path']} {image['width']}x{image['height']}" for image in manifest["images"]]

    @task
    def links(manifest: Manifest) -> list[str]:
        """List the links of a task that does not save, and which model was asked in vain."""
        gone = [each["model"] for each in manifest.get("fell_back", [])]
        return [*gone, *(image["url"] for image in manifest["images"] if "url" in image)]

    @task
    def cost(manifests: list[SavedManifest]) -> float:
        """Add up what was charged."""
        by_hand = sum(manifest["usage"]["charged"] or 0 for manifest in manifests)
        assert by_hand >= 0
        made_by = manifests[0]["made_by"]
        assert made_by["map_index"] >= -1
        return credits_of(manifests)["credits"]

    paths(saved.output)
    paths(drawn.output)
    links(waited.output)
    cost(mapped.output)
