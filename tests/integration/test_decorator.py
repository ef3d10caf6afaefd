"""``@task.evoimage``: what a function returns becomes the request, once for each try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_evoimage.decorators.evoimage import EvoImageDecoratedOperator
from airflow_provider_evoimage.exceptions import GenerationTimeoutError, InvalidRequestError
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import StateStore, TaskRun, first_leg

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


def decorated(function: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[], Any]:
    """Make the operator of a decorated function, anew each time, as each leg is another process."""

    def make() -> EvoImageDecoratedOperator:
        with DAG("campaign"):
            return task.evoimage(**options)(function)(*arguments).operator

    return make


def test_function_that_returns_a_prompt_makes_its_images(evolink: SimulatorServer):
    def card(city: str) -> str:
        return f"Postcard of {city}"

    manifest = TaskRun(
        decorated(card, "Lisbon", model="gpt-image-1", quality="low"), store=StateStore()
    ).run()

    assert manifest["status"] == "completed"
    assert manifest["request"]["prompt"] == "Postcard of Lisbon"
    assert manifest["request"]["quality"] == "low"
    assert evolink.state.counters.paid == 1


def test_returned_fields_win_over_the_decorators_and_are_in_the_manifest():
    def card() -> dict:
        return {"prompt": "Postcard", "size": "2:3", "n": 2}

    manifest = TaskRun(
        decorated(card, model="gpt-image-1", size="1:1", quality="low"), store=StateStore()
    ).run()

    assert manifest["request"] == {
        "model": "gpt-image-1",
        "prompt": "Postcard",
        "size": "2:3",
        "quality": "low",
        "n": 2,
    }
    assert manifest["asked"] == manifest["made"] == 2


def test_what_the_function_returns_is_no_template():
    def card() -> str:
        return "A sign that says {{ ds }} {% endif %}"

    manifest = TaskRun(decorated(card, model="gpt-image-1", quality="low"), store=StateStore()).run()

    assert manifest["request"]["prompt"] == "A sign that says {{ ds }} {% endif %}"


def test_retry_calls_the_function_again_and_pays_once(evolink: SimulatorServer):
    calls = []

    def card() -> str:
        calls.append(1)
        return "Postcard [[never]]"

    run = TaskRun(decorated(card, model="gpt-image-1", quality="low", timeout=60), store=StateStore())
    for _ in range(2):
        with pytest.raises(GenerationTimeoutError, match="goes on waiting"):
            run.run()

    assert len(calls) == 2
    assert evolink.state.counters.paid == 1


def test_function_annotated_as_dict_returns_one_manifest_and_not_its_parts():
    def card() -> dict:
        return {"prompt": "x"}

    with DAG("campaign"):
        operator = task.evoimage(card)().operator

    assert operator.multiple_outputs is False


@pytest.mark.parametrize(
    "returned",
    [
        None,
        3,
        "",
        "  ",
        [],
        ["a prompt"],
        {},
        {"size": "1:1"},
        {"prompt": "x", "colour": "red"},
        {"prompt": None},
    ],
    ids=repr,
)
def test_anything_else_is_refused_before_the_post(evolink: SimulatorServer, returned: Any):
    def card() -> Any:
        return returned

    with pytest.raises(InvalidRequestError):
        TaskRun(decorated(card, model="gpt-image-1"), store=StateStore()).run()

    assert evolink.state.counters.submissions == 0


def test_prompt_as_an_argument_of_the_decorator_is_a_mistake_of_the_dag():
    with DAG("campaign"), pytest.raises(InvalidRequestError, match="the function returns it"):
        task.evoimage(prompt="x")(lambda: "y")()


@pytest.mark.parametrize("end", ["event", "Airflow's own"])
def test_page_of_the_task_shows_what_the_function_returned_also_after_the_wait(end: str, fake_time: FakeTime):
    def card() -> dict:
        return {"prompt": "Postcard", "size": "2:3", "n": 2}

    made: list[Any] = []
    make = decorated(card, model="gpt-image-1", quality="low")

    def remembered() -> Any:
        made.append(make())
        return made[-1]

    run = TaskRun(remembered, store=StateStore())
    deferral = first_leg(run)
    if end == "event":
        run.resume(deferral, run.wait_in_triggerer(run.stored(deferral)))
    else:
        fake_time.advance(600)
        run.resume_failed(deferral, "Trigger timeout")
    assert len(made) == 2
    for operator in made:
        assert (operator.prompt, operator.size, operator.n, operator.quality) == ("Postcard", "2:3", 2, "low")
