"""One result link: its limits, what is tried again, and what an error says."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.exceptions import DownloadError, NotAnImageError, TooLargeError
from airflow_provider_evoimage.result_links import DownloadLimits, ResultStream
from airflow_provider_evoimage.storage.download import ImageFile, RefusedLinkError, download_image

URL = "https://files.evolink.ai/a.png?signature=secret"
UNKNOWN = -1


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32)).save(buffer, "PNG")
    return buffer.getvalue()


class Client:
    """Answers with each of these in turn: a status, or a body with its announced length."""

    def __init__(self, *answers: int | tuple[bytes, int | None]) -> None:
        self.answers = list(answers)
        self.streams = 0

    @contextmanager
    def stream(self, url: str, deadline: Any) -> Iterator[ResultStream]:
        assert url == URL
        assert deadline.left > 0
        self.streams += 1
        answer = self.answers.pop(0)
        status, (body, length) = (answer, (b"", None)) if isinstance(answer, int) else (200, answer)
        chunks = (body[at : at + 100] for at in range(0, len(body), 100))
        yield ResultStream(
            status=status,
            content_type="image/png",
            length=len(body) if length == UNKNOWN else length,
            chunks=chunks,
        )


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


def downloaded(client: Client, path: Path, **limits: Any) -> ImageFile:
    return download_image(client, URL, path / "a", DownloadLimits(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [UNKNOWN, None])
def test_image_is_measured_and_hashed(tmp_path: Path, length: int | None) -> None:
    content = png()
    file = downloaded(Client((content, length)), tmp_path)
    assert (tmp_path / "a").read_bytes() == content
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (file.width, file.height, file.content_type) == (48, 32, "image/png")


@pytest.mark.parametrize("length", [UNKNOWN, None])
def test_limit_is_the_largest_size_that_is_taken(tmp_path: Path, length: int | None) -> None:
    content = png()
    downloaded(Client((content, length)), tmp_path, bytes=len(content))
    with pytest.raises(TooLargeError):
        downloaded(Client((content, length)), tmp_path, bytes=len(content) - 1)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refused_link_is_not_tried_again(tmp_path: Path, status: int) -> None:
    client = Client(status)
    with pytest.raises(RefusedLinkError) as caught:
        downloaded(client, tmp_path)
    assert (client.streams, caught.value.http_status) == (1, status)
    assert caught.value.message == f"files.evolink.ai answered HTTP {status} for a result link."


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_transient_error_is_tried_as_often_as_the_limit_says(tmp_path: Path, attempts: int) -> None:
    client = Client(*[503] * attempts)
    with pytest.raises(DownloadError) as caught:
        downloaded(client, tmp_path, attempts=attempts)
    assert (client.streams, caught.value.http_status) == (attempts, 503)
    assert not isinstance(caught.value, RefusedLinkError)


def test_nothing_is_tried_again_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(503, (png(), None))
    lefts = iter([1.0, 0.0])
    monkeypatch.setattr(
        "airflow_provider_evoimage.storage.download.Deadline.left", property(lambda _: next(lefts))
    )
    with pytest.raises(DownloadError):
        downloaded(client, tmp_path)
    assert client.streams == 1


def test_image_that_ends_too_early_is_fetched_again(tmp_path: Path) -> None:
    content = png()
    client = Client((content[:-1], len(content)), (content, UNKNOWN))
    assert downloaded(client, tmp_path).bytes == len(content)
    assert client.streams == 2


def test_error_of_an_image_that_ends_too_early_says_how_much_came(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"files\.evolink\.ai sent 3 of the 2,000 bytes it had announced"):
        downloaded(Client((b"abc", 2000)), tmp_path, attempts=1)


def test_body_that_is_no_image_is_not_fetched_again(tmp_path: Path) -> None:
    client = Client((b"<html>", None))
    with pytest.raises(NotAnImageError):
        downloaded(client, tmp_path)
    assert client.streams == 1


def test_temporary_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="temporary folder"):
        downloaded(Client((png(), None)), tmp_path / "gone", attempts=1)
