"""DAGs of twenty tasks each that wait in the triggerer from the start, without a worker.

The environment says how many DAGs, which trigger, and when the tasks end.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import DAG, BaseOperator
from airflow.triggers.base import StartTriggerArgs

from benchmarks.server import task_number

# Airflow reads the whole DAG anew for each task that starts in the triggerer: small DAGs.
TASKS_PER_DAG = 20
DAGS = int(os.environ["BENCH_TASKS"]) // TASKS_PER_DAG
FIRST_END = float(os.environ["BENCH_FIRST_END"])
SPREAD_SECONDS = 30.0


def arguments(evolink_task_id: str) -> tuple[str, dict[str, Any]]:
    """Return the trigger and its arguments."""
    connection = {"evoimage_conn_id": "evoimage_default"}
    if os.environ["BENCH_SUBJECT"] == "evoimage":
        kwargs = {
            "evolink_task_ids": [evolink_task_id],
            "deadline": FIRST_END + 3600,
            "estimated_time": 100.0,
        }
        return "airflow_provider_evoimage.triggers.generation.EvoImageGenerationTrigger", connection | kwargs
    return "benchmarks.subjects.FixedPollTrigger", connection | {"evolink_task_id": evolink_task_id}


class WaitOperator(BaseOperator):
    """Starts in the triggerer."""

    start_from_trigger = True

    def __init__(self, *, counter: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        ends_at = FIRST_END + SPREAD_SECONDS * counter / (DAGS * TASKS_PER_DAG)
        trigger, trigger_arguments = arguments(f"task-unified-{task_number(ends_at, counter)}")
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=trigger, trigger_kwargs=trigger_arguments, next_method="execute_complete"
        )

    def execute_complete(self, context: Any, event: Any = None) -> None:
        """Do nothing: the event has arrived."""


for number in range(DAGS):
    with DAG(f"waiting_{number}", schedule=None, max_active_tasks=TASKS_PER_DAG) as dag:
        for each in range(TASKS_PER_DAG):
            WaitOperator(task_id=f"wait_{each}", counter=number * TASKS_PER_DAG + each)
    globals()[dag.dag_id] = dag
