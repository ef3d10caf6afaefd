"""Describes the endpoints of the files API and their answers. No I/O.

Uploaded files serve as references (``image_urls``). EvoLink keeps them for 72 hours, 100 of them on an
ordinary account (500 on VIP ones), and overwrites a file of the same name.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_evoimage.evolink.errors import ErrorBody, http_error
from airflow_provider_evoimage.evolink.json_values import text, words
from airflow_provider_evoimage.evolink.protocol import Answer, Call, FileToUpload
from airflow_provider_evoimage.exceptions import InvalidRequestError, UnreadableAnswerError

# docs.evolink.ai, file-series/upload-stream: up to 100 MB; only these types.
MAX_UPLOAD_BYTES = 100 * 1024 * 1024
UPLOAD_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
MAX_FILES_PER_PAGE = 100

_FILE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# An id under which EvoLink keeps the answer to an upload.
UPLOAD_ID = re.compile(r"[A-Za-z0-9._-]{16,128}")
_FILE_NAME = re.compile(r"[^/\\\x00-\x1f]{1,255}")
_FOLDER = re.compile(r"[^\\\x00-\x1f]{0,256}")


class _Answered(BaseModel):
    model_config = ConfigDict(frozen=True)

    raw: dict[str, Any] = Field(default_factory=dict, repr=False, description="the answer as it came")


class UploadedFile(_Answered):
    """A file at EvoLink.

    :param file_url: put it into ``image_urls``; anybody who knows it can read the file.
    :param size: bytes.
    :param expires_at: when EvoLink deletes it, 72 hours after the upload.
    """

    file_id: str
    file_name: str
    file_url: str | None = None
    download_url: str | None = None
    original_name: str | None = None
    size: int | None = None
    mime_type: str | None = None
    upload_path: str | None = None
    uploaded_at: datetime | None = None
    expires_at: datetime | None = None

    @classmethod
    def read(cls, data: object) -> UploadedFile:
        """Read the answer to an upload, or one item of the list.

        :raises UnreadableAnswerError: when it names no file.
        """
        fields = data if isinstance(data, Mapping) else {}
        file_id = fields.get("file_id")
        if not isinstance(file_id, str) or not _FILE_ID.fullmatch(file_id):
            raise UnreadableAnswerError("EvoLink's answer holds no file id.")
        size = fields.get("file_size")
        return cls(
            file_id=file_id,
            file_name=words(fields.get("file_name")) or file_id,
            file_url=text(fields.get("file_url")),
            download_url=text(fields.get("download_url")),
            original_name=words(fields.get("original_name")),
            size=size if isinstance(size, int) and not isinstance(size, bool) else None,
            mime_type=words(fields.get("mime_type")),
            upload_path=words(fields.get("upload_path")),
            uploaded_at=_moment(fields.get("upload_time")),
            expires_at=_moment(fields.get("expires_at")),
            raw=dict(fields),
        )


class FilePage(_Answered):
    """One page of the account's files, and how many there are in all."""

    total: int
    files: tuple[UploadedFile, ...]


class FileQuota(_Answered):
    """How many files the account holds and may hold."""

    used: int
    limit: int
    remaining: int
    user_group: str | None = None

    def __str__(self) -> str:
        return f"{self.used} of {self.limit} files used ({self.user_group or 'default'} account)"


def upload_stream(
    path: Path, *, name: str, content_type: str, folder: str | None = None, upload_id: str | None = None
) -> Call[UploadedFile]:
    """``POST …/upload/stream``: send a local file as it is.

    :param upload_id: 16 to 128 characters under which :func:`get_upload_receipt` finds the answer again.
    """
    return Call(
        method="POST",
        path="/api/v1/files/upload/stream",
        asking="to take a reference file",
        service="files",
        headers={} if upload_id is None else {"X-Evo-Upload-Id": _checked_upload_id(upload_id)},
        upload=FileToUpload(
            path=path,
            name=checked_name(name),
            content_type=content_type,
            fields=_given(upload_path=_checked_folder(folder), file_name=name),
        ),
        read=_read_upload,
    )


def upload_base64(data: bytes, *, name: str, folder: str | None = None) -> Call[UploadedFile]:
    """``POST …/upload/base64``: send bytes inside JSON; for small files."""
    return Call(
        method="POST",
        path="/api/v1/files/upload/base64",
        asking="to take a reference file",
        service="files",
        json=_given(
            base64_data=base64.b64encode(data).decode("ascii"),
            upload_path=_checked_folder(folder),
            file_name=checked_name(name),
        ),
        read=_read_upload,
    )


def upload_url(url: str, *, name: str | None = None, folder: str | None = None) -> Call[UploadedFile]:
    """``POST …/upload/url``: have EvoLink fetch a file itself."""
    return Call(
        method="POST",
        path="/api/v1/files/upload/url",
        asking="to fetch a reference file",
        service="files",
        json=_given(
            file_url=url,
            upload_path=_checked_folder(folder),
            file_name=checked_name(name) if name is not None else None,
        ),
        read=_read_upload,
    )


def get_upload_receipt(upload_id: str) -> Call[UploadedFile]:
    """``GET …/upload-receipts/{upload_id}``: the answer to an earlier upload. Older servers lack it (404, 405)."""
    return Call(
        method="GET",
        path=f"/api/v1/files/upload-receipts/{_checked_upload_id(upload_id)}",
        asking="for the receipt of an upload",
        service="files",
        read=_read_upload,
    )


def list_files(page: int = 1, page_size: int = 20) -> Call[FilePage]:
    """``GET …/list``: the account's files, one page."""
    if page < 1 or not 1 <= page_size <= MAX_FILES_PER_PAGE:
        raise InvalidRequestError(f"page must be at least 1, page_size 1 to {MAX_FILES_PER_PAGE}.")

    def read(answer: Answer) -> FilePage:
        data = _data(answer)
        files = data.get("files")
        items = files if isinstance(files, list) else []
        return FilePage(
            total=_count(data.get("total")) or len(items),
            files=tuple(UploadedFile.read(item) for item in items),
            raw=dict(data),
        )

    return Call(
        method="GET",
        path=f"/api/v1/files/list?page={page}&pageSize={page_size}",
        asking="for the uploaded files",
        service="files",
        read=read,
    )


def get_file_quota() -> Call[FileQuota]:
    """``GET …/quota``."""

    def read(answer: Answer) -> FileQuota:
        data = _data(answer)
        used, limit = _count(data.get("used_files")), _count(data.get("max_files"))
        if used is None or limit is None:
            raise UnreadableAnswerError("EvoLink's answer holds no file quota.")
        remaining = _count(data.get("remain_files"))
        return FileQuota(
            used=used,
            limit=limit,
            remaining=limit - used if remaining is None else remaining,
            user_group=words(data.get("user_group")),
            raw=dict(data),
        )

    return Call(
        method="GET", path="/api/v1/files/quota", asking="for the file quota", service="files", read=read
    )


def delete_file(file_id: str) -> Call[None]:
    """``DELETE …/{file_id}``: make room."""
    if not _FILE_ID.fullmatch(file_id) or set(file_id) <= {"."}:
        raise InvalidRequestError(f"{file_id!r} is not the id of an uploaded file.")

    def read(answer: Answer) -> None:
        if answer.body.strip():
            _data(answer)

    return Call(
        method="DELETE",
        path=f"/api/v1/files/{file_id}",
        asking="to delete an uploaded file",
        service="files",
        read=read,
    )


def checked_name(name: str) -> str:
    """Return a file name that EvoLink can keep.

    :raises InvalidRequestError: for a path, a control character, or more than 255 characters.
    """
    if not _FILE_NAME.fullmatch(name) or name in {".", ".."}:
        raise InvalidRequestError(f"{name!r} is not a file name: 1 to 255 characters, no slash.")
    return name


def _checked_upload_id(upload_id: str) -> str:
    if not UPLOAD_ID.fullmatch(upload_id):
        raise InvalidRequestError(f"{upload_id!r} is not an upload id: 16 to 128 of A-Za-z0-9._-.")
    return upload_id


def _checked_folder(folder: str | None) -> str | None:
    if folder is None:
        return None
    if not _FOLDER.fullmatch(folder) or folder.startswith("/") or ".." in folder.split("/"):
        raise InvalidRequestError(
            f"{folder!r} is not a folder of uploads: relative, without '..', up to 256 characters."
        )
    return folder or None


def _read_upload(answer: Answer) -> UploadedFile:
    uploaded = UploadedFile.read(_data(answer))
    if uploaded.file_url is None:
        raise UnreadableAnswerError(f"EvoLink stored the file as {uploaded.file_id} but returned no URL.")
    return uploaded


def _data(answer: Answer) -> Mapping[str, Any]:
    """Return the ``data`` part of an answer; the files API may refuse with HTTP 200."""
    content = answer.json()
    if isinstance(content, Mapping) and content.get("success") is False:
        raise http_error(
            status=answer.status,
            headers=answer.headers,
            said=ErrorBody.read(answer.body),
            asking="for a file operation",
            evolink_task_id=None,
            billed=False,
        )
    data = content.get("data") if isinstance(content, Mapping) else None
    if data is None and isinstance(content, Mapping) and content.get("success") is True:
        return {}
    if not isinstance(data, Mapping):
        said = ErrorBody.read(answer.body).message
        raise UnreadableAnswerError(f"EvoLink's files API answered without data ({said or 'no message'}).")
    return data


def _given(**fields: str | None) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
