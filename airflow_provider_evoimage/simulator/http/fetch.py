"""Fetches a file from a URL for an upload: from this machine only."""

import asyncio
import tempfile
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from airflow_provider_evoimage.simulator.service.hosting import own_content
from airflow_provider_evoimage.simulator.service.orders import is_loopback_host
from airflow_provider_evoimage.simulator.service.state import SimulatorState
from airflow_provider_evoimage.simulator.service.uploads import DOWNLOAD_FAILED, TOO_LARGE, UploadRefusal

if TYPE_CHECKING:
    import httpx

TIMEOUT_SECONDS = 30.0
SPOOLED_BYTES = 1024 * 1024
USER_AGENT = "EvoLink-Simulator"


async def fetch(
    state: SimulatorState, url: str, max_bytes: int, working: anyio.CapacityLimiter
) -> tuple[BinaryIO, str | None]:
    """Return a file and the type which its host declares.

    The service takes HTTPS URLs. The simulator reads its own files, and whatever else this machine serves, with
    or without TLS; it asks no other host.

    :raises UploadRefusal: with code 40004 when there is nothing to be had.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and url.isprintable() and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise _failed("file_url must be an HTTPS URL")
    if not is_loopback_host(parts.hostname):
        reason = "the simulator asks no other machine" if parts.scheme == "https" else "HTTPS is required"
        raise _failed(reason)
    try:
        own = own_content(state, url)
    except LookupError:
        raise _failed("status 404") from None
    if own is not None:
        return await anyio.to_thread.run_sync(own, limiter=working), None
    return await _download(url, max_bytes)


async def _download(url: str, max_bytes: int) -> tuple[BinaryIO, str | None]:
    # Loaded here: most simulators fetch nothing.
    import httpx  # noqa: PLC0415 - only who uploads by URL needs it

    client = httpx.AsyncClient(headers={"user-agent": USER_AGENT}, trust_env=False, timeout=TIMEOUT_SECONDS)
    file = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES))  # noqa: SIM115 - the caller closes it
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS), client, client.stream("GET", url) as answer:
            declared = await _received(answer, file, max_bytes)
    except TimeoutError:
        file.close()
        raise _failed(f"no answer in {TIMEOUT_SECONDS:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        file.close()
        raise _failed(type(error).__name__) from None
    except BaseException:
        file.close()
        raise
    return file, declared


async def _received(answer: "httpx.Response", file: BinaryIO, max_bytes: int) -> str | None:
    if not answer.is_success:
        raise _failed(f"status {answer.status_code}")
    async for piece in answer.aiter_bytes():
        file.write(piece)
        if file.tell() > max_bytes:
            raise UploadRefusal(TOO_LARGE, "File too large.")
    declared: str | None = answer.headers.get("content-type")
    return declared


def _failed(reason: str) -> UploadRefusal:
    return UploadRefusal(DOWNLOAD_FAILED, f"URL download failed: {reason}.")
