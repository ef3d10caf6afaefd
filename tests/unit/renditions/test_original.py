"""An image of a manifest while its renditions are made: it is the one of the manifest, and is let go after the last."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError
from airflow_provider_evoimage.images.provenance import MarkedImage, mark_image, mark_of
from airflow_provider_evoimage.images.result_file import describe_image
from airflow_provider_evoimage.images.xmp import Mark
from airflow_provider_evoimage.renditions.original import Original

DEFAULT = mark_of(model="gpt-image-1.5", has_references=True)
OWN = "airflow-provider-evoimage (EvoLink gpt-image-1)"


def original(path: Path, uses: int = 1, **entry: Any) -> Original:
    return Original(entry={"path": f"file://{path}", **entry}, default_mark=DEFAULT, uses=uses)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.png"
    Image.new("RGB", (12, 8)).save(path)
    return path


@pytest.mark.parametrize(
    ("says", "goes_on"),
    [
        (None, DEFAULT),
        (
            Mark(digital_source_type="compositeSynthetic", creator_tool=OWN, alt_text="a mug"),
            Mark(digital_source_type="compositeSynthetic", creator_tool=OWN, alt_text="a mug"),
        ),
        (
            Mark(digital_source_type="digitalCapture", creator_tool="Photoshop"),
            Mark(digital_source_type=DEFAULT.digital_source_type, creator_tool=DEFAULT.creator_tool),
        ),
    ],
    ids=["nothing", "an AI made it", "a camera made it"],
)
def test_renditions_say_what_the_file_says_as_far_as_it_speaks_of_ai(
    plain: Path, tmp_path: Path, says: Mark | None, goes_on: Mark
):
    path = plain
    if says is not None:
        path = tmp_path / "marked.png"
        assert isinstance(mark_image(describe_image(plain), path, says), MarkedImage)
    found = original(path)
    assert found.mark == DEFAULT
    found.fetch(tmp_path / "copy")
    assert found.mark == goes_on


def test_only_the_image_of_the_manifest_is_taken(plain: Path, tmp_path: Path):
    sha256 = hashlib.sha256(plain.read_bytes()).hexdigest()
    original(plain, sha256=sha256).fetch(tmp_path / "copy")
    original(plain, sha256=None).fetch(tmp_path / "copy")
    with pytest.raises(InvalidRequestError, match="no longer the image of its manifest"):
        original(plain, sha256="a" * 64).fetch(tmp_path / "copy")
    with pytest.raises(DestinationError, match="cannot be read"):
        original(tmp_path / "gone.png").fetch(tmp_path / "copy")


def test_type_is_that_of_the_bytes(plain: Path, tmp_path: Path):
    found = original(plain)
    with pytest.raises(RuntimeError, match="not fetched"):
        _ = found.content_type
    found.fetch(tmp_path / "copy")
    assert found.content_type == "image/png"
    (tmp_path / "copy").write_bytes(b"text")
    assert found.content_type == "application/octet-stream"
    with pytest.raises(DestinationError, match="cannot be rendered"):
        found.decode()


def test_copy_and_pixels_go_after_the_last_rendition(plain: Path, tmp_path: Path):
    found = original(plain, uses=2)
    with pytest.raises(RuntimeError, match="not decoded"):
        _ = found.pixels
    found.fetch(tmp_path / "copy")
    found.decode()
    found.used()
    assert found.pixels.size == (12, 8)
    assert found.local.exists()
    found.used()
    assert not found.local.exists()
    with pytest.raises(RuntimeError, match="not decoded"):
        _ = found.pixels
    original(plain).let_go()
