"""Names and labels reach manifest, sidecar, files, asset events, metrics and sums of costs, and never a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.sdk import Asset, ObjectStoragePath
from typer.testing import CliRunner

from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.command.app import app
from airflow_provider_evoimage.decorators.evoimage import EvoImageDecoratedOperator
from airflow_provider_evoimage.exceptions import BudgetExceededError, EvoImageError, InvalidRequestError
from airflow_provider_evoimage.lineage import NewImages
from airflow_provider_evoimage.manifest import credits_of
from airflow_provider_evoimage.operators import batch as batch_module
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.version_compat import HAS_ASSET_PARTITIONS
from tests.integration.money.batches import lines
from tests.integration.money.crashes import crash, paid
from tests.integration.task_driver import StateStore, TaskRun, batch, first_leg, generate, save

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

LABELS = {"campaign": "spring", "team": "shop"}


@pytest.fixture(params=["3.3", "3.1"])
def maybe_store(request: pytest.FixtureRequest) -> StateStore | None:
    return StateStore() if request.param == "3.3" else None


def test_name_and_labels_stand_in_manifest_sidecar_and_file_name(
    evolink: SimulatorServer, maybe_store: StateStore | None, tmp_path: Path
) -> None:
    arguments = {"name": "mug", "labels": LABELS, "save_to": tmp_path, "filename_template": "{name}.{ext}"}
    manifest = TaskRun(generate(**arguments), store=maybe_store).run()
    assert (manifest["name"], manifest["labels"]) == ("mug", LABELS)
    assert manifest["images"][0]["path"].endswith("/mug.png")
    sidecar = json.loads((tmp_path / "mug.json").read_text())
    assert (sidecar["name"], sidecar["labels"]) == ("mug", LABELS)
    # A save of the manifest keeps them.
    again = TaskRun(save(json.dumps(manifest), tmp_path / "copy", filename_template="{name}.{ext}")).run()
    assert (again["name"], again["labels"]) == ("mug", LABELS)
    assert (tmp_path / "copy" / "mug.png").exists()
    assert "mug" not in str(next(iter(evolink.state.generations.values())).order)


def test_name_and_labels_change_neither_key_nor_fingerprint(evolink: SimulatorServer) -> None:
    plain, named = StateStore(), StateStore()
    TaskRun(generate(), store=plain).run()
    TaskRun(generate(name="mug", labels=LABELS), store=named).run()
    assert plain.record["key"] == named.record["key"]
    assert plain.record["fingerprint"] == named.record["fingerprint"]
    assert paid(evolink) == 1


def test_retry_with_another_name_and_label_pays_nothing(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(generate(name="mug", labels=LABELS), store=store)
    crash(task, "after POST", monkeypatch)
    task.make = generate(name="cup", labels={"campaign": "summer"})
    manifest = task.run()
    assert paid(evolink) == 1
    # As it was sent.
    assert (manifest["name"], manifest["labels"]) == ("mug", LABELS)


def test_items_of_a_batch_have_names_and_both_kinds_of_labels(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    requests = [
        {"name": "mug", "prompt": "a mug", "labels": {"line": "kitchen", "team": "home"}},
        {"prompt": "a torch"},
    ]
    plain = TaskRun(batch([{"prompt": "a mug"}, {"prompt": "a torch"}], tmp_path / "plain"))
    plain.run()
    task = TaskRun(batch(requests, tmp_path / "named", labels=LABELS))
    task.run()
    assert paid(evolink) == 2
    mug, torch = lines(tmp_path / "named")
    assert (mug["name"], mug["labels"]) == ("mug", {"campaign": "spring", "team": "home", "line": "kitchen"})
    assert (torch["name"], torch["labels"]) == ("", LABELS)
    sidecars = {each["evolink_task_id"]: each for each in map(_json, (tmp_path / "named").rglob("*0.json"))}
    assert sidecars[mug["evolink_task_id"]]["name"] == "mug"
    assert "name" not in sidecars[torch["evolink_task_id"]]


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("labels", [{"model": "x"}, {"campaign": 7}])
def test_wrong_labels_are_found_before_anything_is_sent(
    evolink: SimulatorServer, tmp_path: Path, labels: Any
) -> None:
    for make in (generate(labels=labels), batch(["a mug"], tmp_path, labels=labels)):
        with pytest.raises(InvalidRequestError, match="labels"):
            TaskRun(make).run()
    assert evolink.state.counters.submissions == 0


def test_labels_are_tags_of_metrics_and_no_part_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = Mock()
    monkeypatch.setattr(metrics, "airflow_stats", lambda: stats)
    TaskRun(generate(labels=LABELS)).run()
    counted = [call.args[0] for call in stats.incr.call_args_list]
    assert "evoimage.credits_used.gpt-image-1_5" in counted
    assert not [name for name in counted if "spring" in name]
    (tags,) = [
        call.kwargs["tags"] for call in stats.incr.call_args_list if call.args[0] == "evoimage.credits_used"
    ]
    assert tags == {"model": "gpt-image-1.5", **LABELS}


def test_asset_event_has_shared_labels_and_paths_by_name(evolink: SimulatorServer, tmp_path: Path) -> None:
    del evolink
    requests = [
        {"name": "mug", "prompt": "a mug", "labels": {"team": "home"}},
        {"name": "torch", "prompt": "a torch"},
    ]
    TaskRun(batch(requests, tmp_path, labels=LABELS)).run()
    made = NewImages(manifests=lines(tmp_path), save_to=str(tmp_path))
    assert made.extra["labels"] == {"campaign": "spring"}
    assert {name: len(paths) for name, paths in made.extra["paths_by_name"].items()} == {"mug": 1, "torch": 1}


class OutletEvents(dict[Any, Any]):
    def __missing__(self, key: Any) -> Any:
        self[key] = Mock(extra={})
        return self[key]


@pytest.mark.skipif(not HAS_ASSET_PARTITIONS, reason="Airflow < 3.3 has no asset partitions")
def test_each_name_is_a_partition(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "HAS_ASSET_PARTITIONS", True)
    asset, events = Asset("pictures"), OutletEvents()
    requests = [{"name": name, "prompt": f"a {name}"} for name in ("mug", "torch", "mug")]
    task = TaskRun(batch(requests, tmp_path, partition_by="name", outlets=[asset]))
    monkeypatch.setattr(TaskRun, "context", property(lambda task: {"ti": task.ti, "outlet_events": events}))
    summary = task.run()
    assert paid(evolink) == 3
    events[asset].add_partitions.assert_called_once_with(["mug", "torch"])
    # Airflow stores it once for each name, so it lists none.
    assert events[asset].extra == {
        "generations": 3,
        "images": 3,
        "credits": summary["credits"]["charged"],
        "reused": 0,
        "manifest": summary["manifest"],
    }


@pytest.mark.skipif(not HAS_ASSET_PARTITIONS, reason="Airflow < 3.3 has no asset partitions")
def test_name_whose_image_is_reused_is_a_partition_and_one_that_failed_is_none(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset, events = Asset("pictures"), OutletEvents()
    monkeypatch.setattr(TaskRun, "context", property(lambda task: {"ti": task.ti, "outlet_events": events}))
    requests = [{"name": "mug", "prompt": "a mug"}]
    TaskRun(batch(requests, tmp_path, reuse=True)).run()
    requests += [
        {"name": "torch", "prompt": "a torch"},
        {"name": "refused", "prompt": "a lamp [[fail:content_policy_violation]]"},
    ]
    made = batch(requests, tmp_path, reuse=True, partition_by="name", outlets=[asset])
    TaskRun(made, run_id="scheduled__2026-05-02").run()
    # The mug once, the others once each.
    assert paid(evolink) == 3
    events[asset].add_partitions.assert_called_once_with(["mug", "torch"])
    assert events[asset].extra["reused"] == 1


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_item_that_can_be_no_partition_is_found_before_anything_is_sent(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(batch_module, "HAS_ASSET_PARTITIONS", True)
    with pytest.raises(InvalidRequestError, match="partition_by"):
        TaskRun(batch([{"name": name, "prompt": "a mug"}], tmp_path, partition_by="name")).run()
    assert evolink.state.counters.submissions == 0


def test_partitions_are_refused_at_parse_time_below_airflow_3_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "HAS_ASSET_PARTITIONS", False)
    with pytest.raises(InvalidRequestError, match=r"needs Airflow 3\.3"):
        EvoImageBatchOperator(task_id="draw", requests=["a mug"], save_to="/tmp/x", partition_by="name")


# What a function returns


def drawn(**returned: Any) -> Any:
    return lambda: EvoImageDecoratedOperator(
        task_id="draw", quality="low", python_callable=lambda: {"prompt": "a red fox", **returned}
    )


@pytest.mark.parametrize("kind", [str, Path, lambda path: ObjectStoragePath(f"file://{path}")])
def test_function_may_return_arguments_of_the_task(
    evolink: SimulatorServer, maybe_store: StateStore | None, tmp_path: Path, kind: Any
) -> None:
    task = TaskRun(drawn(name="mug", labels=LABELS, max_credits=2, save_to=kind(tmp_path)), store=maybe_store)
    deferral = first_leg(task)
    # The leg after the wait has another process, and the function is not called again.
    manifest = task.go_on(deferral)
    assert (manifest["name"], manifest["labels"], paid(evolink)) == ("mug", LABELS, 1)
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_limit_of_a_function_holds(evolink: SimulatorServer) -> None:
    with pytest.raises(InvalidRequestError, match="max_credits"):
        TaskRun(drawn(max_credits=None)).run()
    with pytest.raises(BudgetExceededError, match="more than max_credits"):
        TaskRun(drawn(max_credits=0.01)).run()
    assert evolink.state.counters.submissions == 0


def test_arguments_that_cannot_be_stored_stop_the_try_before_it_pays(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = TaskRun(drawn(save_to=str(tmp_path)))
    task.ti.on = lambda moment: (_ for _ in ()).throw(RuntimeError("no backend"))
    with pytest.raises(EvoImageError, match="evoimage_arguments"):
        task.start()
    assert evolink.state.counters.submissions == 0


# Where images go and come from


@pytest.mark.parametrize("kind", [str, Path, lambda path: ObjectStoragePath(f"file://{path}")])
def test_folders_and_sidecars_may_be_path_objects(
    evolink: SimulatorServer, tmp_path: Path, kind: Any
) -> None:
    TaskRun(generate(save_to=kind(tmp_path / "a"))).run()
    (sidecar,) = (tmp_path / "a").rglob("*.json")
    given = kind(sidecar) if kind is not str else sidecar.read_text()
    saved = TaskRun(
        lambda: save(given, "unused")().__class__(
            task_id="save", generation=given, save_to=kind(tmp_path / "b")
        )
    ).run()
    assert saved["evolink_task_id"] == next(iter(evolink.state.generations))
    assert len(list((tmp_path / "b").rglob("*.png"))) == 1


@pytest.mark.parametrize("text", ["{'evolink_task_id': 'task-unified-1'}", "[1, 2", "{}"])
def test_text_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="generation"):
        TaskRun(save(text, tmp_path)).run()


# Sums


def test_credits_of_adds_up_manifests_and_summaries(evolink: SimulatorServer, tmp_path: Path) -> None:
    manifest = TaskRun(generate()).run()
    summary = TaskRun(batch(["a mug", "a torch"], tmp_path)).run()
    total = credits_of([[manifest, None], [summary, manifest]])
    assert total["credits"] == pytest.approx(float(evolink.state.counters.credits_charged))
    assert total["usd"] == pytest.approx(total["credits"] / 68, abs=1e-6)
    assert (total["generations"], total["images"], total["unknown"]) == (3, 3, 0)
    unknown = {**manifest, "evolink_task_id": "other", "usage": {**manifest["usage"], "charged": None}}
    assert credits_of(unknown) == {"generations": 1, "images": 1, "unknown": 1, "credits": 0.0, "usd": 0.0}
    for wrong in ("text", 7, [{"a": 1}]):
        with pytest.raises(InvalidRequestError, match="credits_of"):
            credits_of(wrong)


def test_costs_sums_sidecars_by_labels_and_facts(evolink: SimulatorServer, tmp_path: Path) -> None:
    TaskRun(batch(["a mug", "a torch"], tmp_path, labels=LABELS)).run()
    TaskRun(generate(save_to=str(tmp_path), labels={"campaign": "summer"})).run()
    (tmp_path / "other.json").write_text('{"not": "ours"}')
    (tmp_path / "broken.json").write_text("{")
    copy = next(each for each in tmp_path.rglob("*.json") if "draw" in each.name)
    (tmp_path / "copy.json").write_text(copy.read_text())
    ran = CliRunner().invoke(app, ["costs", str(tmp_path), "--by", "campaign,model", "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.output)
    assert [(row["by"], row["generations"]) for row in found["rows"]] == [
        ({"campaign": "spring", "model": "gpt-image-1"}, 2),
        ({"campaign": "summer", "model": "gpt-image-1.5"}, 1),
    ]
    assert found["total"]["credits"] == pytest.approx(float(evolink.state.counters.credits_charged))
    ran = CliRunner().invoke(
        app, ["costs", str(tmp_path), "--by", "team,day,dag,task,month"], env={"COLUMNS": "200"}
    )
    assert ran.exit_code == 0
    for word in ("shop", "(none)", "campaign", "draw", "total"):
        assert word in ran.output
