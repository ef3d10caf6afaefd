"""References from the user's storage: uploaded once, known by content, and never a reason to pay twice."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import TaskDeferred
from airflow.sdk import DAG, ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from PIL import EpsImagePlugin, Image

from airflow_provider_evoimage.decorators.evoimage import evoimage_task
from airflow_provider_evoimage.evolink.protocol import Answer
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    FileQuotaError,
    GenerationFailedError,
    InvalidRequestError,
    ReferenceUnreadableError,
)
from airflow_provider_evoimage.references.uploads import STATE_KEY
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.http import file_routes
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.transport import Outgoing, Transport
from tests.integration.fake_time import FakeTime
from tests.integration.task_driver import KillAtLine, Killed, StateStore, TaskRun, generate, lines_to_die_at

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

POST = "/v1/images/generations"
UPLOAD = "/upload/stream"


@pytest.fixture(params=["3.3", "3.1"])
def maybe_store(request: pytest.FixtureRequest) -> StateStore | None:
    """The task state store of Airflow 3.3, or none as before it."""
    return StateStore() if request.param == "3.3" else None


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return draw(tmp_path / "shoe.png", "teal")


def draw(path: Path, colour: str = "teal", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    Image.new(mode, size, colour).save(path)
    return path


def edit(*references: Any, **arguments: Any) -> Callable[[], Any]:
    return generate(image_urls=list(references), **arguments)


def paid(evolink: SimulatorServer) -> int:
    return evolink.state.counters.paid


def uploads(evolink: SimulatorServer) -> int:
    return evolink.state.counters.uploads


def files(evolink: SimulatorServer) -> list[Any]:
    return list(evolink.state.uploads._files.values())


def thumbnails(evolink: SimulatorServer) -> list[bool]:
    """Of each reference of the only generation: whether the simulated EvoLink could read it."""
    (generation,) = evolink.state.generations.values()
    return [reference.thumbnail is not None for reference in generation.picture(0).references]


# What goes in


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda path: [str(path)], id="path"),
        pytest.param(lambda path: [path], id="pathlib"),
        pytest.param(str, id="one-path"),
        pytest.param(lambda path: [path.as_uri()], id="file-url"),
        pytest.param(lambda path: [ObjectStoragePath(path.as_uri())], id="ObjectStoragePath"),
        pytest.param(lambda path: f'["{path}"]', id="json-text"),
        pytest.param(lambda path: f"['{path}']", id="python-text"),
    ],
)
def test_stored_reference_is_uploaded_and_read(
    evolink: SimulatorServer, picture: Path, given: Callable[[Path], Any], store: StateStore
) -> None:
    manifest = TaskRun(generate(image_urls=given(picture)), store=store).run()
    assert (paid(evolink), uploads(evolink)) == (1, 1)
    assert thumbnails(evolink) == [True]
    (described,) = manifest["request"]["references"]
    assert described["source"].endswith("shoe.png")
    assert manifest["request"]["image_urls"] == [f"sha256:{described['sha256']}"]
    assert (described["width"], described["height"], described["content_type"]) == (40, 30, "image/png")


def test_any_registered_storage_will_do(evolink: SimulatorServer, picture: Path, store: StateStore) -> None:
    attach("memory", fs=MemoryFileSystem())
    source = ObjectStoragePath("memory://shop/référence ü.png")
    source.write_bytes(picture.read_bytes())
    TaskRun(edit(str(source)), store=store).run()
    assert thumbnails(evolink) == [True]


@pytest.mark.parametrize(
    "handed",
    [
        pytest.param(lambda manifest: [manifest], id="list"),
        pytest.param(lambda manifest: manifest, id="dict"),
        pytest.param(lambda manifest: [[manifest]], id="mapped-task"),
        pytest.param(str, id="template-text"),
        pytest.param(lambda manifest: [str(manifest)], id="template-text-in-list"),
        pytest.param(json.dumps, id="json-text"),
        pytest.param(lambda manifest: [str([manifest])], id="list-text-in-list"),
    ],
)
def test_manifest_of_an_earlier_task_stands_for_its_saved_files(
    evolink: SimulatorServer, tmp_path: Path, handed: Callable[[Any], Any]
) -> None:
    made = TaskRun(generate(save_to=tmp_path.as_uri()), store=StateStore()).run()
    evolink.state.generations.clear()
    manifest = TaskRun(generate(image_urls=handed(made)), store=StateStore(), task_id="edit").run()
    assert thumbnails(evolink) == [True]
    assert manifest["request"]["references"][0]["source"] == made["images"][0]["path"]
    assert manifest["request"]["references"][0]["sha256"] == made["images"][0]["sha256"]


def test_sidecar_stands_for_the_images_beside_it(evolink: SimulatorServer, tmp_path: Path) -> None:
    made = TaskRun(generate(save_to=tmp_path.as_uri(), n=2), store=StateStore()).run()
    (sidecar,) = tmp_path.rglob("*.json")
    manifest = TaskRun(edit(str(sidecar)), store=StateStore(), task_id="edit").run()
    sources = [each["source"] for each in manifest["request"]["references"]]
    assert sources == [image["path"] for image in made["images"]]


def test_manifest_without_files_stands_for_its_links_while_they_live(
    evolink: SimulatorServer, fake_time: FakeTime
) -> None:
    made = TaskRun(generate(), store=StateStore()).run()
    manifest = TaskRun(edit(made), store=StateStore(), task_id="edit").run()
    assert manifest["request"]["image_urls"] == [made["images"][0]["url"]]
    assert uploads(evolink) == 0
    fake_time.advance(25 * 3600)
    with pytest.raises(InvalidRequestError, match=r"died at .* set save_to") as refused:
        TaskRun(edit(made), store=StateStore(), task_id="edit-2").run()
    assert refused.value.billed is False
    assert paid(evolink) == 2


def test_same_content_is_uploaded_once_in_a_request_and_in_a_run(
    evolink: SimulatorServer, picture: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(picture.read_bytes())
    TaskRun(edit(str(picture), str(copy), str(picture)), store=StateStore(), map_index=0).run()
    assert uploads(evolink) == 1
    TaskRun(edit(str(copy)), store=StateStore(), map_index=1).run()
    assert (paid(evolink), uploads(evolink), len(files(evolink))) == (2, 1, 1)


def test_without_receipts_the_same_content_still_takes_one_place(
    evolink: SimulatorServer, picture: Path
) -> None:
    evolink.state.settings.upload_receipts = False
    for index in range(3):
        TaskRun(edit(str(picture)), store=StateStore(), map_index=index).run()
    assert (paid(evolink), len(files(evolink))) == (3, 1)


def test_tasks_that_start_together_share_one_place_and_all_read_it(
    evolink: SimulatorServer, picture: Path
) -> None:
    tasks = [TaskRun(edit(str(picture)), store=StateStore(), map_index=index) for index in range(12)]

    def start(task: TaskRun) -> None:
        with pytest.raises(TaskDeferred):
            task.start()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, tasks))
    generations = evolink.state.generations.values()
    assert len(files(evolink)) == 1
    assert [each.picture(0).references[0].thumbnail is not None for each in generations] == [True] * 12


def test_mask_is_uploaded_like_a_reference(
    evolink: SimulatorServer, picture: Path, tmp_path: Path, store: StateStore
) -> None:
    mask = draw(tmp_path / "mask.png", "#00000000", mode="RGBA")
    body = {"mask_url": str(mask)}
    manifest = TaskRun(edit(str(picture), model="gpt-image-2", extra_body=body), store=store).run()
    (generation,) = evolink.state.generations.values()
    assert generation.order.mask_url.endswith(".png")
    assert uploads(evolink) == 2
    assert manifest["request"]["mask_url"].startswith("sha256:")
    assert [each["source"] for each in manifest["request"]["references"]] == [str(picture), str(mask)]


@pytest.mark.parametrize(
    "given", [lambda path: {"image_urls": [path]}, lambda path: {}], ids=["returned", "given"]
)
def test_decorated_function_hands_over_references(
    evolink: SimulatorServer, picture: Path, maybe_store: StateStore | None, given: Callable[[Any], Any]
) -> None:
    fields = given(str(picture))

    def card() -> dict[str, Any]:
        return {"prompt": "a red fox", **fields}

    arguments: dict[str, Any] = {} if fields else {"image_urls": str(picture)}

    def make() -> Any:
        with DAG("campaign"):
            return evoimage_task(card, quality="low", cleanup_references=True, **arguments)().operator

    manifest = TaskRun(make, store=maybe_store, task_id="card").run()
    assert manifest["request"]["references"][0]["source"] == str(picture)
    assert thumbnails(evolink) == [True]
    assert files(evolink) == []


@pytest.mark.parametrize("as_text", [dict, json.dumps], ids=["dict", "text"])
@pytest.mark.parametrize("mask", ["None", "", " null ", None, []], ids=repr)
def test_mask_that_is_none_is_left_out(
    evolink: SimulatorServer,
    picture: Path,
    store: StateStore,
    mask: object,
    as_text: Callable[[Any], Any],
) -> None:
    body = as_text({"mask_url": mask, "seed": 7})
    manifest = TaskRun(edit(str(picture), model="gpt-image-2", extra_body=body), store=store).run()
    assert "mask_url" not in manifest["request"]
    assert manifest["request"]["seed"] == 7
    (generation,) = evolink.state.generations.values()
    assert generation.order.mask_url is None


def test_reference_of_a_name_that_is_not_utf_8_is_told_in_writable_text(
    evolink: SimulatorServer, picture: Path, tmp_path: Path, store: StateStore
) -> None:
    latin = picture.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6\xdfe.png")))
    task = TaskRun(edit(str(latin), save_to=tmp_path.as_uri()), store=store)
    with pytest.raises(TaskDeferred):
        task.start()
    latin.unlink()
    manifest = task.run()
    assert manifest["request"]["references"][0]["source"] == f"{tmp_path}/gr\\udcf6\\udcdfe.png"
    assert paid(evolink) == 1


def test_mask_beside_a_reference_that_only_evolink_reads_goes_out_unmeasured(
    evolink: SimulatorServer, tmp_path: Path, store: StateStore
) -> None:
    mask = draw(tmp_path / "mask.png", "#00000000", mode="RGBA")
    body = {"mask_url": str(mask)}
    make = edit("https://shop.example.com/a.png", model="gpt-image-2", extra_body=body)
    TaskRun(make, store=store).run()
    assert (paid(evolink), uploads(evolink)) == (1, 1)


def test_task_without_references_uses_no_file_endpoint(evolink: SimulatorServer, store: StateStore) -> None:
    TaskRun(generate(image_urls=["https://shop.example.com/a.png"]), store=store).run()
    assert evolink.state.counters.reads["files"] == uploads(evolink) == 0
    assert set(store.rows) == {"evoimage"}


# A crash at each step


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, moment: str, task: TaskRun) -> Iterator[None]:
    """Let the worker die before or after the upload, before or after the POST, or when a record is written."""

    def reach(here: str) -> None:
        if here == moment:
            raise Killed(here)

    send = Transport.send

    def request(transport: Transport, outgoing: Outgoing) -> Answer:
        name = {POST: "POST", UPLOAD: "upload"}.get(
            next((end for end in (POST, UPLOAD) if outgoing.url.endswith(end)), ""), ""
        )
        reach(f"before {name}")
        response = send(transport, outgoing)
        reach(f"after {name}")
        return response

    with monkeypatch.context() as patch:
        patch.setattr(Transport, "send", request)
        if task.store is not None:
            patch.setattr(task.store, "on", reach)
        yield


STEPS = ["before upload", "after upload", "before set", "after set", "before POST", "after POST"]


@pytest.mark.parametrize("cleanup", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_crash_around_upload_and_post_pays_once_and_ends_in_no_conflict(
    evolink: SimulatorServer,
    picture: Path,
    maybe_store: StateStore | None,
    step: str,
    cleanup: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if maybe_store is None and "set" in step:
        return
    task = TaskRun(edit(str(picture), cleanup_references=cleanup), store=maybe_store)
    # An upload that was made is found by the next try, which then does not come to this step again.
    for _ in range(1 if step == "after upload" else 2):
        with killed(monkeypatch, step, task), pytest.raises(Killed):
            task.start()
    manifest = task.run()
    assert manifest["status"] == "completed"
    assert (paid(evolink), evolink.state.counters.conflicts) == (1, 0)
    assert len(files(evolink)) == (0 if cleanup else 1)


FIRST_LEG = ("generate.py", "run.py", "task.py", "submit.py", "record.py", "uploads.py")


@pytest.mark.any_line
def test_crash_at_any_line_before_the_wait_pays_once(
    evolink: SimulatorServer, picture: Path, maybe_store: StateStore | None
) -> None:
    make = edit(str(picture))
    with KillAtLine() as tracer, pytest.raises(TaskDeferred):
        TaskRun(make, store=maybe_store and StateStore(), map_index=0).start()
    lines = [line for line in tracer.lines if line[0] in FIRST_LEG]
    assert len(lines) > 100
    for number, line in enumerate(lines_to_die_at(lines, one_in=10), start=1):
        task = TaskRun(make, store=maybe_store and StateStore(), map_index=number)
        before = paid(evolink)
        with KillAtLine(line), contextlib.suppress(Killed, TaskDeferred):
            task.start()
        with pytest.raises(TaskDeferred):
            task.start()
        assert paid(evolink) - before == 1, line
        evolink.state.uploads.expire(float("inf"), 0)
    assert evolink.state.counters.conflicts == 0


@pytest.mark.parametrize("step", ["before POST", "after POST"])
def test_upload_removed_between_tries_is_made_again_under_the_same_url(
    evolink: SimulatorServer,
    picture: Path,
    maybe_store: StateStore | None,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = TaskRun(edit(str(picture)), store=maybe_store)
    with killed(monkeypatch, step, task), pytest.raises(Killed):
        task.start()
    (upload,) = files(evolink)
    evolink.state.uploads.remove(upload.account, upload.file_id)
    task.run()
    assert (paid(evolink), evolink.state.counters.conflicts) == (1, 0)
    assert thumbnails(evolink) == [True]


def test_lost_answer_to_an_upload_costs_nothing(
    evolink: SimulatorServer, picture: Path, store: StateStore
) -> None:
    evolink.state.faults.post("upload", Fault("status", 502, after=True, times=2))
    TaskRun(edit(str(picture)), store=store).run()
    assert (paid(evolink), len(files(evolink))) == (1, 1)


def test_failing_store_costs_nothing(evolink: SimulatorServer, picture: Path, store: StateStore) -> None:
    def broken(moment: str) -> None:
        if moment.startswith("before"):
            raise OSError("the store is down")

    store.on = broken
    task = TaskRun(edit(str(picture)), store=store)
    for _ in range(2):
        with pytest.raises(TaskDeferred):
            task.start()
    assert (paid(evolink), evolink.state.counters.conflicts) == (1, 0)


@pytest.fixture
def unique_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EvoLink that gives each upload a URL that nothing foretells."""
    reply, count = file_routes.upload_reply, iter(range(1000))

    def unforeseeable(*arguments: Any) -> dict[str, Any]:
        answer = reply(*arguments)
        return answer | {"file_url": f"{answer['file_url']}?v={next(count)}"}

    monkeypatch.setattr(file_routes, "upload_reply", unforeseeable)


@pytest.mark.usefixtures("unique_urls")
@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_even_where_urls_cannot_be_foretold_no_retry_ends_in_a_conflict(
    evolink: SimulatorServer,
    picture: Path,
    store: StateStore,
    step: str,
    removed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evolink.state.settings.upload_receipts = False
    task = TaskRun(edit(str(picture)), store=store)
    for _ in range(3):
        with killed(monkeypatch, step, task), pytest.raises(Killed):
            task.start()
        for upload in files(evolink) if removed else ():
            evolink.state.uploads.remove(upload.account, upload.file_id)
    manifest = task.run()
    assert manifest["status"] == "completed"
    assert paid(evolink) == 1
    assert thumbnails(evolink) == [True]


@pytest.mark.usefixtures("unique_urls")
def test_lost_record_of_the_submission_alone_ends_in_no_conflict(
    evolink: SimulatorServer, picture: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    evolink.state.configure({"upload_receipts": False})
    task = TaskRun(edit(str(picture)), store=store)
    with killed(monkeypatch, "after POST", task), pytest.raises(Killed):
        task.start()
    store.delete("evoimage")
    assert task.run()["status"] == "completed"
    assert paid(evolink) == 1


@pytest.mark.usefixtures("unique_urls")
def test_paid_generation_is_found_also_when_nothing_can_be_uploaded_any_more(
    evolink: SimulatorServer,
    picture: Path,
    store: StateStore,
    log_lines: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = TaskRun(edit(str(picture)), store=store)
    with killed(monkeypatch, "after POST", task), pytest.raises(Killed):
        task.start()
    for upload in files(evolink):
        evolink.state.uploads.remove(upload.account, upload.file_id)
    evolink.state.settings.files_quota = 0
    assert task.run()["status"] == "completed"
    assert paid(evolink) == 1
    assert any("sending the earlier request unchanged" in line["event"] for line in log_lines)


def test_paid_generation_is_delivered_also_when_the_reference_is_gone(
    evolink: SimulatorServer, picture: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(edit(str(picture)), store=store)
    with killed(monkeypatch, "after POST", task), pytest.raises(Killed):
        task.start()
    picture.unlink()
    assert task.run()["status"] == "completed"
    assert paid(evolink) == 1


def cut_short(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:60])


@pytest.mark.parametrize("harm", [cut_short, Path.unlink], ids=["damaged", "gone"])
@pytest.mark.parametrize("which", ["image", "sidecar"])
def test_paid_generation_is_delivered_also_when_what_it_was_made_from_cannot_be_read(
    evolink: SimulatorServer, tmp_path: Path, store: StateStore, which: str, harm: Callable[[Path], None]
) -> None:
    TaskRun(generate(save_to=tmp_path.as_uri()), store=StateStore()).run()
    (image,), (sidecar,) = tmp_path.rglob("*.png"), tmp_path.rglob("*.json")
    task = TaskRun(edit(str(sidecar)), store=store, task_id="edit")
    with pytest.raises(TaskDeferred):
        task.start()
    submitted = store.record["evolink_task_id"]
    harm(image if which == "image" else sidecar)
    assert task.run()["evolink_task_id"] == submitted
    assert paid(evolink) == 2


def test_error_of_a_later_try_names_what_an_earlier_one_submitted(
    evolink: SimulatorServer, picture: Path, tmp_path: Path, store: StateStore
) -> None:
    task = TaskRun(edit(str(picture)), store=store)
    with pytest.raises(TaskDeferred):
        task.start()
    task.make = edit(str(tmp_path / "nowhere.png"))
    with pytest.raises(InvalidRequestError, match="submitted before") as refused:
        task.run()
    assert refused.value.billed is None
    assert paid(evolink) == 1


def test_deferred_task_needs_its_reference_no_more(
    evolink: SimulatorServer, picture: Path, maybe_store: StateStore | None
) -> None:
    task = TaskRun(edit(str(picture)), store=maybe_store)
    with pytest.raises(TaskDeferred) as deferred:
        task.start()
    picture.unlink()
    manifest = task.resume(deferred.value, task.wait_in_triggerer(task.stored(deferred.value)))
    assert manifest["request"]["references"][0]["source"] == str(picture)
    assert manifest["asked"] == 1


def test_reference_gone_before_airflow_3_3_says_that_the_money_is_unknown(
    evolink: SimulatorServer, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TaskRun(edit(str(picture)))
    with killed(monkeypatch, "after POST", task), pytest.raises(Killed):
        task.start()
    picture.unlink()
    with pytest.raises(InvalidRequestError, match="no reference file") as refused:
        task.run()
    assert refused.value.billed is None
    assert "an earlier one may have been accepted" in str(refused.value)


@pytest.mark.parametrize("on_change", ["resume", "submit"])
def test_changed_content_is_another_request(
    evolink: SimulatorServer, picture: Path, store: StateStore, on_change: str
) -> None:
    task = TaskRun(edit(str(picture), on_change=on_change), store=store)
    with pytest.raises(TaskDeferred):
        task.start()
    draw(picture, "red")
    task.run()
    assert (paid(evolink), uploads(evolink)) == ((1, 1) if on_change == "resume" else (2, 2))
    task.clear()
    task.run()
    assert paid(evolink) == (2 if on_change == "resume" else 3)


def test_moved_reference_of_the_same_content_is_the_same_request(
    evolink: SimulatorServer, picture: Path, tmp_path: Path, store: StateStore
) -> None:
    task = TaskRun(edit(str(picture)), store=store)
    with pytest.raises(TaskDeferred):
        task.start()
    task.make = edit(str(picture.rename(tmp_path / "moved.png")))
    task.run()
    assert paid(evolink) == 1


def test_old_upload_is_renewed_before_it_dies(
    evolink: SimulatorServer, picture: Path, fake_time: FakeTime
) -> None:
    TaskRun(edit(str(picture)), store=StateStore(), map_index=0).run()
    fake_time.advance(50 * 3600)
    TaskRun(edit(str(picture)), store=StateStore(), map_index=1).run()
    assert (uploads(evolink), len(files(evolink))) == (2, 1)


def test_upload_that_was_renewed_is_not_renewed_by_each_try(
    evolink: SimulatorServer, picture: Path, store: StateStore, fake_time: FakeTime
) -> None:
    evolink.state.settings.upload_receipts = False
    task = TaskRun(edit(str(picture)), store=store)
    counts = []
    for hours in (0, 50, 0):
        fake_time.advance(hours * 3600)
        evolink.state.faults.post("submit", Fault("status", 402, times=1))
        with pytest.raises(EvoImageError):
            task.run()
        counts.append(uploads(evolink))
    assert counts == [1, 2, 2]


def test_failed_generation_is_asked_anew_with_the_reference_uploaded_again(
    evolink: SimulatorServer, picture: Path, store: StateStore
) -> None:
    task = TaskRun(
        edit(str(picture), prompt="a red fox [[fail:service_error]]", cleanup_references=True), store=store
    )
    with pytest.raises(GenerationFailedError):
        task.run()
    assert files(evolink) == []
    with pytest.raises(GenerationFailedError):
        task.run()
    assert (uploads(evolink), evolink.state.counters.conflicts, files(evolink)) == (2, 0, [])


# Cleaning up


def test_cleanup_removes_this_tasks_uploads_and_no_others(
    evolink: SimulatorServer, picture: Path, maybe_store: StateStore | None
) -> None:
    TaskRun(edit(str(picture)), store=StateStore(), task_id="other").run()
    (others,) = files(evolink)
    for index, deferrable in enumerate((True, False)):
        make = edit(str(picture), cleanup_references=True, deferrable=deferrable)
        TaskRun(make, store=maybe_store and StateStore(), map_index=index).run()
    assert files(evolink) == [others]
    assert uploads(evolink) == 3


def test_cleanup_waits_for_the_end_of_the_generation(
    evolink: SimulatorServer, picture: Path, store: StateStore
) -> None:
    task = TaskRun(edit(str(picture), cleanup_references=True), store=store)
    with pytest.raises(TaskDeferred):
        task.start()
    assert len(files(evolink)) == 1


def test_cleanup_that_fails_is_a_warning(
    evolink: SimulatorServer, picture: Path, store: StateStore, log_lines: list[Any]
) -> None:
    task = TaskRun(edit(str(picture), cleanup_references=True), store=store)
    with pytest.raises(TaskDeferred) as deferred:
        task.start()
    evolink.state.faults.post("files", Fault("status", 500))
    event = task.wait_in_triggerer(task.stored(deferred.value))
    assert task.resume(deferred.value, event)["status"] == "completed"
    assert any("could not be removed" in line["event"] for line in log_lines)


def test_refused_request_leaves_no_upload(evolink: SimulatorServer, picture: Path, store: StateStore) -> None:
    evolink.state.faults.post("submit", Fault("status", 402, times=1))
    with pytest.raises(EvoImageError) as refused:
        TaskRun(edit(str(picture), cleanup_references=True), store=store).run()
    assert (refused.value.billed, files(evolink), paid(evolink)) == (False, [], 0)


def test_cleanup_without_waiting_is_refused_when_the_dag_is_read() -> None:
    with pytest.raises(InvalidRequestError, match="wait_for_completion"):
        generate(cleanup_references=True, wait_for_completion=False)()


# Mistakes, before anything is paid


def test_full_quota_says_so_and_what_to_do(
    evolink: SimulatorServer, picture: Path, store: StateStore
) -> None:
    evolink.state.settings.files_quota = 0
    with pytest.raises(FileQuotaError) as full:
        TaskRun(edit(str(picture)), store=store).run()
    assert "0 of 0 files used" in str(full.value)
    assert "cleanup_references" in str(full.value)
    assert "Billed: no." in str(full.value)
    assert evolink.state.counters.submissions == 0


def bad(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def pipe(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


MISTAKES: list[Any] = [
    ("missing", lambda tmp: {"image_urls": [f"{tmp}/nowhere.png"]}, "no reference file"),
    ("missing-url", lambda tmp: {"image_urls": [f"file://{tmp}/nowhere.png"]}, "no reference file"),
    ("folder", lambda tmp: {"image_urls": [str(tmp)]}, "folder"),
    ("relative", lambda tmp: {"image_urls": ["shoe.png"]}, "nor an absolute path"),
    ("data-url", lambda tmp: {"image_urls": ["data:image/png;base64,AAAA"]}, "nor an absolute path"),
    ("address", lambda tmp: {"image_urls": [f"sha256:{'a' * 64}"]}, "nor an absolute path"),
    ("scheme", lambda tmp: {"image_urls": ["nosuch://bucket/a.png"]}, "cannot be opened"),
    ("none", lambda tmp: {"image_urls": [None]}, "skipped or returned nothing"),
    ("none-rendered", lambda tmp: {"image_urls": "None"}, "as a template renders None"),
    ("none-text", lambda tmp: {"image_urls": ["None"]}, "skipped or returned nothing"),
    ("dict", lambda tmp: {"image_urls": {"url": "x"}}, "is no manifest"),
    ("bytes", lambda tmp: {"image_urls": [b"x"]}, "is none of"),
    (
        "pending",
        lambda tmp: {"image_urls": {"evolink_task_id": "task-unified-1", "status": "pending", "images": []}},
        "task-unified-1 holds no images",
    ),
    ("not-sidecar", lambda tmp: {"image_urls": [bad(tmp / "a.json", b"{}")]}, "is no manifest"),
    ("empty", lambda tmp: {"image_urls": [bad(tmp / "a.png", b"")]}, "is empty"),
    (
        "html",
        lambda tmp: {"image_urls": [bad(tmp / "a.png", b"<html>no</html>")]},
        "no image of an accepted type by its bytes",
    ),
    (
        "cut-off",
        lambda tmp: {
            "image_urls": [bad(tmp / "b.jpg", draw(tmp / "a.jpg", size=(500, 500)).read_bytes()[:900])]
        },
        "damaged",
    ),
    ("pipe", lambda tmp: {"image_urls": [pipe(tmp / "a.png")]}, "is a pipe, socket or device"),
    (
        "pipe-url",
        lambda tmp: {"image_urls": [f"file://{pipe(tmp / 'a.json')}"]},
        "is a pipe, socket or device",
    ),
    ("device", lambda tmp: {"image_urls": ["/dev/zero"]}, "is a pipe, socket or device"),
    ("gif", lambda tmp: {"image_urls": [str(draw(tmp / "a.gif"))]}, "image/gif by its bytes"),
    (
        "named-png",
        lambda tmp: {"image_urls": [str(draw(tmp / "a.bmp").rename(tmp / "b.png"))]},
        "no image of an accepted type",
    ),
    (
        "too-small",
        lambda tmp: {"model": "qwen-image-edit", "image_urls": [str(draw(tmp / "a.png"))]},
        "edges from 384 to 3,072",
    ),
    (
        "too-large",
        lambda tmp: {"image_urls": [bad(tmp / "a.png", b"\x89PNG" + bytes(50 * 1024 * 1024))]},
        "larger than 52,428,800 bytes",
    ),
    ("too-many", lambda tmp: {"image_urls": [f"{tmp}/a.png"] * 17}, "allowed: 16"),
    ("too-few", lambda tmp: {"model": "qwen-image-edit"}, "needs at least 1"),
    (
        "mask-model",
        lambda tmp: {"image_urls": [str(draw(tmp / "a.png"))], "extra_body": {"mask_url": "/m.png"}},
        "takes no mask",
    ),
    (
        "mask-alone",
        lambda tmp: {"model": "gpt-image-2", "extra_body": {"mask_url": "/m.png"}},
        "without image_urls",
    ),
    (
        "mask-opaque",
        lambda tmp: {
            "model": "gpt-image-2",
            "image_urls": [str(draw(tmp / "a.png"))],
            "extra_body": {"mask_url": str(draw(tmp / "m.png"))},
        },
        "no alpha channel",
    ),
    (
        "mask-jpeg",
        lambda tmp: {
            "model": "gpt-image-2",
            "image_urls": [str(draw(tmp / "a.png"))],
            "extra_body": {"mask_url": str(draw(tmp / "m.jpg"))},
        },
        "a mask is a PNG",
    ),
    (
        "mask-size",
        lambda tmp: {
            "model": "gpt-image-2",
            "image_urls": [str(draw(tmp / "a.png"))],
            "extra_body": json.dumps(
                {"mask_url": str(draw(tmp / "m.png", "#0000", size=(30, 30), mode="RGBA"))}
            ),
        },
        "30x30 pixels, the reference",
    ),
    (
        "masks",
        lambda tmp: {"model": "gpt-image-2", "extra_body": {"mask_url": ["/a.png", "/b.png"]}},
        "one mask, not 2",
    ),
]


@pytest.mark.parametrize(("arguments", "text"), [case[1:] for case in MISTAKES], ids=[c[0] for c in MISTAKES])
def test_mistake_is_named_before_anything_is_uploaded_or_paid(
    evolink: SimulatorServer,
    tmp_path: Path,
    arguments: Callable[[Path], dict[str, Any]],
    text: str,
    store: StateStore,
) -> None:
    task = TaskRun(generate(**arguments(tmp_path)), store=store)
    with pytest.raises(InvalidRequestError) as refused:
        task.run()
    assert text in str(refused.value)
    assert "Billed: no." in str(refused.value)
    assert (evolink.state.counters.submissions, uploads(evolink)) == (0, 0)


def test_storage_that_does_not_answer_is_worth_a_retry(
    evolink: SimulatorServer, picture: Path, store: StateStore
) -> None:
    picture.chmod(0o600)
    unreadable = picture.with_name("link.png")
    unreadable.symlink_to(unreadable)  # A loop: neither there nor missing.
    with pytest.raises(ReferenceUnreadableError) as failed:
        TaskRun(edit(str(unreadable)), store=store).run()
    assert failed.value.retryable
    assert failed.value.billed is False
    assert evolink.state.counters.submissions == 0


@pytest.mark.parametrize("name", ["a.png", "a.json"])
@pytest.mark.parametrize("field", ["image_urls", "extra_body.mask_url"])
def test_storage_that_stops_while_it_is_read_is_worth_a_retry(
    evolink: SimulatorServer,
    picture: Path,
    store: StateStore,
    field: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stall(*_: Any) -> bytes:
        raise OSError("the connection was reset")

    attach("memory", fs=MemoryFileSystem())
    source = f"memory://shop/{name}"
    ObjectStoragePath(source).write_bytes(b"{}")
    monkeypatch.setattr(MemoryFile, "read", stall)
    given: dict[str, Any] = {"image_urls": [source]}
    if field != "image_urls":
        body = {"mask_url": source}
        given = {"model": "gpt-image-2", "image_urls": [str(picture)], "extra_body": body}
    with pytest.raises(ReferenceUnreadableError, match="connection was reset") as failed:
        TaskRun(generate(**given), store=store).run()
    assert str(failed.value).startswith(f"{field}: {source} cannot be read")
    assert evolink.state.counters.submissions == 0


def test_full_disk_of_the_worker_is_worth_a_retry(
    evolink: SimulatorServer, picture: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any) -> Any:
        if "evoimage-references" in str(path) and "w" in mode:
            raise OSError(28, "No space left on device")
        return open_file(path, mode, *arguments)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ReferenceUnreadableError, match=r"temporary folder.*No space left"):
        TaskRun(edit(str(picture)), store=store).run()
    assert evolink.state.counters.submissions == 0


def test_no_program_is_run_for_a_reference(
    evolink: SimulatorServer, tmp_path: Path, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, ran = tmp_path / "gs", tmp_path / "ran"
    program.write_text(f'#!/bin/sh\necho "$@" >> {ran}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    eps = bad(
        tmp_path / "a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n%%EOF\n"
    )
    with pytest.raises(InvalidRequestError, match="no image of an accepted type by its bytes"):
        TaskRun(edit(eps), store=store).run()
    assert not ran.exists()
    assert evolink.state.counters.submissions == 0


def test_jpeg_with_a_second_picture_is_a_jpeg(
    evolink: SimulatorServer, tmp_path: Path, store: StateStore
) -> None:
    path, second = tmp_path / "phone.jpg", Image.new("RGB", (40, 30))
    second.save(path, "MPO", save_all=True, append_images=[second])
    manifest = TaskRun(edit(str(path)), store=store).run()
    assert manifest["request"]["references"][0]["content_type"] == "image/jpeg"
    assert paid(evolink) == 1


def test_private_host_that_evolink_cannot_read_is_named(
    evolink: SimulatorServer, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_EVOIMAGE_DEFAULT", '{"conn_type": "evoimage", "password": "sk-evo-secret-of-the-tests"}'
    )
    with pytest.raises(InvalidRequestError, match=r"cannot read from 10\.0\.0\.5"):
        TaskRun(edit("https://10.0.0.5/a.png"), store=store).run()


def test_damaged_record_is_as_good_as_none(
    evolink: SimulatorServer, picture: Path, store: StateStore
) -> None:
    for value in ("junk", {"v": 1, "sent": [5], "hashes": [], "expires_at": "x"}, {"v": 9}):
        store.rows[STATE_KEY] = json.dumps(value)
        TaskRun(edit(str(picture)), store=store).run()
    assert evolink.state.counters.conflicts == 0


def test_nothing_secret_is_in_the_record(evolink: SimulatorServer, picture: Path, store: StateStore) -> None:
    TaskRun(edit(str(picture)), store=store).run()
    kept = json.dumps(store.rows)
    assert "sk-evo" not in kept
    assert " fox" not in kept
