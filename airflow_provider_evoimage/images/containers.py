"""Walks the containers of images before a library reads them: what lies in front of the pixels is bounded.

Pillow keeps all metadata in memory, and WebP and AVIF files whole. So metadata has a limit, and the width and height of
a WebP or AVIF are read here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

#: Profiles, previews and signatures of real pictures have less than a tenth of this.
MOST_METADATA_BYTES = 8_000_000
MOST_PARTS = 4096
_PACKED_TEXT_BYTES = 250_000
_MOST_TIFF_ENTRIES = 1000
_LARGEST_META_BOX = 1_000_000


class DamagedError(Exception):
    """The file breaks off, or its structure is broken."""


class OversizedError(Exception):
    """The file has more metadata than any picture needs."""


def taken(file: BinaryIO, count: int) -> bytes:
    """Read exactly this many bytes; for small structures only.

    :raises DamagedError: when there are fewer.
    """
    data = file.read(count)
    if len(data) != count:
        raise DamagedError("it breaks off")
    return data


class _Metadata:
    """Counts what lies in front of the pixels."""

    def __init__(self) -> None:
        self._bytes = self._parts = 0

    def add(self, size: int) -> None:
        self._bytes += size
        self._parts += 1
        if self._bytes > MOST_METADATA_BYTES or self._parts > MOST_PARTS:
            raise OversizedError(
                f"it has more than {MOST_METADATA_BYTES // 1_000_000} MB or {MOST_PARTS:,} parts of metadata"
            )


def _bound_png(file: BinaryIO) -> None:
    file.seek(8)
    found = _Metadata()
    name = b""
    while name != b"IDAT":
        length, following = struct.unpack(">I4s", taken(file, 8))
        if (following == b"IHDR") is bool(name):
            raise DamagedError("its header is not the first part, or there are two")
        name = following
        if name == b"IEND":
            raise DamagedError("it holds no pixels")
        if name != b"IDAT":
            # A packed text may unpack to a megabyte.
            found.add(length + (_PACKED_TEXT_BYTES if name in {b"zTXt", b"iTXt", b"iCCP"} else 0))
            file.seek(length + 4, 1)


def _bound_jpeg(file: BinaryIO) -> None:
    file.seek(2)
    found = _Metadata()
    while True:
        marker = taken(file, 2)
        while marker == b"\xff\xff":
            marker = b"\xff" + taken(file, 1)
        if marker[:1] != b"\xff" or marker == b"\xff\xd9":
            raise DamagedError("a marker is missing")
        if marker == b"\xff\xda":
            return
        (length,) = struct.unpack(">H", taken(file, 2))
        found.add(length)
        file.seek(max(length - 2, 0), 1)


def _bound_gif(file: BinaryIO) -> None:
    file.seek(10)
    flags = taken(file, 3)[0]
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)
    found = _Metadata()
    while (kind := taken(file, 1)) not in {b",", b";"}:
        if kind == b"!":
            taken(file, 1)
            size = 0
            while length := taken(file, 1)[0]:
                file.seek(length, 1)
                size += length
            found.add(size)
        elif kind == b"\x00":
            found.add(1)
        else:
            raise DamagedError("a block is missing")


_TIFF_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}


def _bound_tiff(file: BinaryIO) -> None:
    start = taken(file, 16)
    order = "<" if start[:2] == b"II" else ">"
    is_big = struct.unpack(f"{order}H", start[2:4])[0] == 43
    entry, number = (f"{order}HHQ8x", "Q") if is_big else (f"{order}HHI4x", "I")
    file.seek(struct.unpack(f"{order}{number}", start[8:16] if is_big else start[4:8])[0])
    (count,) = struct.unpack(f"{order}{'Q' if is_big else 'H'}", taken(file, 8 if is_big else 2))
    if count > _MOST_TIFF_ENTRIES:
        raise OversizedError(f"it has more than {_MOST_TIFF_ENTRIES:,} entries")
    found = _Metadata()
    for _ in range(count):
        _, kind, values = struct.unpack(entry, taken(file, struct.calcsize(entry)))
        found.add(values * _TIFF_SIZES.get(kind, 8))


_UNPACKED_BMPS = frozenset({0, 3, 6})  # Plain, or with masks.


def _bound_bmp(file: BinaryIO) -> None:
    """Refuse pixels that are packed: nothing tells whether they are whole."""
    file.seek(14)
    (header,) = struct.unpack("<I", taken(file, 4))
    if header >= 40:
        file.seek(30)
        (compression,) = struct.unpack("<I", taken(file, 4))
        if compression not in _UNPACKED_BMPS:
            raise OversizedError("its pixels are packed, so that nothing tells whether they are all there")


_BOUNDS: dict[str, Callable[[BinaryIO], None]] = {
    "PNG": _bound_png,
    "JPEG": _bound_jpeg,
    "GIF": _bound_gif,
    "TIFF": _bound_tiff,
    "BMP": _bound_bmp,
}


def bound_metadata(kind: str, file: BinaryIO) -> None:
    """Check that reading what lies in front of the pixels takes little memory.

    :raises OversizedError: when it would take much.
    :raises DamagedError: when it breaks off.
    """
    if kind in _BOUNDS:
        _BOUNDS[kind](file)


def measure(kind: str, file: BinaryIO) -> tuple[int, int] | None:
    """Return width and height of a WebP or AVIF picture; None for another kind.

    :raises DamagedError: when it holds no picture.
    :raises OversizedError: when it has too much metadata.
    """
    if kind == "WEBP":
        return _measure_webp(file)
    return _measure_avif(file) if kind == "AVIF" else None


def riff_chunks(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, position and length of each chunk."""
    parts = 0
    while start + 8 <= end:
        file.seek(start)
        name, length = struct.unpack("<4sI", taken(file, 8))
        if start + 8 + length > end:
            raise DamagedError("a part of it is longer than the file")
        parts += 1
        if parts > MOST_PARTS:
            raise OversizedError(f"it has more than {MOST_PARTS:,} parts")
        yield name, start + 8, length
        start += 8 + length + length % 2


# The frame header of VP8 (10 bytes) and VP8L (5), and a little of a picture: one black pixel takes VP8L 14 bytes.
_LEAST_FRAME_BYTES = 11
_ANIMATED_FRAME_HEADER = 16


def _measure_webp(file: BinaryIO) -> tuple[int, int]:
    file.seek(4)
    end = 8 + int.from_bytes(taken(file, 4), "little")
    canvas: tuple[int, int] | None = None
    frame: tuple[int, int] | None = None
    for name, at, length in riff_chunks(file, 12, end):
        if name == b"VP8X" and length >= 10:
            file.seek(at + 4)
            size = taken(file, 6)
            canvas = int.from_bytes(size[:3], "little") + 1, int.from_bytes(size[3:], "little") + 1
        elif name in {b"VP8 ", b"VP8L"} and frame is None:
            frame = webp_frame(file, name, at, length)
        elif name == b"ANMF" and frame is None and length > _ANIMATED_FRAME_HEADER:
            for inner, inner_at, inner_length in riff_chunks(file, at + _ANIMATED_FRAME_HEADER, at + length):
                if inner in {b"VP8 ", b"VP8L"}:
                    frame = webp_frame(file, inner, inner_at, inner_length)
    if frame is None:
        raise DamagedError("it holds no pixels")
    return canvas or frame


def webp_frame(file: BinaryIO, name: bytes, at: int, length: int) -> tuple[int, int]:
    """Return width and height of a frame, VP8 or VP8L.

    :raises DamagedError: when it is no frame.
    """
    if length < _LEAST_FRAME_BYTES:
        raise DamagedError("it holds no pixels")
    file.seek(at)
    head = taken(file, 10)
    if name == b"VP8L":
        if head[0] != 0x2F:
            raise DamagedError("its pixels are not packed as they must be")
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    # A frame that depends on no other, its start code, and the size of the first part of it.
    tag = int.from_bytes(head[:3], "little")
    if tag & 1 or head[3:6] != b"\x9d\x01\x2a" or tag >> 5 > length - 10:
        raise DamagedError("its pixels are not packed as they must be")
    width, height = struct.unpack("<HH", head[6:10])
    return width & 0x3FFF, height & 0x3FFF


@dataclass(frozen=True)
class _Box:
    name: bytes
    at: int
    end: int


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes in a part of a container's metadata."""
    while start + 8 <= end:
        length, name = struct.unpack_from(">I4s", data, start)
        if length < 8 or start + length > end:
            raise DamagedError("a box is damaged")
        yield _Box(name, start + 8, start + length)
        start += length


def _measure_avif(file: BinaryIO) -> tuple[int, int]:
    data = _meta_box(file)
    size = file.seek(0, 2)
    found = {box.name: box for box in _boxes(data, 4, len(data))}
    if not {b"pitm", b"iloc", b"iprp"} <= set(found):
        raise DamagedError("it holds no picture")
    primary = _primary_item(data, found[b"pitm"])
    if not any(
        begin + length <= size for begin, length in _places(data, found[b"iloc"], primary) if length > 0
    ):
        raise DamagedError("it holds no pixels")
    within = {box.name: box for box in _boxes(data, found[b"iprp"].at, found[b"iprp"].end)}
    if not {b"ipco", b"ipma"} <= set(within):
        raise DamagedError("it does not tell its size")
    properties = list(_boxes(data, within[b"ipco"].at, within[b"ipco"].end))
    for number in _property_numbers(data, within[b"ipma"], primary):
        if 0 < number <= len(properties) and properties[number - 1].name == b"ispe":
            width, height = struct.unpack_from(">II", data, properties[number - 1].at + 4)
            return width, height
    raise DamagedError("it does not tell its size")


def _meta_box(file: BinaryIO) -> bytes:
    """Return the inside of the outermost box ``meta``."""
    start, parts = 0, 0
    size = file.seek(0, 2)
    while start + 8 <= size and parts < MOST_PARTS:
        file.seek(start)
        length, name = struct.unpack(">I4s", taken(file, 8))
        head = 8
        if length == 1:
            length, head = int.from_bytes(taken(file, 8), "big"), 16
        if length == 0:
            length = size - start
        if length < head:
            break
        if name == b"meta":
            if length > _LARGEST_META_BOX:
                raise OversizedError(f"it has more than {_LARGEST_META_BOX:,} bytes of metadata")
            return taken(file, length - head)
        start, parts = start + length, parts + 1
    raise DamagedError("it holds no picture")


def _primary_item(data: bytes, box: _Box) -> int:
    form = ">I" if data[box.at] else ">H"
    return int(struct.unpack_from(form, data, box.at + 4)[0])


def _places(data: bytes, box: _Box, item: int) -> list[tuple[int, int]]:
    """Return begin and length of each piece of an item, within the file or within the box ``idat``."""
    version = data[box.at]
    sizes = struct.unpack_from(">H", data, box.at + 4)[0]
    offset_size, length_size = sizes >> 12, sizes >> 8 & 15
    base_size, index_size = sizes >> 4 & 15, sizes & 15 if version else 0
    at = box.at + 6

    def number(count: int) -> int:
        nonlocal at
        if at + count > box.end:
            raise DamagedError("a box is damaged")
        at += count
        return int.from_bytes(data[at - count : at], "big")

    wide = 4 if version == 2 else 2
    for _ in range(number(wide)):
        found = number(wide)
        if version:
            number(2)
        number(2)
        base = number(base_size)
        pieces = []
        for _ in range(number(2)):
            number(index_size)
            begin = base + number(offset_size)
            pieces.append((begin, number(length_size)))
        if found == item:
            return pieces
    return []


def _property_numbers(data: bytes, box: _Box, item: int) -> list[int]:
    version, flags = data[box.at], int.from_bytes(data[box.at + 1 : box.at + 4], "big")
    id_size, number_size = 4 if version else 2, 2 if flags & 1 else 1
    (entries,) = struct.unpack_from(">I", data, box.at + 4)
    at = box.at + 8
    for _ in range(entries):
        if at + id_size + 1 > box.end:
            break
        found, count = int.from_bytes(data[at : at + id_size], "big"), data[at + id_size]
        at += id_size + 1
        if found == item:
            # The first bit says whether a reader must know the property.
            most = 0x7FFF if number_size == 2 else 0x7F
            return [
                int.from_bytes(data[place : place + number_size], "big") & most
                for place in range(at, min(at + count * number_size, box.end), number_size)
            ]
        at += count * number_size
    return []
