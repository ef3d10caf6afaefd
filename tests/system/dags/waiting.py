"""A DAG that waits without a worker: what the harness is proved with."""

from datetime import timedelta

from airflow.providers.standard.sensors.time_delta import WaitSensor
from airflow.sdk import DAG, task

with DAG("harness_waiting", schedule=None):

    @task
    def after(**context):
        return {"run_id": context["run_id"]}

    # From the start of the task, however late that is.
    WaitSensor(task_id="wait", time_to_wait=timedelta(seconds=10), deferrable=True) >> after()
