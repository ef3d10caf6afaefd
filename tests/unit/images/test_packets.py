"""Where marks lie in picture files of other programs, and what makes a file one that nothing is written into."""

from __future__ import annotations

import io
import struct
import zlib

import pytest

from airflow_provider_evoimage.images.containers import DamagedError
from airflow_provider_evoimage.images.packets import OddPacketError, edits_for, find_packets
from airflow_provider_evoimage.images.xmp import MOST_PACKET_BYTES
from tests.unit.images.test_broken_files import drawn

KEYWORD = b"XML:com.adobe.xmp\0"


def png_with(name: bytes, data: bytes) -> bytes:
    png = drawn("PNG")
    return (
        png[:33]
        + struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        + png[33:]
    )


@pytest.mark.parametrize(
    ("name", "data", "odd"),
    [
        (b"tEXt", b"Comment\0hello", ""),
        (b"zTXt", b"Raw profile type xmp\0\0abc", "of an older kind"),
        (b"tEXt", KEYWORD + b"<x/>", "of an older kind"),
        (b"iTXt", KEYWORD + b"\0\0\0\0" + b"a" * (MOST_PACKET_BYTES + 2000), "too large"),
        (b"iTXt", KEYWORD + b"\1\0\0\0" + zlib.compress(b"a" * (MOST_PACKET_BYTES + 1)), "too large"),
        (b"iTXt", KEYWORD + b"\1\0\0\0no zlib", "packed in a wrong way"),
        (b"iTXt", b"Title\0\0\0\0\0hello", ""),
    ],
)
def test_png_whose_packet_cannot_be_replaced_is_odd(name: bytes, data: bytes, odd: str) -> None:
    found = find_packets("PNG", io.BytesIO(png_with(name, data)))
    assert (odd in found.odd, bool(found.odd)) == (True, bool(odd))
    assert found.packets == []


def test_packet_of_a_png_is_found_plain_and_packed() -> None:
    for text in (b"\0\0\0\0<x/>", b"\1\0\0\0" + zlib.compress(b"<x/>")):
        (packet,) = find_packets("PNG", io.BytesIO(png_with(b"iTXt", KEYWORD + text))).packets
        assert packet.content == b"<x/>"


def test_content_credentials_of_a_png_are_seen() -> None:
    assert find_packets("PNG", io.BytesIO(png_with(b"caBX", b"jumb"))).has_credentials


def test_jpeg_with_fill_bytes_is_read_and_one_without_a_marker_is_damaged() -> None:
    jpeg = drawn("JPEG")
    assert find_packets("JPEG", io.BytesIO(jpeg[:2] + b"\xff\xff" + jpeg[2:])).odd == ""
    with pytest.raises(DamagedError, match="marker"):
        find_packets("JPEG", io.BytesIO(jpeg[:2] + b"\0\0" + jpeg[2:]))


def test_jpeg_of_several_pictures_is_odd() -> None:
    jpeg = drawn("JPEG")
    assert "several" in find_packets("JPEG", io.BytesIO(jpeg + jpeg)).odd


def test_packet_larger_than_a_jpeg_holds_is_refused() -> None:
    png = io.BytesIO(drawn("PNG"))
    with pytest.raises(OddPacketError, match="more than a JPEG can hold"):
        edits_for("PNG", png, find_packets("PNG", png), b"a" * (MOST_PACKET_BYTES + 1))
