"""Metadata of pictures is bounded before a library reads it, and what holds no picture is no picture."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.exceptions import DownloadError, NotAnImageError
from airflow_provider_evoimage.images.containers import measure
from airflow_provider_evoimage.images.result_file import describe_image
from tests.integration.test_hostile_results import peak_memory

MEMORY_BYTES = 64_000_000


def encoded(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PNG = encoded("PNG")
PNG_HEAD, PNG_REST = PNG[:33], PNG[33:]


def packed_texts(count: int) -> bytes:
    """Return ``count`` compressed texts of a megabyte each."""
    return png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 1_000_000)) * count


def jpeg_with(segments: int) -> bytes:
    jpeg = encoded("JPEG")
    return jpeg[:2] + b"".join(b"\xff\xee\xff\xff" + b"a" * 65533 for _ in range(segments)) + jpeg[2:]


def gif_with(megabytes: int) -> bytes:
    gif = encoded("GIF", mode="P")
    flags = gif[10]
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    comment = b"!\xfe" + (b"\xff" + b"a" * 255) * (megabytes * 4000) + b"\x00"
    return gif[:at] + comment + gif[at:]


def tiff_with(megabytes: int) -> bytes:
    tiff = bytearray(encoded("TIFF"))
    (at,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, at)
    entries = bytes(tiff[at + 2 : at + 2 + count * 12])
    end = len(tiff)
    data = b"a" * (megabytes * 1_000_000)
    added = struct.pack("<HHII", 65000, 7, len(data), end)
    new = end + len(data)
    tiff[4:8] = struct.pack("<I", new)
    return bytes(tiff) + data + struct.pack("<H", count + 1) + entries + added + b"\0\0\0\0"


# Made when its test runs: some take seconds.
OVERSIZED: dict[str, Callable[[], bytes]] = {
    "png, one text": lambda: PNG_HEAD + png_chunk(b"tEXt", b"a\0" + b"b" * 24_000_000) + PNG_REST,
    "png, many parts": lambda: PNG_HEAD + png_chunk(b"tEXt", b"a\0b") * 5000 + PNG_REST,
    "png, packed texts": lambda: PNG_HEAD + packed_texts(100) + PNG_REST,
    "jpeg": lambda: jpeg_with(250),
    "gif": lambda: gif_with(10),
    "tiff": lambda: tiff_with(40),
}


@pytest.mark.parametrize("case", OVERSIZED)
def test_metadata_without_end_is_refused_and_never_read(tmp_path: Path, case: str) -> None:
    file = tmp_path / "picture"
    file.write_bytes(OVERSIZED[case]())
    peak_memory()
    before = peak_memory()
    with pytest.raises(NotAnImageError, match=r"metadata|entries"):
        describe_image(file)
    assert peak_memory() - before < MEMORY_BYTES


LARGEST: dict[str, Callable[[], bytes]] = {
    "png": lambda: PNG_HEAD + png_chunk(b"tEXt", b"a\0" + b"b" * 7_900_000) + PNG_REST,
    "png, packed texts": lambda: PNG_HEAD + packed_texts(31) + PNG_REST,
    "jpeg": lambda: jpeg_with(120),
    "gif": lambda: gif_with(7),
    "tiff": lambda: tiff_with(7),
    "webp": lambda: encoded("WEBP", (3000, 2000), lossless=True, quality=0, method=0),
    "avif": lambda: encoded("AVIF", (1500, 1000), quality=100),
}


@pytest.mark.parametrize("case", LARGEST)
def test_picture_with_much_metadata_takes_little_memory(tmp_path: Path, case: str) -> None:
    file = tmp_path / "picture"
    file.write_bytes(LARGEST[case]())
    peak_memory()
    before = peak_memory()
    assert describe_image(file).width in {64, 1500, 3000}
    assert peak_memory() - before < MEMORY_BYTES


def test_smallest_lossless_webp_is_an_image(tmp_path: Path) -> None:
    file = tmp_path / "black.webp"
    Image.new("RGB", (1, 1)).save(file, lossless=True)
    assert file.stat().st_size < 40
    found = describe_image(file)
    assert (found.width, found.height, found.content_type) == (1, 1, "image/webp")


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (64, 48), (255, 257), (1024, 768)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": True, "mode": "RGBA"}),
        ("WEBP", {"mode": "RGBA"}),
        ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", "xmp": b"<x/>"}),
        ("WEBP", {"save_all": True, "append_images": [Image.new("RGB", (1, 1))]}),
        ("AVIF", {}),
        ("AVIF", {"mode": "RGBA"}),
        ("AVIF", {"save_all": True, "append_images": [Image.new("RGB", (1, 1))]}),
    ],
    ids=[
        "webp",
        "lossless",
        "lossless alpha",
        "alpha",
        "metadata",
        "animated",
        "avif",
        "avif alpha",
        "avif animated",
    ],
)
def test_size_is_the_one_that_pillow_reads(
    tmp_path: Path, kind: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    if "append_images" in options:
        options = options | {"append_images": [Image.new("RGB", size, "teal")]}
    content = encoded(kind, size, **options)
    assert measure(kind, io.BytesIO(content)) == Image.open(io.BytesIO(content)).size
    file = tmp_path / "picture"
    file.write_bytes(content)
    described = describe_image(file)
    assert (described.width, described.height) == size


def bmp(header: bytes, pixels: bytes = b"") -> bytes:
    end = 14 + len(header) + len(pixels)
    return b"BM" + struct.pack("<IHHI", end, 0, 0, 14 + len(header)) + header + pixels


WEBP = encoded("WEBP", lossless=True)
AVIF = encoded("AVIF")


def avif_without_pixels() -> bytes:
    at = AVIF.index(b"mdat") - 4
    return AVIF[:at]


HOLLOW = {
    "bmp of 26 bytes": bmp(struct.pack("<IHHHH", 12, 640, 480, 1, 24)),
    "packed bmp": bmp(struct.pack("<IiiHHIIIIII", 40, 64, 48, 1, 8, 1, 0, 0, 0, 0, 0), b"<html>" * 100),
    "webp without a picture": b"RIFF\x04\0\0\0WEBP",
    "webp with a canvas alone": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\x3f\0\0\x2f\0\0",
    "webp with a frame header alone": b"RIFF\x14\0\0\0WEBPVP8L"
    + struct.pack("<I", 5)
    + WEBP[20:26]
    + b"\0\0",
    "webp of html": b"RIFF\x2c\0\0\0WEBPVP8 \x20\0\0\0" + b"<html><title>Not found</title></"[:32],
    "avif without its pixels": avif_without_pixels(),
    "avif of a brand alone": AVIF[: struct.unpack(">I", AVIF[:4])[0]],
    "png with two headers": PNG_HEAD + PNG_HEAD[8:] + PNG_REST,
    "png without pixels": PNG_HEAD + png_chunk(b"IEND", b""),
    "avif with a page": AVIF + b"\0\0\0\x20<htm" + b"<html>" * 4,
}


@pytest.mark.parametrize("case", HOLLOW)
def test_what_holds_no_whole_picture_is_refused(tmp_path: Path, case: str) -> None:
    file = tmp_path / "picture"
    file.write_bytes(HOLLOW[case])
    with pytest.raises(DownloadError):
        describe_image(file)
