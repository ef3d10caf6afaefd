"""The manifest of a batch for its page: only below the roots, whole, and read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.plugins import ledgers
from airflow_provider_evoimage.plugins.roots import ImageRoots, NotShownError


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "_ledgers", ledgers.OrderedDict())


def written(path: Path, *lines: Any) -> str:
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines))
    return f"file://{path}"


def line(position: Any) -> dict[str, Any]:
    return {"position": position, "submission": "saved"}


def test_lines_are_in_the_order_of_the_requests_and_anything_else_is_left_out(tmp_path: Path):
    head = {"v": 1, "position": 0}
    url = written(tmp_path / "a.batch.jsonl", head, line(2), "{cut off", line("x"), [1], line(1), "", line(0))
    found = ledgers.lines_of(url, ImageRoots.read(str(tmp_path)), "1")
    assert [each["position"] for each in found] == ["x", 0, 1, 2]


def test_nothing_outside_the_roots_is_read(tmp_path: Path):
    (tmp_path / "images").mkdir()
    roots = ImageRoots.read(str(tmp_path / "images"))
    with pytest.raises(NotShownError) as refused:
        ledgers.lines_of(written(tmp_path / "a.batch.jsonl", line(0)), roots, "1")
    assert refused.value.status == 403


def test_other_files_below_the_roots_are_no_manifest_of_a_batch(tmp_path: Path):
    with pytest.raises(NotShownError, match="not the manifest of a batch") as refused:
        ledgers.lines_of(written(tmp_path / "a.json", line(0)), ImageRoots.read(str(tmp_path)), "1")
    assert refused.value.status == 415


def test_manifest_that_is_too_large_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url = written(tmp_path / "a.batch.jsonl", line(0))
    roots = ImageRoots.read(str(tmp_path))
    size = (tmp_path / "a.batch.jsonl").stat().st_size
    monkeypatch.setattr(ledgers, "MAX_BYTES", size)
    assert len(ledgers.lines_of(url, roots, "1")) == 1
    monkeypatch.setattr(ledgers, "MAX_BYTES", size - 1)
    with pytest.raises(NotShownError, match="too large") as refused:
        ledgers.lines_of(url, roots, "2")
    assert refused.value.status == 415


def test_manifest_is_read_again_once_it_has_another_version(tmp_path: Path):
    roots = ImageRoots.read(str(tmp_path))
    url = written(tmp_path / "a.batch.jsonl", line(0))
    assert len(ledgers.lines_of(url, roots, "1")) == 1
    written(tmp_path / "a.batch.jsonl", line(0), line(1))
    assert len(ledgers.lines_of(url, roots, "1")) == 1
    assert len(ledgers.lines_of(url, roots, "2")) == 2


def test_only_the_four_that_were_read_last_are_kept(tmp_path: Path):
    roots = ImageRoots.read(str(tmp_path))
    urls = [written(tmp_path / f"{number}.batch.jsonl", line(0)) for number in range(5)]
    for url in urls[:4]:
        ledgers.lines_of(url, roots, "1")
    ledgers.lines_of(urls[0], roots, "1")
    ledgers.lines_of(urls[4], roots, "1")
    assert [url for url, _ in ledgers._ledgers] == [urls[2], urls[3], urls[0], urls[4]]
