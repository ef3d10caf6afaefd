"""Start a campaign only if the credits last for it: a sensor in front, a limit on each request behind."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.sensors.credits import EvoImageCreditsSensor


@dag(
    dag_id="evoimage_guarded_campaign",
    description="A campaign that waits until there are enough credits for it.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    tags=["evoimage", "example"],
    default_args={"retries": 3, "retry_delay": timedelta(seconds=30)},
    params={"save_to": "file:///tmp/evoimage", "min_credits": 50},
)
def evoimage_guarded_campaign():
    """Wait for the credits of the whole campaign, then draw."""
    enough = EvoImageCreditsSensor(
        task_id="enough_credits",
        # What the campaign costs at the most, and the pace of the last week for two days more.
        min_credits="{{ params.min_credits }}",
        min_days=2,
        timeout=timedelta(hours=6),
    )
    draw = EvoImageGenerateOperator.partial(
        task_id="draw",
        model="gpt-image-1.5",
        quality="low",
        max_credits=5,
        save_to="{{ params.save_to }}",
    ).expand(prompt=["A trail shoe on wet rocks, no text", "An enamel mug on a camp table, no text"])
    enough >> draw


evoimage_guarded_campaign()
