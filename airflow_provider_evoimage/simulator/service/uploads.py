"""Uploaded files: on disk, for 72 hours on the simulator's clock, up to a quota."""

import shutil
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

from airflow_provider_evoimage.simulator.service.bank import SERVICE_TIME
from airflow_provider_evoimage.simulator.service.names import Names

MAX_BYTES = 100 * 1024 * 1024
MAX_PATH, MAX_NAME = 256, 255
DEFAULT_PATH = "uploads"
# Where results and uploaded files are served, and where uploads are downloaded under their own names.
FILES_PATH = "/files"
DOWNLOAD_PATH = "/api/v1/files/download"
KEPT_RECEIPTS = 1_000
VIP_QUOTA = 500

TOO_LARGE, WRONG_TYPE, QUOTA_EXCEEDED, DOWNLOAD_FAILED, STORAGE_ERROR = 40001, 40002, 40003, 40004, 50001
EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}
SNIFFED_BYTES = 16


class UploadRefusal(Exception):  # noqa: N818 - the service refuses; nothing in the simulator went wrong
    """The files API refuses a request.

    :param code: its own five-digit code, or an HTTP status where it has none.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return self.code if self.code < 1_000 else self.code // 100


class Target(NamedTuple):
    """Where an upload shall stand: directory and name, and the name it came with."""

    path: str
    name: str
    original_name: str


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One uploaded file.

    :param location: where its bytes are on this machine.
    :param uploaded_at: Unix time on the simulator's clock.
    """

    file_id: str
    account: str
    target: Target
    mime_type: str
    size: int
    location: Path
    uploaded_at: float

    @property
    def url_path(self) -> str:
        """Its path below the account's files."""
        return f"{self.target.path}/{self.target.name}"


def sniff(head: bytes) -> str | None:
    """Tell the type of an image by its first bytes."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def checked_type(head: bytes, declared: str | None) -> str:
    """Return the type of a file, which must be what was declared.

    :raises UploadRefusal: for any other than JPEG, PNG, GIF and WebP.
    """
    found = sniff(head)
    said = (declared or "").partition(";")[0].strip().lower().replace("image/jpg", "image/jpeg")
    if found is None or said not in ("", "application/octet-stream", found):
        shown = f"declared as {said}" if said else "of no declared type"
        raise UploadRefusal(WRONG_TYPE, f"File type not allowed: {found or 'no image'}, {shown}.")
    return found


def checked_target(path: Any, name: Any, original_name: str, mime_type: str) -> Target:
    """Return where an upload shall stand.

    :raises UploadRefusal: for a path or name that could lead elsewhere.
    """
    directory = (_text(path, "upload_path", MAX_PATH) or DEFAULT_PATH).strip("/")
    parts = directory.split("/")
    if not directory or "\\" in directory or any(part in ("", ".", "..") for part in parts):
        raise UploadRefusal(400, "upload_path must be a relative path without dots.")
    original = original_name.replace("\\", "/").rpartition("/")[2][-MAX_NAME:] or "file"
    wanted = _text(name, "file_name", MAX_NAME) or original
    if "/" in wanted or "\\" in wanted or wanted in (".", ".."):
        raise UploadRefusal(400, "file_name must not contain separators.")
    if "." not in wanted:
        wanted = f"{wanted}.{EXTENSIONS[mime_type]}"
    return Target(directory, wanted, original)


def _text(value: Any, name: str, longest: int) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise UploadRefusal(400, f"{name} must be a printable string of at most {longest} characters.")
    return value


class Uploads:
    """The uploaded files of all accounts, in a directory of their own which lives as long as this object."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        # Files are copied in threads. A second directory in the place of the first would take that one's
        # files along.
        self._making_directory = threading.Lock()
        self._files: dict[tuple[str, str], Upload] = {}
        self._receipts: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    def keep(self, content: BinaryIO) -> Path:
        """Copy a file's bytes to disk; `add` makes a file of them. This takes time: not for the event loop."""
        with self._making_directory:
            if self._directory is None:
                self._directory = tempfile.TemporaryDirectory(prefix="evolink-simulator-")
            folder = self._directory.name
        content.seek(0)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            shutil.copyfileobj(content, file)
        return Path(file.name)

    def add(
        self, account: str, target: Target, mime_type: str, location: Path, *, now: float, quota: int
    ) -> Upload:
        """Make a file of bytes on disk; one of the same path and name is replaced.

        :raises UploadRefusal: when the account has as many files as it may have; the bytes are removed.
        """
        place = (account, f"{target.path}/{target.name}")
        if place not in self._files and len(self.of(account)) >= quota:
            location.unlink()
            raise UploadRefusal(QUOTA_EXCEEDED, f"File quota exceeded: {quota} files.")
        # At once, as object stores do: a thread that reads meanwhile finds the old or the new file.
        replaced = self._files.get(place)
        if replaced is not None:
            location = location.replace(replaced.location)
        upload = Upload(
            file_id=self._names.file_id(),
            account=account,
            target=target,
            mime_type=mime_type,
            size=location.stat().st_size,
            location=location,
            uploaded_at=now,
        )
        others = {where: each for where, each in self._files.items() if where != place}
        self._files = {**others, place: upload}
        return upload

    def expire(self, now: float, lifetime: float) -> None:
        """Forget the files whose time is over."""
        for place, upload in list(self._files.items()):
            if now >= upload.uploaded_at + lifetime:
                self._drop(place)

    def of(self, account: str) -> list[Upload]:
        """Return the files of an account, newest first."""
        return [upload for (owner, _), upload in reversed(self._files.items()) if owner == account]

    def at(self, account: str, url_path: str) -> Upload | None:
        """Return the file under a path."""
        return self._files.get((account, url_path))

    def by_id(self, file_id: str) -> Upload | None:
        """Return the file with an id."""
        return next((each for each in self._files.values() if each.file_id == file_id), None)

    def remove(self, account: str, file_id: str) -> bool:
        """Remove a file of an account; return whether there was one."""
        upload = self.by_id(file_id)
        if upload is None or upload.account != account:
            return False
        self._drop((account, upload.url_path))
        return True

    def sign(self, account: str, upload_id: str, reply: dict[str, Any]) -> None:
        """Keep the reply to an upload, in case it gets lost."""
        self._receipts[account, upload_id] = reply
        if len(self._receipts) > KEPT_RECEIPTS:
            self._receipts.popitem(last=False)

    def receipt(self, account: str, upload_id: str) -> dict[str, Any] | None:
        """Return the reply to an upload once more."""
        return self._receipts.get((account, upload_id))

    def close(self) -> None:
        """Remove every file from disk."""
        self._files.clear()
        with self._making_directory:
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    def _drop(self, place: tuple[str, str]) -> None:
        upload = self._files.pop(place, None)
        if upload is not None:
            upload.location.unlink(missing_ok=True)


def upload_reply(upload: Upload, host: str, lifetime: float) -> dict[str, Any]:
    """Describe an upload as the service does.

    :param host: base URL under which files are served.
    """
    target = upload.target
    return {
        "file_id": upload.file_id,
        "file_name": target.name,
        "original_name": target.original_name,
        "file_size": upload.size,
        "mime_type": upload.mime_type,
        "upload_path": target.path,
        "file_url": f"{host}{FILES_PATH}/{upload.account}/{quote(upload.url_path)}",
        "download_url": f"{host}{DOWNLOAD_PATH}/{upload.file_id}",
        "upload_time": service_time(upload.uploaded_at),
        "expires_at": service_time(upload.uploaded_at + lifetime),
    }


def service_time(now: float) -> str:
    """Write a time as the files API does."""
    return datetime.fromtimestamp(now, SERVICE_TIME).isoformat(timespec="seconds")
