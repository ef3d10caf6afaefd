"""``evoimage reindex``: pictures that were saved before, or by tasks without ``reuse``, are found afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.command.reindex import reindex
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.command_runs import as_json, printed
from tests.integration.task_driver import TaskRun, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


def draw(folder: Path | str, run_id: str, **arguments: Any) -> dict[str, Any]:
    return TaskRun(generate(**{"save_to": str(folder), **arguments}), run_id=run_id).run()


def paid(evolink: SimulatorServer) -> int:
    return evolink.state.counters.paid


def test_pictures_of_tasks_without_reuse_are_found_afterwards(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    logo = tmp_path / "logo.png"
    Image.new("RGB", (40, 30), "teal").save(logo)
    given: list[dict[str, Any]] = [
        {},
        {"image_urls": [str(logo)]},
        {"image_urls": ["https://b.s3.amazonaws.com/a.png?v=3&X-Amz-Signature=s"]},
        {"variant": "b"},
        {"provenance": "keep", "prompt": "a blue fox"},
        {"extra_body": {"background": "opaque"}, "n": 2},
    ]
    folder = tmp_path / "images"
    for number, fields in enumerate(given):
        draw(folder, f"old-{number}", **fields)
    # A variant cannot be told from the request, so that task has written its entry.
    assert len(list((folder / "_index").glob("*.json"))) == 1

    assert printed("reindex", str(folder)) == "5 entries written, 1 were right before.\n"
    assert printed("reindex", str(folder)) == "0 entries written, 6 were right before.\n"

    before = paid(evolink)
    for number, fields in enumerate(given):
        assert "reused" in draw(folder, f"new-{number}", reuse=True, **fields), fields
    assert paid(evolink) == before == len(given)


def test_folder_may_be_named_by_another_url(evolink: SimulatorServer, tmp_path: Path) -> None:
    draw(tmp_path.as_uri(), "old")
    assert as_json("reindex", str(tmp_path))["left_out"] == {}
    assert "reused" in draw(tmp_path, "new", reuse=True)
    assert "reused" in draw(tmp_path.as_uri(), "newer", reuse=True)


def test_index_that_was_removed_or_edited_is_written_again(evolink: SimulatorServer, tmp_path: Path) -> None:
    manifest = draw(tmp_path, "one", reuse=True, variant="a")
    (entry,) = (tmp_path / "_index").glob("*.json")
    before = json.loads(entry.read_text())
    entry.write_text(json.dumps(before | {"sidecar": "elsewhere.json"}))
    assert len(reindex(str(tmp_path)).written) == 1
    shutil.rmtree(tmp_path / "_index")
    assert len(reindex(str(tmp_path)).written) == 1
    after = json.loads(entry.read_text())
    assert {**after, "saved_at": None} == {**before, "saved_at": None}
    assert after["saved_at"] == manifest["completed"]
    assert "reused" in draw(tmp_path, "two", reuse=True, variant="a")


def test_newest_of_equal_pictures_wins(evolink: SimulatorServer, tmp_path: Path, fake_time: Any) -> None:
    draw(tmp_path, "a-later-name")
    fake_time.sleep(3600)
    newest = draw(tmp_path, "a-earlier-name")
    reindex(str(tmp_path))
    assert draw(tmp_path, "new", reuse=True)["evolink_task_id"] == newest["evolink_task_id"]


def test_what_cannot_be_identified_is_named_and_left_out(evolink: SimulatorServer, tmp_path: Path) -> None:
    secret = draw(tmp_path, "secret", image_urls=["https://example.com/a.png?api_key=hush"])
    gone = draw(tmp_path, "gone", prompt="a blue fox")
    Path(gone["images"][0]["path"]).unlink()
    unknown = draw(tmp_path, "unknown", prompt="a green fox")
    sidecar = Path(unknown["images"][0]["path"]).with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"request": None}))
    (tmp_path / "of-somebody-else.json").write_text("[1]")

    found = reindex(str(tmp_path))

    assert found.written == found.kept == []
    assert sorted(because[:26] for because in found.left_out.values()) == [
        f"its image {gone['images'][0]['path']}"[:26],
        "its request is unknown, or",
        "its request is unknown, or",
    ]
    assert "reused" not in draw(tmp_path, "new", reuse=True, prompt=secret["request"]["prompt"])
