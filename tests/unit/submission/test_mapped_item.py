"""An item of a mapped list is told by what it says: moving it, or inserting another, makes it no other item."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from airflow.exceptions import AirflowSkipException
from airflow.sdk import DAG, BaseOperator, literal, task, task_group
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.submission.mapped_item import (
    MappedItem,
    is_given_by_upstream,
    mapped_item,
    refuse_rendered_data,
)


class TaskInstance:
    """The part of a running task instance that a mapped list is resolved with."""

    run_id = "run"

    def __init__(self, running: Any, map_index: int | None, pulled: Any = None) -> None:
        self.task, self.map_index, self.pulled = running, map_index, pulled

    def xcom_pull(self, **_: Any) -> Any:
        if isinstance(self.pulled, Exception):
            raise self.pulled
        return self.pulled


def of(definition: Any, map_index: int, pulled: Any = None) -> MappedItem:
    return mapped_item({"ti": TaskInstance(definition, map_index, pulled)})


def drawn(**expanded: Any) -> Any:
    with DAG("campaign"):
        return EvoImageGenerateOperator.partial(task_id="draw").expand(**expanded)


def drawn_each(items: list[Any]) -> Any:
    with DAG("campaign"):
        return EvoImageGenerateOperator.partial(task_id="draw").expand_kwargs(items)


items = st.lists(st.sampled_from(["a mug", "a shoe", "a lamp"]), min_size=1, max_size=8)


@given(items, st.randoms())
def test_items_are_the_same_in_any_order(prompts: list[str], random: Any) -> None:
    shuffled = prompts.copy()
    random.shuffle(shuffled)
    before, after = drawn(prompt=prompts), drawn(prompt=shuffled)
    every = range(len(prompts))
    assert {of(before, each) for each in every} == {of(after, each) for each in every}


@given(items)
def test_no_two_places_stand_for_one_item(prompts: list[str]) -> None:
    definition = drawn(prompt=prompts)
    assert len({of(definition, each) for each in range(len(prompts))}) == len(prompts)


@given(items, st.integers(0, 8))
def test_inserting_an_item_changes_no_other(prompts: list[str], place: int) -> None:
    longer = [*prompts[:place], "a vase", *prompts[place:]]
    before, after = drawn(prompt=prompts), drawn(prompt=longer)
    earlier = {of(before, each) for each in range(len(prompts))}
    assert earlier < {of(after, each) for each in range(len(longer))}


def test_equal_items_are_told_apart_by_occurrence() -> None:
    definition = drawn(prompt=["a mug", "a shoe", "a mug"])
    assert [of(definition, each).occurrence for each in range(3)] == [0, 0, 1]
    assert of(definition, 0).digest == of(definition, 2).digest != of(definition, 1).digest


def test_every_way_of_mapping_tells_items_apart() -> None:
    crossed = drawn(prompt=["a mug", "a shoe"], size=["1:1", "2:3"])
    assert len({of(crossed, each) for each in range(4)}) == 4
    as_airflow = crossed._get_specified_expand_input()
    seen = [as_airflow.resolve({"ti": TaskInstance(crossed, each)})[0] for each in range(4)]
    assert [of(crossed, each) for each in range(4)] == [of(drawn_each(seen), each) for each in range(4)]


def test_where_an_image_goes_is_not_what_is_asked() -> None:
    one = drawn_each([{"prompt": "a mug", "save_to": "file:///one"}])
    other = drawn_each([{"prompt": "a mug", "save_to": "s3://other"}])
    assert of(one, 0) == of(other, 0)


def test_signing_a_reference_anew_makes_no_other_item() -> None:
    link = "https://bucket.example.com/shoe.png?X-Amz-Signature="
    one, other = (drawn_each([{"prompt": "p", "image_urls": [link + sign]}]) for sign in ("a", "b"))
    assert of(one, 0) == of(other, 0)


@pytest.mark.parametrize(
    "value",
    [
        {"b", "a", "c"},
        datetime(2026, 5, 1, tzinfo=UTC),
        PurePosixPath("a/b"),
        1.5,
        None,
        {"a": [1]},
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_can_be_mapped_over(value: Any) -> None:
    definition = drawn_each([{"prompt": "a mug", "extra_body": value}] * 2)
    assert [of(definition, each).occurrence for each in range(2)] == [0, 1]


@pytest.mark.parametrize("map_index", [-1, None])
def test_task_that_is_not_mapped_is_no_item(map_index: int | None) -> None:
    with DAG("campaign"):
        operator = EvoImageGenerateOperator(task_id="draw", prompt="a mug")
    assert mapped_item({"ti": TaskInstance(operator, map_index)}) == MappedItem()


def test_unmapped_operator_on_the_worker_finds_its_definition() -> None:
    definition = drawn(prompt=["a mug", "a shoe"])
    running = definition.unmap({"prompt": "a shoe"})
    assert isinstance(running, BaseOperator)
    assert of(running, 1) == of(definition, 1)


def test_list_of_an_earlier_task_is_read_once() -> None:
    with DAG("campaign"):

        @task
        def prompts() -> list[str]:
            return []

        definition = EvoImageGenerateOperator.partial(task_id="draw").expand(prompt=prompts())
    pulled = ["a mug", "a shoe", "a mug"]
    assert of(definition, 2, pulled) == of(drawn(prompt=pulled), 2)


def test_list_that_cannot_be_read_submits_nothing() -> None:
    with DAG("campaign"):

        @task
        def prompts() -> list[str]:
            return []

        definition = EvoImageGenerateOperator.partial(task_id="draw").expand(prompt=prompts())
    with pytest.raises(EvoImageError, match="cannot be read: away") as caught:
        of(definition, 0, RuntimeError("away"))
    assert caught.value.billed is False


def test_task_in_a_mapped_group_is_an_item_of_the_group() -> None:
    with DAG("campaign") as dag:

        @task_group
        def poster(prompt: str) -> None:
            EvoImageGenerateOperator(task_id="draw", prompt=prompt)

        poster.expand(prompt=["a mug", "a shoe", "a mug"])
    inner = dag.get_task("poster.draw")
    assert [of(inner, each).occurrence for each in range(3)] == [0, 0, 1]
    assert of(inner, 1).digest != of(inner, 0).digest == of(inner, 2).digest


def test_shorter_list_than_the_place_falls_back_to_the_place() -> None:
    assert of(drawn(prompt=["a mug"]), 7) == MappedItem("position 7")
    assert of(None, 7) == MappedItem("position 7")


def upstream(items_: list[Any], function: Any = None, *, as_kwargs: bool = False) -> Any:
    """Draw each item that an upstream task returned, through ``.map()`` where a function is given."""
    with DAG("campaign"):
        rows = BaseOperator(task_id="rows").output
        mapped = rows if function is None else rows.map(function)
        partial = EvoImageGenerateOperator.partial(task_id="draw")
        return partial.expand_kwargs(mapped) if as_kwargs else partial.expand(prompt=mapped)


def skips_shoes(prompt: str) -> str:
    if prompt == "a shoe":
        raise AirflowSkipException
    return f"Photo of {prompt}"


def test_item_that_map_skips_is_no_matter_of_the_others() -> None:
    rows = ["a mug", "a shoe", "a mug", "a lamp"]
    definition = upstream(rows, skips_shoes)
    found = [of(definition, each, rows) for each in (0, 2, 3)]
    assert [each.occurrence for each in found] == [0, 1, 0]
    assert len(set(found)) == 3
    with pytest.raises(EvoImageError, match="cannot be read"):
        of(definition, 1, rows)


class LazyXComSequence(Sequence[Any]):
    """Airflow's results of a mapped task: each access is a request."""

    def __init__(self, items_: list[Any]) -> None:
        self.items, self.requests = items_, 0

    def __len__(self) -> int:
        self.requests += 1
        return len(self.items)

    def __getitem__(self, key: Any) -> Any:
        self.requests += 1
        return self.items[key]


@pytest.mark.parametrize("shape", ["plain", "map", "map of map", "zip", "concat"])
def test_item_of_a_long_list_costs_a_bounded_number_of_requests(shape: str) -> None:
    results = LazyXComSequence([f"item {number}" for number in range(500)])
    with DAG("campaign"):
        rows = BaseOperator(task_id="rows").output
        shapes = {
            "plain": rows,
            "map": rows.map(str.upper),
            "map of map": rows.map(str.upper).map(str.lower),
            "zip": rows.zip(rows).map(" and ".join),
            "concat": rows.concat(rows),
        }
        definition = EvoImageGenerateOperator.partial(task_id="draw").expand(prompt=shapes[shape])
    found = of(definition, 499, results)
    assert results.requests <= 8
    assert found.digest != of(definition, 498, results).digest


def test_shorter_list_is_filled_as_the_zip_says() -> None:
    with DAG("campaign"):
        rows = BaseOperator(task_id="rows").output
        zipped = rows.zip(rows.concat(rows), fillvalue="plain").map(" ".join)
        definition = EvoImageGenerateOperator.partial(task_id="draw").expand(prompt=zipped)
        spelt_out = EvoImageGenerateOperator.partial(task_id="draw_each").expand(prompt=rows)
    found = [of(definition, index, LazyXComSequence(["tea", "cake"])).digest for index in range(4)]
    items = ["tea tea", "cake cake", "plain tea", "plain cake"]
    assert found == [of(spelt_out, index, LazyXComSequence(items)).digest for index in range(4)]


def test_path_is_no_output_of_a_task() -> None:
    """It has a method `resolve` too."""
    rows = [{"prompt": "a mug", "save_to": Path("/images")}]
    definition = drawn_each(rows)
    assert not is_given_by_upstream({"ti": TaskInstance(definition.unmap(rows[0]), 0)}, "save_to")
    assert of(definition, 0).digest == of(drawn_each([{**rows[0], "save_to": "/images"}]), 0).digest


def test_list_is_read_once_in_a_leg() -> None:
    pulled = [{"prompt": "a mug"}, {"prompt": "a shoe"}]
    results = LazyXComSequence(pulled)
    with DAG("campaign"):
        rows = BaseOperator(task_id="rows").output
        definition = EvoImageGenerateOperator.partial(task_id="draw").expand_kwargs(rows)
    context = {"ti": TaskInstance(definition.unmap(pulled[1]), 1, results)}
    refuse_rendered_data(context)
    assert not is_given_by_upstream(context, "max_credits")
    assert mapped_item(context) == mapped_item(context)
    assert results.requests == 1


def rendered(definition: Any, row: dict[str, Any], pulled: Any, **changed: Any) -> dict[str, Any]:
    """Return the context of a task whose arguments Airflow rendered."""
    running = definition.unmap(row)
    for name, value in changed.items():
        setattr(running, name, value)
    return {"ti": TaskInstance(running, 0, pulled)}


@pytest.mark.parametrize(
    ("row", "changed"),
    [
        ({"prompt": "{{ conn.evoimage_default.password }}"}, {"prompt": "sk-evo-secret"}),
        ({"prompt": "p", "image_urls": ["https://a/{{ 1 }}"]}, {"image_urls": ["https://a/1"]}),
        ({"prompt": "p", "extra_body": {"a": "{{ 1 }}"}}, {"extra_body": {"a": "1"}}),
        ({"prompt": "notes.prompt"}, {"prompt": "what stands in a file of the worker"}),
    ],
    ids=["prompt", "list", "object", "file"],
)
def test_data_that_airflow_rendered_is_refused_without_its_value(
    row: dict[str, Any], changed: dict[str, Any]
) -> None:
    definition = upstream([row], as_kwargs=True)
    with pytest.raises(InvalidRequestError, match=r"airflow\.sdk\.literal") as caught:
        refuse_rendered_data(rendered(definition, row, [row], **changed))
    assert "sk-evo" not in str(caught.value)
    assert "worker" not in str(caught.value)


def test_rendered_argument_of_a_decorated_function_is_refused() -> None:
    row = {"text": "{{ conn.evoimage_default.password }}"}
    with DAG("campaign"):

        @task.evoimage
        def draw(text: str) -> str:
            return text

        rows = BaseOperator(task_id="rows").output
        definition = draw.expand_kwargs(rows).operator
    running = definition.unmap({"op_kwargs": row})
    refuse_rendered_data({"ti": TaskInstance(running, 0, [row])})
    running.op_kwargs = {"text": "sk-evo-secret"}
    with pytest.raises(InvalidRequestError, match="text of this mapped item") as caught:
        refuse_rendered_data({"ti": TaskInstance(running, 0, [row])})
    assert "sk-evo" not in str(caught.value)


def test_data_marked_as_literal_is_let_through_and_tells_items_apart() -> None:
    def as_data(row: dict[str, str]) -> dict[str, Any]:
        return {name: literal(value) for name, value in row.items()}

    rows = [{"prompt": "a {{ mug }}"}, {"prompt": "a {{ shoe }}"}]
    with DAG("campaign"):
        mapped = BaseOperator(task_id="rows").output.map(as_data)
        definition = EvoImageGenerateOperator.partial(task_id="draw").expand_kwargs(mapped)
    refuse_rendered_data(rendered(definition, rows[0], rows))
    assert of(definition, 0, rows).digest != of(definition, 1, rows).digest


def test_data_that_came_through_unchanged_and_templates_of_the_dag_are_let_through() -> None:
    row = {"prompt": "a {{ mug }}", "image_urls": ["https://a/b"]}
    refuse_rendered_data(rendered(upstream([row], as_kwargs=True), row, [row]))
    refuse_rendered_data(rendered(drawn_each([row]), row, None, prompt="a mug"))
    refuse_rendered_data(rendered(drawn(prompt=["{{ ds }}"]), {"prompt": "{{ ds }}"}, None, prompt="today"))


def limit_is_given(definition: Any, row: dict[str, Any], pulled: Any = None) -> bool:
    context = {"ti": TaskInstance(definition.unmap(row), 0, pulled)}
    return is_given_by_upstream(context, "max_credits")


def test_argument_of_an_upstream_task_is_told_from_one_that_the_author_left_empty() -> None:
    row = {"prompt": "a mug", "max_credits": None}
    with DAG("campaign"):
        limits = BaseOperator(task_id="limits").output
        partial = EvoImageGenerateOperator.partial(task_id="draw", prompt="a mug")
        by_output = partial.expand(max_credits=limits)
    assert limit_is_given(by_output, {"max_credits": None}, [None])
    assert limit_is_given(upstream([row], as_kwargs=True), row, [row])
    assert not limit_is_given(upstream([row], as_kwargs=True), {"prompt": "a mug"}, [{"prompt": "a mug"}])
    assert not limit_is_given(drawn_each([row]), row)
    assert not limit_is_given(drawn(prompt=["a mug"], max_credits=[None]), row)
    with pytest.raises(EvoImageError, match="cannot be read"):
        limit_is_given(upstream([row], as_kwargs=True), row, RuntimeError("no database"))


@pytest.mark.parametrize("map_index", [None, -1])
def test_task_that_is_not_mapped_has_nothing_from_upstream(map_index: int | None) -> None:
    with DAG("campaign"):
        limits = BaseOperator(task_id="limits").output
        definition = EvoImageGenerateOperator.partial(task_id="draw", prompt="a").expand(max_credits=limits)
    context = {"ti": TaskInstance(definition, map_index)}
    assert not is_given_by_upstream(context, "max_credits")
    refuse_rendered_data(context)


def test_item_beyond_the_end_of_a_list_that_became_shorter_is_its_position() -> None:
    definition = upstream(["a mug"])
    assert of(definition, 1, ["a mug"]) == MappedItem("position 1")
    assert of(definition, 0, ["a mug"]) != MappedItem("position 0")


def test_items_of_an_upstream_object_are_its_pairs() -> None:
    definition, pulled = upstream([]), {"a mug": 1, "a shoe": 2}
    assert of(definition, 0, pulled) == of(definition, 1, {"a shoe": 2, "a mug": 1})
    assert of(definition, 0, pulled) != of(definition, 1, pulled)
