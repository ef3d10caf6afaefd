"""Files in the user's storage: complete under their final name, or not there at all."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError
from airflow_provider_evoimage.storage.destination import Destination

NAME = "campaign/run/draw-0.png"
CONTENT = b"the whole image" * 100


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    file = tmp_path / "downloaded"
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images of 2026"


@pytest.fixture
def other_file_system(mocker: MockerFixture) -> None:
    """Have temporary files on another file system than the destination."""
    mocker.patch.object(Path, "rename", side_effect=OSError(errno.EXDEV, os.strerror(errno.EXDEV)))


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_published_file_is_there_whole_and_its_url_is_told(
    folder: Path, downloaded: Path, scheme: str
) -> None:
    destination = Destination(f"{scheme}{folder}")
    url = destination.publish(downloaded, NAME, "image/png")
    assert (folder / NAME).read_bytes() == CONTENT
    assert url.endswith(f"{folder}/{NAME}")
    assert url == destination.url(NAME)
    assert destination.exists(NAME)
    assert destination.size(NAME) == len(CONTENT)
    assert files_below(folder) == [folder / NAME]


class Killed(BaseException):
    """What a SIGKILL looks like from within: nothing catches it."""


def copy_that_ends_halfway(end: BaseException) -> Any:
    def copy(source: Any, target: Any, **_: Any) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:50])
        raise end

    return copy


@pytest.mark.parametrize("end", [OSError(errno.ENOSPC, "No space left on device"), Killed()], ids=type)
@pytest.mark.parametrize("before", [None, b"the image of an earlier run"])
@pytest.mark.usefixtures("other_file_system")
def test_copy_that_ends_halfway_leaves_no_half_file_and_no_part(
    folder: Path, downloaded: Path, mocker: MockerFixture, end: BaseException, before: bytes | None
) -> None:
    destination = Destination(f"file://{folder}")
    if before is not None:
        (folder / NAME).parent.mkdir(parents=True)
        (folder / NAME).write_bytes(before)
    mocker.patch.object(shutil, "copyfile", copy_that_ends_halfway(end))
    with pytest.raises((DestinationError, Killed)):
        destination.publish(downloaded, NAME, "image/png")
    if before is None:
        assert files_below(folder) == []
    else:
        assert files_below(folder) == [folder / NAME]
        assert (folder / NAME).read_bytes() == before


@pytest.mark.usefixtures("other_file_system")
def test_full_disk_is_an_error_that_says_the_images_are_not_lost(
    folder: Path, downloaded: Path, mocker: MockerFixture
) -> None:
    mocker.patch.object(shutil, "copyfile", copy_that_ends_halfway(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(DestinationError, match="No space left") as failed:
        Destination(f"file://{folder}").publish(downloaded, NAME, "image/png")
    assert failed.value.retryable
    assert failed.value.billed is True
    assert "submits nothing" in str(failed.value)


@pytest.mark.usefixtures("other_file_system")
def test_final_name_appears_by_a_rename_within_its_own_folder(
    folder: Path, downloaded: Path, mocker: MockerFixture
) -> None:
    copied = mocker.spy(shutil, "copyfile")
    Destination(f"file://{folder}").publish(downloaded, NAME, "image/png")
    (target,) = (Path(call.args[1]) for call in copied.call_args_list)
    assert target.parent == (folder / NAME).parent
    assert target.name != Path(NAME).name
    assert target.name.startswith(".")


def test_publishing_again_replaces_the_file(folder: Path, downloaded: Path) -> None:
    destination = Destination(f"file://{folder}")
    destination.publish(downloaded, NAME, "image/png")
    downloaded.write_bytes(b"another")
    destination.publish(downloaded, NAME, "image/png")
    assert (folder / NAME).read_bytes() == b"another"


def test_file_on_the_same_file_system_is_renamed_not_copied(
    folder: Path, downloaded: Path, mocker: MockerFixture
) -> None:
    copied = mocker.spy(shutil, "copyfile")
    inode = downloaded.stat().st_ino
    Destination(f"file://{folder}").publish(downloaded, NAME, "image/png")
    assert (folder / NAME).stat().st_ino == inode
    assert copied.call_count == 0


def test_longest_file_name_leaves_room_for_the_part(folder: Path, downloaded: Path) -> None:
    Destination(f"file://{folder}").publish(downloaded, f"{'a' * 200}", "image/png")
    assert (folder / ("a" * 200)).exists()


def test_fetched_copy_is_the_file(folder: Path, downloaded: Path, tmp_path: Path) -> None:
    destination = Destination(f"file://{folder}")
    destination.publish(downloaded, NAME, "image/png")
    destination.fetch(NAME, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_sidecar_that_does_not_read_counts_as_absent(folder: Path, content: bytes | None) -> None:
    folder.mkdir()
    if content is not None:
        (folder / "a.json").write_bytes(content)
    assert Destination(f"file://{folder}").read_json("a.json") is None


def test_sidecar_is_read(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.json").write_text('{"v": 1}')
    assert Destination(f"file://{folder}").read_json("a.json") == {"v": 1}


@pytest.mark.parametrize("save_to", ["images", "./images", "", "  ", "images/2026"])
def test_folder_without_a_scheme_or_root_is_refused_before_anything_is_paid(save_to: str) -> None:
    with pytest.raises(InvalidRequestError, match="save_to"):
        Destination(save_to)


def test_storage_that_this_airflow_does_not_know_is_an_error_with_its_name() -> None:
    with pytest.raises(DestinationError, match="nonsense"):
        Destination("nonsense://bucket/images")


def test_folder_that_is_a_file_is_an_error(tmp_path: Path, downloaded: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DestinationError, match="taken"):
        Destination(f"file://{tmp_path}/taken").publish(downloaded, NAME, "image/png")
