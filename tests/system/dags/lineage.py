"""DAGs whose saves are told to others: through an asset alias, and to OpenLineage."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.openlineage.utils.selective_enable import enable_lineage
from airflow.sdk import DAG, Asset, AssetAlias, task

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator

SAVED = AssetAlias("evoimage_saved")
RENDITIONS = AssetAlias("evoimage_renditions")
ORIGINALS = Asset(name="evoimage_originals", uri="x-originals://all")

# On a busy machine Airflow may fail a try whose process it has not heard of for long.
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=1)}

with DAG(dag_id="lineage", schedule=None, params={"save_to": ""}, default_args=RETRIES) as dag:
    draw = EvoImageGenerateOperator.partial(
        task_id="draw", quality="low", save_to="{{ params.save_to }}/originals", outlets=[ORIGINALS]
    ).expand(prompt=["a red fox", "a grey heron"])
    saved = EvoImageSaveOperator(
        task_id="save",
        generation=draw.output,
        save_to="{{ params.save_to }}/copies",
        outlets=[SAVED],
    )
    EvoImageRenditionsOperator(
        task_id="cut",
        images=saved.output,
        save_to="{{ params.save_to }}/cut",
        renditions=["meta.square", "meta.feed"],
        outlets=[RENDITIONS],
    )
    # Nothing is saved here, so there is nothing to tell OpenLineage.
    EvoImageGenerateOperator(task_id="links_only", prompt="a hare", quality="low", outlets=[SAVED])
enable_lineage(dag)

with DAG(dag_id="lineage_consumer", schedule=[SAVED]):

    @task
    def read(*, triggering_asset_events) -> list[dict]:
        # By the alias: going through all keys meets each event twice, under its asset and under its alias.
        events = triggering_asset_events[SAVED]
        return [{"uri": event.asset.uri, "extra": event.extra} for event in events]

    read()
