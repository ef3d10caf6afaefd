"""What a destination says of the files that are there: names, sizes, ages, and why it cannot be read."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.storage.destination import Destination, _in_words, _written
from airflow_provider_evoimage.storage.opening import StoreNotInstalledError, UnknownConnectionError
from airflow_provider_evoimage.storage.stores import (
    DamagedUploadError,
    MissingContainerError,
    RefusedCredentialsError,
)

SINCE = 1_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder beside another whose name begins the same."""
    for name in ("saved", "saved-elsewhere"):
        for file in ("b.json", "a.png", "run/c.json", "run/deep/d.json"):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(b"x" * len(file))
    return tmp_path / "saved"


@pytest.fixture
def destination(folder: Path) -> Destination:
    return Destination(str(folder))


def failing(destination: Destination, mocker: MockerFixture, method: str, error: Exception) -> None:
    mocker.patch.object(destination, "_fs", mocker.Mock(**{f"{method}.side_effect": error}))


UNREADABLE = [PermissionError("Access Denied"), OSError("Forbidden: bucket")]


def test_names_below_are_sorted_and_at_any_depth(destination: Destination) -> None:
    assert destination.names_below(".json") == ["b.json", "run/c.json", "run/deep/d.json"]
    assert destination.names_below("d.json") == ["run/deep/d.json"]


def test_folder_that_is_absent_holds_nothing(tmp_path: Path) -> None:
    absent = Destination(str(tmp_path / "absent"))
    assert absent.names_below(".json") == []
    assert absent.sizes_in("run") == {}
    assert list(absent.json_files(since=0, largest=10)) == []
    assert absent.size_if_there("a.json") is None
    assert absent.read_text("a.json") is None
    assert absent.read_if_there("a.json") is None


def test_names_below_may_be_gone_while_they_are_listed(destination: Destination, mocker: Any) -> None:
    failing(destination, mocker, "find", FileNotFoundError("gone"))
    assert destination.names_below(".json") == []


def test_sizes_are_those_of_one_folders_files(destination: Destination) -> None:
    assert destination.sizes_in("run") == {"c.json": len("run/c.json")}
    assert destination.sizes_in("") == {"b.json": len("b.json"), "a.png": len("a.png")}


def test_size_that_a_store_does_not_tell_is_0(destination: Destination, mocker: Any) -> None:
    listed = [
        {"name": "bucket/run/x.json", "size": None, "type": "file"},
        {"name": "bucket/run/y/", "size": 0, "type": "directory"},
        {"name": "z.json", "size": 3, "type": "file"},
    ]
    mocker.patch.object(destination, "_fs", mocker.Mock(**{"ls.return_value": listed}))
    assert destination.sizes_in("run") == {"x.json": 0, "z.json": 3}


@pytest.mark.parametrize("error", UNREADABLE, ids=str)
def test_folder_that_may_not_be_listed_is_unknown(
    destination: Destination, mocker: MockerFixture, error: Exception
) -> None:
    failing(destination, mocker, "ls", error)
    assert destination.sizes_in("run") is None
    failing(destination, mocker, "info", error)
    assert destination.size_if_there("a.png") is None


def test_size_of_a_file(destination: Destination) -> None:
    assert destination.size_if_there("run/c.json") == destination.size("run/c.json") == len("run/c.json")


def test_storage_that_fails_is_no_empty_folder(destination: Destination, mocker: MockerFixture) -> None:
    steps = {
        "run": ("ls", lambda: destination.sizes_in("run")),
        "run/x.json": ("info", lambda: destination.size_if_there("run/x.json")),
        "run/y.json": ("rm_file", lambda: destination.remove("run/y.json")),
        "": ("find", lambda: destination.names_below(".json")),
        "/": ("ls", lambda: list(destination.json_files(since=0, largest=10))),
    }
    for name, (method, step) in steps.items():
        failing(destination, mocker, method, OSError("503 SlowDown"))
        with pytest.raises(DestinationError, match="503 SlowDown") as failed:
            step()
        assert failed.value.message.startswith(destination.url(name.strip("/")))


def test_storage_that_does_not_say_whether_a_file_is_there_is_an_error_with_its_name(
    destination: Destination, mocker: MockerFixture
) -> None:
    file = mocker.MagicMock(
        **{"exists.side_effect": OSError("503 SlowDown"), "__str__.return_value": "s3://b/x.png"}
    )
    mocker.patch.object(destination, "_base", mocker.MagicMock(**{"__truediv__.return_value": file}))
    with pytest.raises(DestinationError, match=r"^s3://b/x\.png cannot be written or read: 503 SlowDown"):
        destination.exists("x.png")


def test_absent_file_is_removed_all_the_same(destination: Destination, folder: Path) -> None:
    destination.remove("absent.json")
    destination.remove("b.json")
    assert not (folder / "b.json").exists()


def test_json_files_are_named_below_the_folder(folder: Path) -> None:
    (folder / ".hidden.json").write_text("{}")
    (folder / "_index").mkdir()
    (folder / "_index" / "e.json").write_text("{}")
    (folder / ".parts").mkdir()
    (folder / ".parts" / "f.json").write_text("{}")
    found = list(Destination(f"{folder}/").json_files(since=0, largest=100))
    assert sorted(found) == ["_index/e.json", "b.json", "run/c.json", "run/deep/d.json"]


def test_large_and_old_json_files_are_left_out(folder: Path, destination: Destination) -> None:
    assert set(destination.json_files(since=0, largest=len("run/c.json"))) == {"b.json", "run/c.json"}
    for file, at in (("b.json", SINCE), ("run/c.json", SINCE - 1), ("run/deep/d.json", SINCE + 1)):
        os.utime(folder / file, (at, at))
    assert set(destination.json_files(since=SINCE, largest=100)) == {"b.json", "run/deep/d.json"}


def test_file_of_unknown_age_and_size_is_named(destination: Destination, mocker: Any) -> None:
    root = str(destination._base.path)
    listed = {
        root: [
            # Some stores list the folder itself.
            {"name": f"{root}/", "type": "directory"},
            {"name": f"{root}/.secret", "type": "directory"},
            {"name": f"{root}/run/", "type": "directory"},
            {"name": f"{root}/x.json", "type": "file"},
            {"name": f"{root}/y.png", "type": "file"},
        ],
        f"{root}/run": [{"name": f"{root}/run/z.json", "type": "file", "size": None}],
    }
    files = mocker.Mock(**{"ls.side_effect": lambda path, *, detail: listed[path]})
    mocker.patch.object(destination, "_fs", files)
    assert list(destination.json_files(since=SINCE, largest=10)) == ["x.json", "run/z.json"]


@pytest.mark.parametrize(
    ("info", "seconds"),
    [
        ({"mtime": 12.5}, 12.5),
        ({"mtime": 12}, 12.0),
        ({"LastModified": datetime(2026, 11, 28, 1, tzinfo=UTC)}, 1795827600.0),
        # A time without a zone is UTC.
        ({"last_modified": datetime(2026, 11, 28, 1)}, 1795827600.0),  # noqa: DTZ001
        ({"updated": "2026-11-28T01:00:00Z"}, 1795827600.0),
        ({"updated": "2026-11-28T03:00:00+02:00"}, 1795827600.0),
        ({"mtime": "yesterday", "updated": "2026-11-28T01:00:00Z"}, 1795827600.0),
        ({"mtime": None, "updated": 3}, 3.0),
        ({"updated": "yesterday"}, math.inf),
        ({}, math.inf),
    ],
)
def test_age_of_a_file_by_the_words_of_each_store(info: dict[str, Any], seconds: float) -> None:
    assert _written(info) == seconds


def test_file_of_this_folder_has_a_name_whatever_connection_its_url_names(
    folder: Path, destination: Destination
) -> None:
    assert destination.name_of(f"file://files@{folder}/run/c.json") == "run/c.json"
    assert destination.holds(f"file://{folder}/run/c.json")
    assert not destination.holds(f"file://{folder}/run/absent.json")
    for elsewhere in (f"file://{folder}-elsewhere/b.json", f"s3:/{folder}/b.json", f"file://{folder}"):
        assert destination.name_of(elsewhere) is None
        assert not destination.holds(elsewhere)


def test_json_that_is_too_deep_counts_as_absent(folder: Path, destination: Destination) -> None:
    (folder / "deep.json").write_text("[" * 100_000)
    assert destination.read_json("deep.json") is None
    (folder / "list.json").write_text(json.dumps([1]))
    assert destination.read_json("list.json") == [1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreNotInstalledError("install [s3]"), "install [s3]."),
        (UnknownConnectionError("there is no connection"), "there is no connection."),
        (MissingContainerError("no bucket"), "no bucket. Correct save_to, or create it."),
        (
            RefusedCredentialsError("403"),
            "its credentials are refused: 403. Correct the connection that the URL names.",
        ),
        (PermissionError("/data"), "permission is denied: /data"),
        (DamagedUploadError("3 of 5 bytes"), "it arrived damaged and was removed: 3 of 5 bytes"),
        (OSError("SlowDown"), "SlowDown"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_error_of_a_store_in_words(error: Exception, words: str) -> None:
    assert _in_words(error) == words
