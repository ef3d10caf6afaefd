"""Renditions of saved images: exact for their channel, marked, complete or absent, and made only once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError, NameTakenError
from airflow_provider_evoimage.images.channels import CHANNELS, Rendition
from airflow_provider_evoimage.images.xmp import mark_in
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.renditions import rendition as making_one
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage.stores import LocalFiles
from tests.integration.task_driver import Killed, TaskRun, batch, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


def rendering(images: Any, folder: Path, tries: int = 0, task_id: str = "cut", **arguments: Any) -> Any:
    fields: dict[str, Any] = {
        "renditions": ["meta.story", "meta.square"],
        "background": "#ffffff",
    } | arguments

    def operator() -> EvoImageRenditionsOperator:
        return EvoImageRenditionsOperator(task_id=task_id, images=images, save_to=str(folder), **fields)

    return TaskRun(operator, task_id=task_id, try_number=tries).run()


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, Any]:
    """One saved image of 1024×1536 with an alt text."""
    return TaskRun(
        generate(model="gpt-image-1.5", size="1024x1536", save_to=str(tmp_path / "drawn"), alt_text="A fox")
    ).run()


def path_of(entry: dict[str, Any]) -> Path:
    return Path(entry["path"].removeprefix("file://"))


def test_renditions_are_exact_marked_and_described(drawn: dict[str, Any], tmp_path: Path):
    names = [name for name, channel in CHANNELS.items() if 0.4 < channel.ratio < 1.6]
    manifest = rendering(drawn, tmp_path / "cut", renditions=names)
    made = manifest["images"][0]["renditions"]
    assert [each["channel"] for each in made] == names
    for each in made:
        channel = CHANNELS[each["channel"]]
        content = path_of(each).read_bytes()
        assert each["sha256"] == hashlib.sha256(content).hexdigest()
        assert each["bytes"] == len(content)
        assert channel.max_bytes is None or len(content) <= channel.max_bytes
        with Image.open(path_of(each)) as image:
            image.load()
            assert image.size == (channel.width, channel.height) == (each["width"], each["height"])
            assert image.format.lower() in channel.formats
            mark = mark_in(image.info["xmp"])
        assert mark.digital_source_type == "trainedAlgorithmicMedia"
        assert mark.alt_text == "A fox"
    story = next(each for each in made if each["channel"] == "meta.story")
    assert (round(story["cropped"], 3), story["scaled"]) == (0.156, 1.25)
    assert {name: manifest[name] for name in ("evolink_task_id", "request", "usage")} == {
        name: drawn[name] for name in ("evolink_task_id", "request", "usage")
    }
    assert len(list((tmp_path / "cut").rglob("*.json"))) == 1


def test_renditions_cost_nothing(drawn: dict[str, Any], tmp_path: Path, evolink: SimulatorServer):
    before = len(evolink.state.generations), evolink.state.counters.downloads
    rendering(drawn, tmp_path / "cut")
    assert (len(evolink.state.generations), evolink.state.counters.downloads) == before


def test_own_rendition_keeps_its_limit(drawn: dict[str, Any], tmp_path: Path):
    hero = Rendition("hero", width=1200, height=900, format="webp", max_kb=40)
    (made,) = rendering(drawn, tmp_path / "cut", renditions=[hero])["images"][0]["renditions"]
    assert made["bytes"] <= 40_000
    assert made["content_type"] == "image/webp"
    assert path_of(made).name == "cut-0-0-hero.webp"


def test_impossible_crop_is_refused_before_anything_is_written(drawn: dict[str, Any], tmp_path: Path):
    with pytest.raises(InvalidRequestError, match="would lose 92% of an image of 1024×1536"):
        rendering(drawn, tmp_path / "cut", renditions=["meta.square", "google.banner_728x90"])
    assert not list((tmp_path / "cut").rglob("*.*"))
    with pytest.raises(InvalidRequestError, match=r"upscale='error'. Draw it with size='for:meta.story'"):
        rendering(drawn, tmp_path / "cut", upscale="error")


def test_wrong_arguments_are_refused_when_the_dag_is_parsed():
    for wrong in (
        {"renditions": ["tiktok"]},
        {"fit": "fill"},
        {"focus": "left"},
        {"upscale": "no"},
        {"parallel": 0},
    ):
        fields: dict[str, Any] = {"renditions": ["meta.story"]} | wrong
        with pytest.raises(InvalidRequestError):
            EvoImageRenditionsOperator(task_id="cut", images=[], save_to="file:///tmp/x", **fields)


def test_whole_batch_is_rendered_in_one_task(tmp_path: Path):
    summary = TaskRun(batch(["a mug", "a cup"], tmp_path / "drawn", size="1:1")).run()
    manifests = rendering(summary, tmp_path / "cut", renditions=["meta.square"])
    assert len(manifests) == 2
    assert len(list((tmp_path / "cut").rglob("*.jpg"))) == 2
    assert rendering(summary["manifest"], tmp_path / "again", renditions=["meta.square"])[0]["images"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_retry_after_a_kill_makes_only_what_is_missing(
    drawn: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    names = ["meta.story", "meta.square", "meta.feed"]
    whole = rendering(drawn, tmp_path / "whole", renditions=names)["images"][0]["renditions"]
    publish, count = LocalFiles.publish, 0

    def until(self: Any, local: Path, path: str, content_type: str) -> None:
        nonlocal count
        count += content_type == "image/jpeg"
        if count == number:
            raise Killed
        publish(self, local, path, content_type)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "publish", until)
        with pytest.raises(Killed):
            rendering(drawn, tmp_path / "cut", renditions=names, parallel=1)
    rendered, render = [], making_one.render
    monkeypatch.setattr(
        making_one, "render", lambda *args, **kwargs: rendered.append(args) or render(*args, **kwargs)
    )
    made = rendering(drawn, tmp_path / "cut", tries=1, renditions=names)["images"][0]["renditions"]
    assert len(rendered) == 3 - (number - 1)
    assert [each["sha256"] for each in made] == [each["sha256"] for each in whole]
    assert not list((tmp_path / "cut").rglob(".*"))


def test_changed_or_missing_original_is_an_error(drawn: dict[str, Any], tmp_path: Path):
    path_of(drawn["images"][0]).write_bytes(b"another")
    with pytest.raises(EvoImageError, match="no longer the image of its manifest"):
        rendering(drawn, tmp_path / "cut")
    del drawn["images"][0]["sha256"]
    with pytest.raises(EvoImageError, match="cannot be rendered"):
        rendering(drawn, tmp_path / "cut")
    path_of(drawn["images"][0]).unlink()
    with pytest.raises(EvoImageError, match="cannot be read"):
        rendering(drawn, tmp_path / "cut")


def test_files_of_another_task_of_the_run_are_left_alone(drawn: dict[str, Any], tmp_path: Path):
    arguments = {"filename_template": "{item}-{index}.{ext}"}
    rendering(drawn, tmp_path / "cut", **arguments)
    with pytest.raises(NameTakenError):
        rendering(drawn, tmp_path / "cut", task_id="other", **arguments)


def test_links_without_files_are_refused(tmp_path: Path):
    unsaved = TaskRun(generate()).run()
    with pytest.raises(InvalidRequestError, match="are not saved"):
        rendering(unsaved, tmp_path)
    for wrong in (None, 5, {}, [], "task-unified-1", [None]):
        with pytest.raises(InvalidRequestError):
            rendering(wrong, tmp_path)
