"""Names of mapped task instances, as Airflow renders them."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.decorators.evoimage import evoimage_task
from airflow_provider_evoimage.mapped_names import DEFAULT_TEMPLATE, LONGEST
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.operators.save import EvoImageSaveOperator


def named(definition: Any, arguments: dict[str, Any], *, native: bool = False, map_index: int = 3) -> Any:
    """Render the name of an instance as Airflow's task runner does."""
    definition.dag.render_template_as_native_obj = native
    task = definition.unmap(arguments)
    template = definition.dag.get_template_env().from_string(definition.map_index_template)
    ti = type("Instance", (), {"map_index": map_index})()
    return template.render({"task": task, "ti": ti})


def mapped(operator: Any = EvoImageGenerateOperator, partial: Any = None, **expanded: Any) -> Any:
    with DAG("shop", schedule=None):
        return operator.partial(task_id="draw", **(partial or {})).expand(**expanded)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"prompt": "A pot of tea"}, "A pot of tea"),
        ({"prompt": "Photo of an enamel mug on a camp table, no text"}, "Photo of an enamel mug on a camp…"),
        ({"prompt": "two\nlines\tand \x1b[31mcolours\u202e"}, "two lines and [31mcolours"),
        ({"prompt": "\ud83d half"}, "half"),
        ({"prompt": "   "}, "#3"),
        ({"prompt": "see https://a.example/i.png?token=letmein now"}, "see https://a.example/i.png now"),
        ({"size": "1024x1024", "quality": "low"}, "1024x1024 · low"),
        ({"image_urls": ["s3://conn@shop/products/mug.png", "s3://conn@shop/b.png"]}, "mug.png +1"),
        ({"image_urls": "/data/in/red shoe.png"}, "/data/in/red shoe.png"),
        ({"image_urls": {"evolink_task_id": "task-1", "request": {"prompt": "A fox"}}}, "A fox"),
        ({"n": 2}, "“2”"),
    ],
)  # fmt: skip
def test_name_says_what_the_instance_is_mapped_over(arguments: dict[str, Any], name: str):
    partial = {} if "prompt" in arguments else {"prompt": "A fox on a wall"}
    definition = mapped(partial=partial, **{key: [value] for key, value in arguments.items()})
    assert named(definition, arguments) == name


def test_rows_of_another_task_are_named_by_their_prompt():
    with DAG("shop", schedule=None):
        definition = EvoImageGenerateOperator.partial(task_id="draw").expand_kwargs(
            [{"prompt": "A fox", "size": "1:1"}]
        )
    assert named(definition, {"prompt": "A fox", "size": "1:1"}) == "A fox"


def test_batches_and_saves_have_names():
    batch = mapped(EvoImageBatchOperator, {"save_to": "/tmp/i"}, requests=[["a", "b"]])
    assert named(batch, {"requests": "s3://conn@shop/spring/mugs.csv"}) == "mugs.csv"
    assert named(batch, {"requests": ["A fox", "A hare", "An owl"]}) == "A fox +2"
    save = mapped(EvoImageSaveOperator, {"save_to": "/tmp/i"}, generation=["task-1"])
    assert named(save, {"generation": "task-unified-1"}) == "task-unified-1"


def test_decorated_function_is_named_by_its_arguments():
    with DAG("shop", schedule=None) as dag:

        @evoimage_task
        def draw(product: dict[str, str]) -> str:
            return f"A photo of {product['name']}"

        @evoimage_task
        def alone() -> str:
            return "A fox"

        draw.expand(product=[{"name": "Enamel mug", "sku": "M-1"}])
        alone()
    definition = dag.task_dict["draw"]
    assert named(definition, {"op_kwargs": {"product": {"name": "Enamel mug", "sku": "M-1"}}}) == "Enamel mug"
    assert dag.task_dict["alone"].map_index_template is None


def test_author_decides():
    with DAG("shop", schedule=None, default_args={"map_index_template": "{{ task.size }}"}) as dag:
        EvoImageGenerateOperator.partial(task_id="by_default_args").expand(prompt=["x"])
        EvoImageGenerateOperator.partial(task_id="own", map_index_template="{{ task.model }}").expand(
            prompt=["x"]
        )
        EvoImageGenerateOperator.partial(task_id="numbers", map_index_template=None).expand(prompt=["x"])
        evoimage_task(map_index_template="{{ task.quality }}", task_id="decorated")(
            lambda product: product
        ).expand(product=["x"])
    found = {task_id: task.map_index_template for task_id, task in dag.task_dict.items()}
    assert found == {
        "by_default_args": "{{ task.size }}",
        "own": "{{ task.model }}",
        "numbers": None,
        "decorated": "{{ task.quality }}",
    }


def test_tasks_that_are_not_mapped_have_none():
    with DAG("shop", schedule=None) as dag:
        EvoImageGenerateOperator(task_id="draw", prompt="x")
    assert dag.task_dict["draw"].map_index_template is None


@pytest.mark.parametrize("native", [False, True])
@given(
    prompt=st.one_of(
        st.text(), st.sampled_from(["12", "None", "[1]", "'a'", "1e5", "(1,", "True ", "((" * 300, "{}"])
    )
)
def test_name_is_short_text_whatever_the_prompt_is(native: bool, prompt: str):
    """Airflow fails a task whose name is no text, after it has paid."""
    name = named(mapped(prompt=["x"]), {"prompt": prompt}, native=native)
    assert isinstance(name, str)
    assert 0 < len(name) <= LONGEST + 2
    name.encode()


def test_name_never_raises():
    class Odd(EvoImageGenerateOperator):
        @property
        def prompt(self) -> str:
            raise RuntimeError

        @prompt.setter
        def prompt(self, value: str) -> None:
            pass

    assert named(mapped(Odd, prompt=["x"]), {"prompt": "x"}) == "#3"
    assert DEFAULT_TEMPLATE.startswith("{{")


def test_argument_name_comes_first_and_what_is_no_text_is_left_out():
    definition = mapped(partial={"prompt": "A fox"}, name=["Blue mug", "12"])
    assert [named(definition, {"name": each}) for each in ("Blue mug", "12")] == ["Blue mug", "“12”"]
    assert named(mapped(partial={"prompt": "A fox"}, image_urls=[None]), {"image_urls": None}) == "#3"
