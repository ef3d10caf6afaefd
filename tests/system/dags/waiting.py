"""A DAG that waits without a worker: what the harness is proved with."""

from datetime import timedelta

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, task

with DAG("harness_waiting", schedule=None):

    @task
    def after(**context):
        return {"run_id": context["run_id"]}

    TimeDeltaSensor(task_id="wait", delta=timedelta(seconds=10), deferrable=True) >> after()
