"""One contract, each store: files complete under their final name or absent, of the right type, read back whole."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.exceptions import (
    DestinationError,
    FileExistsAtDestinationError,
    InvalidRequestError,
)
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.drawing import images
from airflow_provider_evoimage.storage.destination import Destination
from tests.integration.stores.store_servers import RunningStore, sftp
from tests.integration.task_driver import TaskRun, generate, save
from tools.local_airflow.processes import poll

HERE = Path(__file__).parent
EARLIER = b"the image of an earlier run"
Finish = Callable[..., str]
Save = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("airflow_connection")


def names_below(store: RunningStore, folder: str) -> list[str]:
    return [name.removeprefix(f"{folder}/") for name in store.names() if name.startswith(f"{folder}/")]


def name_of(image: dict[str, Any], store: RunningStore) -> str:
    return image["path"].removeprefix(f"{store.root}/")


def assert_whole(manifest: dict[str, Any], store: RunningStore) -> None:
    assert manifest["images"]
    for image in manifest["images"]:
        there = store.read(name_of(image, store))
        assert len(there.content) == image["bytes"]
        assert hashlib.sha256(there.content).hexdigest() == image["sha256"]
        if store.is_object_store:
            assert there.content_type == image["content_type"]


def bitmap(megapixels: int) -> bytes:
    """Return an image that is large because nothing of it can be compressed: 3 bytes a pixel."""
    width, height = 1000 * megapixels // 4, 4000
    pixels = random.Random(megapixels).randbytes(width * height * 3)
    size = 54 + len(pixels)
    header = b"BM" + size.to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + width.to_bytes(4, "little") + height.to_bytes(4, "little")
    header += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(4)
    header += len(pixels).to_bytes(4, "little") + bytes(16)
    return header + pixels


@pytest.fixture
def large_image(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """One image of 60 MB, which EvoLink now gives as the result of everything."""
    content = bitmap(20)
    monkeypatch.setattr(images, "draw", lambda picture: content)
    return content


# Save, and save again


def test_images_and_sidecar_are_there_and_read_back_whole(
    store: RunningStore, folder: str, finished: Finish, save_to: Save
) -> None:
    manifest = save_to(finished(n=3))
    assert names_below(store, folder) == [
        "campaign/run/save-0.json",
        "campaign/run/save-0.png",
        "campaign/run/save-1.png",
        "campaign/run/save-2.png",
    ]
    assert_whole(manifest, store)
    sidecar = store.read(f"{folder}/campaign/run/save-0.json")
    assert json.loads(sidecar.content)["images"][2]["sha256"] == manifest["images"][2]["sha256"]
    if store.is_object_store:
        assert sidecar.content_type == "application/json"


def test_content_type_is_that_of_the_bytes(store: RunningStore, finished: Finish, save_to: Save) -> None:
    manifest = save_to(finished("a red fox [[download:jpeg]]"))
    assert name_of(manifest["images"][0], store).endswith(".jpg")
    assert manifest["images"][0]["content_type"] == "image/jpeg"
    assert_whole(manifest, store)


def test_generate_saves_here_too(store: RunningStore, folder: str, fake_time: Any) -> None:
    del fake_time
    manifest = TaskRun(generate(save_to=f"{store.root}/{folder}", n=2)).run()
    assert_whole(manifest, store)


def test_saving_again_fetches_nothing(finished: Finish, save_to: Save, evolink: SimulatorServer) -> None:
    task = finished(n=2)
    first = save_to(task)
    assert save_to(task) == first
    assert evolink.state.counters.downloads == 2


def test_overwrite_replaces(store: RunningStore, folder: str, finished: Finish, save_to: Save) -> None:
    save_to(finished("one"))
    manifest = save_to(finished("two"))
    assert_whole(manifest, store)
    assert len(names_below(store, folder)) == 2


def test_skip_keeps_what_is_there_and_describes_it(
    store: RunningStore, finished: Finish, save_to: Save, evolink: SimulatorServer
) -> None:
    first = save_to(finished("one"))
    manifest = save_to(finished("two"), if_exists="skip")
    assert manifest["images"][0]["sha256"] == first["images"][0]["sha256"]
    assert evolink.state.counters.downloads == 1
    assert_whole(manifest, store)


def test_error_touches_nothing(store: RunningStore, finished: Finish, save_to: Save) -> None:
    first = save_to(finished("one"))
    with pytest.raises(FileExistsAtDestinationError, match=r"save-0\.png"):
        save_to(finished("two"), if_exists="error")
    assert_whole(first, store)


# Names


@pytest.mark.parametrize(
    "template",
    [
        "Sommer größer ❤/кампания/写真-{index}.{ext}",
        "with blanks & signs (50% off) 'x' ~{index}+=@,!$.{ext}",
        "{dag_id}/" + "ж" * 80 + "-{index}.{ext}",
    ],
    ids=["scripts", "signs", "long"],
)
def test_names_survive_the_journey(
    store: RunningStore, folder: str, finished: Finish, save_to: Save, template: str
) -> None:
    task = finished(n=2)
    manifest = save_to(task, filename_template=template, run_id="größe 写真: हिन्दी")
    assert_whole(manifest, store)
    expected = template.format(dag_id="campaign", index=1, ext="png")
    assert expected in names_below(store, folder)
    # The record of the next try finds them under the very same names.
    assert save_to(task, filename_template=template, run_id="größe 写真: हिन्दी") == manifest


def test_name_that_an_object_store_would_not_take_is_refused_before_any_download(
    store: RunningStore, folder: str, finished: Finish, save_to: Save, evolink: SimulatorServer
) -> None:
    if not store.is_object_store:
        pytest.skip("the limit of a path is the file system's")
    with pytest.raises(InvalidRequestError, match=r"is too long: this store takes 1008 bytes"):
        save_to(finished(), filename_template="/".join(["ж" * 90] * 6) + "-{index}.{ext}")
    assert evolink.state.counters.downloads == 0
    assert names_below(store, folder) == []


def test_removing_a_file_takes_no_name_for_a_pattern(
    store: RunningStore, folder: str, tmp_path: Path
) -> None:
    destination = Destination(f"{store.root}/{folder}")
    names = ["x1/.a.saving.json", "x[1]/.a.saving.json"]
    for name in names:
        local = tmp_path / "local"
        local.write_bytes(EARLIER)
        destination.publish(local, name, "application/json")
    # The second time it is gone already.
    for _ in range(2):
        destination.remove(names[1])
        assert names_below(store, folder) == names[:1]


# Many, and large


def test_hundred_images(
    store: RunningStore, folder: str, finished: Finish, save_to: Save, evolink: SimulatorServer
) -> None:
    tasks = [finished(f"fox {number}", n=10) for number in range(10)]
    manifests = save_to(tasks, parallel=8)
    for manifest in manifests:
        assert_whole(manifest, store)
    assert len(names_below(store, folder)) == 110
    assert evolink.state.counters.downloads == 100


def test_image_of_60_megabytes(
    store: RunningStore, finished: Finish, save_to: Save, large_image: bytes
) -> None:
    manifest = save_to(finished())
    assert manifest["images"][0]["bytes"] == len(large_image) > 60_000_000
    assert_whole(manifest, store)


# A worker that is killed while it uploads


def kill_in_mid_publish(store: RunningStore, task: str, save_to: str) -> None:
    """Save in another process, and end it with SIGKILL when half of the image is under way."""
    environment = {"STOP_IN_MID_COPY": "1"} if store.relay is None else {}
    if store.relay is not None:
        store.relay.hold_after(30_000_000)
    process = subprocess.Popen(
        [sys.executable, "-P", HERE / "save_in_process.py", task, save_to],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
    )
    try:
        if store.relay is None:
            assert process.stdout is not None
            assert any(line.endswith(b"in mid-copy\n") for line in process.stdout)
        else:
            relay = store.relay
            poll(
                lambda: relay.held.is_set() or process.poll() is not None, seconds=120, what="half an upload"
            )
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.kill()
        process.wait()
        if store.relay is not None:
            store.relay.release()


def test_kill_in_mid_publish_leaves_nothing_partial_and_the_next_try_completes(
    store: RunningStore, finished: Finish, folder: str, large_image: bytes, tmp_path: Path
) -> None:
    root = f"{store.root}/{folder}"
    earlier = tmp_path / "earlier"
    earlier.write_bytes(EARLIER)
    Destination(root).publish(earlier, "campaign/run/save-0.bmp", "image/bmp")
    task = finished(n=2)
    kill_in_mid_publish(store, task, root)
    # Under the final names: what was there before, and nothing.
    assert store.read(f"{folder}/campaign/run/save-0.bmp").content == EARLIER
    assert f"{folder}/campaign/run/save-1.bmp" not in store.names()
    manifest = TaskRun(save(task, root), task_id="save", run_id="run", try_number=1).run()
    assert_whole(manifest, store)
    assert manifest["images"][1]["bytes"] == len(large_image)
    # Neither a part nor the record of the killed try is left.
    assert names_below(store, folder) == [
        "campaign/run/save-0.bmp",
        "campaign/run/save-0.json",
        "campaign/run/save-1.bmp",
    ]


# What the connection or the URL has wrong


def test_wrong_credentials_are_found_out_before_anything_is_paid(
    store: RunningStore, folder: str, evolink: SimulatorServer
) -> None:
    if store.refused is None:
        pytest.skip("local files have no credentials")
    with pytest.raises(DestinationError, match=re.escape(f"{store.refused}/{folder}")) as failed:
        TaskRun(generate(save_to=f"{store.refused}/{folder}")).run()
    assert "credentials are refused" in str(failed.value)
    assert "Correct the connection that the URL names" in str(failed.value)
    assert evolink.state.counters.submissions == 0
    for secret in ("not-the-secret", "not the secret", "bm90IHRoZSBrZXk", "PRIVATE KEY"):
        assert secret not in str(failed.value)


def test_missing_bucket_is_found_out_before_anything_is_paid(
    store: RunningStore, folder: str, evolink: SimulatorServer
) -> None:
    if store.missing is None:
        pytest.skip("folders are made as they are needed")
    with pytest.raises(DestinationError, match=r"nobody-made-this.*Correct save_to, or create it") as failed:
        TaskRun(generate(save_to=f"{store.missing}/{folder}")).run()
    assert (failed.value.billed, failed.value.retryable) == (False, False)
    assert evolink.state.counters.submissions == 0


def test_folder_is_made_where_stores_have_folders(
    store: RunningStore, finished: Finish, folder: str, save_to: Save
) -> None:
    manifest = save_to(finished(), root=f"{store.root}/{folder}/not/there/yet")
    assert_whole(manifest, store)


# What the store says it holds


def spoil_uploads(
    store: RunningStore, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    """Change the bytes between their hash and the wire, as bad memory would."""
    fs = Destination(store.root)._fs
    put_file = fs.put_file

    def spoiled(local: str, *arguments: Any, **named: Any) -> Any:
        other = Path(f"{local}.spoiled")
        other.write_bytes(change(Path(local).read_bytes()))
        return put_file(str(other), *arguments, **named)

    monkeypatch.setattr(fs, "put_file", spoiled)
    if store.kind == "s3":
        call_s3 = fs.call_s3

        def spoiled_call(method: str, **named: Any) -> Any:
            if "Body" in named:
                named["Body"] = change(named["Body"])
            return call_s3(method, **named)

        monkeypatch.setattr(fs, "call_s3", spoiled_call)


def test_upload_that_arrives_damaged_is_an_error_and_no_file(
    store: RunningStore, folder: str, finished: Finish, save_to: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.kind not in {"s3", "gcs"}:
        pytest.skip("only these tell a checksum of what lies there; Azure checks each block itself")
    spoil_uploads(store, monkeypatch, lambda content: content[:-1] + b"?")
    with pytest.raises(DestinationError, match=r"arrived damaged.*(ETag|MD5) is .* was sent") as failed:
        save_to(finished())
    assert failed.value.retryable
    assert names_below(store, folder) == []


def test_upload_that_arrives_short_is_an_error_and_no_file(
    store: RunningStore, folder: str, finished: Finish, save_to: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.kind in {"file", "azure"}:
        pytest.skip("there is no upload of a whole file that could be cut")
    spoil_uploads(store, monkeypatch, lambda content: content[:-1])
    # Of a small file in S3 the answer tells the checksum alone.
    told = "arrived damaged" if store.kind == "s3" else r"holds [\d,]+ bytes where [\d,]+ were sent"
    with pytest.raises(DestinationError, match=told):
        save_to(finished())
    assert names_below(store, folder) == []


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\n\r", b"--", b""])
def test_last_bytes_of_a_file_arrive_whatever_they_are(
    store: RunningStore, folder: str, tmp_path: Path, end: bytes
) -> None:
    local = tmp_path / "picture.webp"
    local.write_bytes(b"RIFF" + end)
    Destination(f"{store.root}/{folder}").publish(local, "picture.webp", "image/webp")
    there = store.read(f"{folder}/picture.webp")
    assert there.content == b"RIFF" + end
    if store.is_object_store:
        assert there.content_type == "image/webp"


# Used again


def test_saved_image_reads_back_through_airflows_own_path(
    store: RunningStore, finished: Finish, save_to: Save
) -> None:
    image = save_to(finished())["images"][0]
    path = ObjectStoragePath(image["path"])
    assert path.exists()
    assert path.stat().st_size == image["bytes"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == image["sha256"]


def test_small_file_is_read_as_it_is_now_and_an_absent_one_is_none(
    store: RunningStore, folder: str, tmp_path: Path
) -> None:
    destination = Destination(f"{store.root}/{folder}")
    name, local = "_index/ü 50% [1].json", tmp_path / "local"
    assert destination.read_if_there(name) is None
    for content in (b'{"v": 1}', b"", b"something longer"):
        local.write_bytes(content)
        destination.publish(local, name, "application/json")
        assert destination.read_if_there(name) == content


def test_small_file_of_s3_costs_one_request(
    store: RunningStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.kind != "s3":
        pytest.skip("of S3 alone: each request of a search in thousands of images has its price")
    destination, local = Destination(f"{store.root}/{folder}"), tmp_path / "local"
    local.write_bytes(b"{}")
    destination.publish(local, "a.json", "application/json")
    fs, requests = ObjectStoragePath(store.root).fs, []
    call = type(fs)._call_s3

    async def counted(self: Any, method: str, *given: Any, **fields: Any) -> Any:
        requests.append(method)
        return await call(self, method, *given, **fields)

    monkeypatch.setattr(type(fs), "_call_s3", counted)
    assert destination.read_if_there("a.json") == b"{}"
    assert destination.read_if_there("b.json") is None
    assert requests == ["get_object"] * 2


def test_sftp_server_without_posix_rename_gets_whole_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local"
    with sftp(tmp_path, "--without-posix-rename") as server:
        for name, connection in server.connections.items():
            monkeypatch.setenv(name, connection)
        destination = Destination(server.root)
        for content in (b"one", b"another"):
            local.write_bytes(content)
            destination.publish(local, "run/a.png", "image/png")
            assert server.read("run/a.png").content == content
        assert server.names() == ["run/a.png"]
