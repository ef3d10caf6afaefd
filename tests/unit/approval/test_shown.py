"""What a person is shown: each image by its number, and whether its files are still the same."""

from __future__ import annotations

import contextvars
import hashlib
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.approval import shown
from airflow_provider_evoimage.approval.shown import require_unchanged, shown_images, to_xcom
from airflow_provider_evoimage.exceptions import DestinationError, ImagesChangedError
from tests.unit.approval.test_page import manifest

WHOSE = contextvars.ContextVar("whose", default="nobody's")


def test_images_are_numbered_across_manifests():
    given: Any = [manifest(2, renditions=1), {**manifest(0)}, {**manifest(1, name="b"), "extra": 1}]
    given[2]["images"][0]["renditions"] = "edited"
    images = shown_images(given)
    assert [(each.number, each.manifest, each.place) for each in images] == [(1, 0, 0), (2, 0, 1), (3, 2, 0)]
    assert [len(each.files) for each in images] == [2, 2, 1]
    assert to_xcom(images, "one") == {
        "v": 1,
        "choose": "one",
        "images": [
            {
                **{name: image[name] for name in ("path", "sha256", "width", "height")},
                "channel": None,
                "number": number,
                "renditions": [
                    {name: each[name] for name in ("path", "sha256", "width", "height", "channel")}
                    for each in (image["renditions"] if number < 3 else [])
                ],
            }
            for number, image in enumerate([*given[0]["images"], *given[2]["images"]], start=1)
        ],
    }


def on_disk(folder: Path) -> Any:
    given = manifest(3, renditions=2)
    for number, image in enumerate(given["images"]):
        for place, entry in enumerate([image, *image["renditions"]]):
            path = folder / f"{number}-{place}"
            path.write_bytes(path.name.encode() * 700_000)
            entry |= {"path": f"file://{path}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return given


def test_every_file_is_compared(tmp_path: Path):
    given = on_disk(tmp_path)
    require_unchanged(shown_images([given]))
    for path in tmp_path.iterdir():
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + b"x")
        with pytest.raises(ImagesChangedError, match=f"{path.name} is no longer the image of its manifest"):
            require_unchanged(shown_images([given]))
        path.unlink()
        with pytest.raises(DestinationError, match=f"{path.name} cannot be read: ") as failed:
            require_unchanged(shown_images([given]))
        assert failed.value.billed is False
        path.write_bytes(kept)


def test_threads_find_the_connections_of_the_task(monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []

    def sha256(path: str) -> str:
        read.append(WHOSE.get())
        return by_path[path]

    images = shown_images([manifest(3)])
    by_path = {each.file.path: each.file.sha256 for each in images}
    WHOSE.set("the task's")
    monkeypatch.setattr(shown, "_sha256", sha256)
    require_unchanged(images)
    assert read == ["the task's"] * 3
