"""Mapped lists that change after a clear: no item is paid twice, and none gets another's image."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_evoimage.exceptions import (
    GenerationFailedError,
    GenerationRefusedError,
    UnrepeatableSubmissionError,
)
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.money.crashes import STEPS, crash, paid
from tests.integration.task_driver import CONNECTION, StateStore, TaskRun, connection, first_leg

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

ITEMS = ["a mug", "a shoe", "a mug", "a lamp"]


class MappedTask:
    """The task instances of one mapped task, by place; their state store is Airflow's, by place as well."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.places: list[TaskRun] = []

    def expand(self, prompts: list[str]) -> list[TaskRun]:
        """Expand over a list; places that were there before are cleared, as by a user in the UI."""
        for place in self.places:
            place.clear()
        with DAG("campaign"):
            definition = EvoImageGenerateOperator.partial(
                task_id="draw", quality="low", **self.arguments
            ).expand(prompt=prompts)
        for place, prompt in enumerate(prompts):
            if place == len(self.places):
                self.places.append(TaskRun(lambda: None, store=StateStore(), map_index=place))  # type: ignore[arg-type,return-value]
            self.places[place].make = lambda prompt=prompt: definition.unmap({"prompt": prompt})
        return self.places[: len(prompts)]


def prompts_of(evolink: SimulatorServer, manifests: list[dict[str, Any]]) -> list[str]:
    return [evolink.state.generations[each["evolink_task_id"]].order.prompt for each in manifests]


CHANGES = {
    "reversed": (ITEMS[::-1], 4),
    "moved": ([*ITEMS[2:], *ITEMS[:2]], 4),
    "inserted in front": (["a vase", *ITEMS], 5),
    "an equal one inserted": (["a mug", *ITEMS], 5),
    "one gone": (ITEMS[1:], 4),
    "one replaced": (["a vase", *ITEMS[1:]], 5),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_list_that_changes_before_delivery_pays_each_item_once(
    evolink: SimulatorServer, changed: str
) -> None:
    prompts, in_all = CHANGES[changed]
    task = MappedTask()
    for place in task.expand(ITEMS):
        first_leg(place)
    assert paid(evolink) == len(ITEMS)
    manifests = [place.run() for place in task.expand(prompts)]
    assert paid(evolink) == in_all
    assert prompts_of(evolink, manifests) == prompts
    # Equal items have an image each.
    assert len({each["evolink_task_id"] for each in manifests}) == len(prompts)


def test_list_that_changes_at_each_clear_still_pays_each_item_once(evolink: SimulatorServer) -> None:
    task = MappedTask()
    for prompts in (ITEMS, ITEMS[::-1], ITEMS[1:] + ITEMS[:1], ITEMS):
        for place in task.expand(prompts):
            first_leg(place)
    manifests = [place.run() for place in task.places]
    assert paid(evolink) == len(ITEMS)
    assert prompts_of(evolink, manifests) == ITEMS


@pytest.mark.parametrize("step", STEPS)
def test_crash_after_the_list_has_changed_pays_no_more(
    evolink: SimulatorServer, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = MappedTask()
    for place in task.expand(ITEMS):
        first_leg(place)
    for place in task.expand(["a vase", *ITEMS]):
        crash(place, step, monkeypatch)
    manifests = [place.run() for place in task.places]
    assert paid(evolink) == len(ITEMS) + 1
    assert prompts_of(evolink, manifests) == ["a vase", *ITEMS]


def test_list_that_changes_after_delivery_delivers_moved_items_again(evolink: SimulatorServer) -> None:
    task = MappedTask()
    before = [place.run() for place in task.expand(["a mug", "a shoe"])]
    after = [place.run() for place in task.expand(["a shoe", "a mug"])]
    assert [each["evolink_task_id"] for each in after] == [each["evolink_task_id"] for each in before[::-1]]
    assert paid(evolink) == 2


def test_changed_list_asks_all_anew_when_told_so(evolink: SimulatorServer) -> None:
    task = MappedTask(on_clear="regenerate")
    for place in task.expand(["a mug", "a shoe"]):
        place.run()
    for place in task.expand(["a shoe", "a mug"]):
        place.run()
    assert paid(evolink) == 4


@pytest.mark.parametrize("code", ["service_error", "content_policy_violation", "invalid_parameters"])
def test_moved_item_whose_generation_failed_is_asked_for_anew(evolink: SimulatorServer, code: str) -> None:
    failing, fine = f"a mug [[fail:{code}]]", "a shoe"
    task = MappedTask()
    first, second = task.expand([failing, fine])
    with pytest.raises((GenerationFailedError, GenerationRefusedError)):
        first.run()
    second.run()
    for place in task.expand([fine, failing]):
        try:
            place.run()
        except (GenerationFailedError, GenerationRefusedError):
            assert place.ti.map_index == 1
    assert [each.order.prompt for each in evolink.state.generations.values()] == [failing, fine, failing]


def test_moved_item_whose_links_have_died_is_asked_for_anew(evolink: SimulatorServer, fake_time: Any) -> None:
    task = MappedTask()
    for place in task.expand(["a mug", "a shoe"]):
        place.run()
    fake_time.advance(25 * 3600)
    for place in task.expand(["a shoe", "a mug"]):
        place.run()
    assert paid(evolink) == 4


def test_changed_list_is_refused_where_keys_are_ignored(
    evolink: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION, connection(evolink, idempotency="ignored"))
    task = MappedTask()
    for place in task.expand(["a mug", "a shoe"]):
        first_leg(place)
    for place in task.expand(["a shoe", "a mug"]):
        with pytest.raises(UnrepeatableSubmissionError, match="list has changed"):
            place.run()
    assert paid(evolink) == 2
