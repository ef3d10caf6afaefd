"""Decisions of a save: whether it keeps a record, what it removes, and what it says of its files."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from airflow_provider_evoimage.client import Account
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import DownloadError, EvoImageError, LinkExpiredError
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.storage import saver
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.existing import EarlierSidecar
from airflow_provider_evoimage.storage.file_names import FileNames
from airflow_provider_evoimage.storage.image_names import GenerationToSave
from airflow_provider_evoimage.storage.index import alt_text_hash
from airflow_provider_evoimage.storage.saver import ImageSaver, SaveOutcome
from airflow_provider_evoimage.storage.stores import LocalFiles

TASK, OTHER = "task-unified-1757156400-abcdefgh", "task-unified-1757156400-zyxwvuts"
MADE_BY = {"dag_id": "campaign", "run_id": "run", "task_id": "draw", "map_index": -1}


def generation(images: int = 1, task: str = TASK) -> Generation:
    links = [f"https://files.evolink.ai/{index}.png" for index in range(images)]
    return Generation.read({"id": task, "status": "completed", "results": links, "model": "gpt-image-1.5"})


def saver_in(folder: Path, mocker: MockerFixture, **arguments: Any) -> ImageSaver:
    hook = mocker.Mock(
        **{
            "settings.account": Account(
                base_url="https://api.evolink.ai", api_key="any", request_timeout=7.5
            ),
        }
    )
    fields = {"names": FileNames("x-{index}.{ext}"), "if_exists": "overwrite", "made_by": MADE_BY}
    log = logging.getLogger(__name__)
    return ImageSaver(hook=hook, destination=Destination(str(folder)), log=log, **(fields | arguments))


def to_save(images: int = 1, **fields: Any) -> GenerationToSave:
    summary = RequestSummary(request={}, images=images, reusable_for=fields.pop("reusable_for", None))
    return GenerationToSave(generation=generation(images), requested=summary, **fields)


@pytest.mark.parametrize(
    ("leaves_parts", "images", "if_exists", "is_kept"),
    [
        (False, 1, "overwrite", False),
        (False, 1, "skip", False),
        (False, 1, "error", True),
        (False, 2, "overwrite", True),
        (True, 1, "overwrite", True),
    ],
)
def test_record_of_a_save_is_kept_where_a_kill_leaves_something(
    tmp_path: Path,
    mocker: MockerFixture,
    leaves_parts: bool,
    images: int,
    if_exists: str,
    is_kept: bool,
) -> None:
    mocker.patch.object(LocalFiles, "leaves_parts", leaves_parts)
    plan = saver_in(tmp_path, mocker, if_exists=if_exists)._plan(to_save(images))
    assert (plan.progress is not None) is is_kept


@pytest.mark.parametrize(
    ("own", "of_the_task", "described"),
    [(None, None, None), ("a fox", None, "a fox"), (None, "a bird", "a bird"), ("a fox", "a bird", "a fox")],
)
def test_files_do_for_later_requests_with_the_same_mark_and_alt_text(
    tmp_path: Path, mocker: MockerFixture, own: str | None, of_the_task: str | None, described: str | None
) -> None:
    key = {"fingerprint": "f" * 64, "occurrence": 1}
    saving = saver_in(tmp_path, mocker, provenance="keep", alt_text=of_the_task)
    assert saving._reusable_for(saving._plan(to_save(alt_text=own, reusable_for=key))) == {
        **key,
        "provenance": "keep",
        "alt_text_sha256": alt_text_hash(described),
    }
    assert saving._reusable_for(saving._plan(to_save(alt_text=own))) is None


def test_links_of_evolinks_own_host_are_told_apart_and_have_the_accounts_time_limit(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    client = mocker.patch.object(saver, "ResultClient")
    assert saver_in(tmp_path, mocker)._result_client() is client.return_value
    client.assert_called_once_with(evolink_host="api.evolink.ai", timeout=7.5)


@pytest.mark.parametrize(
    ("images", "counted"), [(1, ""), (2, "1 of 2 images could not be saved. The first: ")]
)
def test_images_that_failed_are_counted_where_there_are_several(
    tmp_path: Path, mocker: MockerFixture, images: int, counted: str
) -> None:
    saving = saver_in(tmp_path, mocker)
    failed = SaveOutcome(errors=[DownloadError("the host is down", evolink_task_id=TASK)])
    mocker.patch.object(ImageSaver, "save_each", return_value=[failed])
    with pytest.raises(DownloadError) as error:
        saving.save([generation(images)], [RequestSummary()])
    assert error.value.message == f"{counted}the host is down"


def test_manifests_come_in_order_and_names_by_place(tmp_path: Path, mocker: MockerFixture) -> None:
    saving = saver_in(tmp_path, mocker, names=FileNames("{item}-{name}-{index}.{ext}"))
    each = mocker.patch.object(
        ImageSaver,
        "save_each",
        return_value=[SaveOutcome(manifest={"v": 1}), SaveOutcome(manifest={"v": 2})],  # type: ignore[typeddict-item]
    )
    given = [generation(), generation(task=OTHER)]
    assert saving.save(given, [RequestSummary(name="fox"), RequestSummary()]) == [{"v": 1}, {"v": 2}]
    (to_save,) = each.call_args.args
    assert [(one.item, one.name, one.generation) for one in to_save] == [
        (0, "fox", given[0]),
        (1, "", given[1]),
    ]
    with pytest.raises(ValueError, match="zip"):
        saving.save(given, [RequestSummary()])


def test_images_of_the_overwritten_generation_go_unless_they_were_replaced(
    tmp_path: Path, mocker: MockerFixture
) -> None:
    saving = saver_in(tmp_path, mocker)
    entries = {}
    for index, extension in enumerate(["png", "jpg", "webp", "png"]):
        file = tmp_path / f"x-{index}.{extension}"
        file.write_bytes(b"image %d" % index)
        entries[index] = {
            "path": saving.destination.url(file.name),
            "bytes": 7,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "content_type": {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}[extension],
        }
    # Of no name of this save: left alone.
    entries[2]["path"] = saving.destination.url("y.webp")
    plan = saving._plan(to_save())
    object.__setattr__(plan, "earlier", EarlierSidecar(entries=entries))
    saving._remove_earlier_images(plan, [{"path": entries[0]["path"]}], tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x-0.png", "x-2.webp"]


def test_lost_images_are_described_only_if_nothing_else_failed(tmp_path: Path, mocker: MockerFixture) -> None:
    saving = saver_in(tmp_path, mocker)
    describe = mocker.patch.object(ImageSaver, "_finish_with_lost")
    plan = saving._plan(to_save(3))

    def outcome(*ends: EvoImageError | None) -> SaveOutcome:
        futures = []
        for end in ends:
            future = mocker.Mock()
            future.result.side_effect = [end or {"index": 0, "path": "p"}]
            futures.append(future)
        return saving._end(plan, *saving._brought(futures), tmp_path)

    lost, failed = LinkExpiredError("dead"), DownloadError("down")
    assert outcome(None, lost, failed).errors == [lost, failed]
    assert outcome(lost, lost).errors == [lost, lost]
    describe.assert_not_called()
    assert outcome(None, lost).errors == [lost]
    describe.assert_called_once_with(plan, [{"index": 0, "path": "p"}], [lost], tmp_path)
