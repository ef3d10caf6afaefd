"""Everything the account made is saved once: whoever asked for it, whatever died, and nothing is paid."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias

from airflow_provider_evoimage.exceptions import (
    DestinationError,
    DownloadError,
    EvoLinkUnavailableError,
    InvalidRequestError,
)
from airflow_provider_evoimage.operators.ingest import EvoImageIngestOperator
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.accounts import Caller, key_hash
from airflow_provider_evoimage.simulator.service.faults import Fault, read_script
from airflow_provider_evoimage.simulator.service.orders import read_order
from tests.integration.fake_time import FakeTime
from tests.integration.forked import forked
from tests.integration.task_driver import TaskRun, generate
from tools.local_airflow.processes import poll

pytestmark = pytest.mark.usefixtures("airflow_connection")

HOUR = 3600.0
Elsewhere = Callable[..., str]


@pytest.fixture
def elsewhere(evolink: SimulatorServer) -> Elsewhere:
    """Have a generation made on the website some hours ago; returns its id."""

    def make(
        prompt: str = "a poster", *, hours: float = 5, model: str = "gpt-image-1.5", **fields: Any
    ) -> str:
        order = read_order({"model": model, "quality": "low", "prompt": prompt, **fields})
        caller = Caller("default", key_hash("the website"))
        return evolink.state.accept(caller, order, read_script(prompt), None, age=hours * HOUR).id

    return make


def ingest(save_to: Path, **arguments: Any) -> Callable[[], EvoImageIngestOperator]:
    return lambda: EvoImageIngestOperator(task_id="ingest", save_to=str(save_to), **arguments)


def run(save_to: Path, *, run_id: str = "scheduled__1", **arguments: Any) -> dict[str, Any]:
    return TaskRun(ingest(save_to, **arguments), run_id=run_id).run()


def files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def counts(summary: dict[str, Any]) -> dict[str, int]:
    names = ("found", "saved", "known", "own", "young", "without_images", "failed")
    return {name: summary[name] for name in names if summary[name]}


def warnings(log_lines: list[Any]) -> list[str]:
    """What was warned of, without Airflow's own line about tests."""
    found = [line["event"] for line in log_lines if line["log_level"] == "warning"]
    return [line for line in found if "outside of the Task Runner" not in line]


def test_everything_is_saved_with_manifests_and_a_second_run_adds_nothing(
    tmp_path: Path, elsewhere: Elsewhere, evolink: SimulatorServer
) -> None:
    tasks = [elsewhere(f"poster {number}", hours=20 - number / 10) for number in range(58)]
    tasks.append(elsewhere("three of them", n=3, model="gpt-image-1", hours=2))
    paid = evolink.state.counters.paid

    first = run(tmp_path)
    saved = files(tmp_path)
    second = run(tmp_path, run_id="scheduled__2")

    assert counts(first) == {"found": 59, "saved": 59}
    assert first["images"] == 61
    # The oldest first: their links die first.
    assert first["evolink_task_ids"] == tasks
    assert counts(second) == {"found": 59, "known": 59}
    assert files(tmp_path) == saved
    assert len(saved) == 61 + 59
    assert evolink.state.counters.paid == paid
    manifest = json.loads(saved[f"gpt-image-1/{tasks[-1]}-0.json"])
    assert (manifest["evolink_task_id"], manifest["made"], manifest["request"]) == (tasks[-1], 3, None)
    assert [Path(image["path"]).name for image in manifest["images"]] == [
        f"{tasks[-1]}-{n}.png" for n in range(3)
    ]
    assert manifest["usage"]["charged"] > 0
    assert first["credits"] == pytest.approx(float(evolink.state.counters.credits_charged))


def test_list_is_read_in_pages_and_details_fifty_at_a_time(
    tmp_path: Path, elsewhere: Elsewhere, evolink: SimulatorServer
) -> None:
    for number in range(60):
        elsewhere(f"poster {number}")
    elsewhere("of the day before", hours=30)
    before = dict(evolink.state.counters.reads)
    run(tmp_path)
    reads = {name: count - before.get(name, 0) for name, count in evolink.state.counters.reads.items()}
    # The third page is empty; the generation of the day before is not read.
    assert (reads["list"], reads["batch"], reads.get("task", 0)) == (3, 2, 0)


def test_unfinished_failed_old_and_other_kinds_are_left_alone(tmp_path: Path, elsewhere: Elsewhere) -> None:
    elsewhere("[[never]]")
    elsewhere("[[fail:service_error]]")
    elsewhere("[[cancelled]]")
    elsewhere("old", hours=25)
    elsewhere("[[results:0]]")
    wanted = elsewhere("this one")
    summary = run(tmp_path)
    assert counts(summary) == {"found": 2, "saved": 1, "without_images": 1}
    assert summary["evolink_task_ids"] == [wanted]


def test_runs_at_other_times_of_the_same_day_share_the_work(
    tmp_path: Path, elsewhere: Elsewhere, fake_time: FakeTime
) -> None:
    first = elsewhere("morning", hours=2)
    assert run(tmp_path)["evolink_task_ids"] == [first]
    fake_time.advance(6 * HOUR)
    second = elsewhere("noon", hours=2)
    summary = run(tmp_path, run_id="scheduled__2")
    assert counts(summary) == {"found": 2, "saved": 1, "known": 1}
    assert summary["evolink_task_ids"] == [second]


def test_what_own_tasks_saved_is_left_out_and_the_rest_is_not(
    tmp_path: Path, elsewhere: Elsewhere, fake_time: FakeTime
) -> None:
    made = TaskRun(generate(save_to=str(tmp_path / "campaign"))).run()
    TaskRun(generate(prompt="links only")).run()
    fake_time.advance(2 * HOUR)
    poster = elsewhere("a poster", hours=1.5)

    summary = run(tmp_path / "account", own_folders=[str(tmp_path / "campaign")])
    assert counts(summary) == {"found": 3, "saved": 2, "own": 1}
    assert poster in summary["evolink_task_ids"]
    assert made["evolink_task_id"] not in summary["evolink_task_ids"]

    # Without the folder nobody can know; with all wanted nobody asks.
    assert counts(run(tmp_path / "unknown"))["saved"] == 3
    everything = run(tmp_path / "all", own_folders=[str(tmp_path / "campaign")], made_elsewhere_only=False)
    assert counts(everything) == {"found": 3, "saved": 3}


def test_own_tasks_below_the_same_folder_are_found_and_their_sidecars_stay(
    tmp_path: Path, fake_time: FakeTime
) -> None:
    TaskRun(generate(save_to=str(tmp_path))).run()
    fake_time.advance(2 * HOUR)
    before = files(tmp_path)
    assert counts(run(tmp_path)) == {"found": 1, "own": 1}
    # Even if an own task uses the very names of the ingest.
    template = "{model}/{evolink_task_id}-{index}.{ext}"
    TaskRun(generate(prompt="a badger", save_to=str(tmp_path), filename_template=template), run_id="b").run()
    before = files(tmp_path)
    fake_time.advance(2 * HOUR)
    summary = run(tmp_path, made_elsewhere_only=False)
    assert counts(summary) == {"found": 2, "saved": 1, "known": 1}
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before


def test_generation_that_an_own_task_may_be_about_to_save_waits_for_the_next_run(
    tmp_path: Path, elsewhere: Elsewhere, fake_time: FakeTime
) -> None:
    elsewhere("just now", hours=0.5)
    assert counts(run(tmp_path / "account")) == {"found": 1, "young": 1}
    assert counts(run(tmp_path / "event", own_grace=0)) == {"found": 1, "saved": 1}
    fake_time.advance(HOUR)
    assert counts(run(tmp_path / "account")) == {"found": 1, "saved": 1}


def test_models_and_times_narrow_it(tmp_path: Path, elsewhere: Elsewhere, evolink: SimulatorServer) -> None:
    one = elsewhere("one", hours=10, model="gpt-image-1")
    two = elsewhere("two", hours=6)
    three = elsewhere("three", hours=3, model="gpt-image-2")
    now = datetime.fromtimestamp(evolink.state.clock.now(), UTC)

    def ids(name: str, **arguments: Any) -> list[str]:
        return run(tmp_path / name, **arguments)["evolink_task_ids"]

    assert ids("a", model="gpt-image-1") == [one]
    assert ids("b", model=["gpt-image-1", "gpt-image-2"]) == [one, three]
    assert ids("c", within=timedelta(hours=7)) == [two, three]
    assert ids("d", created_before=now - timedelta(hours=5)) == [one, two]
    assert ids("e", created_after=(now - timedelta(hours=5)).isoformat()) == [three]
    assert ids("f", created_after="", created_before=None, model=None) == [one, two, three]


def test_unsaved_links_that_die_soon_are_a_warning(
    tmp_path: Path, elsewhere: Elsewhere, log_lines: list[Any], evolink: SimulatorServer
) -> None:
    missed = elsewhere("missed", hours=23.5)
    elsewhere("in time", hours=22)
    summary = run(tmp_path)
    assert counts(summary) == {"found": 1, "saved": 1}
    assert summary["expiring"] == [missed]
    (warning,) = warnings(log_lines)
    assert "older than 20 hours: 1 generations; the first links die in" in warning
    assert missed in warning
    # One that is saved is no reason to warn.
    log_lines.clear()
    assert run(tmp_path, within=timedelta(hours=24))["expiring"] == []
    assert warnings(log_lines) == []


def test_retry_fetches_what_is_missing_and_reports_everything(
    tmp_path: Path, elsewhere: Elsewhere, fake_time: FakeTime
) -> None:
    good = elsewhere("good")
    bad = elsewhere("bad [[download:503 times=40]]")
    task = TaskRun(ingest(tmp_path))
    with pytest.raises(DownloadError, match="1 of 2 generations could not be saved; the others are saved"):
        task.run()
    assert task.ti.xcoms["evoimage_images"]["state"] == "failed"
    assert (tmp_path / f"gpt-image-1.5/{good}-0.json").exists()
    fake_time.advance(60)
    for _ in range(30):
        try:
            summary = task.run()
            break
        except DownloadError:
            continue
    assert summary["evolink_task_ids"] == [good, bad]
    assert counts(summary) == {"found": 2, "saved": 2}


def test_image_that_no_retry_can_save_does_not_hold_up_the_others(
    tmp_path: Path, elsewhere: Elsewhere
) -> None:
    bad = elsewhere("bad [[download:html]]")
    good = elsewhere("good")
    summary = run(tmp_path)
    assert counts(summary) == {"found": 2, "saved": 1, "failed": 1}
    assert summary["evolink_task_ids"] == [good]
    assert summary["failures"][0]["evolink_task_id"] == bad


def test_list_that_cannot_be_read_saves_nothing_and_is_retried(
    tmp_path: Path, elsewhere: Elsewhere, fake_time: FakeTime, evolink: SimulatorServer
) -> None:
    elsewhere()
    evolink.state.faults.post("list", Fault(kind="status", status=500))
    with pytest.raises(EvoLinkUnavailableError) as refused:
        run(tmp_path)
    assert refused.value.retryable
    assert files(tmp_path) == {}


def test_folder_of_own_tasks_that_cannot_be_listed_is_an_error(tmp_path: Path, elsewhere: Elsewhere) -> None:
    elsewhere()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DestinationError):
        run(tmp_path / "account", own_folders=[str(tmp_path / "file" / "below")])


class Event:
    """One outlet's accessor, as Airflow hands it to a task."""

    def __init__(self) -> None:
        self.extra: dict[str, Any] = {}
        self.added: list[tuple[str, dict[str, Any]]] = []

    def add(self, asset: Asset, extra: dict[str, Any]) -> None:
        self.added.append((asset.uri, extra))


class Outlets:
    """A task's accessors by outlet: on Airflow 3.1 an alias is no key of a dict."""

    def __init__(self) -> None:
        self._events: dict[str, Event] = defaultdict(Event)

    def __getitem__(self, outlet: Asset | AssetAlias) -> Event:
        return self._events[outlet.name]


def test_outlets_get_one_event_and_an_alias_none_where_nothing_is_new(
    tmp_path: Path, elsewhere: Elsewhere
) -> None:
    tasks = [elsewhere(f"poster {number}") for number in range(3)]
    asset, alias = Asset("account_images"), AssetAlias("new_images")
    events: list[Outlets] = []
    for run_id in ("one", "two"):
        task = TaskRun(ingest(tmp_path, outlets=[asset, alias]), run_id=run_id)
        events.append(Outlets())
        context = {"ti": task.ti, "outlet_events": events[-1]}
        task.operator().execute(context)
    ((uri, extra),) = events[0][alias].added
    assert uri == f"file://{tmp_path}"
    assert (extra["generations"], extra["images"], extra["evolink_task_ids"]) == (3, 3, tasks)
    assert events[0][asset].extra == extra
    assert events[1][alias].added == []
    assert events[1][asset].extra["images"] == 0


def test_xcom_of_the_images_names_the_first(tmp_path: Path, elsewhere: Elsewhere) -> None:
    for number in range(30):
        elsewhere(f"poster {number}")
    task = TaskRun(ingest(tmp_path))
    task.run()
    shown = task.ti.xcoms["evoimage_images"]
    assert (shown["state"], shown["images"], shown["saved"]) == ("made", 30, 30)
    assert shown["files"][0][0].startswith(str(tmp_path))
    assert len(json.dumps(shown)) <= 2000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"within": timedelta(hours=25)}, "at most 24 hours"),
        ({"within": 0}, "within"),
        ({"own_grace": -1}, "own_grace"),
        ({"parallel": 0}, "parallel"),
        ({"provenance": "stamp"}, "provenance"),
    ],
)
def test_argument_that_cannot_be_is_refused_when_the_dag_is_parsed(
    tmp_path: Path, arguments: Any, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        ingest(tmp_path, **arguments)()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"filename_template": "{run_id}/{evolink_task_id}-{index}.{ext}"}, "differs from run to run"),
        ({"filename_template": "{evolink_task_id}.{ext}"}, "lacks {index}"),
        ({"filename_template": "{dag_id}-{index}.{ext}"}, "lacks {evolink_task_id}"),
        ({"created_after": "yesterday"}, "ISO text"),
        ({"save_to": "{{ None }}"}, "no storage URL"),
    ],
)
def test_rendered_argument_that_cannot_be_is_refused_before_anything_is_saved(
    tmp_path: Path, arguments: Any, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        TaskRun(
            lambda: EvoImageIngestOperator(task_id="ingest", **{"save_to": str(tmp_path)} | arguments)
        ).run()


@pytest.mark.parametrize("after_files", [1, 7, 20])
def test_run_that_is_killed_leaves_nothing_half_done_and_the_next_one_goes_on(
    tmp_path: Path, elsewhere: Elsewhere, evolink: SimulatorServer, after_files: int
) -> None:
    tasks = [elsewhere(f"poster {number} [[download:slow seconds=0.2]]", n=2) for number in range(12)]
    killed = forked(partial(run, tmp_path, parallel=2))
    poll(
        lambda: len([each for each in files(tmp_path) if each.endswith(".png")]) >= after_files,
        seconds=60,
        what="some images",
        interval=0.01,
    )
    killed.kill()
    killed.join()
    assert len(list(tmp_path.rglob("*-0.json"))) < len(tasks)

    summary = run(tmp_path, run_id="scheduled__2")
    assert summary["saved"] + summary["known"] == len(tasks)
    # A kill between a sidecar and the end of its save leaves the save's hidden record, which says nothing wrong.
    left = {name: each for name, each in files(tmp_path).items() if not name.endswith(".saving.json")}
    assert sorted(left) == sorted(
        f"gpt-image-1.5/{task}-{name}" for task in tasks for name in ("0.json", "0.png", "1.png")
    )
    for task in tasks:
        manifest = json.loads(left[f"gpt-image-1.5/{task}-0.json"])
        for image in manifest["images"]:
            assert Path(image["path"].removeprefix("file://")).stat().st_size == image["bytes"]
    assert counts(run(tmp_path, run_id="scheduled__3")) == {"found": 12, "known": 12}
