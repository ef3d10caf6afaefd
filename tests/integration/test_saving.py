"""From paid generations to files: complete or absent, fetched once, named with the id when they cannot be had."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import re
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from airflow.sdk import ObjectStoragePath
from PIL import Image

from airflow_provider_evoimage.defaults import PARALLEL_DOWNLOADS
from airflow_provider_evoimage.evolink import answers
from airflow_provider_evoimage.exceptions import (
    DestinationError,
    DownloadError,
    EvoImageError,
    FileExistsAtDestinationError,
    GenerationCancelledError,
    GenerationNotFoundError,
    GenerationRefusedError,
    GenerationUnfinishedError,
    InvalidRequestError,
    LinkExpiredError,
    NoImagesError,
    NotAnImageError,
    TooLargeError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.drawing import images
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.storage import saver
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.file_names import FileNames
from airflow_provider_evoimage.storage.image_names import GenerationToSave
from airflow_provider_evoimage.storage.saver import ImageSaver
from airflow_provider_evoimage.storage.stores import LocalFiles
from tests.integration.copies import copy_with
from tests.integration.fake_time import FakeTime
from tests.integration.hostile_host import TASK, Exchange, HostileHost
from tests.integration.task_driver import (
    CONNECTION,
    Killed,
    StateStore,
    TaskRun,
    batch,
    connection,
    first_leg,
    generate,
    save,
)

MANIFEST_PAGE = Path(__file__).parents[2] / "docs" / "manifest.md"

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

Submit = Callable[..., str]
UNKNOWN = "task-unified-1-abcdefgh"


@pytest.fixture
def finished(submitted: Submit, evolink: SimulatorServer) -> Submit:
    """Have a generation made by somebody else, and let it end."""

    def finish(prompt: str = "a red fox", **fields: Any) -> str:
        task = submitted(prompt, **fields)
        evolink.state.clock.advance(600)
        evolink.state.settle()
        return task

    return finish


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every link that is downloaded; the server may count one late that a killed save had just asked for."""
    links: list[str] = []
    download = saver.download_image

    def noted(client: Any, url: str, *arguments: Any) -> Any:
        links.append(url)
        return download(client, url, *arguments)

    monkeypatch.setattr(saver, "download_image", noted)
    return links


@pytest.fixture(autouse=True)
def key_never_reaches_the_file_host(evolink: SimulatorServer) -> Any:
    yield
    assert evolink.state.counters.downloads_with_auth == 0


def saving(generation: Any, folder: Path, tries: int = 0, **arguments: Any) -> Any:
    """Save in one try.

    :param tries: how many there were before.
    """
    return TaskRun(save(generation, folder, **arguments), task_id="save", try_number=tries).run()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def path_of(image: dict[str, Any]) -> Path:
    return Path(image["path"].removeprefix("file://"))


# What can be named


def test_manifest_tells_where_each_image_is_and_what_it_is(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer
) -> None:
    manifest = saving(finished(n=2), tmp_path)
    assert files_in(tmp_path) == [
        "campaign/scheduled__2026-05-01/save-0.json",
        "campaign/scheduled__2026-05-01/save-0.png",
        "campaign/scheduled__2026-05-01/save-1.png",
    ]
    for index, image in enumerate(manifest["images"]):
        content = path_of(image).read_bytes()
        assert image["index"] == index
        assert image["sha256"] == hashlib.sha256(content).hexdigest()
        assert image["bytes"] == len(content)
        assert image["content_type"] == "image/png"
        assert (image["width"], image["height"]) == Image.open(path_of(image)).size
    assert evolink.state.counters.downloads == 2


def named_by_id(task: str) -> Any:
    return task


def named_by_manifest(task: str) -> Any:
    return {"v": 1, "evolink_task_id": task, "asked": 1, "images": []}


@pytest.mark.parametrize("name", [named_by_id, named_by_manifest])
def test_one_generation_gives_one_manifest(finished: Submit, tmp_path: Path, name: Any) -> None:
    task = finished()
    manifest = saving(name(task), tmp_path)
    assert manifest["evolink_task_id"] == task
    assert path_of(manifest["images"][0]).name == "save-0.png"


@pytest.mark.parametrize(
    "name",
    [
        lambda tasks: tasks,
        lambda tasks: [named_by_manifest(task) for task in tasks],
        lambda tasks: [[named_by_manifest(task)] for task in tasks],
        tuple,
        iter,
    ],
    ids=["ids", "manifests", "mapped", "tuple", "lazy"],
)
def test_several_generations_give_a_list_in_order(finished: Submit, tmp_path: Path, name: Any) -> None:
    tasks = [finished(f"a red fox {number}") for number in range(3)]
    manifests = TaskRun(save(name(tasks), tmp_path), task_id="save").run()
    assert [manifest["evolink_task_id"] for manifest in manifests] == tasks
    assert [path_of(manifest["images"][0]).name for manifest in manifests] == [
        "save-0-0.png",
        "save-1-0.png",
        "save-2-0.png",
    ]


def test_generation_that_is_named_twice_is_saved_once_and_returned_for_each_entry(
    finished: Submit, tmp_path: Path
) -> None:
    one, other = finished("one"), finished("two")
    manifests = saving([one, other, {"evolink_task_id": one}], tmp_path)
    assert [manifest["evolink_task_id"] for manifest in manifests] == [one, other, one]
    assert manifests[2] == manifests[0]
    assert len(files_in(tmp_path)) == 4


def test_generate_and_save_fit_together(tmp_path: Path, evolink: SimulatorServer) -> None:
    made = TaskRun(generate(n=2)).run()
    manifest = saving(made, tmp_path)
    assert manifest["request"] == made["request"]
    assert manifest["asked"] == manifest["made"] == 2
    assert manifest["made_by"]["task_id"] == "save"
    assert evolink.state.counters.submissions == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_generate_saves_as_soon_as_the_images_exist(
    tmp_path: Path, evolink: SimulatorServer, deferrable: bool
) -> None:
    manifest = TaskRun(generate(save_to=f"file://{tmp_path}", deferrable=deferrable, n=2)).run()
    assert [path_of(image).name for image in manifest["images"]] == ["draw-0.png", "draw-1.png"]
    assert all(path_of(image).exists() for image in manifest["images"])
    assert evolink.state.counters.downloads == 2


def test_mapped_tasks_do_not_share_names(finished: Submit, tmp_path: Path) -> None:
    for index in range(3):
        TaskRun(save(finished(f"a fox {index}"), tmp_path), task_id="save", map_index=index).run()
    assert len([name for name in files_in(tmp_path) if name.endswith(".png")]) == 3


def test_links_of_the_manifest_are_read_anew_and_never_taken_from_an_xcom(
    finished: Submit, tmp_path: Path
) -> None:
    given = named_by_manifest(finished()) | {"images": [{"index": 0, "url": "http://169.254.169.254/"}]}
    manifest = saving(given, tmp_path)
    assert "169.254" not in json.dumps(manifest)


# What is not there to save


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda finished, submitted: submitted("a red fox [[never]]"), GenerationUnfinishedError),
        (lambda finished, submitted: finished("a red fox [[fail:service_error]]"), GenerationRefusedError),
        (lambda finished, submitted: finished("a red fox [[cancelled]]"), GenerationCancelledError),
        (lambda finished, submitted: finished("a red fox [[results:0]]"), NoImagesError),
        (lambda finished, submitted: UNKNOWN, GenerationNotFoundError),
    ],
    ids=["unfinished", "failed", "cancelled", "empty", "unknown"],
)
def test_what_cannot_be_saved_is_named_after_the_others_are_saved(
    finished: Submit, submitted: Submit, tmp_path: Path, make: Any, kind: type[EvoImageError]
) -> None:
    first, bad, last = finished("one"), make(finished, submitted), finished("two")
    with pytest.raises(kind, match="1 of 3 generations") as failed:
        saving([first, bad, last], tmp_path)
    assert bad in str(failed.value)
    assert not failed.value.retryable
    assert len([name for name in files_in(tmp_path) if name.endswith(".png")]) == 2
    with pytest.raises(kind, match=bad):
        saving(bad, tmp_path)


@pytest.mark.parametrize("generation", [None, [], "None", [None], 7, {"images": []}], ids=repr)
def test_output_of_a_skipped_task_is_refused_in_words(generation: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="generation"):
        saving(generation, tmp_path)


def test_several_generations_that_collide_are_refused_before_any_download(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer
) -> None:
    tasks = [finished("one"), finished("two")]
    with pytest.raises(InvalidRequestError, match=r"the same name.*\{item\}"):
        saving(tasks, tmp_path, filename_template="{dag_id}-{index}.{ext}")
    assert evolink.state.counters.downloads == 0
    assert files_in(tmp_path) == []


def test_names_that_differ_only_in_case_collide_too(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer
) -> None:
    with pytest.raises(InvalidRequestError):
        saving(finished(n=2), tmp_path, filename_template="{dag_id}.{ext}")
    assert evolink.state.counters.downloads == 0


# What lies there already


def test_overwrite_replaces_the_files_of_another_generation(finished: Submit, tmp_path: Path) -> None:
    saving(finished("one"), tmp_path)
    manifest = saving(finished("two"), tmp_path)
    assert (
        hashlib.sha256(path_of(manifest["images"][0]).read_bytes()).hexdigest()
        == manifest["images"][0]["sha256"]
    )
    sidecar = json.loads(path_of(manifest["images"][0]).with_suffix(".json").read_text())
    assert sidecar["evolink_task_id"] == manifest["evolink_task_id"]


def test_skip_keeps_what_is_there_and_fetches_nothing(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer
) -> None:
    first = saving(finished("one"), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}
    downloads = evolink.state.counters.downloads
    manifest = saving(finished("two"), tmp_path, if_exists="skip")
    assert evolink.state.counters.downloads == downloads
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == before
    # It describes the file that is there.
    assert manifest["images"][0]["sha256"] == first["images"][0]["sha256"]


def test_skip_says_of_a_file_that_is_no_image_what_is_wrong_with_it(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer
) -> None:
    first = saving(finished("one"), tmp_path)
    path_of(first["images"][0]).write_text("somebody else's notes")
    with pytest.raises(
        FileExistsAtDestinationError, match=r"save-0\.png exists and is no whole image"
    ) as failed:
        saving(finished("two"), tmp_path, if_exists="skip")
    assert "if_exists='overwrite'" in str(failed.value)
    assert path_of(first["images"][0]).read_text() == "somebody else's notes"


def test_error_touches_nothing(finished: Submit, tmp_path: Path, evolink: SimulatorServer) -> None:
    saving(finished("one"), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}
    downloads = evolink.state.counters.downloads
    with pytest.raises(FileExistsAtDestinationError, match=r"save-0\.png") as failed:
        saving(finished("two"), tmp_path, if_exists="error")
    assert not failed.value.retryable
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == before
    assert evolink.state.counters.downloads == downloads


@pytest.mark.parametrize("if_exists", ["overwrite", "skip", "error"])
def test_saving_the_same_generation_again_fetches_nothing(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer, if_exists: str
) -> None:
    task = finished(n=3)
    first = saving(task, tmp_path, if_exists=if_exists)
    assert saving(task, tmp_path, if_exists=if_exists) == first
    assert evolink.state.counters.downloads == 3


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_bytes(b"half")], ids=["gone", "changed"]
)
def test_file_that_is_gone_or_changed_is_fetched_again(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer, harm: Any
) -> None:
    task = finished(n=3)
    first = saving(task, tmp_path)
    harm(path_of(first["images"][1]))
    assert saving(task, tmp_path) == first
    assert evolink.state.counters.downloads == 4


def images_in(folder: Path) -> list[str]:
    return [Path(name).name for name in files_in(folder) if not name.endswith(".json")]


def test_images_of_a_longer_generation_before_do_not_stay_beside_the_new_ones(
    finished: Submit, tmp_path: Path
) -> None:
    saving(finished("one [[download:jpeg]]", n=3), tmp_path)
    folder = tmp_path / "campaign" / "scheduled__2026-05-01"
    (folder / "save-3.jpg").write_bytes(b"not of that generation")
    (folder / "save-1.jpg").write_bytes(b"put there since")
    manifest = saving(finished("two", n=2), tmp_path)
    assert images_in(tmp_path) == ["save-0.png", "save-1.jpg", "save-1.png", "save-3.jpg"]
    assert_whole(manifest)


def test_image_of_another_generation_of_the_same_save_is_never_removed(
    finished: Submit, tmp_path: Path
) -> None:
    template = "{item}{index}.{ext}"
    # The twelfth image of the first has the name of the second of the twelfth.
    tasks = [finished(f"fox {number}", n=2) for number in range(12)]
    saving(tasks, tmp_path, filename_template=template)
    sidecar = tmp_path / "10.json"
    earlier = json.loads(sidecar.read_text())
    earlier["evolink_task_id"] = UNKNOWN
    listed = json.loads((tmp_path / "110.json").read_text())["images"][1]
    earlier["images"].append(listed | {"index": 11})
    sidecar.write_text(json.dumps(earlier))
    for manifest in saving(tasks, tmp_path, filename_template=template):
        assert_whole(manifest)


def test_overwrite_that_does_not_finish_leaves_no_sidecar_that_is_no_longer_true(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer
) -> None:
    saving(finished("one", n=3), tmp_path)
    two = finished("two", n=2)
    evolink.state.faults.post("download", Fault("html", times=1))
    with pytest.raises(NotAnImageError):
        saving(two, tmp_path, parallel=1)
    assert [name for name in files_in(tmp_path) if name.endswith("save-0.json")] == []
    assert_whole(saving(two, tmp_path))


def test_overwrite_that_writes_nothing_leaves_the_sidecar(finished: Submit, tmp_path: Path) -> None:
    first = saving(finished("one"), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}
    with pytest.raises(NotAnImageError):
        saving(finished("two [[download:html]]"), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)} == before
    assert_whole(first)


def test_folder_whose_name_looks_like_a_pattern_is_a_folder(finished: Submit, tmp_path: Path) -> None:
    for folder in ("x1", "x[1]"):
        (tmp_path / folder).mkdir()
        saving(finished(folder, n=2), tmp_path / folder)
        assert len(files_in(tmp_path / folder)) == 3


# More images than were asked for


@pytest.fixture
def given_twice(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have EvoLink give each image of a generation twice."""
    urls = answers._image_urls
    ids: set[str] = set()

    def more(task: Any) -> tuple[str, ...]:
        found = urls(task)
        return (*found, *(f"{url}?again" for url in found)) if task.get("id") in ids else found

    monkeypatch.setattr(answers, "_image_urls", more)
    return ids.add


def test_image_that_nobody_asked_for_has_a_name_though_the_template_has_none_for_it(
    tmp_path: Path, store: StateStore, evolink: SimulatorServer, given_twice: Callable[[str], None]
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path), filename_template="{task_id}.{ext}"), store=store)
    deferred = first_leg(task)
    given_twice(store.record["evolink_task_id"])
    manifest = task.go_on(deferred)
    assert files_in(tmp_path) == ["draw-1.png", "draw.json", "draw.png"]
    assert_whole(manifest)
    assert (manifest["asked"], manifest["made"]) == (1, 2)
    assert evolink.state.counters.submissions == 1


def test_images_that_nobody_asked_for_keep_no_other_item_of_a_batch(
    tmp_path: Path, evolink: SimulatorServer, given_twice: Callable[[str], None]
) -> None:
    prompts = [{"prompt": f"fox {number}", "name": f"fox-{number}"} for number in range(6)]
    task = TaskRun(batch(prompts, tmp_path, filename_template="{name}.{ext}"))
    deferred = first_leg(task)
    # They are submitted several at a time.
    first = next(key for key, each in evolink.state.generations.items() if each.order.prompt == "fox 0")
    given_twice(first)
    summary = task.go_on(deferred)
    assert summary["saved"] == 6
    assert images_in(tmp_path / ".")[:3] == ["draw.batch.jsonl", "fox-0-1.png", "fox-0.png"]
    assert len(list(tmp_path.rglob("*.png"))) == 7


def saver_to(folder: Path, template: str) -> ImageSaver:
    return ImageSaver(
        hook=EvoImageHook(),
        destination=Destination(str(folder)),
        names=FileNames(template),
        if_exists="overwrite",
        made_by={"dag_id": "campaign", "run_id": "run", "task_id": "save", "map_index": -1},
        log=structlog.get_logger(),
    )


@pytest.mark.parametrize("together", [True, False])
def test_name_that_an_item_needs_is_not_given_to_what_nobody_asked_for(
    finished: Submit, tmp_path: Path, given_twice: Callable[[str], None], together: bool
) -> None:
    fox, other = finished("one"), finished("two")
    given_twice(fox)
    to_save = [
        GenerationToSave(
            generation=EvoImageHook().get_generation(task),
            requested=RequestSummary(images=1),
            item=item,
            name=name,
        )
        for item, (task, name) in enumerate([(other, "fox-1"), (fox, "fox")])
    ]
    images_of = saver_to(tmp_path, "{name}.{ext}")
    if together:
        saved, refused = reversed(images_of.save_each(to_save[::-1]))
    else:
        saved, refused = (images_of.save_each([each])[0] for each in to_save)
    assert saved.manifest is not None
    assert_whole(saved.manifest)
    (error,) = refused.errors
    assert isinstance(error, InvalidRequestError)
    assert (error.evolink_task_id, error.billed) == (fox, True)
    assert files_in(tmp_path) == ["fox-1.json", "fox-1.png"]


# A worker that dies while it saves


def killed_at_publication(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker die when it is about to bring its n-th file to its place."""
    publish = Destination.publish
    published = []

    def doomed(destination: Destination, *arguments: Any) -> str:
        if not arguments[1].endswith(".saving.json"):
            published.append(arguments)
        if len(published) >= number:
            raise Killed
        return publish(destination, *arguments)

    monkeypatch.setattr(Destination, "publish", doomed)


def killed_in_mid_save(task: str, folder: Path, number: int, **arguments: Any) -> list[str]:
    """Save with a worker that dies at its n-th file; return the images that lie there."""
    with pytest.MonkeyPatch.context() as patch:
        killed_at_publication(number, patch)
        with pytest.raises(Killed):
            saving(task, folder, parallel=1, **arguments)
    assert not [name for name in files_in(folder) if name.endswith(".part")]
    return [name for name in files_in(folder) if name.endswith(".png")]


def assert_whole(manifest: dict[str, Any]) -> None:
    for image in manifest["images"]:
        assert hashlib.sha256(path_of(image).read_bytes()).hexdigest() == image["sha256"]


@pytest.mark.parametrize("if_exists", ["overwrite", "skip"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_retry_after_a_kill_in_mid_save_completes_the_files(
    finished: Submit, tmp_path: Path, number: int, if_exists: str
) -> None:
    task = finished(n=4)
    assert len(killed_in_mid_save(task, tmp_path, number, if_exists=if_exists)) == number - 1
    manifest = saving(task, tmp_path, if_exists=if_exists)
    assert_whole(manifest)
    assert len(files_in(tmp_path)) == 5


@pytest.mark.parametrize(
    ("if_exists", "number"),
    [
        ("overwrite", 1),
        ("skip", 1),
        ("error", 1),
        ("skip", 3),
        ("skip", 5),
        ("overwrite", 3),
        ("overwrite", 5),
        ("error", 3),
        ("error", 5),
    ],
)
def test_retry_after_a_kill_in_mid_save_fetches_only_what_is_missing(
    finished: Submit, tmp_path: Path, fetched: list[str], if_exists: str, number: int
) -> None:
    task = finished(n=4)
    there = killed_in_mid_save(task, tmp_path, number, if_exists=if_exists)
    fetched.clear()
    assert_whole(saving(task, tmp_path, if_exists=if_exists))
    assert len(fetched) == 4 - len(there)


def test_retry_after_a_kill_between_generations_leaves_the_finished_ones_alone(
    finished: Submit, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [finished(f"fox {number}") for number in range(4)]
    finish = ImageSaver._finish
    done: list[Any] = []

    def doomed(saver: ImageSaver, *arguments: Any) -> Any:
        if len(done) == 2:
            raise Killed
        done.append(arguments)
        return finish(saver, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ImageSaver, "_finish", doomed)
        with pytest.raises(Killed):
            saving(tasks, tmp_path)
    fetched.clear()
    assert len(saving(tasks, tmp_path)) == 4
    assert len(fetched) <= 2


def killed_in_mid_copy(task: str, folder: Path, number: int) -> None:
    """Save with a worker that dies when half of its n-th file is written."""
    begun = itertools.count(1)

    def die_at_the_last() -> None:
        if next(begun) == number:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        copy_with(die_at_the_last, patch)
        with pytest.raises(Killed):
            saving(task, folder, parallel=1)


# Record, image, record, image, sidecar.
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_retry_after_a_kill_in_mid_copy_leaves_nothing_but_whole_files(
    finished: Submit, tmp_path: Path, number: int
) -> None:
    task = finished(n=2)
    killed_in_mid_copy(task, tmp_path, number)
    assert [name for name in files_in(tmp_path) if name.endswith(".part")]
    manifest = saving(task, tmp_path, tries=1)
    assert_whole(manifest)
    first, second = (path_of(image) for image in manifest["images"])
    assert files_in(first.parent) == [first.with_suffix(".json").name, first.name, second.name]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_retry_of_a_generate_task_after_a_kill_in_mid_copy_leaves_nothing_but_whole_files(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, number: int
) -> None:
    task = TaskRun(generate(n=2, save_to=str(tmp_path)), retries=1, store=store)
    begun = itertools.count(1)

    def die_at_the_last() -> None:
        if next(begun) == number:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        copy_with(die_at_the_last, patch)
        with pytest.raises(Killed):
            task.run()
    assert [name for name in files_in(tmp_path) if name.endswith(".part")]
    assert_whole(task.run())
    assert not [name for name in files_in(tmp_path) if name.startswith(".") or name.endswith(".part")]
    assert evolink.state.counters.paid == 1


def test_part_file_of_another_save_stays(finished: Submit, tmp_path: Path) -> None:
    task = finished()
    image = path_of(saving(task, tmp_path)["images"][0])
    folder, name = image.parent, image.name
    others = [f".x{name}.0123abcd.part", f".{name}.part", f".{name}.0123abcd.parts", f"{name}.0123abcd.part"]
    for other in [*others, f".{name}.0123abcd.part"]:
        (folder / other).write_bytes(b"half")
    saving(task, tmp_path, tries=1)
    assert [each for each in files_in(folder) if "part" in each] == sorted(others)


def bitmap(colour: str) -> bytes:
    """Return an image whose size in bytes depends on nothing but its size in pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "BMP")
    return buffer.getvalue()


def test_image_of_another_generation_is_not_kept_for_this_one_because_it_is_as_large(
    finished: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = finished("one"), finished("two")
    monkeypatch.setattr(images, "draw", lambda picture: bitmap("red"))
    saving(first, tmp_path)
    monkeypatch.setattr(images, "draw", lambda picture: bitmap("blue"))
    # The record is written, the image is not.
    killed_in_mid_save(second, tmp_path, 1)
    manifest = saving(second, tmp_path, tries=1)
    assert_whole(manifest)
    assert path_of(manifest["images"][0]).read_bytes() == bitmap("blue")


def test_record_that_cannot_be_read_for_now_is_not_lost(
    finished: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = finished(n=3)
    killed_in_mid_save(task, tmp_path, 2, if_exists="error")
    read = Destination.read_json

    def busy(destination: Destination, name: str) -> Any:
        if name.endswith(".saving.json"):
            raise DestinationError("SlowDown")
        return read(destination, name)

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "read_json", busy)
        with pytest.raises(DestinationError, match=task) as failed:
            saving(task, tmp_path, tries=1, if_exists="error")
    assert failed.value.retryable
    assert_whole(saving(task, tmp_path, tries=2, if_exists="error"))


def test_kill_between_sidecar_and_the_end_of_the_record_leaves_no_record(
    finished: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = finished(n=2)

    def doomed(destination: Destination, name: str) -> None:
        del destination, name
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Destination, "remove", doomed)
        with pytest.raises(Killed):
            saving(task, tmp_path)
    assert [name for name in files_in(tmp_path) if name.endswith(".saving.json")]
    assert_whole(saving(task, tmp_path, tries=1))
    assert len(files_in(tmp_path)) == 3


def test_record_goes_also_where_an_older_sidecar_is_kept(finished: Submit, tmp_path: Path) -> None:
    first = saving(finished("one", n=2), tmp_path)
    path_of(first["images"][1]).unlink()
    saving(finished("two", n=2), tmp_path, if_exists="skip")
    assert not [name for name in files_in(tmp_path) if name.endswith(".saving.json")]
    assert len(files_in(tmp_path)) == 3


# Downloads that go wrong


@pytest.mark.parametrize("word", ["short", "cut", "503"])
def test_passing_trouble_of_a_download_is_outlasted(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer, word: str
) -> None:
    manifest = saving(finished(f"a red fox [[download:{word} times=2]]"), tmp_path)
    assert path_of(manifest["images"][0]).stat().st_size == manifest["images"][0]["bytes"]
    assert evolink.state.counters.downloads == 3


@pytest.mark.parametrize("word", ["short", "cut", "503"])
def test_download_that_keeps_failing_leaves_no_file_and_a_retry_gets_it(
    finished: Submit, tmp_path: Path, word: str
) -> None:
    task = finished(f"a red fox [[download:{word} times=3]]")
    with pytest.raises(DownloadError, match="submits nothing") as failed:
        saving(task, tmp_path)
    assert failed.value.retryable
    assert failed.value.evolink_task_id == task
    assert failed.value.billed is True
    assert files_in(tmp_path) == []
    saving(task, tmp_path)


def test_web_page_instead_of_an_image_is_no_file(finished: Submit, tmp_path: Path) -> None:
    task = finished("a red fox [[download:html]]")
    with pytest.raises(NotAnImageError, match="web page") as failed:
        saving(task, tmp_path)
    assert failed.value.evolink_task_id == task
    assert files_in(tmp_path) == []


def test_type_comes_from_the_bytes_whatever_the_host_says(finished: Submit, tmp_path: Path) -> None:
    one = saving(finished("a red fox [[download:jpeg]]"), tmp_path / "jpeg")
    other = saving(finished("a red fox [[download:octet]]"), tmp_path / "octet")
    assert (path_of(one["images"][0]).suffix, one["images"][0]["content_type"]) == (".jpg", "image/jpeg")
    assert (path_of(other["images"][0]).suffix, other["images"][0]["content_type"]) == (".png", "image/png")


def test_slow_download_is_given_up_in_time(finished: Submit, tmp_path: Path, airflow_connection: Any) -> None:
    airflow_connection(download_timeout=0.5)
    with pytest.raises(DownloadError, match=r"not done within 0\.5 s"):
        saving(finished("a red fox [[download:slow seconds=60]]"), tmp_path)
    assert files_in(tmp_path) == []


def test_too_large_a_result_is_not_taken(
    finished: Submit, tmp_path: Path, airflow_connection: Any, evolink: SimulatorServer
) -> None:
    airflow_connection(max_image_megabytes=0.0001)
    with pytest.raises(TooLargeError, match="the limit is 100") as failed:
        saving(finished(), tmp_path)
    assert not failed.value.retryable
    assert evolink.state.counters.downloads == 1
    assert files_in(tmp_path) == []


def test_temporary_folder_that_is_full_is_named(
    finished: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "wb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DownloadError, match="No space left") as failed:
        saving(finished(), tmp_path)
    assert failed.value.retryable
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("method", ["exists", "size", "fetch", "read_json", "publish"])
def test_storage_that_fails_at_delivery_names_the_generation(
    finished: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    task = finished(n=2)
    killed_in_mid_save(task, tmp_path, 2)

    def fail(*arguments: Any) -> None:
        raise DestinationError("the storage is down")

    monkeypatch.setattr(Destination, method, fail)
    with pytest.raises(DestinationError, match="the storage is down") as failed:
        saving(task, tmp_path, tries=1)
    assert failed.value.evolink_task_id == task
    assert failed.value.billed is True
    assert failed.value.retryable


def test_destination_that_cannot_be_opened_does_not_say_that_nothing_was_submitted(finished: Submit) -> None:
    task = finished()
    with pytest.raises(DestinationError, match="nonsense") as failed:
        TaskRun(save(task, "nonsense://bucket/images"), task_id="save").run()
    assert failed.value.evolink_task_id == task
    assert failed.value.billed is True
    assert "Nothing was submitted" not in str(failed.value)


@pytest.mark.parametrize("part", ["saving-", "manifest", "evoimage-"])
def test_temporary_folder_that_is_full_is_no_fault_of_the_storage(
    finished: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    task = finished(n=2)
    write, folder = Path.write_text, tempfile.mkdtemp

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name.startswith(part):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    def no_folder(*arguments: Any, **options: Any) -> str:
        if part == "evoimage-":
            raise OSError(errno.ENOSPC, "No space left on device")
        return folder(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        patch.setattr(tempfile, "mkdtemp", no_folder)
        with pytest.raises(DestinationError, match="temporary folder of this machine") as failed:
            saving(task, tmp_path)
    assert failed.value.retryable
    assert failed.value.evolink_task_id == task
    assert_whole(saving(task, tmp_path))


def test_images_that_are_saved_are_not_called_lost_with_the_others(
    finished: Submit, tmp_path: Path, fake_time: FakeTime, evolink: SimulatorServer
) -> None:
    task = finished(n=3)
    evolink.state.faults.post("download", Fault("status", 410, times=2))
    with pytest.raises(DownloadError, match="1 of 3 images could not be saved"):
        saving(task, tmp_path, parallel=1)
    fake_time.advance(25 * 3600)
    with pytest.raises(LinkExpiredError, match=r"2 of 3 images are saved: .*save-1\.png") as failed:
        saving(task, tmp_path, tries=1, parallel=1)
    assert "the missing images are lost" in str(failed.value)
    assert "the images are lost" not in str(failed.value)
    assert files_in(tmp_path / "campaign" / "scheduled__2026-05-01") == [
        "save-0.json",
        "save-1.png",
        "save-2.png",
    ]
    sidecar = json.loads((tmp_path / "campaign/scheduled__2026-05-01/save-0.json").read_text())
    assert ["path" in image for image in sidecar["images"]] == [False, True, True]


def test_expired_links_say_what_is_lost_and_how_to_avoid_it(
    finished: Submit, tmp_path: Path, fake_time: FakeTime
) -> None:
    task = finished()
    fake_time.advance(25 * 3600)
    with pytest.raises(LinkExpiredError, match="save_to") as failed:
        saving(task, tmp_path)
    assert failed.value.evolink_task_id == task
    assert failed.value.billed is True
    assert not failed.value.retryable


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_link_that_is_refused_for_a_moment_costs_a_retry_and_nothing_more(
    evolink: SimulatorServer, store: StateStore, tmp_path: Path, status: int
) -> None:
    task = TaskRun(generate(save_to=str(tmp_path)), retries=1, store=store)
    evolink.state.faults.post("download", Fault("status", status))
    with pytest.raises(DownloadError):
        task.run_with_retries()
    evolink.state.faults.clear()
    task.clear()
    assert task.run()["images"][0]["path"]
    assert evolink.state.counters.paid == 1


def test_link_refused_before_its_time_is_not_called_expired(finished: Submit, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as failed:
        saving(finished("a red fox [[expired]]"), tmp_path)
    assert not isinstance(failed.value, LinkExpiredError)
    assert failed.value.retryable


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refused_link_is_read_again_from_the_generation(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer, status: int
) -> None:
    task = finished(n=3)
    evolink.state.faults.post("download", Fault("status", status, times=1))
    saving(task, tmp_path, parallel=1)
    assert len(files_in(tmp_path)) == 4
    # Once at first, once for fresh links.
    assert evolink.state.counters.reads["task"] == 2


def test_generation_is_read_again_once_however_many_of_its_links_are_refused(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer
) -> None:
    task = finished(n=3)
    evolink.state.faults.post("download", Fault("status", 403))
    with pytest.raises(DownloadError, match="3 of 3 images"):
        saving(task, tmp_path)
    assert evolink.state.counters.reads["task"] == 2
    assert evolink.state.counters.downloads == 6


def test_one_bad_image_does_not_keep_the_others(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer
) -> None:
    evolink.state.faults.post("download", Fault("html", times=1))
    with pytest.raises(NotAnImageError, match="1 of 3 images"):
        saving(finished(n=3), tmp_path, parallel=1)
    assert len([name for name in files_in(tmp_path) if name.endswith(".png")]) == 2


def test_destination_that_cannot_be_opened_is_found_out_before_anything_is_paid(
    evolink: SimulatorServer,
) -> None:
    with pytest.raises(EvoImageError, match="nonsense"):
        TaskRun(generate(save_to="nonsense://bucket/images")).run()
    assert evolink.state.counters.submissions == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"filename_template": "{prompt}.{ext}"},
        {"filename_template": "{index:zz}.{ext}"},
        {"filename_template": "../{index}.{ext}"},
        {"filename_template": "{dag_id}.{ext}", "n": 2},
        {"save_to": "images"},
    ],
    ids=str,
)
def test_wrong_names_are_found_out_before_anything_is_paid(
    evolink: SimulatorServer, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        TaskRun(generate(**{"save_to": str(tmp_path)} | arguments)).run()
    assert refused.value.billed is False
    assert evolink.state.counters.submissions == 0


# A task that is ended while it saves


class Ended(BaseException):
    """What Airflow raises in a task whose execution_timeout is over."""


def test_task_that_is_ended_waits_for_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HostileHost() as host:
        host.images = 12  # type: ignore[misc]
        requested = threading.Semaphore(0)

        def stay_silent(exchange: Exchange) -> None:
            requested.release()
            exchange.stay_silent()

        host.behave = stay_silent  # type: ignore[method-assign]
        monkeypatch.setenv(CONNECTION, connection(host, download_timeout=3000, request_timeout=3000))
        threading.Thread(target=host.serve_forever, daemon=True).start()

        def ended(*arguments: Any) -> None:
            for _ in range(PARALLEL_DOWNLOADS):
                assert requested.acquire(timeout=30)
            raise Ended

        monkeypatch.setattr(ImageSaver, "_brought", ended)
        try:
            with pytest.raises(Ended):
                TaskRun(save(TASK, tmp_path), task_id="save").run()
        finally:
            host.closing.set()
            host.shutdown()
        # Those that were under way, and none of those that waited for their turn.
        assert len(host.requested) == PARALLEL_DOWNLOADS < host.images
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evoimage-s")]
    assert files_in(tmp_path) == []


# The file beside the images


def test_lone_surrogate_in_a_prompt_keeps_no_image(finished: Submit, tmp_path: Path) -> None:
    prompt = "a red fox \ud83d größer"
    given = named_by_manifest(finished()) | {"request": {"prompt": prompt}}
    manifest = saving(given, tmp_path)
    text = path_of(manifest["images"][0]).with_suffix(".json").read_text(encoding="utf-8")
    assert "größer" in text
    assert json.loads(text)["request"]["prompt"] == prompt


def test_ids_that_differ_in_one_sign_share_no_temporary_file(
    finished: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download, used = saver.download_image, []

    def noted(client: Any, url: str, path: Path, limits: Any) -> Any:
        used.append(path)
        return download(client, url, path, limits)

    monkeypatch.setattr(saver, "download_image", noted)
    generations = [
        EvoImageHook()
        .get_generation(finished(f"fox {number}"))
        .model_copy(update={"evolink_task_id": evolink_task_id})
        for number, evolink_task_id in enumerate(["task:a", "task_a"])
    ]
    saver_to(tmp_path, "{item}.{ext}").save(generations, [RequestSummary(), RequestSummary()])
    assert len(set(used)) == 2


def test_sidecar_is_the_manifest_without_links(finished: Submit, tmp_path: Path) -> None:
    manifest = saving(finished("a red fox größer ❤", n=2), tmp_path)
    text = path_of(manifest["images"][0]).with_suffix(".json").read_text(encoding="utf-8")
    sidecar = json.loads(text)
    assert "/files/" not in text
    images = [{key: value for key, value in image.items() if key != "url"} for image in manifest["images"]]
    assert sidecar == manifest | {"images": images}


def test_page_shows_how_to_find_where_an_image_comes_from(finished: Submit, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", MANIFEST_PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    page: dict[str, Any] = {}
    exec(compile(code, "manifest.md", "exec"), page)
    manifest = saving(finished(), tmp_path)
    image = ObjectStoragePath(manifest["images"][0]["path"])
    # What an interrupted save leaves, and what others may put there; read before the sidecar, or not.
    saved = {"evolink_task_id": "task-unified-1", "images": manifest["images"]}
    for number, junk in enumerate(("", "{}", "[]", '"x"', '{"images": 5}', '{"images": [5]}', "\x00")):
        (image.parent / f"{number}.json").write_text(junk)
    (image.parent / ".save-0.saving.json").write_text(json.dumps(saved))
    found = page["origin"](image)
    assert found["made_by"] == manifest["made_by"]
    assert page["in_words"](found).endswith("credits, DAG run campaign scheduled__2026-05-01")
    image.with_suffix(".json").unlink()
    with pytest.raises(LookupError):
        page["origin"](image)


def test_sidecar_of_generate_holds_the_request(tmp_path: Path) -> None:
    manifest = TaskRun(generate(save_to=str(tmp_path), prompt="a red fox größer")).run()
    sidecar = json.loads(path_of(manifest["images"][0]).with_suffix(".json").read_text(encoding="utf-8"))
    assert sidecar["request"]["prompt"] == "a red fox größer"
    assert sidecar["usage"]["charged"] == manifest["usage"]["charged"]


@pytest.mark.parametrize("junk", ["", "[1, 2]", "null", '{"evolink_task_id": 7}', '"text"'])
def test_junk_under_the_name_of_the_sidecar_is_replaced(finished: Submit, tmp_path: Path, junk: str) -> None:
    task = finished()
    sidecar = tmp_path / "campaign" / "scheduled__2026-05-01" / "save-0.json"
    sidecar.parent.mkdir(parents=True)
    sidecar.write_text(junk)
    saving(task, tmp_path)
    assert json.loads(sidecar.read_text())["evolink_task_id"] == task


@pytest.mark.parametrize(
    "images",
    [
        None,
        7,
        "text",
        {},
        [7],
        [{}],
        [{"index": [0]}],
        [{"index": 0, "path": 7}],
        [{"index": 0, "content_type": []}],
    ],
    ids=repr,
)
def test_sidecar_that_somebody_edited_is_not_believed(
    finished: Submit, tmp_path: Path, evolink: SimulatorServer, images: Any
) -> None:
    task = finished()
    sidecar = tmp_path / "campaign" / "scheduled__2026-05-01" / "save-0.json"
    sidecar.parent.mkdir(parents=True)
    sidecar.write_text(json.dumps({"v": 1, "evolink_task_id": task, "images": images}))
    saving(task, tmp_path)
    assert evolink.state.counters.downloads == 1


@pytest.mark.parametrize("kind", ["generate", "batch"])
def test_name_that_the_storage_would_refuse_is_found_before_anything_is_paid(
    evolink: SimulatorServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(LocalFiles, "longest_path", len(str(tmp_path)) + 60)
    template = "{dag_id}/{task_id}-{evolink_task_id}-{index}.{ext}"
    requested = (
        generate(save_to=tmp_path.as_uri(), filename_template=template)
        if kind == "generate"
        else batch(["a mug"], tmp_path, filename_template=template)
    )
    with pytest.raises(InvalidRequestError, match="is too long") as failed:
        TaskRun(requested).run()
    assert failed.value.billed is False
    assert evolink.state.counters.submissions == 0
