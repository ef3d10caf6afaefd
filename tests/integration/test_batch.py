"""What a batch leaves: little in Airflow, however large it is, and in its manifest what docs/batch.md says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from airflow.exceptions import TaskDeferred

import airflow_provider_evoimage
from airflow_provider_evoimage.batch.items import ITEM_FIELDS, MAX_ITEMS
from airflow_provider_evoimage.batch.ledger import State
from airflow_provider_evoimage.client import EvoLinkClient
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.task_driver import StateStore, TaskRun, batch, is_thorough

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

#: What XCom takes everywhere: MySQL's BLOB ends at 64 KB.
MOST_BYTES = 48 * 1024

PAGE = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
SCHEMA = json.loads((Path(airflow_provider_evoimage.__file__).parent / "manifest.schema.json").read_text())


class Leg(TaskRun):
    """Notes also what each deferral hands to its next leg."""

    def stored(self, deferred: TaskDeferred) -> dict[str, Any]:
        self.handed = getattr(self, "handed", [])
        self.handed.append(json.dumps(deferred.kwargs))
        return super().stored(deferred)


@pytest.mark.long
def test_largest_batch_leaves_little_in_airflow(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path
) -> None:
    # The largest takes half a minute.
    items = MAX_ITEMS if is_thorough() else MAX_ITEMS // 4
    evolink.state.configure({"credits": 1_000_000})
    # Most fail, in runs of numbers that do not meet, and have names that JSON writes at length.
    requests = [
        {
            "name": f"{'画' * 60} {number}",
            "prompt": f"item {number}" + ("" if number % 50 == 0 else " [[fail:content_policy_violation]]"),
        }
        for number in range(items)
    ]
    file = tmp_path / "requests.json"
    file.write_text(json.dumps(requests))
    task = Leg(
        batch(str(file), tmp_path / "images", save_every=items // 3, parallel=16), store=store, retries=0
    )

    summary = task.run()

    counts = (summary["items"], summary["saved"], summary["failed"], summary["left_out"])
    assert counts == (items, items // 50, items - items // 50, 0)
    assert evolink.state.counters.submissions == items
    assert len(summary["failures"]) == 20
    assert len(json.dumps(summary)) < MOST_BYTES
    assert max(len(json.dumps(event)) for event in task.events) < MOST_BYTES
    # Airflow stores a deferral as a trigger's row, and what its next leg is called with.
    assert max(len(json.dumps(row)) for row in task.deferrals) < MOST_BYTES
    assert max(map(len, task.handed)) < 200
    assert sum(len(row) for row in store.rows.values()) < MOST_BYTES
    (manifest,) = (tmp_path / "images").rglob("*.batch.jsonl")
    assert len(manifest.read_text().split("\n")) == items + 1


def rows(table: str) -> dict[str, str]:
    """Return one table of the page: the type of each field."""
    (found,) = re.findall(rf"<!-- {table} -->\n((?:\|.*\n)+)", PAGE)
    return dict(re.findall(r"^\| `([^|]+)` \| ([^|]+) \|", found, flags=re.MULTILINE))


TYPES = {
    "integer": int,
    "number": float,
    "string": str,
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}


def fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name every field of a JSON object as the page does."""
    for name, inner in value.items():
        yield prefix + name, inner
        if isinstance(inner, dict):
            yield from fields(inner, f"{prefix}{name}.")
        for each in inner if isinstance(inner, list) else ():
            yield from fields(each, f"{prefix}{name}[].")


def check(table: str, found: list[tuple[str, Any]]) -> None:
    told = rows(table)
    assert {name for name, _ in found} == set(told)
    wrong = [
        (name, value)
        for name, value in found
        if type(value) not in [TYPES[kind] for kind in told[name].split(" or ")]
    ]
    assert wrong == []


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and manifest of a batch with an item in every state that a batch may end with."""
    requests = [
        {"name": "mug", "prompt": "a mug"},
        "a shoe [[fail:content_policy_violation]]",
        {"prompt": "a lamp", "quality": "high"},
    ]
    summary = TaskRun(batch(requests, tmp_path, parallel=1, max_credits=4), retries=0).run()
    (file,) = tmp_path.rglob("*.batch.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert [line["state"] for line in lines] == ["saved", "failed", "left out"]
    return summary, lines


def test_page_tells_the_fields_of_an_item() -> None:
    assert tuple(rows("item")) == ITEM_FIELDS


def test_page_tells_every_field_of_the_summary(mixed: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    summary, _ = mixed
    # Only a charge above the limit or the estimate adds a warning; tests of the limits look at it.
    check("summary", list(fields(summary | {"warning": "EvoLink charged more."})))


def test_page_tells_every_field_of_a_line(mixed: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    _, (saved, *others) = mixed
    manifest = {name: value for name, value in saved.items() if name not in rows("line")} | {"v": 1}
    jsonschema.validate(manifest, SCHEMA)
    found = []
    for line in (saved, *others):
        own = {name: value for name, value in line.items() if line is not saved or name not in manifest}
        found += [(name, value) for name, value in fields(own) if not name.startswith("submission.")]
    # What was asked for stands in each line, as in a manifest.
    of_a_manifest = {"evolink_task_id", "request", "asked", "usage"}
    for line in others:
        assert set(line) == {name for name in rows("line") if "." not in name} | of_a_manifest
        assert line["request"]["prompt"]
    check("line", [(name, value) for name, value in found if name.partition(".")[0] not in of_a_manifest])
    assert [state for state in get_args(State) if f"`{state}`" not in PAGE] == []
    for told in (saved["error"], *(line["error"] for line in others)):
        assert told is None or len(told["message"]) <= 500


def test_page_reads_what_a_batch_writes(mixed: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    summary, (saved, *_) = mixed
    page: dict[str, Any] = {"__name__": "page"}
    (code,) = (
        code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "def pictures" in code
    )
    exec(compile(code, "batch.md", "exec"), page)
    assert page["pictures"](summary) == {"mug": [saved["images"][0]["path"]]}


def test_page_tells_the_defaults() -> None:
    told = dict(
        re.findall(
            r"^\| `(\w+)` \| ([\w ]+?)(?: s)? \|", PAGE.partition("## How it waits")[2], flags=re.MULTILINE
        )
    )
    operator = batch(["a mug"], "/tmp/never-used")()
    assert told == {
        "save_every": str(operator.save_every),
        "save_after": f"{operator.save_after:.0f}",
        "parallel": str(operator.parallel),
        "max_active_generations": str(operator.max_active_generations),
        "timeout": f"{operator.timeout / 3600:.0f} hours",
        "deferrable": str(operator.deferrable),
    }


def test_one_id_for_several_items_is_reported(
    evolink: SimulatorServer, tmp_path: Path, log_lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """EvoLink gives each request an id of its own; two items with one id have the same images."""
    submit = EvoLinkClient.submit
    answers: list[Any] = []

    def same(client: EvoLinkClient, request: Any, key: str, **options: Any) -> Any:
        answers.append(submit(client, request, key, **options))
        return answers[0]

    monkeypatch.setattr(EvoLinkClient, "submit", same)
    TaskRun(batch(["a red fox", "a blue fox"], tmp_path), retries=0, store=StateStore()).run()
    warnings = [str(line["event"]) for line in log_lines if line["log_level"] == "warning"]
    assert any("one and the same task" in warning for warning in warnings)
    assert evolink.state.counters.submissions == 2
