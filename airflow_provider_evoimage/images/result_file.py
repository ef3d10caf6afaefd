"""Checks an image file by its bytes alone: kind, pixel size, and whether it is complete.

Nothing is decoded into pixels, so that memory stays small however large the image is: each kind's own
structure tells where the image ends (PNG's checksums and unpacked length, JPEG's and GIF's markers, the sizes
in the headers of the others).
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from airflow_provider_evoimage.exceptions import DownloadError, NotAnImageError
from airflow_provider_evoimage.images.containers import (
    DamagedError,
    OversizedError,
    bound_metadata,
    measure,
    taken,
)

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

#: Extension and Content-Type of each kind of image that is taken, by Pillow's name of it.
IMAGE_TYPES: dict[str, tuple[str, str]] = {
    "PNG": ("png", "image/png"),
    "JPEG": ("jpg", "image/jpeg"),
    "WEBP": ("webp", "image/webp"),
    "GIF": ("gif", "image/gif"),
    "BMP": ("bmp", "image/bmp"),
    "TIFF": ("tiff", "image/tiff"),
    "AVIF": ("avif", "image/avif"),
}

_BEGINNINGS: dict[str, re.Pattern[bytes]] = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM"),
    "TIFF": re.compile(rb"II[*+]\x00|MM\x00[*+]"),
    # The file's own brand, or a container's brand that lists it as compatible.
    "AVIF": re.compile(rb".{4}ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4})*?avi[fs])", re.DOTALL),
}
_BLOCK_BYTES = 64 * 1024
#: Enough of a file's beginning to tell its kind.
HEAD_BYTES = 64
# Pillow keeps the tags of a TIFF in memory: one at a time.
_opening = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image in a local file, as its bytes tell.

    :param extension: without the dot.
    """

    path: Path
    bytes: int
    sha256: str
    content_type: str
    extension: str
    width: int
    height: int


def describe_image(path: Path, *, size: int | None = None, sha256: str | None = None) -> ImageFile:
    """Read kind, pixel size and hash of an image file from its bytes.

    :param size: the file's size in bytes, where it is known already; likewise ``sha256``.
    :raises NotAnImageError: when it is no image of a known kind, is a decompression bomb, or has other data
        appended.
    :raises DownloadError: when it is damaged or ends too early; another download may fix that.
    """
    size = path.stat().st_size if size is None else size
    kind = _kind_of(path)
    try:
        width, height, end = _measured(path, kind, size)
    except NotAnImageError:
        raise
    except Exception as error:  # Pillow's readers may raise any exception on damaged bytes.
        words = str(error) or type(error).__name__
        raise DownloadError(f"The {kind} is damaged or ends too early ({size:,} bytes): {words}.") from error
    _check_nothing_follows(path, kind, end)
    extension, content_type = IMAGE_TYPES[kind]
    return ImageFile(
        path=path,
        bytes=size,
        sha256=_sha256(path) if sha256 is None else sha256,
        content_type=content_type,
        extension=extension,
        width=width,
        height=height,
    )


def kind_of_bytes(start: bytes) -> str | None:
    """Return the kind of image that begins with these bytes; None if it is no known one."""
    return next((kind for kind, beginning in _BEGINNINGS.items() if beginning.match(start)), None)


def _kind_of(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    if kind := kind_of_bytes(start):
        return kind
    if not start:
        raise NotAnImageError("The result is not an image: it is empty.")
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in {b"<", b"{", b"["}:
        raise NotAnImageError("The result is not an image: it begins like a web page or JSON.")
    raise NotAnImageError(
        f"The result is not an image: its bytes match no known kind ({', '.join(IMAGE_TYPES)})."
    )


def _measured(path: Path, kind: str, size: int) -> tuple[int, int, int]:
    """Return width, height, and the position where the image ends.

    :raises DamagedError: when that is not within the file.
    """
    from PIL import Image

    end = 0
    try:
        with path.open("rb") as file:
            bound_metadata(kind, file)
            measured = measure(kind, file)
        if measured is None:
            # Only the reader of this kind parses the bytes.
            with _opening, Image.open(path, formats=[kind]) as image:
                measured = image.size
                end = _end_of_tiff(image) if kind == "TIFF" else 0
        width, height = measured
        _check_pixels(width, height)
    except OversizedError as error:
        raise NotAnImageError(f"The {kind} is refused: {error}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        words = str(error).rstrip(".")
        raise NotAnImageError(f"The result is refused as a decompression bomb: {words}.") from error
    if kind in _ENDS:
        with path.open("rb") as file:
            end = _ENDS[kind](file)
    if end > size:
        raise DamagedError(f"it should have {end:,} bytes")
    return width, height, end


def _check_pixels(width: int, height: int) -> None:
    """Refuse what Pillow only warns about: warnings cannot be turned into errors safely in several threads."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"it claims {width:,} × {height:,} pixels")


def _check_nothing_follows(path: Path, kind: str, end: int) -> None:
    """Refuse an image that other data follows; zeros are padding."""
    if kind == "TIFF":  # The parts of such a file may come in any order.
        return
    with path.open("rb") as file:
        file.seek(end)
        while block := file.read(_BLOCK_BYTES):
            if block.strip(b"\x00"):
                raise NotAnImageError(
                    f"The result is more than an image: something else follows the {kind}, which ends at byte {end:,}."
                )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blocks(file: BinaryIO, count: int) -> Iterator[bytes]:
    """Read exactly this many bytes, block by block."""
    while count > 0:
        block = taken(file, min(count, _BLOCK_BYTES))
        count -= len(block)
        yield block


def _end_of_png(file: BinaryIO) -> int:
    """Walk the chunks: check their checksums, and that the pixel data unpacks to the bytes that the size needs."""
    file.seek(8)
    pixels = _PngPixels()
    expected = 0
    name = b""
    while name != b"IEND":
        length, name = struct.unpack(">I4s", taken(file, 8))
        checksum = zlib.crc32(name)
        for block in _blocks(file, length):
            checksum = zlib.crc32(block, checksum)
            if name == b"IHDR":
                expected = _bytes_of_png_pixels(block)
            elif name == b"IDAT":
                pixels.unpack(block, up_to=expected)
        if struct.unpack(">I", taken(file, 4)) != (checksum,):
            raise DamagedError("a checksum is wrong")
    if pixels.unpacked < expected:
        raise DamagedError(f"it holds {pixels.unpacked:,} of {expected:,} bytes of pixels")
    return file.tell()


class _PngPixels:
    """Counts the bytes that the pixel data of a PNG unpacks to, without keeping them.

    Unpacks it without zlib's own checksum, which takes as long as all else: the chunks have theirs.
    """

    def __init__(self) -> None:
        self.unpacked = 0
        self._header = b""
        self._unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)

    def unpack(self, block: bytes, *, up_to: int) -> None:
        """Unpack one more block; stop shortly after this many bytes."""
        if missing := _ZLIB_HEADER_BYTES - len(self._header):
            self._header += block[:missing]
            block = block[missing:]
            if len(self._header) == _ZLIB_HEADER_BYTES:
                _check_zlib_header(self._header)
        while block and self.unpacked < up_to:
            self.unpacked += len(self._unpacker.decompress(block, _BLOCK_BYTES))
            block = self._unpacker.unconsumed_tail


_ZLIB_HEADER_BYTES = 2


def _check_zlib_header(header: bytes) -> None:
    """Check that it is deflate, without a dictionary, and its own check bits (RFC 1950)."""
    if header[0] & 0x0F != zlib.DEFLATED or header[1] & 0x20 or int.from_bytes(header) % 31:
        raise DamagedError("its pixels are not packed as they must be")


def _bytes_of_png_pixels(header: bytes) -> int:
    """Return how long the unpacked pixels of a PNG are: each row has a filter byte, each pass its own rows."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    # Adam7: first column and row, and steps, of each pass.
    passes = (
        [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        if interlaced
        else [(0, 0, 1, 1)]
    )
    total = 0
    for left, top, across, down in passes:
        columns, rows = math.ceil((width - left) / across), math.ceil((height - top) / down)
        if columns > 0 and rows > 0:
            total += rows * (1 + math.ceil(columns * bits / 8))
    return total


# In compressed pixels an FF is followed by 00 (a plain FF) or D0 to D7 (a restart); anything else ends them.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


def _end_of_jpeg(file: BinaryIO) -> int:
    """Walk the segments to the end marker; further pictures directly behind it (MPO, gain maps) belong to the file."""
    end = 0
    while True:
        file.seek(end)
        if file.read(3) != b"\xff\xd8\xff":
            if end:
                return end
            raise DamagedError("it does not begin like one")
        file.seek(end + 2)
        end = _end_of_one_jpeg(file)


def _end_of_one_jpeg(file: BinaryIO) -> int:
    has_pixels = False
    while True:
        marker = taken(file, 2)
        while marker == b"\xff\xff":  # Fill bytes.
            marker = b"\xff" + taken(file, 1)
        if marker[:1] != b"\xff":
            raise DamagedError("a marker is missing")
        if marker == b"\xff\xd9":
            if not has_pixels:
                raise DamagedError("it holds no pixels")
            return file.tell()
        (length,) = struct.unpack(">H", taken(file, 2))
        file.seek(max(length - 2, 0), 1)
        if marker == b"\xff\xda":
            has_pixels = True
            seek_jpeg_marker(file)


def seek_jpeg_marker(file: BinaryIO) -> None:
    """Go on to the next marker behind compressed pixels."""
    before = b""
    while block := file.read(_BLOCK_BYTES):
        looked_at = before + block
        if found := _JPEG_MARKER.search(looked_at):
            file.seek(found.start() - len(looked_at), 1)
            return
        before = looked_at[-1:]
    raise DamagedError("it breaks off within its pixels")


def _end_of_gif(file: BinaryIO) -> int:
    """Walk the blocks to the trailer."""
    file.seek(10)
    _skip_gif_colours(file, taken(file, 3)[0])
    has_pixels = False
    while (kind := taken(file, 1)) != b";":
        if kind == b",":
            has_pixels = True
            _skip_gif_colours(file, taken(file, 9)[8])
            taken(file, 1)
        elif kind == b"!":
            taken(file, 1)
        elif kind != b"\x00":  # Stray ends of blocks are common.
            raise DamagedError("a block is missing")
        if kind != b"\x00":
            while length := taken(file, 1)[0]:
                taken(file, length)
    if not has_pixels:
        raise DamagedError("it holds no pixels")
    return file.tell()


def _skip_gif_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        taken(file, 3 << ((flags & 7) + 1))


def _end_of_webp(file: BinaryIO) -> int:
    file.seek(4)
    length = int.from_bytes(taken(file, 4), "little")
    return 8 + length + length % 2


def _end_of_bmp(file: BinaryIO) -> int:
    """Return the larger of two positions: the size in the header, and the end of uncompressed pixels."""
    file.seek(2)
    size, _, pixels, header = struct.unpack("<IIII", taken(file, 16))
    form = "<iiHH" if header >= 40 else "<HHHH"
    width, height, _, bits = struct.unpack(form, taken(file, struct.calcsize(form)))
    return int(max(size, pixels + (width * bits + 31) // 32 * 4 * abs(height)))


_AVIF_BOXES = frozenset(
    {b"ftyp", b"meta", b"mdat", b"free", b"skip", b"moov", b"moof", b"uuid", b"idat", b"sidx"}
)


def _end_of_avif(file: BinaryIO) -> int:
    """Walk the outermost boxes to the end of the file."""
    size = file.seek(0, 2)
    end = 0
    while end < size:
        file.seek(end)
        length, name = int.from_bytes(file.read(4), "big"), file.read(4)
        if name not in _AVIF_BOXES and name.strip(b"\x00"):
            return end
        if length == 0:  # The last box reaches to the end of the file; padding has no name.
            return size if name.strip(b"\x00") else end
        if length == 1:
            length = int.from_bytes(taken(file, 8), "big")
        if length < 8:
            raise DamagedError("a box is damaged")
        end += length
    return end


# Offsets and lengths of the pieces that hold a picture's pixels: strips, or tiles.
_TIFF_PIECES = ((273, 279), (324, 325))


def _end_of_tiff(image: PillowImage) -> int:
    """Return where the last piece of the first picture ends."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    for offsets, lengths in _TIFF_PIECES:
        if offsets in tags and lengths in tags:
            pieces = zip(tags[offsets], tags[lengths], strict=True)
            return max(int(offset) + int(length) for offset, length in pieces)
    raise DamagedError("it holds no pixels")


_ENDS: dict[str, Callable[[BinaryIO], int]] = {
    "PNG": _end_of_png,
    "JPEG": _end_of_jpeg,
    "WEBP": _end_of_webp,
    "GIF": _end_of_gif,
    "BMP": _end_of_bmp,
    "AVIF": _end_of_avif,
}
