"""Airflow stores a trigger as a class path and arguments: those of earlier versions still make the trigger."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.triggers.batch import EvoImageBatchTrigger
from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED
from airflow_provider_evoimage.triggers.generation import EvoImageGenerationTrigger
from airflow_provider_evoimage.waiting.packing import unpack_ids

TASKS = ["task-unified-1757156400-abcdefgh", "task-unified-1757156401-ijklmnop"]
GENERATION = (
    "airflow_provider_evoimage.triggers.generation.EvoImageGenerationTrigger",
    {
        "evolink_task_ids": TASKS,
        "evoimage_conn_id": "evoimage_default",
        "deadline": 1757160000.5,
        "poll_interval": None,
        "estimated_time": 100.0,
        "was_accepted": True,
    },
)
BATCH = (
    "airflow_provider_evoimage.triggers.batch.EvoImageBatchTrigger",
    {
        "evolink_task_ids": ("eNorSSzO1i3Ny0zLTE3RNTQ3NTc0NTMxMNBNTEpOSU1Lz+AqwarAUDczKzsnNy+/AACzfxTY"),
        "evoimage_conn_id": "evoimage_default",
        "deadline": 1757160000.5,
        "save_every": 25,
        "save_after": 300.0,
        "poll_interval": 7.0,
        "estimated_time": None,
    },
)


CREDITS = (
    "airflow_provider_evoimage.triggers.credits.EvoImageCreditsTrigger",
    {
        "min_credits": 500.0,
        "min_days": None,
        "deadline": 1757160000.5,
        "poll_interval": 300.0,
        "evoimage_conn_id": "evoimage_default",
    },
)
FINISHED = (
    "airflow_provider_evoimage.triggers.finished.EvoImageFinishedTrigger",
    {
        "asset": "account",
        "statuses": ["completed"],
        "model": [],
        "poll_interval": 15.0,
        "evoimage_conn_id": "evoimage_default",
    },
)


def made_from(path: str, arguments: dict[str, Any]) -> Any:
    """Make the trigger as the triggerer does from its row."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)(**json.loads(json.dumps(arguments)))


# Before version 0.2.
EARLIER_GENERATION = (
    GENERATION[0],
    {name: value for name, value in GENERATION[1].items() if name != "was_accepted"},
)


@pytest.mark.parametrize(
    "row", [GENERATION, EARLIER_GENERATION, BATCH], ids=["generation", "earlier generation", "batch"]
)
def test_stored_arguments_make_the_trigger(row: tuple[str, dict[str, Any]]) -> None:
    path, arguments = row
    trigger = made_from(path, arguments)

    assert trigger.evolink_task_ids == TASKS
    for name in set(arguments) - {"evolink_task_ids"}:
        assert getattr(trigger, name) == arguments[name]


def test_generation_trigger_stores_the_same_path_and_arguments() -> None:
    path, arguments = made_from(*GENERATION).serialize()
    assert (path, arguments) == GENERATION
    assert list(arguments) == list(GENERATION[1])


def test_batch_trigger_stores_the_same_path_and_arguments() -> None:
    path, arguments = made_from(*BATCH).serialize()
    assert path == BATCH[0]
    assert list(arguments) == list(BATCH[1])
    # The packed text depends on the zlib that packed it.
    assert unpack_ids(arguments.pop("evolink_task_ids")) == TASKS
    assert arguments == {name: value for name, value in BATCH[1].items() if name != "evolink_task_ids"}


def test_batch_trigger_takes_plain_ids_and_each_once() -> None:
    trigger = made_from(BATCH[0], BATCH[1] | {"evolink_task_ids": [*TASKS, TASKS[0]]})
    assert trigger.evolink_task_ids == TASKS


@pytest.mark.parametrize(
    ("kind", "arguments"), [(EvoImageGenerationTrigger, GENERATION[1]), (EvoImageBatchTrigger, BATCH[1])]
)
def test_trigger_of_no_generation_is_refused(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="no generation to wait for"):
        kind(**arguments | {"evolink_task_ids": []})


def test_credits_trigger_stores_the_same_path_and_arguments() -> None:
    assert made_from(*CREDITS).serialize() == CREDITS


@pytest.mark.skipif(not IS_SUPPORTED, reason="Airflow < 3.3 does not say when it has stored an event")
def test_finished_trigger_stores_the_same_path_and_arguments() -> None:
    assert made_from(*FINISHED).serialize() == FINISHED
