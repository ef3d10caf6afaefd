"""Tasks that wait in one triggerer at the same time: mapped sensors, and one task for many generations."""

import time
from typing import Any

from airflow.sdk import DAG, BaseOperator, task

from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor
from airflow_provider_evoimage.triggers.batch import EvoImageBatchTrigger
from airflow_provider_evoimage.waiting.event import WaitEvent


class WaitForManyOperator(BaseOperator):
    """Waits for generations until all have ended; returns how each wait in the triggerer ended."""

    template_fields = ("generations",)

    def __init__(self, *, generations: Any, save_every: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generations = generations
        self.save_every = save_every

    def execute(self, context: Any) -> None:
        self.wait_for(list(self.generations), [])

    def execute_complete(self, context: Any, event: Any, events: Any, left: Any) -> Any:
        named = WaitEvent.read(event).endings
        events = [*events, event]
        left = [each for each in left if each not in named]
        return self.wait_for(left, events) if left else events

    def wait_for(self, left: list[str], events: list[Any]) -> None:
        self.defer(
            trigger=EvoImageBatchTrigger(
                evolink_task_ids=left,
                evoimage_conn_id="evoimage_default",
                deadline=time.time() + 300,
                save_every=self.save_every,
                save_after=60,
            ),
            method_name="execute_complete",
            kwargs={"events": events, "left": left},
        )


with DAG(
    "shared_poller", schedule=None, params={"single": [], "many": []}, render_template_as_native_obj=True
):

    @task
    def named(params=None):
        return params["single"]

    EvoImageGenerationSensor.partial(task_id="waits").expand(evolink_task_id=named())
    WaitForManyOperator(task_id="waits_for_many", generations="{{ params.many }}", save_every=20)
