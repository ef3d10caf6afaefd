"""A connection with a month's budget, and a sensor that waits for credits."""

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.sensors.credits import EvoImageCreditsSensor

with DAG("month_budget", schedule=None, params={"save_to": "file:///tmp/evoimage"}):
    EvoImageGenerateOperator(
        task_id="draw",
        prompt="A poster within the budget of a month",
        model="gpt-image-1.5",
        quality="low",
        save_to="{{ params.save_to }}",
        evoimage_conn_id="small_budget",
    )

with DAG("waits_for_credits", schedule=None):
    EvoImageCreditsSensor(
        task_id="enough", min_credits=500, min_days=1, poll_interval=1, evoimage_conn_id="no_credit"
    )
