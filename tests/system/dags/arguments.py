"""Each way to give an argument: a prompt file, templates, and a mapping over every request field."""

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

#: field → two values to map over.
MAPPED = {
    "prompt": ["one", "two"],
    "model": ["gpt-image-1", "gpt-image-1.5"],
    "size": ["1024x1024", "2:3"],
    "quality": ["low", "medium"],
    "n": [1, "2"],
    "image_urls": [["https://example.com/a.png"], ["https://example.com/b.png"]],
    "callback_url": ["https://example.com/hook/1", "https://example.com/hook/2"],
    "extra_body": [{"user": "a"}, {"user": "b"}],
    "save_to": ["{{ params.save_to }}/left", "{{ params.save_to }}/right"],
    "filename_template": ["left-{index}.{ext}", "right-{index}.{ext}"],
}

with DAG(
    dag_id="arguments",
    schedule=None,
    catchup=False,
    template_searchpath=[],
    params={"product": "an enamel mug", "images": "2", "save_to": "file:///tmp/never-used"},
):
    EvoImageGenerateOperator(
        task_id="from_a_file",
        prompt="prompts/poster.prompt",
        model="gpt-image-1",
        quality="low",
        n="{{ params.images }}",
        size="",
    )
    for field, values in MAPPED.items():
        fixed = {
            "prompt": f"by {field}",
            "model": "gpt-image-1",
            "quality": "low",
            "save_to": "{{ params.save_to }}",
        }
        fixed.pop(field, None)
        EvoImageGenerateOperator.partial(
            task_id=f"by_{field}", wait_for_completion=field == "save_to", **fixed
        ).expand(**{field: values})
