"""Misspelt words and wrong types in arguments; each marked line must be an error to both checkers."""

from __future__ import annotations

from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.operators.approval import EvoImageApprovalOperator
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.ingest import EvoImageIngestOperator
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor

EvoImageGenerateOperator(
    task_id="draw",
    prompt="A fox",
    n=1.5,  # error
    size=1024,  # error
    if_exists="overwite",  # error
    provenance="none",  # error
    on_clear="resubmit",  # error
    on_change="resumed",  # error
    timeout="30 minutes",  # error
    reuse="yes",  # error
    labels={"campaign": 1},  # error
    save_to=7,  # error
)
EvoImageGenerateOperator(task_id="no_prompt")  # error
EvoImageBatchOperator(
    task_id="batch",
    requests=[],
    save_to="file:///tmp/typed",
    on_item_failure="stop",  # error
    partition_by="label",  # error
    on_clear="always",  # error
    parallel="8",  # error
)
EvoImageBatchOperator(task_id="nowhere", requests=[])  # error
EvoImageSaveOperator(
    task_id="save",
    generation="id",
    save_to="file:///tmp/typed",
    if_exists="replace",  # error
)
EvoImageRenditionsOperator(
    task_id="cut",
    images="file:///tmp/typed/a.json",
    save_to="file:///tmp/typed",
    renditions=["meta.story", Rendition("hero", width="1200", height=900)],  # error
    fit="coverr",  # error
    focus="left",  # error
    upscale="no",  # error
)
EvoImageApprovalOperator(
    task_id="approve",
    images=[],
    choose="some",  # error
    on_timeout="accept",  # error
)
EvoImageIngestOperator(
    task_id="keep",
    save_to="file:///tmp/typed",
    provenance="marked",  # error
    within="23 hours",  # error
)
EvoImageGenerationSensor(task_id="wait", evolink_task_id="id", deferrable="yes")  # error
