"""Pictures: whole and small, only images, from a cache that keeps its limit."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from airflow_provider_evoimage.plugins import pictures
from airflow_provider_evoimage.plugins.pictures import Thumbnails, open_picture
from airflow_provider_evoimage.plugins.roots import Location, NotShownError


def picture(path: Path, size: tuple[int, int] = (1200, 800), kind: str = "PNG") -> Location:
    Image.new("RGB", size, "red").save(path, kind)
    return Location.read(f"file://{path}")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_thumbnail_is_small_and_a_webp(tmp_path: Path, kind: str):
    content = Thumbnails(tmp_path / "cache").get(picture(tmp_path / "a", kind=kind), "v1")
    with Image.open(io.BytesIO(content)) as small:
        assert (small.format, small.size) == ("WEBP", (384, 256))


def test_transparency_survives(tmp_path: Path):
    Image.new("RGBA", (500, 500), (255, 0, 0, 90)).save(tmp_path / "a.png")
    where = Location.read(f"file://{tmp_path}/a.png")
    with Image.open(io.BytesIO(Thumbnails(tmp_path / "cache").get(where, "v1"))) as small:
        assert small.mode == "RGBA"


def test_whole_file_comes_in_pieces(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(600_000))
    opened = open_picture(Location.read(f"file://{path}"))
    pieces = list(opened.pieces())
    assert (opened.content_type, opened.size) == ("image/png", 600_008)
    assert max(map(len, pieces)) <= pictures.PIECE_BYTES
    assert b"".join(pieces) == path.read_bytes()
    assert opened.file.closed


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"root:x:0:0", 415),
        (b"", 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (b"%PDF-1.7", 415),
    ],
)
def test_what_is_no_image_is_never_shown(tmp_path: Path, content: bytes, status: int):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    where = Location.read(f"file://{path}")
    for attempt in (lambda: open_picture(where), lambda: Thumbnails(tmp_path / "cache").get(where, "v")):
        with pytest.raises(NotShownError) as refused:
            attempt()
        assert refused.value.status == status


def test_damaged_image_has_no_thumbnail(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(NotShownError, match="damaged"):
        Thumbnails(tmp_path / "cache").get(Location.read(f"file://{path}"), "v")


def test_too_many_pixels_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    with pytest.raises(NotShownError, match="too many pixels"):
        Thumbnails(tmp_path / "cache").get(picture(tmp_path / "a.png"), "v")


def test_file_that_is_gone_says_so(tmp_path: Path):
    with pytest.raises(NotShownError, match="gone") as refused:
        open_picture(Location.read(f"file://{tmp_path}/none.png"))
    assert refused.value.status == 404


def test_pipe_and_folder_hold_up_nothing(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(NotShownError):
            open_picture(Location.read(f"file://{tmp_path}/{name}"))


def test_unknown_connection_is_refused_before_the_storage_is_asked():
    """A storage would fall back to the credentials of the machine."""
    with pytest.raises(NotShownError, match="no Airflow connection 'nobody'") as refused:
        open_picture(Location.read("s3://nobody@bucket/a.png"))
    assert refused.value.status == 403


def test_new_version_of_a_file_gets_a_new_thumbnail(tmp_path: Path):
    thumbnails = Thumbnails(tmp_path / "cache")
    where = picture(tmp_path / "a.png")
    first = thumbnails.get(where, "v1")
    picture(tmp_path / "a.png", size=(100, 300))
    assert thumbnails.get(where, "v1") == first
    assert thumbnails.get(where, "v2") != first


def test_cache_keeps_its_limit_and_drops_what_was_unused_longest(tmp_path: Path):
    thumbnails = Thumbnails(tmp_path / "cache", max_bytes=2_500)
    (tmp_path / "cache").mkdir()
    for number in range(5):
        (tmp_path / "cache" / f"{number}.webp").write_bytes(b"x" * 1000)
        os.utime(tmp_path / "cache" / f"{number}.webp", (number, number))
    thumbnails.trim()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["3.webp", "4.webp"]


def test_cache_that_cannot_be_written_costs_only_time(tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    assert Thumbnails(tmp_path / "cache").get(picture(tmp_path / "a.png"), "v1")
