"""Marks of saved images: in every file that may carry one, the same after a kill, and never over a signature."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.result_file import describe_image
from airflow_provider_evoimage.images.xmp import mark_in
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage import saver
from airflow_provider_evoimage.storage.stores import LocalFiles
from tests.integration.command_runs import evoimage
from tests.integration.hostile_host import picture
from tests.integration.task_driver import Killed, TaskRun, batch, generate, save

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

Submit = Callable[..., str]


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
def delivered(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Let the host of results deliver other bytes."""
    download = saver.download_image

    def deliver(content: bytes) -> None:
        def instead(client: Any, url: str, path: Path, limits: Any) -> Any:
            download(client, url, path, limits)
            path.write_bytes(content)
            return describe_image(path)

        monkeypatch.setattr(saver, "download_image", instead)

    return deliver


def path_of(image: dict[str, Any]) -> Path:
    return Path(image["path"].removeprefix("file://"))


def mark_of_file(path: Path) -> Any:
    with Image.open(path) as image:
        image.load()
        packet = image.info.get("xmp")
    assert packet, f"{path} has no XMP packet"
    return mark_in(packet if isinstance(packet, bytes) else packet.encode())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def saving(generation: Any, folder: Path, tries: int = 0, **arguments: Any) -> dict[str, Any]:
    return TaskRun(save(generation, folder, **arguments), task_id="save", try_number=tries).run()


def test_generated_image_says_that_an_ai_made_it(tmp_path: Path):
    manifest = TaskRun(generate(save_to=str(tmp_path), alt_text="A fox on {{ ds }}")).run()
    (image,) = manifest["images"]
    mark = mark_of_file(path_of(image))
    assert mark.digital_source_type == "trainedAlgorithmicMedia"
    assert mark.creator_tool == "airflow-provider-evoimage (EvoLink gpt-image-1.5)"
    assert mark.alt_text.startswith("A fox on ")
    assert image["sha256"] == sha256(path_of(image)) != image["provenance"]["source_sha256"]
    assert image["provenance"]["digital_source_type"] == "trainedAlgorithmicMedia"
    assert image["provenance"]["kept_because"] is None
    sidecar = json.loads(path_of(image).with_suffix(".json").read_text())
    assert sidecar["images"][0]["provenance"] == image["provenance"]


def test_prompt_is_never_in_a_file(tmp_path: Path):
    manifest = TaskRun(generate(prompt="a secret purple zebra", save_to=str(tmp_path))).run()
    assert b"purple" not in path_of(manifest["images"][0]).read_bytes()


def test_image_made_from_references_says_so(tmp_path: Path):
    reference = tmp_path / "mug.png"
    reference.write_bytes(picture())
    manifest = TaskRun(generate(image_urls=[str(reference)], save_to=str(tmp_path / "out"))).run()
    mark = mark_of_file(path_of(manifest["images"][0]))
    assert mark.digital_source_type == "compositeWithTrainedAlgorithmicMedia"


def test_kept_image_has_the_bytes_of_the_service(tmp_path: Path, finished: Submit):
    task = finished()
    kept = saving(task, tmp_path / "kept", provenance="keep")["images"][0]
    marked = saving(task, tmp_path / "marked")["images"][0]
    assert kept["sha256"] == kept["provenance"]["source_sha256"] == marked["provenance"]["source_sha256"]
    assert kept["provenance"]["kept_because"] == "provenance='keep'"
    assert kept["provenance"]["written_by"] is None
    with Image.open(path_of(kept)) as one, Image.open(path_of(marked)) as other:
        assert one.tobytes() == other.tobytes()


def test_batch_marks_each_image_with_the_alt_text_of_its_item(tmp_path: Path):
    requests = [{"prompt": "a mug", "alt_text": "A mug"}, {"prompt": "a cup"}]
    TaskRun(batch(requests, tmp_path, alt_text="A product")).run()
    texts = {mark_of_file(path).alt_text for path in tmp_path.rglob("*.png")}
    assert texts == {"A mug", "A product"}


@pytest.mark.parametrize("provenance", ["mark", "keep"])
def test_retry_after_a_kill_in_mid_save_leaves_the_same_bytes(
    tmp_path: Path, finished: Submit, monkeypatch: pytest.MonkeyPatch, provenance: str
):
    task = finished(n=3)
    arguments = {"provenance": provenance, "parallel": 1, "alt_text": "A fox"}
    whole = [image["sha256"] for image in saving(task, tmp_path / "whole", **arguments)["images"]]
    publish = LocalFiles.publish
    for number in (1, 2, 3):
        folder = tmp_path / str(number)
        count = 0

        def until(self: Any, local: Path, path: str, content_type: str, last: int = number) -> None:
            nonlocal count
            count += content_type == "image/png"
            if count == last:
                raise Killed
            publish(self, local, path, content_type)

        with monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "publish", until)
            with pytest.raises(Killed):
                saving(task, folder, **arguments)
        manifest = saving(task, folder, tries=1, **arguments)
        assert [image["sha256"] for image in manifest["images"]] == whole
        assert [sha256(path_of(image)) for image in manifest["images"]] == whole
        assert all(image["provenance"]["source_sha256"] for image in manifest["images"])


def signed() -> bytes:
    content = picture()
    body = b"caBX" + b"a signature"
    return (
        content[:33]
        + struct.pack(">I", len(body) - 4)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + content[33:]
    )


def test_image_with_content_credentials_is_saved_byte_for_byte(
    tmp_path: Path, finished: Submit, delivered: Callable[[bytes], None]
):
    content = signed()
    delivered(content)
    image = saving(finished(), tmp_path)["images"][0]
    assert path_of(image).read_bytes() == content
    assert image["provenance"]["content_credentials"] is True
    assert "content credentials" in image["provenance"]["kept_because"]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "AVIF"])
def test_other_kinds_are_kept_and_the_manifest_says_so(
    tmp_path: Path, finished: Submit, delivered: Callable[[bytes], None], kind: str
):
    content = picture(kind)
    delivered(content)
    image = saving(finished(), tmp_path)["images"][0]
    assert path_of(image).read_bytes() == content
    assert image["provenance"]["kept_because"] == "only PNG, JPEG and WebP files are marked"
    assert image["provenance"]["content_credentials"] is None


def test_paid_image_is_saved_when_it_cannot_be_marked(
    tmp_path: Path, finished: Submit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*_: object) -> Any:
        raise OSError("No space left on device")

    monkeypatch.setattr("airflow_provider_evoimage.images.provenance.edited", full)
    image = saving(finished(), tmp_path)["images"][0]
    assert image["sha256"] == image["provenance"]["source_sha256"] == sha256(path_of(image))
    assert image["provenance"]["kept_because"] == "No space left on device"


def test_existing_file_that_is_kept_is_described(tmp_path: Path, finished: Submit):
    task = finished()
    first = saving(task, tmp_path)["images"][0]
    path_of(first).with_suffix(".json").unlink()
    kept = saving(task, tmp_path, if_exists="skip")["images"][0]
    assert kept["sha256"] == first["sha256"]
    assert kept["provenance"]["digital_source_type"] == "trainedAlgorithmicMedia"
    assert kept["provenance"]["kept_because"] == "the file existed before"
    assert kept["provenance"]["source_sha256"] is None


def test_wrong_alt_text_is_refused_before_anything_is_paid(tmp_path: Path, evolink: SimulatorServer):
    with pytest.raises(InvalidRequestError, match="alt_text has 2,001 characters"):
        TaskRun(generate(save_to=str(tmp_path), alt_text="a" * 2001)).run()
    with pytest.raises(InvalidRequestError, match="alt_text"):
        TaskRun(batch([{"prompt": "a mug", "alt_text": 5}], tmp_path)).run()
    with pytest.raises(InvalidRequestError, match="provenance must be one of 'mark', 'keep'"):
        generate(provenance="remove")()
    assert evolink.state.generations == {}


def test_alt_text_and_provenance_change_neither_request_nor_price(tmp_path: Path, evolink: SimulatorServer):
    TaskRun(generate(save_to=str(tmp_path), alt_text="A fox")).run()
    (generation,) = evolink.state.generations.values()
    assert "alt_text" not in json.dumps(str(vars(generation)))


def test_command_shows_what_files_say(tmp_path: Path):
    manifest = TaskRun(generate(save_to=str(tmp_path), alt_text="A fox")).run()
    marked = path_of(manifest["images"][0])
    plain = tmp_path / "plain.png"
    plain.write_bytes(picture())
    done = evoimage("provenance", f"file://{marked}")
    assert done.returncode == 0, done.stderr
    assert "trainedAlgorithmicMedia" in done.stdout
    assert "A fox" in done.stdout

    done = evoimage("provenance", "--json", str(marked), str(plain))
    assert done.returncode == 1, done.stderr
    assert [each["digital_source_type"] for each in json.loads(done.stdout)] == [
        "trainedAlgorithmicMedia",
        None,
    ]

    done = evoimage("provenance", str(tmp_path / "none.png"))
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
