"""Misspelt keys of manifests, summaries and requests; each marked line must be an error to both checkers."""

from __future__ import annotations

from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.manifest import credits_of
from airflow_provider_evoimage.shapes import (
    BatchRequest,
    BatchSummary,
    CreditsSensorResult,
    ImageRequestFields,
    IngestSummary,
    Manifest,
    SavedManifest,
)


def of_a_manifest(manifest: Manifest, saved: SavedManifest) -> None:
    """Read what is not there."""
    print(manifest["imges"])  # error
    print(manifest["images"][0]["pth"])  # error
    print(saved["images"][0]["hight"])  # error
    print(saved["usage"]["credits"])  # error
    print(saved["made_by"]["dag"])  # error
    print(saved["usage"]["charged"] + 1)  # error
    print(saved.get("approval", {})["who"])  # error
    saved["status"] = 7  # error


def of_summaries(batch: BatchSummary, ingest: IngestSummary, left: CreditsSensorResult) -> None:
    """Read what is not there."""
    print(batch["save"])  # error
    print(batch["failures"][0]["reason"])  # error
    print(batch["credits"]["spent"])  # error
    print(ingest["faild"])  # error
    print(left["balance"])  # error
    print(credits_of([])["euro"])  # error


def a_request(city: str) -> ImageRequestFields:
    """Misspell a field."""
    return {"prompt": city, "qualty": "low"}  # error


def no_prompt() -> ImageRequestFields:
    """Forget what every request needs."""
    return {"size": "1:1"}  # error


MUG: BatchRequest = {"prompt": "A mug", "lables": {"team": "shop"}}  # error
TORCH: BatchRequest = {"prompt": "A torch", "n": 1.5}  # error


def of_the_hook(hook: EvoImageHook) -> None:
    """Call it wrongly."""
    hook.get_generation(7)  # error
    print(hook.get_credits_left().balances)  # error
    hook.submit(ImageRequest.build(model="gpt-image-1", prompt="A fox"))  # error
    ImageRequest.build(prompt="A fox")  # error
    ImageRequest.build(model="gpt-image-1", prompt="A fox", qualty="low")  # error
    hook.list_generations(kind="picture")  # error
