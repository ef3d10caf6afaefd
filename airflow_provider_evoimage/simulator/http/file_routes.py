"""The files API: uploads by stream, base64 or URL, their list, quota, removal and receipts."""

import asyncio
import base64
import binascii
import io
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from airflow_provider_evoimage.simulator.http.answers import CutConnection
from airflow_provider_evoimage.simulator.http.bodies import TooLargeError, limited, read_json
from airflow_provider_evoimage.simulator.http.fetch import fetch
from airflow_provider_evoimage.simulator.http.misbehaviour import FILES_API_PATH, Misbehaviour, refuses
from airflow_provider_evoimage.simulator.service.accounts import Caller
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.faults import Fault
from airflow_provider_evoimage.simulator.service.state import SimulatorState
from airflow_provider_evoimage.simulator.service.uploads import (
    MAX_BYTES,
    SNIFFED_BYTES,
    STORAGE_ERROR,
    TOO_LARGE,
    VIP_QUOTA,
    UploadRefusal,
    checked_target,
    checked_type,
    upload_reply,
)

# The files API also answers below this path: a base URL of its own.
OWN_BASE_PATH = "/files-api"
MAX_FORM_BYTES = MAX_BYTES + 1024 * 1024
# Base64 is a third longer than what it stands for.
MAX_BASE64_BYTES = MAX_BYTES * 4 // 3 + 1024 * 1024
LARGEST_PAGE, DEFAULT_PAGE = 100, 20
UPLOAD_ID = re.compile(r"[\x21-\x7e]{16,128}")
DATA_URL = re.compile(r"data:([\w.+/-]*)(?:;[\w=.-]+)*;base64,", re.ASCII)

# A file on its way in: its bytes, the type it was declared as, the name it came with, and further fields.
Incoming = tuple[BinaryIO, str | None, str, Mapping[str, Any]]
Reader = Callable[[Request], Awaitable[Incoming]]


class FilesApi:
    """The endpoints below `/api/v1/files` over one state.

    :param working: how many threads may copy files.
    """

    def __init__(
        self, state: SimulatorState, misbehaviour: Misbehaviour, working: anyio.CapacityLimiter
    ) -> None:
        self.state = state
        self.misbehaviour = misbehaviour
        self._working = working
        # Base64 has to be held in memory: one at a time.
        self._decoding = asyncio.Lock()

    def routes(self) -> list[Route | Mount]:
        """Return the routes: those on the common base URL, and those on their own."""
        routes = [
            Route(f"{FILES_API_PATH}/upload/stream", self.upload_stream, methods=["POST"]),
            Route(f"{FILES_API_PATH}/upload/base64", self.upload_base64, methods=["POST"]),
            Route(f"{FILES_API_PATH}/upload/url", self.upload_url, methods=["POST"]),
            Route(f"{FILES_API_PATH}/list", self.files, methods=["GET"]),
            Route(f"{FILES_API_PATH}/quota", self.quota, methods=["GET"]),
            Route(f"{FILES_API_PATH}/upload-receipts/{{upload_id}}", self.receipt, methods=["GET"]),
            Route(f"{FILES_API_PATH}/{{file_id}}", self.remove, methods=["DELETE"]),
        ]
        return [*routes, Mount(OWN_BASE_PATH, routes=routes)]

    # Uploads

    async def upload_stream(self, request: Request) -> Response:
        """`POST /api/v1/files/upload/stream`."""
        return await self._upload(request, self._from_form)

    async def upload_base64(self, request: Request) -> Response:
        """`POST /api/v1/files/upload/base64`."""
        async with self._decoding:
            return await self._upload(request, self._from_base64)

    async def upload_url(self, request: Request) -> Response:
        """`POST /api/v1/files/upload/url`."""
        return await self._upload(request, self._from_url)

    async def _upload(self, request: Request, read: Reader) -> Response:
        fault = self.state.faults.draw("upload")
        if fault is not None and refuses(fault):
            return await self.misbehaviour.happen(fault, request) or CutConnection()
        caller = self._caller(request)
        if fault is not None and not fault.after and not await self.misbehaviour.hold(fault.seconds):
            return CutConnection()
        upload_id = _upload_id(request)
        content, declared, name, fields = await read(request)
        with closing(content):
            data = await self._kept(caller, content, declared, name, fields)
        reply = {"success": True, "code": 200, "msg": "File uploaded successfully", "data": data}
        self.state.counters.uploads += 1
        if upload_id is not None:
            self.state.uploads.sign(caller.account, upload_id, reply)
        return await self._unless_spoiled(fault, request) or JSONResponse(reply)

    async def _kept(
        self, caller: Caller, content: BinaryIO, declared: str | None, name: str, fields: Mapping[str, Any]
    ) -> dict[str, Any]:
        state = self.state
        if content.seek(0, io.SEEK_END) > MAX_BYTES:
            raise _too_large()
        content.seek(0)
        mime_type = checked_type(content.read(SNIFFED_BYTES), declared)
        target = checked_target(
            fields.get("upload_path", fields.get("uploadPath")),
            fields.get("file_name", fields.get("fileName")),
            name,
            mime_type,
        )
        uploads, settings = state.uploads, state.settings
        account = state.account(caller.account).id
        try:
            location = await anyio.to_thread.run_sync(uploads.keep, content, limiter=self._working)
            now = state.clock.now()
            uploads.expire(now, settings.file_lifetime)
            upload = uploads.add(account, target, mime_type, location, now=now, quota=settings.files_quota)
        except OSError as error:
            raise UploadRefusal(STORAGE_ERROR, f"Storage error: {error.strerror}.") from None
        return upload_reply(upload, state.base_url, settings.file_lifetime)

    async def _from_form(self, request: Request) -> Incoming:
        if "multipart/form-data" not in request.headers.get("content-type", ""):
            raise UploadRefusal(400, "The body must be multipart/form-data.")
        parser = MultiPartParser(
            request.headers, limited(request, MAX_FORM_BYTES), max_files=1, max_fields=20
        )
        try:
            form = await parser.parse()
        except TooLargeError:
            raise _too_large() from None
        except (MultiPartException, FormParserError):
            # Starlette < 1 lets the parser's own errors through.
            raise UploadRefusal(400, "The body is not valid multipart/form-data.") from None
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise UploadRefusal(400, "The field file must hold one file.")
        return file.file, file.content_type, file.filename or "", form

    async def _from_base64(self, request: Request) -> Incoming:
        try:
            body = await _object(request, MAX_BASE64_BYTES)
        except Refusal as refusal:
            if refusal.status == 413:
                raise _too_large() from None
            raise
        text = body.get("base64_data")
        if not isinstance(text, str):
            raise UploadRefusal(400, "base64_data is required and must be a string.")
        data_url = DATA_URL.match(text)
        declared = None if data_url is None else data_url[1]
        encoded = text if data_url is None else text[data_url.end() :]
        try:
            content = base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            raise UploadRefusal(400, "base64_data is not valid base64.") from None
        return io.BytesIO(content), declared, "upload", body

    async def _from_url(self, request: Request) -> Incoming:
        body = await _object(request)
        url = body.get("file_url")
        if not isinstance(url, str):
            raise UploadRefusal(400, "file_url is required and must be a string.")
        content, declared = await fetch(self.state, url, MAX_BYTES, self._working)
        name = unquote(urlsplit(url).path).rpartition("/")[2]
        return content, declared, name, body

    # The rest

    async def files(self, request: Request) -> Response:
        """`GET /api/v1/files/list`."""
        account, answer = await self._account(request)
        if answer is not None:
            return answer
        page = _whole(request, "page", 1, 1_000_000)
        size = _whole(request, "pageSize", DEFAULT_PAGE, LARGEST_PAGE)
        uploads = self.state.uploads.of(account)
        shown = [
            upload_reply(upload, self.state.base_url, self.state.settings.file_lifetime)
            for upload in uploads[(page - 1) * size : page * size]
        ]
        names = ("file_id", "file_name", "file_size", "upload_time")
        listed = [{name: each[name] for name in names} for each in shown]
        return _success({"total": len(uploads), "files": listed})

    async def quota(self, request: Request) -> Response:
        """`GET /api/v1/files/quota`."""
        account, answer = await self._account(request)
        if answer is not None:
            return answer
        used, allowed = len(self.state.uploads.of(account)), self.state.settings.files_quota
        return _success(
            {
                "user_group": "vip" if allowed >= VIP_QUOTA else "default",
                "used_files": used,
                "max_files": allowed,
                "remain_files": max(allowed - used, 0),
            }
        )

    async def remove(self, request: Request) -> Response:
        """`DELETE /api/v1/files/{file_id}`."""
        account, answer = await self._account(request)
        if answer is not None:
            return answer
        if not self.state.uploads.remove(account, request.path_params["file_id"]):
            raise UploadRefusal(404, "File not found.")
        return _success(None)

    async def receipt(self, request: Request) -> Response:
        """`GET /api/v1/files/upload-receipts/{upload_id}`: the reply to an upload once more."""
        if not self.state.settings.upload_receipts:
            raise Refusal(404)
        caller = self._caller(request)
        _, answer = await self._account(request)
        if answer is not None:
            return answer
        reply = self.state.uploads.receipt(caller.account, request.path_params["upload_id"])
        if reply is None:
            raise UploadRefusal(404, "Upload receipt not found.")
        return JSONResponse(reply)

    async def _account(self, request: Request) -> tuple[str, Response | None]:
        """Return the id of the caller's account, or what goes wrong instead."""
        self.state.counters.reads["files"] += 1
        answer = await self.misbehaviour.on("files", request)
        if answer is not None:
            return "", answer
        caller = self._caller(request)
        self.state.uploads.expire(self.state.clock.now(), self.state.settings.file_lifetime)
        return self.state.account(caller.account).id, None

    async def _unless_spoiled(self, fault: Fault | None, request: Request) -> Response | None:
        return None if fault is None or not fault.after else await self.misbehaviour.happen(fault, request)

    def _caller(self, request: Request) -> Caller:
        return self.state.keys.caller(request.headers.get("authorization"))


def _too_large() -> UploadRefusal:
    return UploadRefusal(TOO_LARGE, f"File too large: at most {MAX_BYTES // 1024 // 1024} MB.")


def _success(data: Any) -> Response:
    return JSONResponse({"success": True, "code": 200, "msg": "success", "data": data})


def _upload_id(request: Request) -> str | None:
    upload_id = request.headers.get("x-evo-upload-id")
    if upload_id is not None and not UPLOAD_ID.fullmatch(upload_id):
        raise UploadRefusal(400, "X-Evo-Upload-Id must be 16 to 128 printable characters.")
    return upload_id


async def _object(request: Request, max_bytes: int = 64 * 1024) -> dict[str, Any]:
    body = await read_json(request, max_bytes)
    if isinstance(body, dict):
        return body
    raise UploadRefusal(400, "The body must be a JSON object.")


def _whole(request: Request, name: str, default: int, largest: int) -> int:
    value = request.query_params.get(name)
    if not value:
        return default
    number = int(value) if value.isascii() and value.isdecimal() and len(value) <= len(str(largest)) else 0
    if not 1 <= number <= largest:
        raise UploadRefusal(400, f"{name} must be an integer between 1 and {largest}.")
    return number
