"""Tasks whose connection holds a key that must be found nowhere."""

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator
from airflow_provider_evoimage.sensors.generation import EvoImageGenerationSensor

ASKED = {"model": "gpt-image-1", "size": "1024x1024", "quality": "low", "evoimage_conn_id": "canary"}

with DAG(dag_id="canary", schedule=None, catchup=False, params={"save_to": "file:///tmp/never-used"}):
    done = EvoImageGenerateOperator(
        task_id="succeeds", prompt="A poster", save_to="{{ params.save_to }}", **ASKED
    )
    seen = EvoImageGenerationSensor(task_id="senses", evolink_task_id=done.output, evoimage_conn_id="canary")
    EvoImageSaveOperator(
        task_id="saves", generation=seen.output, save_to="{{ params.save_to }}", evoimage_conn_id="canary"
    )
    EvoImageGenerateOperator(task_id="refused", prompt="A poster [[http:401]]", **ASKED)
    EvoImageGenerateOperator(task_id="cut", prompt="A poster [[cut:after]]", deferrable=False, **ASKED)
    EvoImageGenerateOperator(task_id="fails", prompt="A poster [[fail:unknown_error]]", **ASKED)
    EvoImageGenerateOperator(
        task_id="bad_argument", prompt="A poster", callback_url="http://10.0.0.1", **ASKED
    )
    EvoImageGenerateOperator(task_id="waits_for_ever", prompt="A poster [[never]]", **ASKED)
