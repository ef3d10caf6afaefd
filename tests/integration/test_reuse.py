"""Only what is new is drawn: saved images of the same request are reused, and everything odd is drawn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from airflow.exceptions import TaskDeferred
from PIL import Image

import airflow_provider_evoimage
from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.exceptions import DestinationError, EvoImageError, InvalidRequestError
from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage.destination import Destination
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import API_KEY, StateStore, TaskRun, batch, generate

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

SCHEMA = json.loads((Path(airflow_provider_evoimage.__file__).parent / "manifest.schema.json").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())

Generate = Callable[..., dict[str, Any]]


def paid(evolink: SimulatorServer) -> int:
    return evolink.state.counters.paid


@pytest.fixture(params=["3.3", "3.1"])
def maybe_store(request: pytest.FixtureRequest) -> Callable[[], StateStore | None]:
    """The task state store of Airflow 3.3, or none as before it; another for each task instance."""
    return StateStore if request.param == "3.3" else lambda: None


@pytest.fixture
def drawn(tmp_path: Path) -> Generate:
    """Run a generating task in a DAG run of its own; returns its manifest."""
    runs = iter(range(1000))

    def draw(store: StateStore | None = None, **arguments: Any) -> dict[str, Any]:
        fields = {"save_to": str(tmp_path / "images"), "reuse": True} | arguments
        task = TaskRun(generate(**fields), store=store, run_id=f"run-{next(runs)}")
        return task.run()

    return draw


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "_index").glob("*.json"))


def the_entry(folder: Path) -> Path:
    (entry,) = entries(folder)
    return entry


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def picture_of(manifest: dict[str, Any]) -> Path:
    return Path(manifest["images"][0]["path"].removeprefix("file://"))


def sidecar_of(manifest: dict[str, Any]) -> Path:
    return picture_of(manifest).with_suffix(".json")


def reasons(log_lines: list[Any]) -> list[str]:
    return [each["event"] % tuple(each.get("positional_args", ())) for each in log_lines]


# One request


def test_same_request_of_a_later_run_is_reused_and_costs_nothing(
    evolink: SimulatorServer, drawn: Generate, maybe_store: Any, tmp_path: Path
) -> None:
    first = drawn(maybe_store())
    second = drawn(maybe_store())

    assert paid(evolink) == 1
    assert evolink.state.counters.submissions == 1
    assert "reused" not in first
    assert second["usage"]["charged"] == 0
    assert second["usage"]["tokens"] == {}
    assert second["evolink_task_id"] == first["evolink_task_id"]
    assert second["images"][0]["path"] == first["images"][0]["path"]
    assert second["reused"]["evolink_task_id"] == first["evolink_task_id"]
    assert second["reused"]["made_by"] == first["made_by"]
    assert second["made_by"] == first["made_by"] | {"run_id": "run-1"}
    CHECK.validate(first)
    CHECK.validate(second)
    CHECK.validate(json.loads(sidecar_of(first).read_text()))
    # Nothing is copied, and nothing is written for a reuse.
    assert len(list(tmp_path.rglob("*.png"))) == 1
    assert not list(tmp_path.rglob("run-1"))


def test_picture_of_a_fallback_model_is_not_the_first_model_s(
    evolink: SimulatorServer, drawn: Generate, maybe_store: Any
) -> None:
    models = {"model": "gpt-image-2", "fallback_models": ["gpt-image-1.5"], "fallback_after": 1}
    evolink.state.configure({"unavailable_models": {"gpt-image-2": "model_unavailable"}})
    assert drawn(maybe_store(), **models)["model"] == "gpt-image-1.5"
    evolink.state.configure({"unavailable_models": {}})

    later = drawn(maybe_store(), **models)
    assert (later["model"], "reused" in later) == ("gpt-image-2", False)
    again = drawn(maybe_store(), **models)
    assert again["reused"]["evolink_task_id"] == later["evolink_task_id"]
    assert paid(evolink) == 2


def test_reuses_are_counted_by_model(drawn: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn()
    counted = []
    monkeypatch.setattr(metrics, "_count", lambda *sent: counted.append(sent))
    drawn()
    assert ("reused", 1, {"model": "gpt-image-1.5"}) in counted


def test_reuse_is_off_by_default_and_writes_no_index(
    evolink: SimulatorServer, drawn: Generate, tmp_path: Path
) -> None:
    for _ in range(2):
        drawn(reuse=None)
    assert paid(evolink) == 2
    assert not (tmp_path / "images" / "_index").exists()


def test_task_that_reuses_does_not_defer(drawn: Generate, tmp_path: Path) -> None:
    drawn()
    task = TaskRun(generate(save_to=str(tmp_path / "images"), reuse=True), run_id="later")
    try:
        manifest = task.start()
    except TaskDeferred:  # pragma: no cover
        pytest.fail("it deferred")
    assert "reused" in manifest
    assert task.ti.xcoms["evoimage_images"]["reused"] == 1
    assert task.ti.xcoms["evoimage_images"]["credits"] == 0
    assert "evolink_task_id" not in task.ti.xcoms


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a red fox, running"},
        {"quality": "medium"},
        {"size": "1024x1536"},
        {"model": "gpt-image-1"},
        {"n": 2},
        {"extra_body": {"background": "transparent"}},
        {"variant": "b"},
        {"image_urls": ["https://example.com/a.png"]},
    ],
    ids=lambda each: next(iter(each)),
)
def test_another_request_is_drawn(evolink: SimulatorServer, drawn: Generate, other: dict[str, Any]) -> None:
    drawn()
    assert "reused" not in drawn(**other)
    assert paid(evolink) == 2
    assert "reused" in drawn(**other)
    assert "reused" in drawn()
    assert paid(evolink) == 2


@pytest.mark.parametrize(
    "same",
    [{"callback_url": "https://hooks.example.com/done"}, {"variant": " "}, {"n": "1"}, {"timeout": 60}],
)
def test_same_request_in_other_words_is_reused(
    evolink: SimulatorServer, drawn: Generate, same: dict[str, Any]
) -> None:
    drawn()
    assert "reused" in drawn(**same)
    assert paid(evolink) == 1


@pytest.mark.parametrize("change_of", ["provenance", "alt_text"])
def test_files_with_other_settings_are_not_reused(
    evolink: SimulatorServer, drawn: Generate, change_of: str, log_lines: list[Any]
) -> None:
    value = {"provenance": "keep", "alt_text": "A fox."}[change_of]
    drawn()
    drawn(**{change_of: value})
    assert paid(evolink) == 2
    assert any(change_of in line for line in reasons(log_lines) if line.startswith("Drawing"))
    # The entry now leads to these.
    drawn(**{change_of: value})
    assert paid(evolink) == 2


def test_images_that_are_too_old_are_drawn(
    evolink: SimulatorServer, drawn: Generate, fake_time: FakeTime, log_lines: list[Any]
) -> None:
    drawn()
    fake_time.sleep(3 * 86_400)
    assert "reused" in drawn(reuse=timedelta(days=4))
    assert "reused" not in drawn(reuse=timedelta(days=2))
    assert paid(evolink) == 2
    assert any("older than reuse allows" in line for line in reasons(log_lines))


def reference(path: Path, colour: str) -> str:
    Image.new("RGB", (40, 30), colour).save(path)
    return str(path)


def test_references_count_by_their_bytes(evolink: SimulatorServer, drawn: Generate, tmp_path: Path) -> None:
    shoe = reference(tmp_path / "shoe.png", "teal")
    drawn(image_urls=[shoe])
    copy = shutil.copyfile(shoe, tmp_path / "copy.png")
    assert "reused" in drawn(image_urls=[str(copy)])
    reference(tmp_path / "shoe.png", "navy")
    assert "reused" not in drawn(image_urls=[shoe])
    assert paid(evolink) == 2


# Whatever is odd is drawn

ODD: dict[str, Callable[[Path, dict[str, Any]], object]] = {
    "image is gone": lambda entry, manifest: picture_of(manifest).unlink(),
    "image is replaced": lambda entry, manifest: picture_of(manifest).write_bytes(b"another"),
    "image is cut": lambda entry, manifest: picture_of(manifest).write_bytes(
        picture_of(manifest).read_bytes()[:-1]
    ),
    "sidecar is gone": lambda entry, manifest: sidecar_of(manifest).unlink(),
    "sidecar of another generation": lambda entry, manifest: change(
        sidecar_of(manifest), evolink_task_id="task-unified-1757156400-abcdefgh"
    ),
    "sidecar of another request": lambda entry, manifest: change(
        sidecar_of(manifest), reusable_for=manifest["reusable_for"] | {"fingerprint": "0" * 64}
    ),
    "sidecar is half written": lambda entry, manifest: sidecar_of(manifest).write_text(
        sidecar_of(manifest).read_text()[:100]
    ),
    "sidecar of a newer version": lambda entry, manifest: change(sidecar_of(manifest), v=2),
    "sidecar without images": lambda entry, manifest: change(sidecar_of(manifest), images=[]),
    "sidecar leads out of save_to": lambda entry, manifest: change(
        sidecar_of(manifest), images=[manifest["images"][0] | {"path": "file:///etc/hostname"}]
    ),
    "sidecar leads up": lambda entry, manifest: change(
        sidecar_of(manifest),
        images=[
            manifest["images"][0]
            | {"path": manifest["images"][0]["path"].replace("/images/", "/images/../images/")}
        ],
    ),
    "fewer images than requested": lambda entry, manifest: change(sidecar_of(manifest), asked=2),
    "sidecar with text for a size": lambda entry, manifest: change(
        sidecar_of(manifest), images=[manifest["images"][0] | {"bytes": "many"}]
    ),
    "entry is half written": lambda entry, manifest: entry.write_text(entry.read_text()[:40]),
    "entry is empty": lambda entry, manifest: entry.write_text(""),
    "entry is a list": lambda entry, manifest: entry.write_text("[]"),
    "entry of a newer version": lambda entry, manifest: change(entry, v=2),
    "entry of another request": lambda entry, manifest: change(entry, fingerprint="0" * 64),
    "entry of another occurrence": lambda entry, manifest: change(entry, occurrence=3),
    "entry without a time": lambda entry, manifest: change(entry, saved_at="yesterday"),
    "entry without a zone": lambda entry, manifest: change(entry, saved_at="2020-01-01T00:00:00"),
    "entry from the future": lambda entry, manifest: change(entry, saved_at="2999-01-01T00:00:00+00:00"),
    "entry leads up": lambda entry, manifest: change(entry, sidecar="../other/draw-0.json"),
    "entry leads to a place": lambda entry, manifest: change(entry, sidecar="/etc/hostname.json"),
    "entry leads nowhere": lambda entry, manifest: change(entry, sidecar="gone.json"),
    "entry is huge": lambda entry, manifest: entry.write_text(entry.read_text() + " " * 20_000),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", ["generate", "batch"])
def test_whatever_is_odd_is_drawn_and_said(
    evolink: SimulatorServer, tmp_path: Path, odd: str, kind: str, log_lines: list[Any]
) -> None:
    folder = tmp_path / "images"
    names = "{run_id}-{item}-{index}.{ext}"

    def run(run_id: str) -> Any:
        made = (
            generate(save_to=str(folder), reuse=True, filename_template=names, model="gpt-image-1")
            if kind == "generate"
            else batch(["a red fox"], folder, reuse=True, filename_template=names)
        )
        result = TaskRun(made, run_id=run_id).run()
        return result if kind == "generate" else json.loads(Path(ledger_of(result)).read_text())

    first = run("one")
    ODD[odd](the_entry(folder), first)
    second = run("two")

    assert "reused" not in second
    assert paid(evolink) == 2
    said = [line for line in reasons(log_lines) if line.startswith(("Drawing new images: ", "Drawing item "))]
    assert len(said) == 2
    assert "none are saved for this" not in said[1]
    assert "no images are saved" not in said[1]
    # The next run finds the new ones.
    assert "reused" in run("three")
    assert paid(evolink) == 2


def ledger_of(summary: dict[str, Any]) -> str:
    return summary["manifest"].removeprefix("file://")


def test_picture_that_another_task_may_overwrite_is_not_reused(
    evolink: SimulatorServer, drawn: Generate, log_lines: list[Any]
) -> None:
    drawn(filename_template="one/{index}.{ext}")
    # Its own file may be reused under the same name, but not from elsewhere without a run or an id in the names.
    assert "reused" in drawn(filename_template="one/{index}.{ext}")
    assert "reused" not in drawn(filename_template="two/{index}.{ext}")
    assert any("add {run_id} or {evolink_task_id}" in line for line in reasons(log_lines))
    assert "reused" in drawn(filename_template="three/{run_id}-{index}.{ext}")
    assert paid(evolink) == 2


def test_entry_of_images_that_are_replaced_is_removed_before_them(
    evolink: SimulatorServer, drawn: Generate, tmp_path: Path
) -> None:
    names = {"filename_template": "fox/{index}.{ext}"}
    first = drawn(**names)
    before = the_entry(tmp_path / "images")
    drawn(prompt="a blue fox", **names)
    assert the_entry(tmp_path / "images") != before
    assert "reused" not in drawn(**names)
    assert paid(evolink) == 3
    assert picture_of(first).exists()


def test_index_holds_no_prompt_no_link_and_no_key(drawn: Generate, tmp_path: Path) -> None:
    signed = "https://b.s3.amazonaws.com/a.png?v=3&X-Amz-Signature=0123456789abcdef&token=hush"
    drawn(image_urls=[signed])
    for file in (tmp_path / "images" / "_index").rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert not any(word in text for word in ("fox", "http", "hush", "0123456789abcdef", API_KEY))


# Money first


@pytest.mark.parametrize("phase", ["submitting", "submitted", "failed", "delivered"])
def test_record_of_an_earlier_try_wins_over_saved_images(
    evolink: SimulatorServer, tmp_path: Path, phase: str
) -> None:
    fields = {"save_to": str(tmp_path / "images")}
    store = StateStore()
    task = TaskRun(generate(**fields, reuse=True), store=store, run_id="mine")
    with pytest.raises(TaskDeferred):
        task.start()
    record = store.record
    if phase == "submitting":
        record["evolink_task_id"] = None
    store.set("evoimage", record | {"phase": phase, "retryable": True})
    # Meanwhile another run saves images of the same request.
    other = TaskRun(generate(**fields, reuse=True), run_id="other").run()
    assert paid(evolink) == 2

    manifest = task.run()

    assert "reused" not in manifest
    assert manifest["evolink_task_id"] != other["evolink_task_id"]
    # A transient failure is submitted again, as always; nothing else is.
    assert paid(evolink) == (3 if phase == "failed" else 2)


def test_retry_without_a_record_below_airflow_3_3_resumes_what_was_paid(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    fields = {"save_to": str(tmp_path / "images")}
    task = TaskRun(generate(**fields, reuse=True), run_id="mine")
    with pytest.raises(TaskDeferred):
        task.start()
    (mine,) = evolink.state.generations
    TaskRun(generate(**fields, reuse=True), run_id="other").run()
    assert task.run()["evolink_task_id"] == mine
    assert paid(evolink) == 2


def test_retry_of_a_try_that_sent_nothing_may_reuse(
    evolink: SimulatorServer, drawn: Generate, tmp_path: Path
) -> None:
    drawn()
    task = TaskRun(generate(save_to=str(tmp_path / "images"), reuse=True), store=StateStore(), run_id="mine")
    # The first try died before it did anything.
    task.ti.try_number = 1
    assert "reused" in task.run()
    assert paid(evolink) == 1


def test_clear_of_a_task_means_new_images(
    evolink: SimulatorServer, drawn: Generate, tmp_path: Path, maybe_store: Any
) -> None:
    drawn()
    task = TaskRun(generate(save_to=str(tmp_path / "images"), reuse=True), store=maybe_store(), run_id="mine")
    assert "reused" in task.run()
    task.clear()
    assert "reused" not in task.run()
    assert paid(evolink) == 2


def test_clear_with_on_clear_reuse_reuses_again(
    evolink: SimulatorServer, drawn: Generate, tmp_path: Path
) -> None:
    drawn()
    made = generate(save_to=str(tmp_path / "images"), reuse=True, on_clear="reuse")
    task = TaskRun(made, store=StateStore(), run_id="mine")
    assert "reused" in task.run()
    task.clear()
    assert "reused" in task.run()
    assert paid(evolink) == 1


def test_limit_does_not_count_what_is_reused(evolink: SimulatorServer, drawn: Generate) -> None:
    drawn()
    assert "reused" in drawn(max_credits=0.001)
    assert paid(evolink) == 1


def test_record_is_required_before_a_post_where_images_may_be_reused(
    evolink: SimulatorServer, tmp_path: Path
) -> None:
    store = StateStore()

    def refuse(moment: str) -> None:
        if moment == "before set":
            raise OSError("the store is down")

    store.on = refuse
    task = TaskRun(generate(save_to=str(tmp_path / "images"), reuse=True), store=store)
    with pytest.raises(EvoImageError, match="record that must precede"):
        task.start()
    assert paid(evolink) == 0


def test_failing_storage_ends_the_try_and_draws_nothing(
    evolink: SimulatorServer, drawn: Generate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn()
    failures = []

    def fail(destination: Destination, name: str) -> None:
        failures.append(name)
        raise DestinationError("the storage is down")

    task = TaskRun(generate(save_to=str(tmp_path / "images"), reuse=True), store=StateStore(), run_id="mine")
    with monkeypatch.context() as patch:
        patch.setattr(Destination, "read_if_there", fail)
        with pytest.raises(DestinationError, match="the storage is down") as raised:
            task.run()
    assert len(failures) == 5
    assert raised.value.billed is False
    assert raised.value.on_retry == "Nothing was submitted by this try; a retry tries again."
    assert paid(evolink) == 1
    assert "reused" in task.run()
    assert paid(evolink) == 1


# Why it is drawn


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (
            {"prompt": "a red fox of 2026-05-01"},
            {"prompt": "a red fox of 2026-05-02"},
            "prompt differs from that of EvoLink task {id} at character 22: '…of 2026-05-01' became '…of 2026-05-02'",
        ),
        ({"size": "1024x1024"}, {"size": "1024x1536"}, "size differs from that of EvoLink task {id}"),
        (
            {"variant": "a"},
            {"variant": "b"},
            "only variant or occurrence differs from that of EvoLink task {id}",
        ),
    ],
    ids=["prompt", "size", "variant"],
)
def test_log_says_why_new_images_are_drawn(
    drawn: Generate, log_lines: list[Any], first: Any, second: Any, reason: str
) -> None:
    manifest = drawn(**first)
    drawn(**second)
    said = [line for line in reasons(log_lines) if line.startswith("Drawing new images: ")]
    assert said[0] == "Drawing new images: none are saved for this request."
    assert said[1] == f"Drawing new images: {reason.format(id=manifest['evolink_task_id'])}."


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"reuse": True},
        {"reuse": "yes", "save_to": "/tmp/x"},
        {"reuse": 7, "save_to": "/tmp/x"},
        {"reuse": timedelta(0), "save_to": "/tmp/x"},
        {"reuse": True, "save_to": "/tmp/x", "wait_for_completion": False},
    ],
    ids=str,
)
def test_wrong_reuse_fails_when_the_dag_is_parsed(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        EvoImageGenerateOperator(task_id="draw", prompt="a fox", **arguments)
    if "save_to" in arguments and "wait_for_completion" not in arguments:
        with pytest.raises(InvalidRequestError):
            EvoImageBatchOperator(task_id="draw", requests=["a fox"], **arguments)


def test_folder_that_renders_to_nothing_fails_before_anything_is_sent(evolink: SimulatorServer) -> None:
    with pytest.raises(InvalidRequestError, match="reuse needs save_to"):
        TaskRun(generate(save_to=" ", reuse=True)).run()
    assert paid(evolink) == 0
