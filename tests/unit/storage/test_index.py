"""The index of saved images: whatever lies in its files, reading them raises nothing and believes nothing odd."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.index import ImagesKey, IndexEntry, key_of, unusable, write_json

KEY = ImagesKey(fingerprint="a" * 64, occurrence=2)
ENTRY = IndexEntry(
    key=KEY,
    evolink_task_id="task-unified-1757156400-abcdefgh",
    sidecar="run/draw-0.json",
    saved_at=datetime(2026, 5, 1, 10, tzinfo=UTC),
)
ENTRY_JSON: dict[str, Any] = {
    "v": 1,
    "fingerprint": "a" * 64,
    "occurrence": 2,
    "evolink_task_id": "task-unified-1757156400-abcdefgh",
    "sidecar": "run/draw-0.json",
    "saved_at": "2026-05-01T10:00:00+00:00",
}
FOLDER = Destination("/tmp/never-used")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_entry_is_written_and_read_in_version_1() -> None:
    assert ENTRY.to_json() == ENTRY_JSON
    assert IndexEntry.read(json.dumps(ENTRY_JSON).encode(), KEY) == ENTRY


def test_name_holds_fingerprint_and_occurrence() -> None:
    assert KEY.entry_name == f"_index/{'a' * 64}-2.json"
    assert ImagesKey(fingerprint="b" * 64).entry_name == f"_index/{'b' * 64}.json"


@given(st.binary(max_size=200))
def test_any_bytes_are_no_entry(content: bytes) -> None:
    assert isinstance(IndexEntry.read(content, KEY), str)


@given(st.sampled_from(sorted(ENTRY_JSON)), JSON)
def test_entry_with_any_other_value_is_read_right_or_not_at_all(name: str, value: Any) -> None:
    entry = IndexEntry.read(json.dumps(ENTRY_JSON | {name: value}).encode(), KEY)
    if isinstance(entry, IndexEntry):
        assert entry.key == KEY
        assert ".." not in entry.sidecar.split("/")
        assert not entry.sidecar.startswith("/")


@given(JSON)
def test_any_json_is_no_manifest_of_reusable_images(value: Any) -> None:
    assert unusable(value, FOLDER)
    assert key_of(value) is None


@given(st.sampled_from(["v", "images", "made", "asked", "status", "made_by", "usage"]), JSON)
def test_manifest_with_any_other_value_raises_nothing(name: str, value: Any) -> None:
    image = {"index": 0, "path": "/tmp/never-used/a.png", "sha256": "0" * 64, "bytes": 1}
    image |= {"content_type": "image/png", "width": 1, "height": 1}
    manifest = {
        "v": 1,
        "evolink_task_id": ENTRY.evolink_task_id,
        "status": "completed",
        "asked": 1,
        "made": 1,
        "images": [image],
        "usage": {},
        "made_by": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1},
    }
    assert unusable(manifest, FOLDER) == ""
    unusable(manifest | {name: value}, FOLDER)
    unusable(manifest | {"images": [image | {"path": value}]}, FOLDER)


@pytest.mark.parametrize("url", ["/data/x/../y.png", "/data/xy.png", "/dat", "", "s3://data/x/a.png"])
def test_path_outside_of_the_folder_has_no_name(url: str) -> None:
    name = Destination("/data/x").name_of(url)
    assert name is None or ".." in name


def test_small_file_appears_whole(tmp_path: Path) -> None:
    write_json(Destination(str(tmp_path)), "_index/a.json", {"v": 1})
    assert [file.name for file in (tmp_path / "_index").iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "_index" / "a.json").read_text()) == {"v": 1}
