"""Finds XMP packets and content credentials in PNG, JPEG and WebP files, and the bytes to change for a new packet.

Pixels are never read into memory: files are walked part by part.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from airflow_provider_evoimage.images.containers import DamagedError, riff_chunks, taken, webp_frame
from airflow_provider_evoimage.images.result_file import seek_jpeg_marker
from airflow_provider_evoimage.images.xmp import MOST_PACKET_BYTES, OddPacketError

_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Packet:
    """An XMP packet in a file.

    :param start: where the part of the file begins that holds it; likewise ``end``.
    :param content: the XML.
    """

    start: int
    end: int
    content: bytes


@dataclass
class Found:
    """What a file holds besides its pixels.

    :param has_credentials: whether it holds C2PA content credentials.
    :param odd: why nothing may be written into it; empty where nothing speaks against it.
    :param insert_at: where a packet belongs.
    """

    packets: list[Packet] = field(default_factory=list)
    has_credentials: bool = False
    odd: str = ""
    insert_at: int = 0


@dataclass(frozen=True)
class Edit:
    """Bytes to put in place of those from ``start`` to ``end``."""

    start: int
    end: int
    new: bytes = b""


def find_packets(kind: str, file: BinaryIO) -> Found:
    """Look for packets and content credentials.

    :param kind: one of :data:`KINDS`.
    :raises DamagedError: when the file breaks off.
    """
    return _KINDS[kind].find(file)


def edits_for(kind: str, file: BinaryIO, found: Found, packet: bytes) -> list[Edit]:
    """Return the changes that leave this packet as the only one, in the order of the file.

    :raises OddPacketError: when the file has no room for it.
    """
    if len(packet) > MOST_PACKET_BYTES:
        raise OddPacketError(f"the XMP packet would have {len(packet):,} bytes, more than a JPEG can hold")
    return _KINDS[kind].edits(file, found, packet)


def edited(file: BinaryIO, edits: Sequence[Edit]) -> Iterator[bytes]:
    """Yield the bytes of a file with changes, block by block."""
    at = 0
    for edit in edits:
        yield from _blocks(file, at, edit.start)
        if edit.new:
            yield edit.new
        at = edit.end
    yield from _blocks(file, at, None)


def _blocks(file: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    file.seek(start)
    while end is None or start < end:
        block = file.read(_BLOCK_BYTES if end is None else min(_BLOCK_BYTES, end - start))
        if not block:
            return
        start += len(block)
        yield block


# PNG

_PNG_KEYWORD = b"XML:com.adobe.xmp\0"
_PNG_PROFILES = (b"Raw profile type xmp\0", b"XML:com.adobe.xmp\0")
_AFTER_PNG_HEADER = 33


def _find_in_png(file: BinaryIO) -> Found:
    found = Found(insert_at=_AFTER_PNG_HEADER)
    at = 8
    name = b""
    while name != b"IEND":
        file.seek(at)
        length, name = struct.unpack(">I4s", taken(file, 8))
        end = at + 12 + length
        if name == b"caBX":
            found.has_credentials = True
        elif name in {b"tEXt", b"zTXt"}:
            if taken(file, min(length, 32)).startswith(_PNG_PROFILES):
                found.odd = found.odd or "it has an XMP packet of an older kind"
        elif name == b"iTXt" and taken(file, min(length, len(_PNG_KEYWORD))) == _PNG_KEYWORD:
            _add(found, at, end, partial(_png_text, file, length - len(_PNG_KEYWORD)), length)
        at = end
    return found


def _png_text(file: BinaryIO, size: int) -> bytes:
    """Return the text of an iTXt chunk, from what follows its keyword."""
    rest = taken(file, size)
    is_packed, _, rest = rest[:1] == b"\x01", rest[1:2], rest[2:]
    text = rest.partition(b"\0")[2].partition(b"\0")[2]
    if not is_packed:
        return text
    try:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(text, MOST_PACKET_BYTES + 1)
    except zlib.error as error:
        raise OddPacketError("its XMP packet is packed in a wrong way") from error
    if len(unpacked) > MOST_PACKET_BYTES:
        raise OddPacketError("its XMP packet is too large")
    return unpacked


def _edits_of_png(file: BinaryIO, found: Found, packet: bytes) -> list[Edit]:
    del file
    body = b"iTXt" + _PNG_KEYWORD + b"\0\0\0\0" + packet
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return _in_order(Edit(found.insert_at, found.insert_at, chunk), found)


# JPEG

_JPEG_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"


def _find_in_jpeg(file: BinaryIO) -> Found:
    found = Found(insert_at=2)
    file.seek(2)
    is_at_head = True
    while True:
        marker = _jpeg_marker(file)
        if marker == b"\xff\xd9":
            break
        at = file.tell() - 2
        (length,) = struct.unpack(">H", taken(file, 2))
        end = at + 2 + max(length, 2)
        _look_at_segment(file, marker, at, end, found)
        # After the leading headers, as a reader expects it.
        is_at_head = is_at_head and _is_header(file, marker, at)
        if is_at_head:
            found.insert_at = end
        file.seek(end)
        if marker == b"\xff\xda":
            seek_jpeg_marker(file)
    if file.read(3) == b"\xff\xd8\xff":
        found.odd = found.odd or "it holds several pictures"
    return found


def _jpeg_marker(file: BinaryIO) -> bytes:
    marker = taken(file, 2)
    while marker == b"\xff\xff":  # Fill bytes.
        marker = b"\xff" + taken(file, 1)
    if marker[:1] != b"\xff":
        raise DamagedError("a marker is missing")
    return marker


def _is_header(file: BinaryIO, marker: bytes, at: int) -> bool:
    file.seek(at + 4)
    return marker == b"\xff\xe0" or (marker == b"\xff\xe1" and file.read(6) == b"Exif\0\0")


def _look_at_segment(file: BinaryIO, marker: bytes, at: int, end: int, found: Found) -> None:
    head = file.read(min(len(_JPEG_EXTENSION), end - at - 4))
    if marker == b"\xff\xeb" and head.startswith(b"JP"):
        found.has_credentials = True
    elif marker == b"\xff\xe2" and head.startswith(b"MPF\0"):
        # Its offsets would be wrong after an insertion.
        found.odd = found.odd or "it holds several pictures"
    elif marker == b"\xff\xe1" and head.startswith(_JPEG_PREFIX):
        file.seek(at + 4 + len(_JPEG_PREFIX))
        size = end - file.tell()
        _add(found, at, end, partial(taken, file, size), size)


def _edits_of_jpeg(file: BinaryIO, found: Found, packet: bytes) -> list[Edit]:
    del file
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(_JPEG_PREFIX) + len(packet)) + _JPEG_PREFIX + packet
    return _in_order(Edit(found.insert_at, found.insert_at, segment), found)


# WebP

_VP8X_XMP = 0x04
_VP8X_ALPHA = 0x10


def _find_in_webp(file: BinaryIO) -> Found:
    end = _webp_end(file)
    found = Found(insert_at=end)
    for name, at, length in riff_chunks(file, 12, end):
        if name == b"C2PA":
            found.has_credentials = True
        elif name == b"XMP ":
            file.seek(at)
            _add(
                found,
                at - 8,
                min(at + length + length % 2, end),
                partial(taken, file, length),
                length,
            )
    return found


def _webp_end(file: BinaryIO) -> int:
    file.seek(4)
    end: int = 8 + int.from_bytes(taken(file, 4), "little")
    if file.seek(0, 2) < end:
        raise DamagedError("it is shorter than its header says")
    return end


def _edits_of_webp(file: BinaryIO, found: Found, packet: bytes) -> list[Edit]:
    end = _webp_end(file)
    first, at, length = next(riff_chunks(file, 12, end))
    if first == b"VP8X":
        file.seek(at)
        header = Edit(at, at + 1, bytes([taken(file, 1)[0] | _VP8X_XMP]))
    else:
        header = Edit(12, 12, _vp8x(file, first, at, length))
    chunk = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    if end % 2 and not any(each.end == end for each in found.packets):
        # The last part lacks the byte that makes its length even.
        chunk = b"\0" + chunk
    added = len(header.new) - (header.end - header.start) + len(chunk)
    size = end - 8 + added - sum(each.end - each.start for each in found.packets)
    edits = [Edit(4, 8, struct.pack("<I", size)), header]
    return [*edits, *_in_order(Edit(end, end, chunk), found)]


def _vp8x(file: BinaryIO, name: bytes, at: int, length: int) -> bytes:
    """Return the header that a plain WebP lacks."""
    width, height = webp_frame(file, name, at, length)
    flags = _VP8X_XMP
    if name == b"VP8L":
        file.seek(at + 4)
        flags |= _VP8X_ALPHA if taken(file, 1)[0] & 0x10 else 0
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size


# All


def _add(found: Found, start: int, end: int, read: Callable[[], bytes], size: int) -> None:
    """Note a packet; one that cannot be read makes the file odd."""
    # A packed text and its names are longer than the packet itself by a little.
    if size > MOST_PACKET_BYTES + 1000:
        found.odd = found.odd or "its XMP packet is too large"
        return
    try:
        found.packets.append(Packet(start, end, read()))
    except OddPacketError as error:
        found.odd = found.odd or str(error)


def _in_order(insertion: Edit, found: Found) -> list[Edit]:
    removals = [Edit(each.start, each.end) for each in found.packets]
    return sorted([insertion, *removals], key=lambda edit: (edit.start, edit.end))


@dataclass(frozen=True)
class _Kind:
    find: Callable[[BinaryIO], Found]
    edits: Callable[[BinaryIO, Found, bytes], list[Edit]]


_KINDS = {
    "PNG": _Kind(_find_in_png, _edits_of_png),
    "JPEG": _Kind(_find_in_jpeg, _edits_of_jpeg),
    "WEBP": _Kind(_find_in_webp, _edits_of_webp),
}
#: The kinds of file that take a packet.
KINDS = frozenset(_KINDS)
