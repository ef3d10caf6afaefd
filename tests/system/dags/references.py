"""Each way to hand references on: XComArgs, templates rendered as text and natively, mapping, a decorated function."""

from airflow.sdk import DAG, task

from airflow_provider_evoimage.decorators.evoimage import evoimage_task
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

FIXED = {"model": "gpt-image-1", "quality": "low"}

for native in (False, True):
    with DAG(
        dag_id=f"references_{'native' if native else 'text'}",
        schedule=None,
        catchup=False,
        render_template_as_native_obj=native,
        params={"save_to": "file:///tmp/never-used"},
    ):
        make = EvoImageGenerateOperator.partial(
            task_id="make", save_to="{{ params.save_to }}", **FIXED
        ).expand(prompt=["one", 'it\'s "two"'])
        first = EvoImageGenerateOperator(
            task_id="first", prompt="three", save_to="{{ params.save_to }}", **FIXED
        )

        @task
        def path_of(manifest):
            """Return a plain path."""
            return manifest["images"][0]["path"].removeprefix("file://")

        @evoimage_task(task_id="by_function", **FIXED)
        def by_function(manifest):
            """Return a request with a manifest as its reference."""
            return {"prompt": "an edit", "image_urls": manifest}

        path = path_of(first.output)
        by_function(first.output)
        ways = {
            "by_output": first.output,
            "by_list": [first.output, path],
            "by_path": path,
            "by_all_mapped": make.output,
            "by_template": "{{ ti.xcom_pull('first') }}",
            "by_template_in_list": ["{{ ti.xcom_pull('first') }}"],
            "by_json": "{{ ti.xcom_pull('first') | tojson }}",
        }
        for task_id, image_urls in ways.items():
            edit = EvoImageGenerateOperator(task_id=task_id, prompt="an edit", image_urls=image_urls, **FIXED)
            [first, make] >> edit
        EvoImageGenerateOperator.partial(task_id="by_mapping", prompt="an edit", **FIXED).expand(
            image_urls=make.output
        )
