"""Sums of costs: each generation once, whatever else lies in the folder, and no charge is invented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from airflow_provider_evoimage.command import costs
from airflow_provider_evoimage.command.costs import Costs, Sum, costs_below, read_by
from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError


def sidecar(folder: Path, evolink_task_id: str, charged: float | None = 1.5, **changed: Any) -> Path:
    manifest = {
        "evolink_task_id": evolink_task_id,
        "model": "gpt-image-1",
        "created": "2026-11-27T10:00:00+00:00",
        "usage": {"charged": charged},
        "images": [{}, {}],
        "made_by": {"dag_id": "shop", "task_id": "draw"},
        "labels": {"campaign": "spring"},
        **changed,
    }
    path = folder / f"{evolink_task_id}-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(manifest))
    return path


def groups(found: Costs) -> dict[tuple[str, ...], tuple[int, int, int, float]]:
    return {
        group: (each.generations, each.images, each.unknown, float(each.credits))
        for group, each in found.groups.items()
    }


def test_groups_are_summed_by_every_fact_the_dearest_first(tmp_path: Path):
    sidecar(tmp_path, "a")
    sidecar(tmp_path, "b", 0.1)
    sidecar(
        tmp_path, "c", 0.2, model="gpt-image-1.5", made_by={"dag_id": "blog", "task_id": "cut"}, labels=None
    )
    sidecar(tmp_path, "d", 9, model=None, created=None, made_by="edited", labels=["edited"])
    names = ("model", "day", "month", "dag", "task", "campaign")
    found = costs_below(str(tmp_path), names)
    assert found.by == names
    assert list(groups(found).items()) == [
        (("(none)",) * 6, (1, 2, 0, 9.0)),
        (("gpt-image-1", "2026-11-27", "2026-11", "shop", "draw", "spring"), (2, 4, 0, 1.6)),
        (("gpt-image-1.5", "2026-11-27", "2026-11", "blog", "cut", "(none)"), (1, 2, 0, 0.2)),
    ]
    assert found.total.to_json() == {
        "generations": 4,
        "images": 8,
        "unknown": 0,
        "credits": 10.8,
        "usd": 0.158824,
    }
    assert found.to_json()["rows"][1]["by"] == dict(zip(names, list(groups(found))[1], strict=True))


def test_groups_of_equal_cost_are_in_order_of_their_names(tmp_path: Path):
    for number, model in enumerate(["b", "c", "a"]):
        sidecar(tmp_path, str(number), model=model)
    assert list(groups(costs_below(str(tmp_path), ["model"]))) == [("a",), ("b",), ("c",)]


def test_generation_with_several_sidecars_counts_once(tmp_path: Path):
    for _ in range(3):
        sidecar(tmp_path, "a")
    sidecar(tmp_path, "b")
    assert costs_below(str(tmp_path), ["model"]).total.generations == 2


def test_unknown_charge_is_said_and_counts_as_nothing(tmp_path: Path):
    sidecar(tmp_path, "a", None)
    sidecar(tmp_path, "b", 0)
    sidecar(tmp_path, "c", 2)
    found = costs_below(str(tmp_path), ["model"])
    assert groups(found) == {("gpt-image-1",): (3, 6, 1, 2.0)}
    console = Console(width=120, record=True)
    console.print(found.table())
    drawn = console.export_text()
    assert "The charge of 1 generations is unknown and counts as 0." in drawn
    assert drawn.count("2.0000") == 2
    sidecar(tmp_path, "b")
    assert costs_below(str(tmp_path), ["model"]).total.unknown == 1


def test_nothing_is_said_of_unknown_charges_where_all_are_known():
    assert Costs(("model",), {}, Sum()).table().caption is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '"text"',
        '{"evolink_task_id": 1, "usage": {}, "images": []}',
        '{"evolink_task_id": "a", "usage": 3, "images": []}',
        '{"evolink_task_id": "a", "usage": {}, "images": {}}',
    ],
)
def test_other_files_are_left_out(tmp_path: Path, content: str):
    sidecar(tmp_path, "b")
    (tmp_path / "odd.json").write_text(content)
    (tmp_path / "text.txt").write_text(sidecar(tmp_path, "b").read_text().replace('"b"', '"c"'))
    assert costs_below(str(tmp_path), ["model"]).total.generations == 1


def test_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    size = sidecar(tmp_path, "a").stat().st_size
    monkeypatch.setattr(costs, "_LONGEST_SIDECAR", size)
    assert costs_below(str(tmp_path), ["model"]).total.generations == 1
    monkeypatch.setattr(costs, "_LONGEST_SIDECAR", size - 1)
    assert costs_below(str(tmp_path), ["model"]).total.generations == 0


def test_folder_may_be_relative_or_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "below").mkdir()
    sidecar(tmp_path / "below", "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("below", ".", "~/below", f"file://{tmp_path}"):
        assert costs_below(folder, ["model"]).total.generations == 1


def test_storage_that_fails_is_an_error_and_not_a_smaller_sum(tmp_path: Path):
    with pytest.raises(DestinationError, match="cannot be listed") as failed:
        costs_below("s3nope://bucket/images", ["model"])
    assert failed.value.billed is False
    gone = type("Gone", (), {"open": lambda *_: (_ for _ in ()).throw(FileNotFoundError())})()
    assert costs._text(gone, "a.json") == b""
    broken = type("Broken", (), {"open": lambda *_: (_ for _ in ()).throw(OSError("no disk"))})()
    with pytest.raises(DestinationError, match=r"a\.json cannot be read: no disk") as failed:
        costs._text(broken, "a.json")
    assert failed.value.billed is False


def test_names_to_sum_by():
    assert read_by(" model, day,model ,") == ("model", "day")
    with pytest.raises(InvalidRequestError, match="names nothing"):
        read_by(" , ")
