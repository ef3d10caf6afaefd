"""One rendition: never larger than its channel takes, and an earlier try's is kept only if it is the same."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError
from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.images.provenance import KeptImage, Statement, mark_of
from airflow_provider_evoimage.images.rendering import Encoded, plan_for
from airflow_provider_evoimage.images.signing import SigningIdentity
from airflow_provider_evoimage.renditions import rendition
from airflow_provider_evoimage.renditions.original import Original
from airflow_provider_evoimage.renditions.rendition import Renderer, Task
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.progress import SaveProgress

HERO = Rendition("hero", width=60, height=40, max_kb=100)
IDENTITY = SigningIdentity(certificates=b"", private_key=b"", algorithm="es256", fingerprint="f" * 64)
MARK = mark_of(model="gpt-image-1.5", has_references=False)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    path = tmp_path / "original.png"
    Image.new("RGB", (120, 80), "teal").save(path)
    original = Original(entry={"path": f"file://{path}", "sha256": None}, default_mark=MARK, uses=1)
    original.fetch(tmp_path / "copy.png")
    original.decode()
    plan = plan_for(120, 80, HERO, fit="cover", focus="center")
    return Task(number=3, original=original, channel=HERO, plan=plan, stem="run/mug-hero")


@pytest.fixture
def renderer(tmp_path: Path) -> Renderer:
    (tmp_path / "temporary").mkdir()
    return Renderer(
        destination=Destination(str(tmp_path / "cut")),
        background=None,
        folder=tmp_path / "temporary",
        preview_edge=None,
    )


def made(renderer: Renderer, task: Task) -> Any:
    return renderer.make(task, SaveProgress(renderer.destination, "run/mug.json", "task-unified-1-abcdefgh"))


def test_entry_describes_the_file_that_is_in_its_place(renderer: Renderer, task: Task, tmp_path: Path):
    found = made(renderer, task)
    path = tmp_path / "cut" / "run" / "mug-hero.jpg"
    with Image.open(path) as image:
        assert (image.format, image.size) == ("JPEG", (60, 40))
    entry = dict(found.rendition)
    assert entry.pop("quality") is not None  # type: ignore[misc]
    assert entry == {
        "channel": "hero",
        "path": renderer.destination.url("run/mug-hero.jpg"),
        "sha256": found.entry["sha256"],
        "width": 60,
        "height": 40,
        "bytes": path.stat().st_size,
        "content_type": "image/jpeg",
        "cropped": 0.0,
        "scaled": 0.5,
        "content_credentials": False,
    }
    assert (found.entry["index"], found.entry["path"], found.preview) == (3, entry["path"], None)
    assert list(renderer.folder.iterdir()) == []


def test_what_an_earlier_try_made_is_kept(renderer: Renderer, task: Task):
    before = made(renderer, task).entry
    kept = renderer.still_there(task, before)
    assert kept is not None
    assert kept.entry == before
    assert list(renderer.folder.iterdir()) == []
    assert renderer.still_there(task, None) is None


def with_preview(renderer: Renderer) -> Renderer:
    return replace(renderer, preview_edge=16)


def test_preview_is_made_only_where_one_is_wanted(renderer: Renderer, task: Task):
    found = made(with_preview(renderer), task)
    assert found.preview.size == (16, 11)
    kept = with_preview(renderer).still_there(task, found.entry)
    assert kept is not None
    assert kept.preview is not None
    assert kept.preview.size == (16, 11)


@pytest.mark.parametrize(
    "change",
    [
        lambda task: replace(task, channel=Rendition("hero", width=60, height=40, max_kb=99)),
        lambda task: replace(task, plan=replace(task.plan, box=(0, 0, 60, 40))),
        lambda task: replace(
            task, original=replace(task.original, entry={**task.original.entry, "sha256": "a"})
        ),
        lambda task: replace(
            task, original=replace(task.original, default_mark=mark_of(model="x", has_references=False))
        ),
    ],
    ids=["channel", "plan", "image", "mark"],
)
def test_other_settings_make_it_again(renderer: Renderer, task: Task, change: Callable[[Task], Task]):
    before = made(renderer, task).entry
    assert renderer.still_there(change(task), before) is None


def test_other_background_or_signature_makes_it_again(renderer: Renderer, task: Task):
    before = made(renderer, task).entry
    assert replace(renderer, background="#ffffff").still_there(task, before) is None
    assert replace(renderer, identity=IDENTITY).still_there(task, before) is None
    signed = replace(renderer, identity=replace(IDENTITY, fingerprint="e" * 64))
    assert signed._settings(task) != replace(renderer, identity=IDENTITY)._settings(task)


def test_edited_record_or_changed_file_makes_it_again(renderer: Renderer, task: Task, tmp_path: Path):
    before = dict(made(renderer, task).entry)
    assert renderer.still_there(task, {**before, "rendition": "edited"}) is None
    assert renderer.still_there(task, {**before, "path": "file:///etc/passwd"}) is None
    path = tmp_path / "cut" / "run" / "mug-hero.jpg"
    path.write_bytes(path.read_bytes() + b"x")
    assert renderer.still_there(task, before) is None
    path.unlink()
    assert renderer.still_there(task, before) is None
    assert list(renderer.folder.iterdir()) == []


def padded(monkeypatch: pytest.MonkeyPatch, credentials: int) -> list[int]:
    """Make a rendition as large as its channel allows; return the bytes left free for credentials of this size."""
    spared: list[int] = []

    def render(pixels: Any, channel: Any, plan: Any, *, background: Any, spare_bytes: int) -> Encoded:
        spared.append(spare_bytes)
        assert len(spared) < 5
        file = io.BytesIO()
        pixels.resize(plan.canvas).convert("RGB").save(file, "JPEG")
        content = file.getvalue().ljust(channel.max_bytes - spare_bytes, b"\0")
        return Encoded(content=content, format="jpeg", width=60, height=40, quality=90)

    def sign(_: Any, source: Path, target: Path, **fields: Any) -> None:
        assert fields["title"] == "mug-hero.jpg"
        assert fields["actions"] == ["resized", "converted"]
        target.write_bytes(source.read_bytes() + b"\0" * credentials)

    monkeypatch.setattr(rendition, "render", render)
    monkeypatch.setattr(rendition, "sign_image", sign)
    return spared


def test_room_is_left_for_credentials_once_their_size_is_known(
    renderer: Renderer, task: Task, monkeypatch: pytest.MonkeyPatch
):
    spared = padded(monkeypatch, 30_000)
    found = made(replace(renderer, identity=IDENTITY), task)
    assert spared[1] == spared[0] + 30_000
    assert len(spared) == 2
    assert 99_000 < found.rendition["bytes"] <= 100_000
    assert found.rendition["content_credentials"] is True


@pytest.mark.parametrize("credentials", [100_000, 200_000])
def test_credentials_that_leave_no_room_are_refused(
    renderer: Renderer, task: Task, monkeypatch: pytest.MonkeyPatch, credentials: int
):
    padded(monkeypatch, credentials)
    with pytest.raises(
        InvalidRequestError, match="hero takes 100,000 bytes, and its content credentials alone"
    ):
        made(replace(renderer, identity=IDENTITY), task)
    assert list(renderer.folder.iterdir()) == []


def test_rendition_without_its_mark_is_an_error(
    renderer: Renderer, task: Task, monkeypatch: pytest.MonkeyPatch
):
    kept = KeptImage(statement=Statement(kind="JPEG"), because="the disk is full")
    monkeypatch.setattr(rendition, "mark_image", lambda *_: kept)
    with pytest.raises(DestinationError, match="could not be marked as made by AI: the disk is full"):
        made(renderer, task)
    assert list(renderer.folder.iterdir()) == []


def test_image_that_pillow_cannot_draw_is_named(
    renderer: Renderer, task: Task, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(rendition, "render", fail)
    with pytest.raises(DestinationError, match=r"original\.png cannot be rendered: odd"):
        made(renderer, task)
    monkeypatch.setattr(
        rendition, "render", lambda *_, **__: (_ for _ in ()).throw(InvalidRequestError("no alpha"))
    )
    with pytest.raises(InvalidRequestError, match="no alpha"):
        made(renderer, task)
