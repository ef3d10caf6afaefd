"""What an ETag of S3's protocol says of an upload: something where it is made as Amazon's, else nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from airflow_provider_evoimage.storage.stores import PIECE_BYTES, DamagedUploadError, _same_etag

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
