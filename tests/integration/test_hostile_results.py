"""What a bad result host can do: the right error, with the id and what was billed; no file, time or memory lost."""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity.nap
from PIL import Image

from airflow_provider_evoimage.exceptions import (
    DownloadError,
    NotAnImageError,
    TooLargeError,
    UnsafeLinkError,
)
from tests.integration import hostile_host as host_that
from tests.integration.hostile_host import TASK, Exchange, HostileHost, picture
from tests.integration.task_driver import CONNECTION, TaskRun, connection, save

# Far above what any of it may take: a hang is a failure, and nothing is measured by the clock.
pytestmark = pytest.mark.timeout(60)

# What the limits of these tests allow to be held, with what the test server itself holds in this process.
MEMORY_BYTES = 32_000_000

BEHAVIOURS: list[tuple[Callable[[Exchange], None], type[DownloadError], str]] = [
    (host_that.redirects_to_cloud_metadata, UnsafeLinkError, "169.254.169.254, which is not a public host"),
    (host_that.redirects_to_cloud_metadata_by_ipv6, UnsafeLinkError, "not a public host"),
    (host_that.redirects_to_cloud_metadata_in_decimal, UnsafeLinkError, "not a public host"),
    (host_that.redirects_to_a_private_address, UnsafeLinkError, "10.0.0.5, which is not a public host"),
    (host_that.redirects_to_an_internal_name, UnsafeLinkError, "metadata.google.internal"),
    (host_that.redirects_inwards_after_two_good_hops, UnsafeLinkError, "192.168.0.1"),
    (host_that.redirects_to_a_file, UnsafeLinkError, r"not an http\(s\) address"),
    (host_that.redirects_to_a_data_url, DownloadError, "InvalidURL"),
    (host_that.redirects_to_itself, DownloadError, "more than 5 times"),
    (host_that.redirects_six_times, DownloadError, "more than 5 times"),
    (host_that.redirects_to_nonsense, DownloadError, "Invalid URL in location header"),
    (host_that.claims_five_gigabytes, TooLargeError, "announces 5,368,709,120 bytes; the limit is 2,000,000"),
    (host_that.never_ends_without_a_length, TooLargeError, "longer than 2,000,000 bytes"),
    (host_that.never_ends_in_chunks, TooLargeError, "longer than 2,000,000 bytes"),
    (host_that.bombs_with_gzip, TooLargeError, "longer than 2,000,000 bytes"),
    (host_that.bombs_with_pixels, NotAnImageError, "decompression bomb"),
    (host_that.bombs_with_gzip_in_gzip, DownloadError, "'gzip, gzip', which was not requested"),
    (host_that.says_gzip_and_sends_none, DownloadError, "incorrect header check"),
    (host_that.cuts_its_gzip_short, DownloadError, "ends too early"),
    (host_that.packs_nothing_for_ever, DownloadError, "unpacks to less than it has"),
    (host_that.packs_with_brotli_unasked, DownloadError, "'br', which was not requested"),
    (host_that.sends_nothing, NotAnImageError, "empty"),
    (host_that.sends_a_web_page, NotAnImageError, "web page"),
    (host_that.sends_a_web_page_as_png, NotAnImageError, "web page"),
    (host_that.sends_json, NotAnImageError, "JSON"),
    (host_that.sends_a_vector_drawing, NotAnImageError, "not an image"),
    (host_that.sends_a_postscript_program, NotAnImageError, "no known kind"),
    (host_that.appends_a_program_to_the_png, NotAnImageError, "something else follows the PNG"),
    (host_that.appends_a_page_to_the_gif, NotAnImageError, "something else follows the GIF"),
    (host_that.drips_its_body, DownloadError, "not done within 2 s"),
    (host_that.drips_its_body_without_a_length, DownloadError, "not done within 2 s"),
    (host_that.drips_its_headers, DownloadError, "not done within 2 s"),
    (host_that.drips_the_length_of_a_chunk, DownloadError, "not done within 2 s"),
    (host_that.says_nothing, DownloadError, "Silence|not done within 2 s"),
    (host_that.falls_silent_within_the_body, DownloadError, "Silence|not done within 2 s"),
    (host_that.sends_less_than_it_claims, DownloadError, "cut|bytes"),
    (host_that.cuts_in_the_middle, DownloadError, "cut"),
    (host_that.cuts_a_body_without_a_length, DownloadError, "PNG is damaged or ends too early"),
    (host_that.cuts_before_a_word, DownloadError, "cut"),
    (host_that.is_no_http_server, DownloadError, "downloading from 127.0.0.1"),
    (host_that.sends_huge_headers, DownloadError, "downloading from 127.0.0.1"),
    (host_that.truncates_the_png_with_a_matching_length, DownloadError, "PNG is damaged or ends too early"),
    (host_that.truncates_the_jpeg_with_a_matching_length, DownloadError, "JPEG is damaged or ends too early"),
    (host_that.turns_a_bit_of_the_png, DownloadError, "PNG is damaged"),
    (host_that.sends_a_part_unasked, DownloadError, "HTTP 206"),
    (host_that.has_moved_to_nowhere, DownloadError, "HTTP 301"),
    (host_that.is_out_of_order, DownloadError, "HTTP 502"),
    (host_that.does_not_find_it, DownloadError, "refuses the result link.*HTTP 404"),
    (host_that.refuses_everybody, DownloadError, "refuses the result link.*HTTP 403"),
    (host_that.says_it_is_gone, DownloadError, "refuses the result link.*HTTP 410"),
]


@pytest.fixture
def host() -> Iterator[HostileHost]:
    with HostileHost() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all temporary files, so that a forgotten one is seen."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    # Between attempts nothing is waited for.
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda seconds: None))
    return folder


def saving(
    host: HostileHost,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_slow: bool = False,
    max_image_megabytes: float = 2,
) -> Any:
    # Short where the time is what is tested; elsewhere a busy machine must not matter.
    times = {"request_timeout": 1, "download_timeout": 2} if is_slow else {}
    limits = {"max_image_megabytes": max_image_megabytes, **times}
    monkeypatch.setenv(CONNECTION, connection(host, **limits))  # type: ignore[arg-type]
    return TaskRun(save(TASK, folder), task_id="save").run()


def files_below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def peak_memory() -> int:
    """Return the most memory this process has held since the last call, in bytes (Linux)."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the peak of a process's memory is read from /proc")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    Path("/proc/self/clear_refs").write_text("5")
    assert peak is not None
    return int(peak[1]) * 1024


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"), BEHAVIOURS, ids=[behaviour.__name__ for behaviour, _, _ in BEHAVIOURS]
)
def test_bad_result_host_gives_the_right_error_and_leaves_nothing(
    host: HostileHost,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: Callable[[Exchange], None],
    kind: type[DownloadError],
    words: str,
) -> None:
    host.behave = behaviour  # type: ignore[method-assign]
    host_that.gzip_bomb()
    destination = tmp_path / "images"
    with pytest.raises(DownloadError, match=words) as failed:
        saving(host, destination, monkeypatch, is_slow="not done within 2 s" in words)

    assert type(failed.value) is kind or (kind is DownloadError and failed.value.retryable)
    assert failed.value.evolink_task_id == TASK
    assert failed.value.billed is True
    assert TASK in str(failed.value)
    assert "Billed: yes." in str(failed.value)
    assert "secret-of-the-link" not in str(failed.value)
    assert files_below(destination) == []
    assert list(temporary.iterdir()) == []
    # What another download would not mend is not downloaded again.
    if kind in {TooLargeError, NotAnImageError}:
        assert len(host.requested) == 1


@pytest.mark.parametrize(
    "behaviour",
    [
        host_that.claims_five_gigabytes,
        host_that.never_ends_without_a_length,
        host_that.never_ends_in_chunks,
        host_that.bombs_with_gzip,
        host_that.bombs_with_pixels,
    ],
    ids=lambda behaviour: behaviour.__name__,
)
def test_memory_stays_small_whatever_the_host_sends(
    host: HostileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: Callable[[Exchange], None]
) -> None:
    host.behave = behaviour  # type: ignore[method-assign]
    host_that.gzip_bomb()
    peak_memory()
    before = peak_memory()
    with pytest.raises(DownloadError):
        saving(host, tmp_path / "images", monkeypatch)
    assert host.requested
    assert peak_memory() - before < MEMORY_BYTES


def test_memory_stays_small_however_large_and_many_the_images_are(
    host: HostileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.png"
    # Its pixels alone are 50 MB, unpacked as well as in the file.
    Image.new("RGB", (4096, 4096), "teal").save(large, compress_level=0)
    size = large.stat().st_size

    def serve(exchange: Exchange) -> None:
        exchange.head(Content_Type="image/png", Content_Length=size)
        with large.open("rb") as file:
            while block := file.read(64 * 1024):
                exchange.send(block)

    host.behave = serve  # type: ignore[method-assign]
    monkeypatch.setattr(HostileHost, "images", 4)
    peak_memory()
    before = peak_memory()
    manifest = saving(host, tmp_path / "images", monkeypatch, max_image_megabytes=60)
    assert len(manifest["images"]) == 4
    # Each is a little larger than what was sent: it has a mark.
    assert all(0 < image["bytes"] - size < 1000 for image in manifest["images"])
    assert peak_memory() - before < MEMORY_BYTES


def served_well(kind: str, claimed: str) -> Callable[[Exchange], None]:
    return lambda exchange: exchange.answer(picture(kind), Content_Type=claimed)


@pytest.mark.parametrize(
    ("behaviour", "content_type", "suffix"),
    [
        (served_well("JPEG", "image/png"), "image/jpeg", ".jpg"),
        (served_well("WEBP", "text/html"), "image/webp", ".webp"),
        (served_well("PNG", "application/x-msdownload"), "image/png", ".png"),
        (served_well("GIF", ""), "image/gif", ".gif"),
    ],
)
def test_wrong_type_that_the_host_claims_is_put_right_by_the_bytes(
    host: HostileHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: Callable[[Exchange], None],
    content_type: str,
    suffix: str,
) -> None:
    host.behave = behaviour  # type: ignore[method-assign]
    (image,) = saving(host, tmp_path / "images", monkeypatch)["images"]
    path = Path(image["path"].removeprefix("file://"))
    assert (image["content_type"], path.suffix) == (content_type, suffix)
    assert (image["width"], image["height"]) == Image.open(path).size == (64, 48)


@pytest.mark.parametrize(
    "link",
    ["../../../../etc/cron.d/evil.png", "..%2f..%2fevil.png", "evil.php", "a\\..\\..\\evil.exe", "%00.png"],
)
def test_name_in_a_link_never_names_a_file(
    host: HostileHost, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    monkeypatch.setattr(HostileHost, "link", link)
    host.behave = lambda exchange: exchange.answer(  # type: ignore[method-assign]
        picture(), Content_Disposition='attachment; filename="../../evil.sh"'
    )
    saving(host, tmp_path / "images", monkeypatch)
    assert sorted(files_below(tmp_path)) == [
        "images/campaign/scheduled__2026-05-01/save-0.json",
        "images/campaign/scheduled__2026-05-01/save-0.png",
    ]
    assert list(temporary.iterdir()) == []


def test_host_that_refuses_the_usual_clients_lets_us_in(
    host: HostileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses_default_agents(exchange: Exchange) -> None:
        agent = exchange.headers["user-agent"].lower()
        if re.search("httpx|requests|urllib|aiohttp|curl|python-", agent):
            host_that.refuses_everybody(exchange)
        else:
            exchange.answer(picture())

    host.behave = refuses_default_agents  # type: ignore[method-assign]
    assert saving(host, tmp_path / "images", monkeypatch)["images"][0]["width"] == 64


def test_compressed_image_of_an_object_store_is_unpacked(
    host: HostileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture()
    host.behave = lambda exchange: exchange.answer(  # type: ignore[method-assign]
        host_that.gzip.compress(image), Content_Encoding="gzip"
    )
    (saved,) = saving(host, tmp_path / "images", monkeypatch)["images"]
    assert saved["provenance"]["source_sha256"] == hashlib.sha256(image).hexdigest()


def test_five_redirects_lead_to_the_image(
    host: HostileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redirects_five_times(exchange: Exchange) -> None:
        hop = int(exchange.path.partition("hop=")[2] or 0)
        if hop == 5:
            exchange.answer(picture())
        else:
            exchange.redirect(f"?hop={hop + 1}", "308 Permanent Redirect")

    host.behave = redirects_five_times  # type: ignore[method-assign]
    assert saving(host, tmp_path / "images", monkeypatch)["images"][0]["width"] == 64
    assert len(host.requested) == 6


def test_picture_that_is_packed_in_two_members_is_whole(
    host: HostileHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.behave = host_that.packs_in_two_members  # type: ignore[method-assign]
    (image,) = saving(host, tmp_path / "images", monkeypatch)["images"]
    assert (image["width"], image["height"]) == (64, 48)
