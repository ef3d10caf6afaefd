"""Chinese, Japanese, Korean, Arabic, Hebrew, emoji: through templates, HTTP, logs, XCom and file names."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image

from tools.local_airflow.airflow import LocalAirflow

pytestmark = pytest.mark.system

PROMPTS = runpy.run_path(str(Path(__file__).parent / "dags" / "languages.py"))["PROMPTS"]


@pytest.fixture(scope="module")
def saved_to(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("画像 обложки")


@pytest.fixture(scope="module")
def run_id(airflow: LocalAirflow, saved_to: Path) -> str:
    run = airflow.run("languages", {"save_to": f"file://{saved_to}"})
    airflow.wait_for_success("languages", run, deadline=240)
    return run


@pytest.mark.parametrize("index", range(len(PROMPTS)), ids=PROMPTS)
def test_prompt_arrives_unchanged_everywhere(index: int, airflow: LocalAirflow, run_id: str, saved_to: Path):
    manifest = airflow.xcom("languages", run_id, "draw", map_index=index)
    (image,) = manifest["images"]
    path = Path(image["path"].removeprefix("file://"))

    assert manifest["request"]["prompt"] == PROMPTS[index]
    assert path.name == f"海报-плакат-{index}-0.png"
    assert path.is_relative_to(saved_to)
    assert Image.open(path).size == (image["width"], image["height"])
    # The sidecar is for people: it holds the script itself, not escapes of it.
    sidecar = path.with_suffix(".json").read_text(encoding="utf-8")
    assert PROMPTS[index] in json.loads(sidecar)["request"]["prompt"]
    assert PROMPTS[index].split(",")[0].split("“")[0][:10] in sidecar
    assert any(
        PROMPTS[index] in line for line in airflow.task_log("languages", run_id, "draw", map_index=index)
    )
