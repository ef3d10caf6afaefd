"""One task of each kind that the pages know; most wait on the worker, as a process less makes the tests faster."""

import os

from airflow.sdk import DAG, task

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator

OUT = os.environ["PICTURES_OUT"]
QUICK = {"quality": "low", "deferrable": False, "poll_interval": 1}

with DAG("pictures", schedule=None, default_args={"save_to": OUT, "retries": 0}):
    hero = EvoImageGenerateOperator(
        task_id="hero",
        prompt="A <b>red</b> bicycle before a blue wall, morning light\nno text in it",
        n=2,
        **QUICK,
    )
    EvoImageGenerateOperator(task_id="edited", prompt="the same at night", image_urls=hero.output, **QUICK)
    EvoImageGenerateOperator.partial(task_id="mapped", **QUICK).expand(
        prompt=["A pot of tea on a wooden table", "A slice of cake"]
    )
    EvoImageBatchOperator(
        task_id="batch", requests=["one", "two", "[[fail:content_policy_violation]] three"], **QUICK
    )
    EvoImageGenerateOperator(task_id="links", prompt="only links", **QUICK | {"save_to": None})
    EvoImageGenerateOperator(task_id="hidden", prompt="elsewhere", **QUICK | {"save_to": f"{OUT}-other"})
    EvoImageGenerateOperator(task_id="refused", prompt="[[fail:content_policy_violation]] x", **QUICK)
    EvoImageGenerateOperator(
        task_id="waits",
        prompt="[[never]] slow",
        image_urls=["https://shop.example/mug.png?X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature=5ec2e7"],
        callback_url="https://hooks.example/services/T0001/xyzzyxyzzy?token=letmein",
        timeout=3600,
        quality="low",
    )
    EvoImageGenerateOperator(task_id="again", prompt="A lighthouse {{ macros.uuid.uuid4() }}", **QUICK)

    @task
    def foreign():
        return 1

    foreign()

# Another team's: a user with a role may not see it.
with DAG("secret_launch", schedule=None):
    EvoImageGenerateOperator(task_id="hero", prompt="A phone that folds", save_to=OUT, **QUICK)

with DAG("saved_later", schedule=None, default_args={"retries": 0}):
    poster = EvoImageGenerateOperator(task_id="draw", prompt="A poster of a harbour", **QUICK)
    EvoImageSaveOperator(task_id="save", generation=poster.output, save_to=OUT)
