"""What earlier saves left in a destination: records, sidecars and images, and whose they are."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_evoimage.exceptions import DestinationError, DownloadError
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.existing import (
    EarlierSidecar,
    ExistingFiles,
    extension_of,
    other_task_of,
    task_in_words,
)
from airflow_provider_evoimage.storage.progress import SaveProgress, entries_of, write_temporary

TASK, OTHER = "task-unified-1757156400-abcdefgh", "task-unified-1757156400-zyxwvuts"
MADE_BY = {"dag_id": "campaign", "run_id": "run", "task_id": "draw", "map_index": -1}
CONTENT = b"an image"
ENTRY = {"path": "p", "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "saved").mkdir()
    return tmp_path / "saved"


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def existing(folder: Path, temporary: Path) -> ExistingFiles:
    return ExistingFiles(Destination(str(folder)), temporary, logging.getLogger(__name__))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sidecar", "record"),
    [("draw.json", ".draw.saving.json"), ("a/b/draw.json", "a/b/.draw.saving.json")],
)
def test_record_of_a_save_lies_hidden_beside_its_sidecar(folder: Path, sidecar: str, record: str) -> None:
    assert SaveProgress(Destination(str(folder)), sidecar, TASK).name == record


def test_next_try_finds_what_was_begun_and_the_end_removes_it(folder: Path, temporary: Path) -> None:
    def progress(task: str = TASK) -> SaveProgress:
        return SaveProgress(Destination(str(folder)), "draw.json", task)

    first = progress()
    first.ends()
    assert first.found() == {}
    first.begins({"index": 0, "path": "a"}, temporary)
    first.begins({"index": 2, "path": "c"}, temporary)
    assert json.loads((folder / ".draw.saving.json").read_text()) == {
        "evolink_task_id": TASK,
        "images": [{"index": 0, "path": "a"}, {"index": 2, "path": "c"}],
    }
    assert progress(OTHER).found() == {}
    second = progress()
    assert second.found() == {0: {"index": 0, "path": "a"}, 2: {"index": 2, "path": "c"}}
    second.begins({"index": 1, "path": "b"}, temporary)
    assert set(progress().found()) == {0, 1, 2}
    second.ends()
    assert list(folder.iterdir()) == []


def test_found_entries_may_be_changed_without_changing_the_record(folder: Path, temporary: Path) -> None:
    progress = SaveProgress(Destination(str(folder)), "draw.json", TASK)
    progress.begins({"index": 0}, temporary)
    progress.found().clear()
    progress.ends()
    assert list(folder.iterdir()) == []


def test_temporary_text_keeps_every_character(temporary: Path) -> None:
    write_temporary(temporary / "a.json", "größer \udcf6")
    assert (temporary / "a.json").read_bytes() == "größer \\udcf6".encode()


def test_temporary_folder_that_is_gone_is_named_as_this_machines(temporary: Path) -> None:
    with pytest.raises(DestinationError, match="temporary folder of this machine"):
        write_temporary(temporary / "gone" / "a.json", "")


@pytest.mark.parametrize(
    ("manifest", "found"),
    [
        (None, {}),
        ([], {}),
        ({"images": [{"index": 0}]}, {}),
        ({"evolink_task_id": OTHER, "images": [{"index": 0}]}, {}),
        ({"evolink_task_id": TASK}, {}),
        ({"evolink_task_id": TASK, "images": {"index": 0}}, {}),
        (
            {"evolink_task_id": TASK, "images": ["x", {}, {"index": "1"}, {"index": 3}]},
            {3: {"index": 3}},
        ),
    ],
)
def test_entries_are_those_of_this_generation_that_read(manifest: object, found: dict[int, Any]) -> None:
    assert entries_of(manifest, TASK) == found


@pytest.mark.parametrize("sidecar", [None, [], {}, {"evolink_task_id": 5}, {"evolink_task_id": TASK}])
def test_sidecar_of_this_generation_or_of_none_is_no_earlier_one(sidecar: object) -> None:
    assert EarlierSidecar.of(sidecar, TASK) is None


def test_sidecar_of_another_generation_is_an_earlier_one_with_its_images() -> None:
    sidecar = {"evolink_task_id": OTHER, "images": [{"index": 1}], "reusable_for": {"fingerprint": "f"}}
    earlier = EarlierSidecar.of(sidecar, TASK)
    assert earlier is not None
    assert (earlier.entries, earlier.is_there) == ({1: {"index": 1}}, True)
    assert earlier.reusable_for == {"fingerprint": "f"}


def test_entry_of_the_index_goes_before_the_earlier_sidecar_that_it_leads_to(
    folder: Path, existing: ExistingFiles, mocker: MockerFixture
) -> None:
    (folder / "a.json").write_text("{}")
    there = []
    remove = mocker.patch(
        "airflow_provider_evoimage.storage.existing.remove_from_index",
        side_effect=lambda *arguments: there.append((folder / "a.json").exists()),
    )
    earlier = EarlierSidecar(entries={}, reusable_for={"fingerprint": "f"})
    for _ in range(2):
        existing.remove_sidecar(earlier, "a.json")
    remove.assert_called_once_with(existing.destination, {"fingerprint": "f"}, "a.json", existing.log)
    assert there == [True]
    assert not (folder / "a.json").exists()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (None, ""),
        ("draw", ""),
        (MADE_BY, ""),
        (MADE_BY | {"run_id": "another", "task_id": "paint"}, ""),
        (MADE_BY | {"dag_id": "another", "task_id": "paint"}, ""),
        (MADE_BY | {"task_id": "paint"}, "campaign.paint of run run"),
        (MADE_BY | {"map_index": 3}, "campaign.draw[3] of run run"),
    ],
)
def test_owner_of_a_sidecar_is_another_task_only_in_the_same_run(owner: object, name: str) -> None:
    assert other_task_of({"made_by": owner}, MADE_BY) == name


def test_sidecar_that_is_no_object_belongs_to_no_other_task() -> None:
    assert other_task_of(["made_by"], MADE_BY) == ""


@pytest.mark.parametrize(("index", "shown"), [(-1, ""), (0, "[0]"), (12, "[12]"), ("0", ""), (None, "")])
def test_task_in_words_shows_a_map_index_that_is_one(index: object, shown: str) -> None:
    assert task_in_words(MADE_BY | {"map_index": index}) == f"campaign.draw{shown} of run run"


def test_task_without_a_map_index_is_not_mapped() -> None:
    assert task_in_words({"dag_id": "a", "task_id": "b", "run_id": "c"}) == "a.b of run c"


@pytest.mark.parametrize(
    ("content", "with_hash", "is_same"),
    [
        (None, False, False),
        (CONTENT, False, True),
        (CONTENT, True, True),
        (CONTENT[::-1], False, True),
        (CONTENT[::-1], True, False),
        (CONTENT + b"!", False, False),
    ],
)
def test_file_is_as_described_by_its_size_and_on_request_its_hash(
    folder: Path,
    temporary: Path,
    existing: ExistingFiles,
    content: bytes | None,
    with_hash: bool,
    is_same: bool,
) -> None:
    if content is not None:
        (folder / "a.png").write_bytes(content)
    assert existing.is_as_described("a.png", ENTRY, with_hash=with_hash) is is_same
    assert list(temporary.iterdir()) == []


def test_file_that_is_no_image_leaves_no_copy_behind(
    folder: Path, temporary: Path, existing: ExistingFiles
) -> None:
    (folder / "a.png").write_bytes(CONTENT)
    with pytest.raises(DownloadError):
        existing.described("a.png")
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("content", "is_left"), [(CONTENT, False), (CONTENT[::-1], True)])
def test_image_of_another_generation_is_removed_unless_it_was_replaced(
    folder: Path, existing: ExistingFiles, content: bytes, is_left: bool
) -> None:
    (folder / "a.png").write_bytes(content)
    existing.remove_image("a.png", ENTRY)
    assert (folder / "a.png").exists() is is_left


def test_earlier_sidecar_is_removed_once(folder: Path, existing: ExistingFiles) -> None:
    existing.remove_sidecar(None, "a.json")
    earlier = EarlierSidecar(entries={})
    for _ in range(2):
        (folder / "a.json").write_text("{}")
        existing.remove_sidecar(earlier, "a.json")
    assert (folder / "a.json").exists()
    assert not earlier.is_there


def test_storage_that_keeps_an_earlier_file_is_a_warning(
    folder: Path, existing: ExistingFiles, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.png").write_bytes(CONTENT)
    mocker.patch.object(Destination, "remove", side_effect=DestinationError("no right to remove"))
    existing.remove_sidecar(EarlierSidecar(entries={}), "a.json")
    existing.remove_image("a.png", ENTRY)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all("no right to remove" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("content_type", "extension"),
    [("image/png", "png"), ("image/jpeg", "jpg"), ("text/html", None), (None, None)],
)
def test_extension_is_that_of_the_type_in_the_entry(content_type: object, extension: str | None) -> None:
    assert extension_of({"content_type": content_type}) == extension
