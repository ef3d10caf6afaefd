"""What a store says of an upload is compared with what was sent: its size, its MD5, an ETag of S3's protocol."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from pathlib import Path

import pytest

from airflow_provider_evoimage.storage.stores import (
    PIECE_BYTES,
    DamagedUploadError,
    _ends_in_carriage_return,
    _same_etag,
    _same_md5,
    _same_size,
)

SMALL = b"image" * 1000
LARGE = bytes(2 * PIECE_BYTES + 1)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def in_parts(content: bytes, size: int = PIECE_BYTES) -> str:
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
    return f"{md5(digests)}-{len(parts)}"


@pytest.mark.parametrize(
    ("content", "etag"),
    [
        (SMALL, md5(SMALL)),
        (SMALL, md5(SMALL).upper()),
        (LARGE, in_parts(LARGE)),
        # Not made as Amazon's, or of other parts than were sent.
        (SMALL, ""),
        (SMALL, "0x8D4BCC2E4835CD0"),
        (SMALL, "5f8c9d1e-7a55-4b0e-9d0c-2f1f3f3a9c11"),
        (SMALL, "f" * 32 + "-1"),
        (LARGE, "f" * 32),
        (LARGE, in_parts(LARGE, 8 * 1024 * 1024)),
        (SMALL, "f" * 64),
    ],
    ids=["md5", "capitals", "parts", "none", "hex", "uuid", "one part", "whole", "other parts", "sha256"],
)
def test_good_upload_is_not_called_damaged(tmp_path: Path, content: bytes, etag: str) -> None:
    local = tmp_path / "local"
    local.write_bytes(content)
    _same_etag(local, etag)


@pytest.mark.parametrize(
    ("content", "etag"), [(SMALL, "f" * 32), (LARGE, "f" * 32 + "-3")], ids=["whole", "parts"]
)
def test_other_md5_is_a_damaged_upload(tmp_path: Path, content: bytes, etag: str) -> None:
    local = tmp_path / "local"
    local.write_bytes(content)
    with pytest.raises(DamagedUploadError, match="ETag is ffff"):
        _same_etag(local, etag)


@pytest.mark.parametrize(
    ("content", "ends"), [(b"", False), (b"\r", True), (b"a\r", True), (b"\ra", False), (b"a\r\n", False)]
)
def test_carriage_return_is_seen_at_the_end_alone(tmp_path: Path, content: bytes, ends: bool) -> None:
    local = tmp_path / "picture.webp"
    local.write_bytes(content)
    assert _ends_in_carriage_return(local) is ends


def test_store_that_holds_other_bytes_than_were_sent_is_found_by_size_and_md5(tmp_path: Path) -> None:
    local = tmp_path / "picture.webp"
    local.write_bytes(b"abc")
    md5 = b64encode(hashlib.md5(b"abc", usedforsecurity=False).digest()).decode()
    _same_size(local, {"size": 3})
    _same_md5(local, md5)
    # A store may tell none.
    _same_md5(local, None)
    with pytest.raises(DamagedUploadError, match="holds 2 bytes where 3 were sent"):
        _same_size(local, {"size": 2})
    with pytest.raises(DamagedUploadError, match="MD5 is another"):
        _same_md5(local, "another")
