"""DAGs of twenty tasks each that wait in the triggerer from the start, without a worker.

The environment says how many DAGs and which trigger; the tasks end when the server is told.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, BaseOperator
from airflow.triggers.base import StartTriggerArgs

from benchmarks.server import WHEN_TOLD, task_number

# Airflow reads the whole DAG anew for each task that starts in the triggerer: small DAGs.
TASKS_PER_DAG = 20
DAGS = int(os.environ["BENCH_TASKS"]) // TASKS_PER_DAG


def arguments(evolink_task_id: str) -> tuple[str, dict[str, Any]]:
    """Return the trigger and its arguments."""
    connection = {"evoimage_conn_id": "evoimage_default"}
    if os.environ["BENCH_SUBJECT"] == "evoimage":
        kwargs = {
            "evolink_task_ids": [evolink_task_id],
            "deadline": WHEN_TOLD,
            "estimated_time": 100.0,
        }
        return "airflow_provider_evoimage.triggers.generation.EvoImageGenerationTrigger", connection | kwargs
    return "benchmarks.subjects.FixedPollTrigger", connection | {"evolink_task_id": evolink_task_id}


class WaitOperator(BaseOperator):
    """Starts in the triggerer."""

    start_from_trigger = True

    def __init__(self, *, counter: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        trigger, trigger_arguments = arguments(f"task-unified-{task_number(WHEN_TOLD, counter)}")
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=trigger, trigger_kwargs=trigger_arguments, next_method="execute_complete"
        )

    def execute_complete(self, context: Any, event: Any = None) -> None:
        """Do nothing: the event has arrived."""


for number in range(DAGS):
    with DAG(
        f"waiting_{number}",
        schedule="@once",
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        is_paused_upon_creation=False,
        max_active_tasks=TASKS_PER_DAG,
    ) as dag:
        for each in range(TASKS_PER_DAG):
            WaitOperator(task_id=f"wait_{each}", counter=number * TASKS_PER_DAG + each)
    globals()[dag.dag_id] = dag
