"""The functions behind ``evoimage generate`` and ``save``, in this process: what they pay, wait for and write."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from airflow_provider_evoimage.command import saving
from airflow_provider_evoimage.command.generating import requested, submitted
from airflow_provider_evoimage.command.saving import DEFAULT_NAMES, finished, save
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    BudgetExceededError,
    FileExistsAtDestinationError,
    GenerationFailedError,
    GenerationLostError,
    GenerationTimeoutError,
    GenerationUnfinishedError,
    InvalidRequestError,
)
from airflow_provider_evoimage.images.provenance import read_statement
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.waiting.event import WaitEvent
from tests.integration.fake_time import FakeTime

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

QUIET = Console(quiet=True)


def request(prompt: str = "a mug", **changed: Any) -> ImageRequest:
    fields: dict[str, Any] = {
        "model": "gpt-image-1.5",
        "size": None,
        "quality": "low",
        "n": 1,
        "max_credits": None,
    }
    return requested(None, prompt=prompt, **(fields | changed))[0]


def test_request_is_checked_and_priced_before_anything_is_sent(
    evolink: SimulatorServer, airflow_connection: Any
):
    airflow_connection(default_model="gpt-image-1")
    fields: dict[str, Any] = {"prompt": "a mug", "size": "1024x1024", "quality": "low", "n": 2}
    built, cost = requested(None, model=None, max_credits=Decimal(50), **fields)
    assert built == ImageRequest.build(model="gpt-image-1", **fields)
    assert cost is not None
    assert 0 < cost.credits_high <= 50
    with pytest.raises(BudgetExceededError):
        requested(None, model=None, max_credits=cost.credits_low / 2, **fields)
    with pytest.raises(InvalidRequestError):
        request(size="7x1")
    assert evolink.state.counters.submissions == 0


def test_same_command_never_pays_twice(evolink: SimulatorServer):
    first = submitted(None, request(), destination="/a", again=False)
    assert submitted(None, request(), destination="/a", again=False).evolink_task_id == first.evolink_task_id
    assert evolink.state.counters.paid == 1
    # Another request, another folder and --again are new purchases.
    ids = {
        submitted(None, request("a cup"), destination="/a", again=False).evolink_task_id,
        submitted(None, request(), destination="/b", again=False).evolink_task_id,
        submitted(None, request(), destination="/a", again=True).evolink_task_id,
        submitted(None, request(), destination="/a", again=True).evolink_task_id,
    }
    assert len(ids | {first.evolink_task_id}) == 5
    assert evolink.state.counters.paid == 5


def test_key_stays_the_same_from_release_to_release(evolink: SimulatorServer):
    """Otherwise a command that is run again after an upgrade pays again."""
    submitted(None, request(), destination="/a", again=False)
    (made,) = evolink.state.generations.values()
    assert made.idempotency_key == (
        "airflow-evoimage-6a1a76122ab16d519f69cf4800404405887282329577cba2f8836472eea6b4f1"
    )


def test_namespace_of_the_connection_is_part_of_the_key(evolink: SimulatorServer, airflow_connection: Any):
    submitted(None, request(), destination="/a", again=False)
    airflow_connection(idempotency_namespace="staging")
    submitted(None, request(), destination="/a", again=False)
    assert evolink.state.counters.paid == 2


def test_unfinished_generation_is_waited_for_only_if_asked(evolink: SimulatorServer, fake_time: FakeTime):
    task = submitted(None, request(), destination="/a", again=False).evolink_task_id
    with pytest.raises(
        GenerationUnfinishedError, match=rf"{task} is still \w+.*, so there is nothing to save yet"
    ) as raised:
        finished(None, task, timeout=None, console=QUIET)
    assert raised.value.evolink_task_id == task
    assert fake_time.slept == []
    assert finished(None, task, timeout=3600, console=QUIET).status == "completed"
    slept = len(fake_time.slept)
    assert slept
    # Nothing is waited for once it has ended.
    assert finished(None, task, timeout=3600, console=QUIET).status == "completed"
    assert len(fake_time.slept) == slept


def test_wait_ends_at_its_deadline(fake_time: FakeTime):
    task = submitted(None, request("[[never]]"), destination="/a", again=False).evolink_task_id
    with pytest.raises(GenerationTimeoutError, match="was still processing after 5 min"):
        finished(None, task, timeout=300, console=QUIET)
    assert 295 <= sum(fake_time.slept) <= 310


def test_wait_that_broke_off_says_why(monkeypatch: pytest.MonkeyPatch):
    task = submitted(None, request("[[never]]"), destination="/a", again=False).evolink_task_id
    ended = WaitEvent(endings={task: "lost"}, reason="the key was refused for an hour")
    monkeypatch.setattr(saving, "wait_on_worker", lambda *_: ended)
    with pytest.raises(GenerationLostError, match="broke off: the key was refused for an hour"):
        finished(None, task, timeout=300, console=QUIET)


def test_failed_generation_says_so():
    task = submitted(None, request("[[fail:service_error]]"), destination="/a", again=False).evolink_task_id
    with pytest.raises(GenerationFailedError):
        finished(None, task, timeout=3600, console=QUIET)


def test_images_are_saved_as_asked(tmp_path: Path):
    task = submitted(None, request(n=2), destination="/a", again=False).evolink_task_id
    generation = finished(None, task, timeout=3600, console=QUIET)

    def saved(folder: str, **changed: Any) -> Any:
        fields: dict[str, Any] = {
            "destination": str(tmp_path / folder),
            "names": DEFAULT_NAMES,
            "if_exists": "error",
            "provenance": "mark",
            "alt_text": "a mug",
            "console": QUIET,
        }
        return save(None, generation, **(fields | changed))

    manifest = saved("a")
    assert sorted(each.name for each in (tmp_path / "a").iterdir()) == [
        f"{task}-0.json",
        f"{task}-0.png",
        f"{task}-1.png",
    ]
    assert manifest["made_by"] == {
        "dag_id": "evoimage",
        "run_id": "command",
        "task_id": "save",
        "map_index": -1,
    }
    for number in (0, 1):
        with (tmp_path / "a" / f"{task}-{number}.png").open("rb") as file:
            assert read_statement(file).alt_text == "a mug"
    kept = saved("b", provenance="keep", alt_text=None, names="cup-{index}.{ext}")
    assert {Path(image["path"]).name for image in kept["images"]} == {"cup-0.png", "cup-1.png"}
    assert all(image["provenance"]["kept_because"] for image in kept["images"])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"{task}-0.png").write_bytes(b"another")
    with pytest.raises(FileExistsAtDestinationError):
        saved("c")
    saved("c", if_exists="overwrite")
    assert (tmp_path / "c" / f"{task}-0.png").read_bytes() != b"another"
