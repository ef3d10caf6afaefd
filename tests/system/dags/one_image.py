"""One task that makes and saves one image of whatever prompt the run is given."""

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

with DAG("one_image", schedule=None, params={"prompt": "A blue kite", "save_to": "file:///tmp/never-used"}):
    EvoImageGenerateOperator(
        task_id="generate",
        model="gpt-image-1.5",
        prompt="{{ params.prompt }}",
        quality="low",
        save_to="{{ params.save_to }}",
    )
