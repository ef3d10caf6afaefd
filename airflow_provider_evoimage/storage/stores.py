"""How each kind of store receives a complete local file, so that it appears whole or not at all.

===============  ==========================================================  ================================
store            how a file gets its final name                              compared after the upload
===============  ==========================================================  ================================
local files      a rename, or from another file system a part file and one   size
SFTP             the same, by ``posix-rename@openssh.com`` where offered     size
S3               one PUT, or a multipart upload that is completed            size, ETag where it is of MD5s
Google Cloud     one upload that becomes an object when it is finished       size, MD5
Azure Blob       blocks, each with its MD5, that one list makes a blob       size, MD5
any other        hidden part file, then the store's own move, or a copy      size
===============  ==========================================================  ================================

Files are read in pieces of 5 MiB: by default fsspec's file systems hold far larger pieces in memory.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import ObjectStoragePath

# The least that S3 takes for a part.
PIECE_BYTES = 5 * 1024 * 1024
# Pieces of one file that are under way at a time.
_PIECES_AT_ONCE = 2


class DamagedUploadError(Exception):
    """The store reports another size or checksum than was sent."""


class MissingContainerError(Exception):
    """There is no such bucket, container or folder, and it is not made by saving."""


class RefusedCredentialsError(Exception):
    """The store does not accept what the connection holds."""


@dataclass(frozen=True)
class Store:
    """A store by its fsspec file system; this class serves every store without a class of its own.

    :param fs: the file system, connected.
    """

    fs: Any
    #: Longest path of a file in bytes, where the store has a limit of its own.
    longest_path: ClassVar[int | None] = None
    #: Whether a killed upload leaves a hidden part file.
    leaves_parts: ClassVar[bool] = True

    def check(self, folder: str) -> None:
        """Check the store as far as possible before anything is paid for.

        :raises MissingContainerError: when the bucket or container is not there.
        :raises RefusedCredentialsError: when the store does not accept the credentials. A missing right to
            list is no error: a role may be allowed to write only.
        """

    def read(self, path: str) -> bytes:
        """Read a small file.

        :raises OSError: FileNotFoundError or PermissionError where it is absent, others when the store fails.
        """
        with self.fs.open(path, "rb") as file:
            return bytes(file.read())

    def publish(self, local: Path, target: str, content_type: str) -> None:
        """Publish a complete local file under its final name. This may move the local file away.

        :raises DamagedUploadError: when another size or checksum arrived; the file is not there then.
        """
        del content_type
        part = _part_of(target)
        try:
            self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.fs.put_file(str(local), part)
            _same_size(local, self._info(part))
            if self._moves:
                self._move_onto(target, part)
            else:
                self._copy_onto(target, part, local)
        finally:
            with suppress(Exception):
                self.fs.rm_file(part)

    @property
    def _moves(self) -> bool:
        """Whether the file system implements a move itself; fsspec's default copies, and reads ``[1]`` as a pattern."""
        from fsspec import AbstractFileSystem

        return type(self.fs).mv is not AbstractFileSystem.mv

    def _move_onto(self, target: str, part: str) -> None:
        """Move a part file to its final name; many moves refuse an existing one, so the earlier file steps aside."""
        aside = None
        if self.fs.exists(target):
            aside = _part_of(target)
            self.fs.mv(target, aside)
        try:
            self.fs.mv(part, target)
            self._check_moved(part, target)
        except BaseException:
            if aside is not None:
                with suppress(Exception):
                    self.fs.mv(aside, target)
            raise
        if aside is not None:
            with suppress(Exception):
                self.fs.rm_file(aside)

    def _check_moved(self, part: str, target: str) -> None:
        """Check the result of a move: some file systems do nothing, and fsspec does not report it."""
        self._info(target)
        if self.fs.exists(part):
            raise FileExistsError(f"the store did not move {part} to {target}")

    def _copy_onto(self, target: str, part: str, local: Path) -> None:
        self.fs.cp_file(part, target)
        try:
            _same_size(local, self._info(target))
        except DamagedUploadError:
            self.fs.rm_file(target)
            raise

    def _info(self, path: str) -> Any:
        """Read a file's details from the store, not from a cached listing."""
        self.fs.invalidate_cache()
        return self.fs.info(path)

    def _run(self, work: Any, *arguments: Any, **named: Any) -> Any:
        """Run a coroutine function in the loop of the file system's own client."""
        from fsspec.asyn import sync

        return sync(self.fs.loop, work, *arguments, **named)

    def remove_parts(self, targets: Iterable[str]) -> None:
        """Remove part files that a killed save left beside files; each folder is listed once."""
        folders: dict[str, set[str]] = {}
        for target in targets:
            folder, _, filename = target.rpartition("/")
            folders.setdefault(folder, set()).add(filename)
        for folder, filenames in folders.items():
            with suppress(FileNotFoundError):
                self.fs.invalidate_cache()
                for path in self.fs.ls(folder, detail=False):
                    if _final_name_of(path.rpartition("/")[2]) in filenames:
                        self.fs.rm_file(path)


@dataclass(frozen=True)
class LocalFiles(Store):
    """Files of this machine, or of what is mounted here."""

    def check(self, folder: str) -> None:
        """Check that the folder is there, or can be made."""
        nearest = Path(folder)
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir():
            raise MissingContainerError(f"{nearest} is a file, not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise RefusedCredentialsError(f"this process may not write to {nearest}")

    def publish(self, local: Path, target: str, content_type: str) -> None:
        """Rename where that is possible; else copy beside the final name, and rename then, which is atomic.

        Bytes and name are on the disk afterwards, so a power failure does not undo what a manifest says.
        """
        del content_type
        final = Path(target)
        final.parent.mkdir(parents=True, exist_ok=True)
        _flush(local)
        try:
            local.rename(final)
        except OSError:  # Another file system than that of temporary files.
            part = Path(_part_of(target))
            try:
                shutil.copyfile(local, part)
                _same_size(local, {"size": part.stat().st_size})
                _flush(part)
                part.replace(final)
            finally:
                part.unlink(missing_ok=True)
        with suppress(OSError):  # Some network file systems flush no folders.
            _flush(final.parent)


@dataclass(frozen=True)
class SftpFiles(Store):
    """Files of an SFTP server."""

    def check(self, folder: str) -> None:
        """Only silence asyncssh: it is connected, and folders are created as needed."""
        del folder
        _hush("asyncssh")

    def publish(self, local: Path, target: str, content_type: str) -> None:
        """Upload beside the final name, then rename."""
        del content_type
        part = _part_of(target)
        try:
            self.fs.put_file(str(local), part)
            _same_size(local, self.fs.info(part))
            self._run(self._rename, part, target)
        except BaseException:
            with suppress(Exception):
                self.fs.rm_file(part)
            raise

    async def _rename(self, part: str, target: str) -> None:
        from asyncssh.sftp import SFTPNoSuchFile, SFTPOpUnsupported

        # Not the file system's own move: where posix-rename is not offered it copies onto the final name.
        async with self.fs.client.start_sftp_client() as sftp:
            try:
                await sftp.posix_rename(part, target)
            except SFTPOpUnsupported:
                with suppress(SFTPNoSuchFile):
                    await sftp.remove(target)
                await sftp.rename(part, target)


@dataclass(frozen=True)
class ObjectStore(Store, ABC):
    """A store whose objects appear when their upload is finished, so that no part file is needed."""

    leaves_parts = False

    def remove_parts(self, targets: Iterable[str]) -> None:
        """Do nothing: an unfinished upload is not visible."""

    def publish(self, local: Path, target: str, content_type: str) -> None:
        """Upload under the final name; remove a damaged upload."""
        try:
            self._upload(local, target, content_type)
        except DamagedUploadError:
            with suppress(Exception):
                self.fs.rm_file(target)
            raise

    @abstractmethod
    def _upload(self, local: Path, target: str, content_type: str) -> None:
        """Upload a file, and compare size and checksum."""


# S3's codes for wrong credentials, as opposed to a missing right.
_WRONG_S3_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)


@dataclass(frozen=True)
class S3Objects(ObjectStore):
    """Amazon S3 and what speaks its protocol."""

    longest_path = 1024

    def check(self, folder: str) -> None:
        """List one key."""
        bucket, _, prefix = folder.partition("/")
        try:
            self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        except FileNotFoundError as error:
            raise MissingContainerError(f"there is no bucket {bucket} ({error})") from error
        except PermissionError as error:
            answer = getattr(error.__cause__, "response", {}).get("Error", {})
            if answer.get("Code") in _WRONG_S3_CREDENTIALS:
                raise RefusedCredentialsError(str(error)) from error

    def read(self, path: str) -> bytes:
        """Read a small file with one request."""
        # s3fs asks for the size first where it may read pieces side by side; older releases never do, and have no such
        # argument.
        has_pieces = "max_concurrency" in signature(self.fs.cat_file).parameters
        return bytes(self.fs.cat_file(path, **({"max_concurrency": 1} if has_pieces else {})))

    def _upload(self, local: Path, target: str, content_type: str) -> None:
        bucket, _, key = target.partition("/")
        if local.stat().st_size < PIECE_BYTES:
            # The answer has the ETag, which s3fs keeps to itself.
            body = local.read_bytes()
            there = self.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=body, ContentType=content_type)
            self.fs.invalidate_cache(target)
        else:
            self.fs.put_file(
                str(local),
                target,
                ContentType=content_type,
                chunksize=PIECE_BYTES,
                max_concurrency=_PIECES_AT_ONCE,
            )
            try:
                there = self.fs.call_s3("head_object", Bucket=bucket, Key=key)
            except PermissionError:  # A role that may write and not read.
                return
            _same_size(local, {"size": there["ContentLength"]})
        # With KMS or customer keys the ETag is no MD5.
        encrypted = str(there.get("ServerSideEncryption", "")).startswith("aws:kms")
        if not encrypted and "SSECustomerAlgorithm" not in there:
            _same_etag(local, str(there.get("ETag", "")).strip('"'))


# gcsfs sends what is smaller in one multipart request, the rest in a resumable upload.
_GCSFS_MULTIPART_BELOW_BYTES = 5 * 2**20


@dataclass(frozen=True)
class GoogleObjects(ObjectStore):
    """Google Cloud Storage."""

    longest_path = 1024

    def check(self, folder: str) -> None:
        """List one object."""
        from google.auth.exceptions import GoogleAuthError

        bucket, _, prefix = folder.partition("/")
        try:
            # The file system's own look at a bucket lists all of it where the right to read its settings
            # lacks.
            self._run(
                self.fs._call,  # noqa: SLF001
                "GET",
                "b/{}/o",
                bucket,
                prefix=prefix,
                maxResults=1,
                json_out=True,
            )
        except FileNotFoundError as error:
            raise MissingContainerError(f"there is no bucket {bucket} ({error})") from error
        except GoogleAuthError as error:
            raise RefusedCredentialsError(str(error)) from error
        except Exception as error:
            # gcsfs: HttpError with a code, but a plain OSError "Forbidden: …" for 403.
            if str(getattr(error, "code", "")) == "401":
                raise RefusedCredentialsError(str(error)) from error
            if not (isinstance(error, OSError) and str(error).startswith("Forbidden")):
                raise

    def _upload(self, local: Path, target: str, content_type: str) -> None:
        if local.stat().st_size < _GCSFS_MULTIPART_BELOW_BYTES and _ends_in_carriage_return(local):
            self._run(self._put_resumable, local.read_bytes(), target, content_type)
            self.fs.invalidate_cache(target)
        else:
            self.fs.put_file(str(local), target, content_type=content_type, chunksize=PIECE_BYTES)
        about = self.fs.info(target)
        _same_size(local, about)
        _same_md5(local, about.get("md5Hash"))

    async def _put_resumable(self, content: bytes, target: str, content_type: str) -> None:
        """Send a small file's bytes as the body of a request of its own.

        gcsfs sends a small file as a part of a multipart body and ends the part with a line feed: a parser
        may take a carriage return before it for half of the line's end, and drop it.
        """
        from gcsfs.core import initiate_upload, upload_chunk

        bucket, _, key = target.partition("/")
        location = await initiate_upload(self.fs, bucket, key, content_type)
        await upload_chunk(self.fs, location, content, 0, len(content), content_type)


# What Azure answers to credentials that are wrong, and where a firewall lets nothing through. Merely lacking
# the right to list is AuthorizationPermissionMismatch.
_WRONG_AZURE_CREDENTIALS = frozenset(
    {
        "AuthenticationFailed",
        "InvalidAuthenticationInfo",
        "AuthorizationFailure",
        "NoAuthenticationInformation",
    }
)


@dataclass(frozen=True)
class AzureBlobs(ObjectStore):
    """Azure Blob Storage and Data Lake Storage Gen2."""

    longest_path = 1024

    def check(self, folder: str) -> None:
        """List one page of one blob."""
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        container, _, prefix = folder.partition("/")
        # Airflow's own Azure hook hushes it too.
        _hush("azure.core.pipeline.policies.http_logging_policy")
        try:
            self._run(self._first_of, container, prefix)
        except ResourceNotFoundError as error:
            raise MissingContainerError(f"there is no container {container}") from error
        except HttpResponseError as error:
            if getattr(error, "error_code", None) in _WRONG_AZURE_CREDENTIALS:
                raise RefusedCredentialsError(f"{error.reason} ({error.error_code})") from error
            if error.status_code != 403:
                raise

    async def _first_of(self, container: str, prefix: str) -> None:
        client = self.fs.service_client.get_container_client(container)
        async for _ in client.list_blobs(name_starts_with=prefix or None, results_per_page=1):
            return

    def _upload(self, local: Path, target: str, content_type: str) -> None:
        size, md5 = self._run(self._put_blocks, local, target, content_type)
        self.fs.invalidate_cache()
        _same_size(local, {"size": size})
        _same_md5(local, b64encode(md5).decode() if md5 else None)

    async def _put_blocks(self, local: Path, target: str, content_type: str) -> tuple[int, bytes | None]:
        from azure.storage.blob import BlobBlock, ContentSettings

        container, _, name = target.partition("/")
        blob = self.fs.service_client.get_blob_client(container, name)
        # The SDK's own upload reads a file of up to 64 MiB whole.
        blocks = []
        for number, piece in enumerate(_pieces(local)):
            block = f"{number:08}"
            await blob.stage_block(block, piece, length=len(piece), validate_content=True)
            blocks.append(BlobBlock(block))
        settings = ContentSettings(content_type=content_type, content_md5=bytearray(_md5(local)))
        await blob.commit_block_list(blocks, content_settings=settings)
        about = await blob.get_blob_properties()
        return about.size, about.content_settings.content_md5


_KINDS: dict[str, type[Store]] = {
    "": LocalFiles,
    "file": LocalFiles,
    "local": LocalFiles,
    "sftp": SftpFiles,
    "ssh": SftpFiles,
    "s3": S3Objects,
    "s3a": S3Objects,
    "s3n": S3Objects,
    "gs": GoogleObjects,
    "gcs": GoogleObjects,
    "abfs": AzureBlobs,
    "abfss": AzureBlobs,
    "adl": AzureBlobs,
}


def _ends_in_carriage_return(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\r"


def _flush(path: Path) -> None:
    """Write a file's bytes, or a folder's names, from the system's memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def store_of(path: ObjectStoragePath) -> Store:
    """Return the store that a path lies in."""
    return _KINDS.get(path.protocol, Store)(path.fs)


def _hush(logger: str) -> None:
    """Keep a library's line for each request out of the task's log, unless its level is set."""
    if logging.getLogger(logger).level == logging.NOTSET:
        logging.getLogger(logger).setLevel(logging.WARNING)


_PART_NAME = re.compile(r"\.(?P<final>.+)\.[0-9a-f]{8}\.part", re.DOTALL)


def _part_of(target: str) -> str:
    folder, _, filename = target.rpartition("/")
    return f"{folder}/.{filename}.{secrets.token_hex(4)}.part"


def _final_name_of(part: str) -> str | None:
    """Return the final name of a part file; None for any other file."""
    found = _PART_NAME.fullmatch(part)
    return found["final"] if found else None


def _same_size(local: Path, about: Any) -> None:
    sent, there = local.stat().st_size, about["size"]
    if there != sent:
        raise DamagedUploadError(f"the store holds {there:,} bytes where {sent:,} were sent")


def _same_md5(local: Path, there: str | None) -> None:
    sent = b64encode(_md5(local)).decode()
    if there is not None and there != sent:
        raise DamagedUploadError(f"the store's MD5 is {there} where {sent} was sent")


# An MD5, or the MD5 of the MD5s of so many parts. Stores that speak S3's protocol may answer anything else.
_MD5_ETAG = re.compile(r"[0-9a-f]{32}(?:-(?P<parts>[0-9]+))?", re.IGNORECASE)


def _same_etag(local: Path, there: str) -> None:
    """Compare the ETag of the store, if it has the form of Amazon's ETags."""
    found = _MD5_ETAG.fullmatch(there)
    if found is None:
        return
    size = local.stat().st_size
    # s3fs sends a file shorter than two pieces in one request.
    parts = math.ceil(size / PIECE_BYTES) if size >= 2 * PIECE_BYTES else None
    if found["parts"] != (None if parts is None else str(parts)):
        return
    sent = _md5(local).hex() if parts is None else _multipart_etag(local)
    if there.lower() != sent:
        raise DamagedUploadError(f"the store's ETag is {there} where {sent} was sent")


def _pieces(local: Path) -> Iterator[bytes]:
    with local.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _md5(local: Path) -> bytes:
    with local.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()


def _multipart_etag(local: Path) -> str:
    """Return the ETag of an upload in parts: the MD5 of the parts' MD5s, and their number."""
    digests = [hashlib.md5(piece, usedforsecurity=False).digest() for piece in _pieces(local)]
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"
