"""The list of the account's generations: to find one whose answer was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

Submit = Callable[..., str]


def test_newest_come_first_page_by_page_and_by_status(airflow_connection: Any, submitted: Submit):
    tasks = [submitted(f"fox {number} [[instant]]") for number in range(3)]
    tasks.append(submitted("a running fox [[never]]"))
    hook = EvoImageHook()

    first = hook.list_generations(page=1, page_size=3)
    second = hook.list_generations(page=2, page_size=3)
    running = hook.list_generations(status="processing")

    listed = [each.evolink_task_id for each in (*first.generations, *second.generations)]
    assert listed == list(reversed(tasks))
    assert first.total == 4
    assert [each.evolink_task_id for each in running.generations] == [tasks[-1]]
    assert all(each.created is not None for each in first.generations)
    # Links come from reading a generation only.
    assert all(each.image_urls == () for each in first.generations)


def test_list_of_another_model_is_empty(airflow_connection: Any, submitted: Submit):
    task = submitted("a fox")
    hook = EvoImageHook()
    assert [each.evolink_task_id for each in hook.list_generations().generations] == [task]
    assert hook.list_generations(model="another-model").generations == ()


@pytest.mark.parametrize("query", [{"page": 0}, {"page_size": 0}, {"page_size": 51}], ids=repr)
def test_page_that_cannot_be_is_refused_before_anything_is_sent(
    airflow_connection: Any, query: dict[str, int]
):
    with pytest.raises(InvalidRequestError):
        EvoImageHook().list_generations(**query)
