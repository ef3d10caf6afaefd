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
        with pytest.raises(NotShownError, match="no file") as refused:
            open_picture(Location.read(f"file://{tmp_path}/{name}"))
        assert refused.value.status == 415


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


def test_file_over_the_limit_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    where = picture(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", size)
    Thumbnails(tmp_path / "cache").get(where, "")
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", size - 1)
    for known in (True, False):
        if not known:
            # Some storages do not say how large a file is.
            monkeypatch.setattr(pictures, "open_file", lambda _: ((tmp_path / "a.png").open("rb"), None))
        with pytest.raises(NotShownError, match="too large") as refused:
            Thumbnails(tmp_path / "cache").get(where, "")
        assert refused.value.status == 415


@pytest.mark.parametrize(
    ("beginning", "content_type"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x0a\x00\x00\x0aWEBPVP8 ", "image/webp"),
        (b"GIF87a", "image/gif"),
        (b"\x00\x00\x00\x0aftypavif", "image/avif"),
        (b"\x00\x00\x00\x1cftypavis", "image/avif"),
    ],
)
def test_type_is_that_of_the_first_bytes(tmp_path: Path, beginning: bytes, content_type: str):
    (tmp_path / "a.bin").write_bytes(beginning)
    opened = open_picture(Location.read(f"file://{tmp_path}/a.bin"))
    assert (opened.content_type, b"".join(opened.pieces())) == (content_type, beginning)


def test_file_of_another_kind_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(b"text")
    file = (tmp_path / "a.png").open("rb")
    monkeypatch.setattr(pictures, "open_file", lambda _: (file, 4))
    with pytest.raises(NotShownError):
        open_picture(Location.read(f"file://{tmp_path}/a.png"))
    assert file.closed


@pytest.mark.parametrize("error", [PermissionError(), OSError("broken disk")])
def test_storage_that_fails_is_not_a_file_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
):
    def refuse(_: str) -> None:
        raise error

    monkeypatch.setattr(pictures, "_open_local", refuse)
    with pytest.raises(NotShownError) as refused:
        open_picture(picture(tmp_path / "a.png"))
    assert refused.value.status == 502


def test_link_that_is_put_in_place_of_a_checked_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    where = picture(tmp_path / "a.png")
    picture(tmp_path / "secret.png")

    def swapped(path: str) -> str:
        (tmp_path / "a.png").unlink()
        (tmp_path / "a.png").symlink_to(tmp_path / "secret.png")
        return path

    monkeypatch.setattr(pictures.os.path, "realpath", swapped)
    with pytest.raises(NotShownError) as refused:
        open_picture(where)
    assert refused.value.status == 502


def test_file_of_an_unknown_version_is_drawn_each_time(tmp_path: Path):
    thumbnails = Thumbnails(tmp_path / "cache")
    first = thumbnails.get(picture(tmp_path / "a.png"), "")
    assert thumbnails.get(picture(tmp_path / "a.png", size=(100, 300)), "") != first
    assert not (tmp_path / "cache").exists()


def test_files_with_one_version_have_thumbnails_of_their_own(tmp_path: Path):
    thumbnails = Thumbnails(tmp_path / "cache")
    first = thumbnails.get(picture(tmp_path / "a.png"), "v1")
    assert thumbnails.get(picture(tmp_path / "b.png", size=(100, 300)), "v1") != first


def test_cache_is_closed_to_others_and_not_used_if_it_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "new" / "cache"
    where = picture(tmp_path / "a.png")
    Thumbnails(folder).get(where, "v1")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.iterdir())) == 1
    uid = os.getuid()
    monkeypatch.setattr(pictures.os, "getuid", lambda: uid + 1)
    Thumbnails(folder).get(where, "v2")
    assert len(list(folder.iterdir())) == 1


def test_default_cache_is_of_this_user():
    assert Thumbnails()._folder.name == f"evoimage-thumbnails-{os.getuid()}"


def test_use_of_a_thumbnail_keeps_it_and_the_cache_is_trimmed_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pictures, "CACHE_CHECK_EVERY", 3)
    where = picture(tmp_path / "a.png")
    size = len(Thumbnails().get(where, ""))
    thumbnails = Thumbnails(tmp_path / "cache", max_bytes=2 * size)
    thumbnails.get(where, "v1")
    (first,) = (tmp_path / "cache").iterdir()
    os.utime(first, (1, 1))
    thumbnails.get(where, "v1")
    assert first.stat().st_mtime > 1
    for number in (2, 3):
        thumbnails.get(where, f"v{number}")
        for path in (tmp_path / "cache").iterdir():
            if path != first:
                os.utime(path, (number, number))
    assert len(list((tmp_path / "cache").iterdir())) == 3
    thumbnails.get(where, "v4")
    kept = list((tmp_path / "cache").iterdir())
    assert len(kept) == 2
    assert first in kept


@pytest.mark.parametrize(("mode", "kept"), [("LA", "RGBA"), ("P", "RGBA"), ("L", "RGB"), ("CMYK", "RGB")])
def test_every_mode_has_a_thumbnail(tmp_path: Path, mode: str, kept: str):
    path = tmp_path / "a"
    image = Image.new(mode, (500, 400))
    if mode == "P":
        image.save(path, "PNG", transparency=0)
    else:
        image.save(path, "JPEG" if mode == "CMYK" else "PNG")
    with Image.open(
        io.BytesIO(Thumbnails(tmp_path / "cache").get(Location.read(f"file://{path}"), ""))
    ) as small:
        assert (small.mode, small.size) == (kept, (384, 307))
