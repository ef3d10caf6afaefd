"""Files in the user's storage: complete under their final name, or not there at all."""

import errno
import itertools
import os
import shutil
import stat
from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem
from pytest_mock import MockerFixture

from airflow_provider_evoimage.exceptions import (
    DestinationError,
    DestinationUnusableError,
    InvalidRequestError,
)
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.stores import Store

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


@pytest.mark.parametrize("is_copied", [False, True], ids=["renamed", "copied"])
def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_save_is_done(
    folder: Path, downloaded: Path, mocker: MockerFixture, request: pytest.FixtureRequest, is_copied: bool
) -> None:
    if is_copied:
        request.getfixturevalue("other_file_system")
    steps = []
    flush, moves = os.fsync, Path.replace if is_copied else Path.rename

    def fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        flush(descriptor)

    def move(source: Path, target: Path) -> Path:
        steps.append("name")
        return moves(source, target)

    mocker.patch.object(os, "fsync", fsync)
    mocker.patch.object(Path, "replace" if is_copied else "rename", move)
    Destination(f"file://{folder}").publish(downloaded, NAME, "image/png")
    assert steps[-3:] == ["file", "name", "folder"]


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


@pytest.mark.parametrize(
    "save_to",
    [
        "file://data/images",
        "FILE://data/images",
        "local://images",
        "file://localhost/data",
        "file://x",
        "file:////data/x",
        "local:////data/x",
        "FILE:////data/x",
        "file://files@//data/x",
    ],
)
def test_local_folder_that_is_not_absolute_is_refused_before_anything_is_paid(save_to: str) -> None:
    with pytest.raises(InvalidRequestError, match="three slashes") as refused:
        Destination(save_to)
    assert refused.value.billed is False


def test_local_folder_may_name_a_connection(folder: Path, downloaded: Path) -> None:
    Destination(f"file://files@{folder}").publish(downloaded, NAME, "image/png")
    assert (folder / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("no such key"), PermissionError("Access Denied"), OSError("Forbidden: bucket/a.json")],
    ids=["absent", "not listed", "not listed at Google"],
)
def test_sidecar_that_the_store_does_not_give_to_this_role_counts_as_absent(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(self: Store, path: str) -> bytes:
        raise error

    monkeypatch.setattr(Store, "read", refuse)
    assert Destination(f"file://{folder}").read_json("a.json") is None


@pytest.mark.parametrize("error", [OSError(errno.EIO, "SlowDown"), RuntimeError("connection lost")], ids=type)
def test_sidecar_that_cannot_be_read_for_now_does_not_count_as_absent(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Store, path: str) -> bytes:
        raise error

    monkeypatch.setattr(Store, "read", fail)
    with pytest.raises(DestinationError, match=r"a\.json") as failed:
        Destination(f"file://{folder}").read_json("a.json")
    assert failed.value.retryable


def test_destination_of_what_is_paid_for_names_it_when_it_cannot_be_opened() -> None:
    with pytest.raises(DestinationError, match="nonsense") as failed:
        Destination("nonsense://bucket/images", evolink_task_id="task-unified-1-abcdefgh")
    assert failed.value.evolink_task_id == "task-unified-1-abcdefgh"
    assert failed.value.billed is True
    assert "saves the same images" in str(failed.value)


# A store that nothing is known of

_numbers = itertools.count()


class MovingFiles(MemoryFileSystem):
    """A file system with a move of its own, which refuses to write over a file."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    is_down = False

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        if self.is_down:
            raise OSError("503 please retry")
        if self._strip_protocol(path2) in self.store:
            raise FileExistsError(path2)
        self.cp_file(path1, path2)
        self.rm_file(path1)


class IdleFiles(MovingFiles):
    """One that answers that it did not move anything, in a field that fsspec does not look at."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        if not self.is_down:
            super().mv(path1, path2, **options)


class CopyingFiles(MemoryFileSystem):
    """A file system that can only copy."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    is_down = False

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        if self.is_down:
            raise OSError("503 please retry")
        super().cp_file(path1, path2, **options)


@pytest.fixture(params=[MovingFiles, IdleFiles, CopyingFiles], ids=lambda kind: kind.__name__)
def unknown(request: pytest.FixtureRequest) -> Any:
    """A file system of a kind that is not known here, empty."""
    request.param.store.clear()
    return request.param(skip_instance_cache=True)


def in_store(fs: MemoryFileSystem, folder: str) -> Destination:
    """Open a folder of a file system, which Airflow reaches by a connection of its own."""
    conn_id = f"store-{next(_numbers)}"
    attach("memory", conn_id=conn_id, fs=fs)
    return Destination(f"memory://{conn_id}@{folder}")


def test_unknown_store_writes_over_a_file(unknown: Any, downloaded: Path) -> None:
    destination = in_store(unknown, "shop/images")
    for content in (b"one", b"another"):
        downloaded.write_bytes(content)
        destination.publish(downloaded, "a.png", "image/png")
        assert unknown.find("") == ["/shop/images/a.png"]
        assert unknown.cat("/shop/images/a.png") == content


def test_move_that_fails_in_an_unknown_store_leaves_the_earlier_file(unknown: Any, downloaded: Path) -> None:
    destination = in_store(unknown, "shop/images")
    destination.publish(downloaded, "a.png", "image/png")
    unknown.is_down = True
    downloaded.write_bytes(b"another")
    with pytest.raises(DestinationError):
        destination.publish(downloaded, "a.png", "image/png")
    assert unknown.find("") == ["/shop/images/a.png"]
    assert unknown.cat("/shop/images/a.png") == CONTENT


def test_second_half_of_a_move_that_fails_brings_the_earlier_file_back(downloaded: Path) -> None:
    class HalfDown(MovingFiles):
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        def mv(self, path1: str, path2: str, **options: Any) -> None:
            if self.cat(path1) == b"another":
                raise OSError("503 please retry")
            super().mv(path1, path2, **options)

    fs = HalfDown(skip_instance_cache=True)
    destination = in_store(fs, "shop/images")
    destination.publish(downloaded, "a.png", "image/png")
    downloaded.write_bytes(b"another")
    with pytest.raises(DestinationError):
        destination.publish(downloaded, "a.png", "image/png")
    assert fs.find("") == ["/shop/images/a.png"]
    assert fs.cat("/shop/images/a.png") == CONTENT


@pytest.mark.parametrize("name", ["x[1]/a.png", "x1/b[2].png", "x*/?.png"])
def test_name_is_no_pattern_in_an_unknown_store(unknown: Any, downloaded: Path, name: str) -> None:
    others = ["x1/a.png", "x1/b2.png", "x2/b.png"]
    for other in others:
        unknown.pipe(f"/shop/{other}", b"other")
    destination = in_store(unknown, "shop")
    destination.publish(downloaded, name, "image/png")
    assert destination.exists(name)
    destination.remove(name)
    destination.remove(name)
    assert unknown.find("") == [f"/shop/{other}" for other in others]


class RememberingFiles(MovingFiles):
    """A file system that answers from the first listing of a folder until it is told to forget it."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **options)
        found = self.dircache[path]
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **options: Any) -> Any:
        path = self._strip_protocol(path)
        for each in self.ls(self._parent(path)):
            if each["name"] == path:
                return each
        raise FileNotFoundError(path)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


def test_what_was_listed_before_is_not_believed(downloaded: Path) -> None:
    fs = RememberingFiles(skip_instance_cache=True)
    fs.pipe("/shop/.a.png.0123abcd.part", b"half")
    destination = in_store(fs, "shop")
    for content in (b"one", b"another"):
        assert not destination.exists("b.png")
        downloaded.write_bytes(content)
        destination.publish(downloaded, "a.png", "image/png")
        assert fs.cat("/shop/a.png") == content


def test_address_that_is_refused_is_shown_without_its_user() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Destination("file://user:secret@host/images")
    assert "secret" not in str(refused.value)


def test_text_that_is_no_utf_8_is_read_all_the_same(folder: Path) -> None:
    destination = Destination(str(folder))
    assert destination.read_text("a.jsonl") is None
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"a\xffb")
    assert destination.read_text("a.jsonl") == "a\ufffdb"


def test_file_that_cannot_be_fetched_is_named(folder: Path, tmp_path: Path) -> None:
    destination = Destination(str(folder))
    for step in (lambda: destination.fetch(NAME, tmp_path / "copy"), lambda: destination.size(NAME)):
        with pytest.raises(DestinationError, match=f"{NAME} cannot be written or read"):
            step()


@pytest.mark.parametrize(
    ("is_unpaid", "paid_for", "kind", "billed"),
    [
        (True, None, DestinationUnusableError, False),
        (False, None, DestinationError, None),
        (False, "task-unified-1-a", DestinationError, True),
    ],
    ids=["before anything is paid", "unknown", "paid"],
)
def test_lasting_problem_is_final_only_before_anything_is_paid(tmp_path, is_unpaid, paid_for, kind, billed):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DestinationError, match="is a file, not a folder") as caught:
        Destination(f"file://{file}/images", evolink_task_id=paid_for, is_unpaid=is_unpaid)
    assert type(caught.value) is kind
    assert caught.value.billed is billed


@pytest.mark.parametrize("lacking", [os.W_OK, os.X_OK], ids=["no writing", "no entering"])
def test_folder_that_this_process_may_not_write_to_is_found_before_anything_is_paid(
    lacking: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may do everything, so ask for the rights as the kernel would answer somebody else.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & lacking)
    with pytest.raises(DestinationUnusableError, match="may not write to"):
        Destination(str(tmp_path / "new"), is_unpaid=True)


def test_folder_that_cannot_be_opened_once_something_may_be_paid_says_what_a_retry_does(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DestinationError) as failed:
        Destination(str(tmp_path / "file"))
    assert failed.value.billed is None
    assert "Nothing was submitted by this try; a retry tries again." in str(failed.value)
