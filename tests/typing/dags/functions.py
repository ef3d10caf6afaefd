"""Functions that write prompts, with both spellings of the decorator; and code of one's own with the hook."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, task

from airflow_provider_evoimage.decorators.evoimage import evoimage_task
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook, parse_callback
from airflow_provider_evoimage.shapes import ImageRequestFields, SavedManifest

with DAG(dag_id="typed_functions", schedule=None, start_date=datetime(2026, 1, 1)):

    @task.evoimage(model="gpt-image-1.5", quality="low", save_to="file:///tmp/typed")
    def card(city: str) -> ImageRequestFields:
        """Return a prompt and fields of the request."""
        return {"prompt": f"A postcard of {city}", "size": "3:2", "name": city, "max_credits": 2}

    @evoimage_task(quality="low", save_to="file:///tmp/typed")
    def poster(city: str) -> str:
        """Return the prompt alone."""
        return f"A poster of {city}"

    @task
    def files(manifests: list[SavedManifest]) -> list[str]:
        """List the files."""
        return [image["path"] for manifest in manifests for image in manifest["images"]]

    @task
    def balance() -> float:
        """Ask EvoLink for the credits that are left."""
        hook = EvoImageHook("evoimage_default")
        try:
            credits_left = hook.get_credits_left(with_pace=False)
        except EvoImageError as error:
            print(error.message, error.billed, error.retryable)
            raise
        return float(credits_left.balance.usable or 0)

    @task
    def check(body: str) -> str:
        """Confirm a callback, and build a request without sending it."""
        generation = EvoImageHook().verify(parse_callback(body))
        request = ImageRequest.build(prompt="A fox", model="gpt-image-1.5", size="1:1", quality="low")
        return f"{generation.status} {generation.usage.credits_used} {request.model} {request.image_count}"

    # Airflow types what a decorated function returns as the reference that it is while the DAG is parsed.
    files(card.expand(city=["Lisbon", "Oslo"]))  # type: ignore[arg-type]
    poster("Lisbon")
    check("{}")
    balance()
