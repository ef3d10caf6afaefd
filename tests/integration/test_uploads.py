"""The files API over HTTP: uploads, list, quota, deletion, and every way in which it says no; callbacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from airflow_provider_evoimage.client import Account, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    FileQuotaError,
    FileRefusedError,
    InvalidRequestError,
    UnreadableAnswerError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook, parse_callback
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.task_driver import API_KEY


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "Produktfoto Äpfel.png"
    Image.new("RGB", (320, 200), "teal").save(path)
    return path


@pytest.fixture
def client(evolink: SimulatorServer) -> Iterator[EvoLinkClient]:
    with EvoLinkClient(Account(base_url=evolink.url, api_key=API_KEY)) as client:
        yield client


@pytest.fixture
def hook(airflow_connection: Any) -> Iterator[EvoImageHook]:
    made = EvoImageHook()
    yield made
    made.close()


def test_stream_upload_comes_back_with_a_url_that_gives_the_same_bytes(client: EvoLinkClient, picture: Path):
    uploaded = client.upload_file(picture, name="a b.png", content_type="image/png", folder="shop")

    assert uploaded.size == picture.stat().st_size
    assert uploaded.mime_type == "image/png"
    assert httpx.get(uploaded.file_url, headers={"User-Agent": "test"}).content == picture.read_bytes()
    assert timedelta(hours=71) < uploaded.expires_at - datetime.now(UTC) <= timedelta(hours=72)


def test_base64_upload_is_the_same_file(client: EvoLinkClient, picture: Path):
    uploaded = client.upload_base64(picture.read_bytes(), name="b.png")

    assert uploaded.size == picture.stat().st_size
    assert uploaded.file_name == "b.png"


def test_evolink_fetches_from_a_url_itself(client: EvoLinkClient, picture: Path):
    first = client.upload_file(picture, name="c.png", content_type="image/png")
    second = client.upload_url(first.file_url, name="d.png")

    assert second.size == first.size
    assert second.file_id != first.file_id


def test_receipt_tells_of_an_earlier_upload_again(client: EvoLinkClient, picture: Path):
    upload_id = "ref-0123456789abcdef.png"
    assert client.get_upload_receipt(upload_id) is None
    uploaded = client.upload_file(picture, name="r.png", content_type="image/png", upload_id=upload_id)
    receipt = client.get_upload_receipt(upload_id)

    assert (receipt.file_id, receipt.file_url) == (uploaded.file_id, uploaded.file_url)


def test_server_without_receipts_has_none(client: EvoLinkClient, evolink: SimulatorServer):
    evolink.state.configure({"upload_receipts": False})
    assert client.get_upload_receipt("ref-0123456789abcdef.png") is None


def test_upload_id_is_checked_before_anything_is_sent(client: EvoLinkClient, picture: Path):
    for upload_id in ("short", "../../../../etc/passwd", "x" * 129):
        with pytest.raises(InvalidRequestError, match="is not an upload id"):
            client.get_upload_receipt(upload_id)
        with pytest.raises(InvalidRequestError, match="is not an upload id"):
            client.upload_file(picture, name="r.png", content_type="image/png", upload_id=upload_id)


def test_list_quota_and_deletion_agree(client: EvoLinkClient, picture: Path):
    before = client.get_file_quota()
    uploaded = client.upload_file(picture, name="e.png", content_type="image/png")
    held = client.get_file_quota()
    listed = client.list_files(page=1, page_size=100)
    client.delete_file(uploaded.file_id)
    after = client.get_file_quota()

    assert held.used == before.used + 1
    assert held.remaining == held.limit - held.used
    assert uploaded.file_id in {file.file_id for file in listed.files}
    assert listed.total >= 1
    assert after.used == before.used


@pytest.mark.parametrize("with_200", [False, True], ids=["error-status", "http-200"])
def test_full_quota_says_so_and_how_to_make_room(
    client: EvoLinkClient, picture: Path, evolink: SimulatorServer, with_200: bool
):
    evolink.state.configure({"files_quota": 0, "files_errors_with_200": with_200})
    with pytest.raises(FileQuotaError, match="delete uploaded files") as full:
        client.upload_file(picture, name="f.png", content_type="image/png")
    assert full.value.code == "40003"
    assert full.value.billed is False


@pytest.mark.parametrize("with_200", [False, True], ids=["error-status", "http-200"])
def test_wrong_type_is_refused_for_good(
    client: EvoLinkClient, tmp_path: Path, evolink: SimulatorServer, with_200: bool
):
    evolink.state.configure({"files_errors_with_200": with_200})
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    with pytest.raises(FileRefusedError) as refused:
        client.upload_file(text, name="g.txt", content_type="text/plain")
    assert refused.value.code == "40002"


def test_url_that_gives_nothing_is_refused_for_good(client: EvoLinkClient, evolink: SimulatorServer):
    with pytest.raises(FileRefusedError) as refused:
        client.upload_url(f"{evolink.url}/files/none.png", name="h.png")
    assert refused.value.code == "40004"


@pytest.mark.parametrize(
    "name", ["", "a/b.png", "..", "x" * 256, "a\x00b"], ids=["empty", "folder", "parent", "long", "null"]
)
def test_name_that_is_no_file_name_is_refused_before_anything_is_sent(
    client: EvoLinkClient, picture: Path, name: str
):
    with pytest.raises(InvalidRequestError):
        client.upload_file(picture, name=name, content_type="image/png")


@pytest.mark.parametrize("folder", ["/etc", "../up", "a/../../b", "x" * 257])
def test_folder_that_leaves_the_account_is_refused_before_anything_is_sent(
    client: EvoLinkClient, picture: Path, folder: str
):
    with pytest.raises(InvalidRequestError):
        client.upload_file(picture, name="i.png", content_type="image/png", folder=folder)


@pytest.mark.parametrize("file_id", ["", "..", "a/b", "x" * 129])
def test_id_that_is_none_never_becomes_part_of_a_path(client: EvoLinkClient, file_id: str):
    with pytest.raises(InvalidRequestError):
        client.delete_file(file_id)


def test_upload_reference_never_takes_a_name_that_is_taken(hook: EvoImageHook, picture: Path):
    first, second = hook.upload_reference(picture), hook.upload_reference(str(picture))

    assert first.file_name != second.file_name
    assert first.file_url != second.file_url
    assert first.file_name.startswith("Produktfoto-Äpfel-")
    assert first.file_name.endswith(".png")


def test_upload_reference_names_the_type_by_the_bytes_and_not_by_the_name(hook: EvoImageHook, tmp_path: Path):
    path = tmp_path / "really-a-jpeg.png"
    Image.new("RGB", (64, 64), "red").save(path, format="JPEG")

    uploaded = hook.upload_reference(path)

    assert uploaded.mime_type == "image/jpeg"
    assert uploaded.file_name.endswith(".jpg")


def test_upload_reference_refuses_what_evolink_would_refuse(hook: EvoImageHook, tmp_path: Path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(InvalidRequestError, match="no image of an accepted type by its bytes"):
        hook.upload_reference(text)
    with pytest.raises(InvalidRequestError, match="There is no reference file"):
        hook.upload_reference(tmp_path / "missing.png")


def test_full_quota_tells_how_full_it_is(hook: EvoImageHook, picture: Path, evolink: SimulatorServer):
    evolink.state.configure({"files_quota": 0})
    with pytest.raises(FileQuotaError, match="0 of 0 files used"):
        hook.upload_reference(picture)


def test_generation_sees_the_uploaded_reference(hook: EvoImageHook, picture: Path, evolink: SimulatorServer):
    url = hook.upload_reference(picture).file_url
    request = ImageRequest.build(model="gpt-image-1", prompt="edit [[instant]]", image_urls=[url])
    submitted = hook.submit(request, "key-of-this-test-0001")

    assert hook.get_generation(submitted.generation.evolink_task_id).status == "completed"


def test_callback_reads_as_the_task_it_is_about_and_is_verified_by_reading(
    hook: EvoImageHook, submitted: Callable[..., str]
):
    task = submitted("a red fox [[instant]]")
    claimed = {"id": task, "status": "completed", "results": ["https://evil.example/x.png"]}

    for body in (claimed, json.dumps(claimed), json.dumps(claimed).encode()):
        generation = parse_callback(body)
        assert generation.evolink_task_id == task
        assert generation.image_urls == ("https://evil.example/x.png",)
    assert "evil.example" not in "".join(hook.verify(generation).image_urls)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", "[]", "{}", b"\xff", {"id": 3}, {"id": "../credits"}],
    ids=["empty", "page", "list", "object", "bytes", "number", "path"],
)
def test_body_that_is_no_task_is_refused_in_words(body: Any):
    with pytest.raises(UnreadableAnswerError):
        parse_callback(body)
