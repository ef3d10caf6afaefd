"""A batch that reuses: four nights counted at EvoLink, retries, clears, limits, ledger and summary."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from airflow.exceptions import TaskDeferred
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import airflow_provider_evoimage
from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.exceptions import BatchFailedError, DestinationError
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.transport import Outgoing, Transport
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import TaskRun, batch, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

NAMES = "{run_id}/{item}-{index}.{ext}"
SCHEMA = json.loads((Path(airflow_provider_evoimage.__file__).parent / "manifest.schema.json").read_text())


def paid(evolink: SimulatorServer) -> int:
    return evolink.state.counters.paid


def night(folder: Path, requests: Any, run_id: str, **arguments: Any) -> TaskRun:
    fields = {"reuse": True, "filename_template": NAMES} | arguments
    return TaskRun(batch(requests, folder, **fields), run_id=run_id)


def drawn_and_reused(summary: dict[str, Any]) -> tuple[int, int]:
    return summary["drawn"], summary["reused"]


def ledger(summary: dict[str, Any]) -> list[dict[str, Any]]:
    text = Path(summary["manifest"].removeprefix("file://")).read_text()
    return [json.loads(line) for line in text.splitlines()]


def draw_reference(path: Path, colour: str) -> str:
    Image.new("RGB", (40, 30), colour).save(path)
    return str(path)


@pytest.mark.parametrize("kind", ["batch", "tasks"])
def test_four_nights_draw_three_none_one_and_all(evolink: SimulatorServer, tmp_path: Path, kind: str) -> None:
    logo = draw_reference(tmp_path / "logo.png", "teal")
    prompts = ["a shoe", "a jacket", "a mug"]

    def run(name: str, prompts: list[str]) -> int:
        before = paid(evolink)
        if kind == "batch":
            night(tmp_path / "images", prompts, name, image_urls=[logo]).run()
        else:
            for number, prompt in enumerate(prompts):
                fields = {"save_to": str(tmp_path / "images"), "reuse": True, "image_urls": [logo]}
                TaskRun(generate(prompt=prompt, **fields), run_id=name, task_id=f"draw-{number}").run()
        return paid(evolink) - before

    counted = [run("one", prompts), run("two", prompts), run("three", [*prompts, "a lamp"])]
    draw_reference(tmp_path / "logo.png", "navy")
    counted.append(run("four", [*prompts, "a lamp"]))
    assert counted == [3, 0, 1, 4]


def test_summary_ledger_and_xcom_say_what_was_reused(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    first = night(tmp_path, ["a shoe", "a mug"], "one").run()
    monkeypatch.setattr(metrics, "_count", lambda *sent: counted.append(sent))
    task = night(tmp_path, [{"name": "lamp", "prompt": "a lamp"}, "a mug", "a shoe"], "two")
    second = task.run()

    assert (drawn_and_reused(first), drawn_and_reused(second)) == ((2, 0), (1, 2))
    assert [sent for sent in counted if sent[0] == "reused"] == [
        ("reused", 1, {"model": ledger(first)[0]["model"]})
    ] * 2
    assert (second["items"], second["saved"], second["images"]) == (3, 3, 3)
    drawn, *reused = ledger(second)
    assert second["credits"]["charged"] == drawn["usage"]["charged"] > 0
    assert second["credits"]["estimate"] == drawn["usage"]["estimate"]["credits_high"]
    before = {line["request"]["prompt"]: line for line in ledger(first)}
    for line in reused:
        earlier = before[line["request"]["prompt"]]
        assert line["state"] == "saved"
        assert line["images"] == earlier["images"]
        assert line["usage"]["charged"] == 0
        assert line["reused"]["made_by"]["run_id"] == "one"
        assert line["made_by"]["run_id"] == "two"
        own = {"item", "position", "name", "state", "error", "submission"}
        jsonschema.validate({name: each for name, each in line.items() if name not in own} | {"v": 1}, SCHEMA)
    assert "reused" not in drawn
    shown = task.ti.xcoms["evoimage_images"]
    assert (shown["items_saved"], shown["items_reused"], shown["reused"]) == (3, 2, 2)


def test_batch_of_which_everything_is_reused_does_not_defer(evolink: SimulatorServer, tmp_path: Path) -> None:
    night(tmp_path, ["a shoe", "a mug"], "one").run()
    summary = night(tmp_path, ["a shoe", "a mug"], "two").start()
    assert drawn_and_reused(summary) == (0, 2)
    assert evolink.state.counters.submissions == 2


def test_equal_rows_keep_pictures_of_their_own(evolink: SimulatorServer, tmp_path: Path) -> None:
    first = night(tmp_path, ["a shoe"] * 2, "one").run()
    second = night(tmp_path, ["a shoe"] * 3, "two").run()
    assert drawn_and_reused(second) == (1, 2)
    ids = [[line["evolink_task_id"] for line in ledger(each)] for each in (first, second)]
    assert ids[1][:2] == ids[0]
    assert len(set(ids[1])) == 3


def test_variant_of_an_item_and_of_all(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = Transport.send

    def note(self: Transport, outgoing: Outgoing) -> Any:
        if outgoing.url.endswith("/v1/images/generations"):
            sent.append(str(outgoing))
        return send(self, outgoing)

    monkeypatch.setattr(Transport, "send", note)
    items = ["a shoe", {"prompt": "a shoe", "variant": "b"}, {"prompt": "a shoe", "variant": 3}]
    assert drawn_and_reused(night(tmp_path, items, "one").run()) == (3, 0)
    assert drawn_and_reused(night(tmp_path, items[::-1], "two").run()) == (0, 3)
    # For those without their own.
    assert drawn_and_reused(night(tmp_path, items, "three", variant="b").run()) == (1, 2)
    assert len(sent) == 4
    assert not any("variant" in body for body in sent)


def test_limit_and_balance_count_only_what_is_drawn(evolink: SimulatorServer, tmp_path: Path) -> None:
    prompts = [f"a shoe {number}" for number in range(5)]
    first = night(tmp_path, prompts, "one").run()
    one = first["credits"]["estimate"] / 5
    summary = night(tmp_path, [*prompts, "a mug"], "two", max_credits=one * 1.5, check_credits=True).run()
    assert drawn_and_reused(summary) == (1, 5)
    assert "warning" not in summary


def test_item_without_a_known_price_may_be_reused_under_a_limit(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    item = {"prompt": "a shoe", "model": "a-model-of-tomorrow", "quality": None}
    evolink.state.configure({"credits": 10_000})
    night(tmp_path, [item], "one").run()
    assert drawn_and_reused(night(tmp_path, [item], "two", max_credits=1).run()) == (0, 1)


def test_retry_keeps_what_was_reused_and_resumes_what_was_paid(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    night(tmp_path, ["a shoe"], "one").run()
    task = night(tmp_path, ["a shoe", "a mug"], "two")
    with pytest.raises(TaskDeferred):
        task.start()
    assert paid(evolink) == 2
    # Meanwhile another run saves a mug: what this run paid for comes first.
    night(tmp_path, ["a mug"], "other").run()
    summary = task.run()
    assert drawn_and_reused(summary) == (1, 1)
    assert paid(evolink) == 3
    assert [line["made_by"]["run_id"] for line in ledger(summary)] == ["two", "two"]


def test_retry_after_a_try_that_submitted_nothing_reuses(evolink: SimulatorServer, tmp_path: Path) -> None:
    night(tmp_path, ["a shoe", "a mug"], "one").run()
    task = night(tmp_path, ["a shoe", "a mug"], "two")
    task.ti.try_number = 1
    assert drawn_and_reused(task.run()) == (0, 2)
    assert paid(evolink) == 2


def test_ledger_with_a_damaged_line_is_no_proof_that_nothing_was_submitted(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    task = night(tmp_path, ["a shoe", "a mug"], "two")
    with pytest.raises(TaskDeferred):
        task.start()
    (file,) = tmp_path.rglob("*.batch.jsonl")
    mug = [json.loads(line) for line in file.read_text().splitlines()][1]
    file.write_text(file.read_text().replace(mug["submission"]["key"], "?"))
    changed = file.read_text().splitlines()
    broken = json.loads(changed[1])
    broken["submission"]["phase"] = "unheard of"
    file.write_text(changed[0] + "\n" + json.dumps(broken) + "\n")
    night(tmp_path, ["a mug"], "other").run()
    assert paid(evolink) == 3
    summary = task.run()
    # Submitted again under its key: EvoLink returns what this run paid for.
    assert drawn_and_reused(summary) == (2, 0)
    assert ledger(summary)[1]["evolink_task_id"] == mug["evolink_task_id"]
    assert paid(evolink) == 3


@pytest.mark.parametrize(
    ("on_clear", "expected"), [("auto", (2, 0)), ("regenerate", (2, 0)), ("reuse", (0, 2))]
)
def test_clear_of_a_complete_batch(
    evolink: SimulatorServer, tmp_path: Path, on_clear: str, expected: tuple[int, int]
) -> None:
    night(tmp_path, ["a shoe", "a mug"], "one").run()
    task = night(tmp_path, ["a shoe", "a mug"], "two", on_clear=on_clear)
    assert drawn_and_reused(task.run()) == (0, 2)
    task.clear()
    assert drawn_and_reused(task.run()) == expected
    assert paid(evolink) == 2 + expected[0]


def test_clear_of_an_incomplete_batch_keeps_what_was_reused(evolink: SimulatorServer, tmp_path: Path) -> None:
    night(tmp_path, ["a shoe"], "one").run()
    items = ["a shoe", "a mug [[fail:content_policy_violation]]"]
    task = night(tmp_path, items, "two", on_item_failure="fail")
    with pytest.raises(BatchFailedError, match="no images"):
        task.run()
    before = paid(evolink)
    task.clear()
    with pytest.raises(BatchFailedError, match="no images"):
        task.run()
    assert [line.get("reused") is not None for line in lines_of(tmp_path, "two")] == [True, False]
    # Only the failed one is asked for again.
    assert paid(evolink) - before <= 1


def lines_of(folder: Path, run_id: str) -> list[dict[str, Any]]:
    (file,) = (folder / "campaign" / run_id).glob("*.batch.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_row_that_may_overwrite_a_picture_keeps_another_row_from_reusing_it(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    names = {"filename_template": "{name}-{index}.{ext}"}
    shoe, mug = {"name": "x", "prompt": "a shoe"}, {"name": "x", "prompt": "a mug"}
    night(tmp_path, [shoe], "one", **names).run()
    # The shoe is row z now, and row x draws a mug over its file.
    summary = night(tmp_path, [mug, shoe | {"name": "z"}], "two", **names).run()
    assert drawn_and_reused(summary) == (2, 0)
    pictures = {line["name"]: Path(line["images"][0]["path"]) for line in ledger(summary)}
    assert {name: path.name for name, path in pictures.items()} == {"x": "x-0.png", "z": "z-0.png"}
    assert drawn_and_reused(night(tmp_path, [mug, shoe | {"name": "z"}], "three", **names).run()) == (0, 2)


def test_batch_lists_the_index_once_and_reads_only_what_is_named_there(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"a shoe {number}" for number in range(20)]
    night(tmp_path, prompts, "one").run()
    listed: list[str] = []
    sized: list[str] = []
    sizes_in, size = Destination.sizes_in, Destination.size_if_there

    def list_(self: Destination, folder: str) -> Any:
        listed.append(folder)
        return sizes_in(self, folder)

    def look(self: Destination, name: str) -> Any:
        sized.append(name)
        return size(self, name)

    monkeypatch.setattr(Destination, "sizes_in", list_)
    monkeypatch.setattr(Destination, "size_if_there", look)
    summary = night(tmp_path, [*prompts, "a mug"], "two").run()
    assert drawn_and_reused(summary) == (1, 20)
    assert listed == ["_index", "one"]
    assert sized == []


def test_storage_without_the_right_to_list_is_looked_up_one_by_one(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"a shoe {number}" for number in range(9)]
    night(tmp_path, prompts, "one").run()
    monkeypatch.setattr(Destination, "sizes_in", lambda self, folder: None)
    assert drawn_and_reused(night(tmp_path, [*prompts, "a mug"], "two").run()) == (1, 9)


def test_failing_storage_ends_the_try_before_anything_is_sent(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(tmp_path, ["a shoe"], "one").run()
    task = night(tmp_path, ["a shoe", "a mug"], "two")

    def fail(self: Destination, folder: str) -> None:
        raise DestinationError("the storage is down")

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "sizes_in", fail)
        with pytest.raises(DestinationError) as raised:
            task.run()
    assert raised.value.billed is False
    assert paid(evolink) == 1
    assert drawn_and_reused(task.run()) == (1, 1)


def test_age_counts_for_each_item(evolink: SimulatorServer, tmp_path: Path, fake_time: FakeTime) -> None:
    night(tmp_path, ["a shoe"], "one").run()
    fake_time.sleep(3 * 86_400)
    summary = night(tmp_path, ["a mug"], "two").run()
    fake_time.sleep(86_400)
    summary = night(tmp_path, ["a shoe", "a mug"], "three", reuse=timedelta(days=2)).run()
    assert drawn_and_reused(summary) == (1, 1)


def test_log_names_the_first_reasons_and_counts_the_others(
    evolink: SimulatorServer, tmp_path: Path, log_lines: list[Any]
) -> None:
    items = [{"name": f"shoe {number}", "prompt": f"a shoe {number} of May"} for number in range(12)]
    night(tmp_path, items, "one").run()
    changed = [each | {"prompt": each["prompt"].replace("May", "June")} for each in items]
    del log_lines[:]
    night(tmp_path, changed, "two").run()
    said = [each["event"] % tuple(each.get("positional_args", ())) for each in log_lines]
    reasons = [line for line in said if line.startswith("Drawing")]
    assert len(reasons) == 11
    assert all("prompt differs from that of EvoLink task" in line for line in reasons[:10])
    assert "'a shoe 0 of May' became 'a shoe 0 of June'" in reasons[0]
    assert reasons[-1] == "Drawing 2 items more."


def test_paths_of_a_reused_batch_work_downstream(evolink: SimulatorServer, tmp_path: Path) -> None:
    night(tmp_path / "images", ["a shoe"], "one").run()
    summary = night(tmp_path / "images", ["a shoe"], "two").run()
    assert drawn_and_reused(summary) == (0, 1)
    cut = TaskRun(
        lambda: EvoImageRenditionsOperator(
            task_id="cut", images=summary, renditions=["meta.square"], save_to=str(tmp_path / "channels")
        ),
        task_id="cut",
        run_id="two",
    ).run()
    made = cut[0] if isinstance(cut, list) else cut
    assert Path(made["images"][0]["renditions"][0]["path"].removeprefix("file://")).exists()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {"prompt": st.sampled_from(["a shoe", "a mug", "a shoe "])},
            optional={
                "quality": st.sampled_from(["low", "medium"]),
                "size": st.sampled_from(["1024x1024", "1024×1024", "1024x1536"]),
                "variant": st.sampled_from(["a", " a ", "", "b"]),
                "callback_url": st.just("https://hooks.example.com/done"),
                "extra_body": st.sampled_from([{}, {"background": "opaque"}]),
            },
        ),
        min_size=2,
        max_size=4,
    )
)
def test_what_is_reused_has_an_equal_fingerprint_and_nothing_else(
    evolink: SimulatorServer, tmp_path_factory: pytest.TempPathFactory, items: list[dict[str, Any]]
) -> None:
    # Each example has the same DAG runs, so EvoLink must not remember the keys of the one before.
    evolink.reset()
    folder = tmp_path_factory.mktemp("images")
    half = len(items) // 2
    first, second = night(folder, items[:half], "one").run(), night(folder, items[half:], "two").run()

    def keys(summary: dict[str, Any]) -> list[tuple[str, int]]:
        found = [line["submission"] for line in ledger(summary)]
        return [(each["fingerprint"], each["occurrence"]) for each in found]

    were_drawn = set(keys(first))
    for line, key in zip(ledger(second), keys(second), strict=True):
        assert ("reused" in line) == (key in were_drawn)
