"""The host of result files and uploaded files."""

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from airflow_provider_evoimage.simulator.drawing import images
from airflow_provider_evoimage.simulator.http.answers import (
    ShortFile,
    SlowFile,
    blocked_agent,
    storage_refusal,
)
from airflow_provider_evoimage.simulator.http.misbehaviour import Misbehaviour
from airflow_provider_evoimage.simulator.service.faults import FILE_KINDS, Fault
from airflow_provider_evoimage.simulator.service.generations import Generation
from airflow_provider_evoimage.simulator.service.state import SimulatorState
from airflow_provider_evoimage.simulator.service.uploads import DOWNLOAD_PATH, FILES_PATH, Upload

CHUNK_BYTES = 256 * 1024
# A file that shall be spoiled is held in memory, and so only this far.
MAX_SPOILED_BYTES = 8 * 1024 * 1024


class Downloads:
    """The file host over one state.

    :param working: how many threads may draw pictures.
    """

    def __init__(
        self, state: SimulatorState, misbehaviour: Misbehaviour, working: anyio.CapacityLimiter
    ) -> None:
        self.state = state
        self.misbehaviour = misbehaviour
        self._working = working

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(f"{DOWNLOAD_PATH}/{{file_id}}", self.download_upload, methods=["GET"]),
            Route(f"{FILES_PATH}/{{path:path}}", self.download, methods=["GET"]),
        ]

    async def download(self, request: Request) -> Response:
        """`GET /files/...`: a result, or an uploaded file."""
        counters = self.state.counters
        counters.downloads += 1
        counters.reads["download"] += 1
        if "authorization" in request.headers:
            counters.downloads_with_auth += 1
            return storage_refusal(400, "InvalidArgument", "An Authorization header must not be sent here.")
        blocked = blocked_agent(request.headers.get("user-agent", ""))
        if blocked is not None:
            return blocked
        fault = self.state.faults.draw("download")
        if fault is not None and fault.kind not in FILE_KINDS:
            answer = await self.misbehaviour.happen(fault, request)
            if answer is not None:
                return answer
            fault = None
        path = request.path_params["path"]
        found = self.state.file(path)
        if found is not None:
            return await self._result(*found, fault, request)
        upload = self.state.upload(path)
        return _no_such_file() if upload is None else await self._upload(upload, fault, {})

    async def download_upload(self, request: Request) -> Response:
        """`GET /api/v1/files/download/{file_id}`: an uploaded file under its own name."""
        self.state.counters.reads["download"] += 1
        upload = self.state.downloadable(request.path_params["file_id"])
        if upload is None:
            return _no_such_file()
        name = upload.target.name.encode("ascii", "replace").decode().replace('"', "'").replace("\\", "_")
        return await self._upload(upload, None, {"content-disposition": f'attachment; filename="{name}"'})

    async def _upload(self, upload: Upload, fault: Fault | None, headers: dict[str, str]) -> Response:
        try:
            file = upload.location.open("rb")
        except OSError:
            # Replaced or removed since it was found.
            return _no_such_file()
        if fault is not None:
            with file:
                return self._sent(file.read(MAX_SPOILED_BYTES), upload.mime_type, fault)
        self.state.counters.downloads_served += 1
        headers |= {"content-length": str(upload.size)}
        return StreamingResponse(_chunks(file), media_type=upload.mime_type, headers=headers)

    async def _result(
        self, generation: Generation, index: int, fault: Fault | None, request: Request
    ) -> Response:
        if self.state.is_expired(generation):
            return storage_refusal(403, "AccessDenied", "The link has expired.")
        fault = fault or self.state.download_fault(generation)
        if fault is not None and fault.kind not in FILE_KINDS:
            answer = await self.misbehaviour.happen(fault, request)
            if answer is not None:
                return answer
            fault = None
        picture = generation.picture(index)
        media_type = images.MEDIA_TYPES[picture.file_format]
        if fault is not None and fault.kind == "jpeg":
            picture = replace(picture, file_format="jpeg", transparent=False)
        content = await anyio.to_thread.run_sync(images.draw, picture, limiter=self._working)
        return self._sent(content, media_type, fault)

    def _sent(self, content: bytes, media_type: str, fault: Fault | None) -> Response:
        kind = "" if fault is None else fault.kind
        if kind == "html":
            return HTMLResponse("<html><body><h1>One moment, please</h1></body></html>")
        if kind == "short":
            return ShortFile(content, media_type=media_type)
        self.state.counters.downloads_served += 1
        if fault is not None and kind == "slow":
            return SlowFile(content, media_type, fault.seconds, self.misbehaviour.hold)
        return Response(content, media_type="application/octet-stream" if kind == "octet" else media_type)


def _no_such_file() -> Response:
    return storage_refusal(404, "NoSuchKey", "The file does not exist.")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
