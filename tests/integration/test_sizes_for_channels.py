"""``size="for:…"``: the request, its price and its identity are those of the size that it stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import BudgetExceededError, InvalidRequestError
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.command_runs import evoimage
from tests.integration.task_driver import TaskRun, batch, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


def test_size_of_a_channel_is_requested_estimated_and_drawn(tmp_path: Path):
    fields: dict[str, Any] = {"model": "gpt-image-2", "size": "for:meta.story", "save_to": str(tmp_path)}
    manifest = TaskRun(generate(**fields)).run()
    plain = TaskRun(generate(**fields | {"size": "1088x1920", "save_to": str(tmp_path / "plain")})).run()
    assert manifest["request"]["size"] == "1088x1920"
    assert (manifest["images"][0]["width"], manifest["images"][0]["height"]) == (1088, 1920)
    assert manifest["usage"]["estimate"] == plain["usage"]["estimate"]


def test_size_of_a_channel_is_the_same_request_as_that_size(tmp_path: Path, evolink: SimulatorServer):
    fields: dict[str, Any] = {"model": "gpt-image-2", "save_to": str(tmp_path)}
    TaskRun(generate(**fields, size="for:meta.story")).run()
    # The same key, so nothing is paid again.
    TaskRun(generate(**fields, size="1088x1920"), try_number=1).run()
    assert len(evolink.state.generations) == 1


def test_limit_holds_for_the_size_that_is_sent(tmp_path: Path, evolink: SimulatorServer):
    with pytest.raises(BudgetExceededError):
        TaskRun(
            generate(model="gpt-image-2", size="for:meta.story", max_credits=0.01, save_to=str(tmp_path))
        ).run()
    assert evolink.state.generations == {}


def test_unknown_channel_is_refused_before_anything_is_paid(tmp_path: Path, evolink: SimulatorServer):
    with pytest.raises(InvalidRequestError, match="Unknown channel"):
        TaskRun(generate(size="for:tiktok", save_to=str(tmp_path))).run()
    with pytest.raises(InvalidRequestError, match="Unknown channel"):
        TaskRun(batch([{"prompt": "a mug", "size": "for:tiktok"}], tmp_path)).run()
    assert evolink.state.generations == {}


def test_batch_draws_each_item_for_its_channel(tmp_path: Path):
    requests = [
        {"prompt": "a mug", "size": "for:meta.story"},
        {"prompt": "a mug", "size": "for:google.square", "model": "gpt-image-1"},
    ]
    summary = TaskRun(batch(requests, tmp_path, model="gpt-image-2")).run()
    lines = Path(summary["manifest"].removeprefix("file://")).read_text().splitlines()
    assert [json.loads(line)["request"]["size"] for line in lines if "item" in json.loads(line)] == [
        "1088x1920",
        "1024x1024",
    ]


def test_command_shows_sizes_losses_and_credits():
    done = evoimage("sizes", "--model", "gpt-image-1.5", "--for", "meta.story,google.square")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "meta.story" in line)
    assert "1024x1536" in row
    assert "15.6%" in row
    assert "×1.25" in row
    done = evoimage("sizes", "--json", "-m", "gpt-image-2")
    assert all(each["credits_high"] > 0 for each in json.loads(done.stdout))
