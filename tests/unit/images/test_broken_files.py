"""Picture files that break their format's rules: each is refused with a reason, and harmless oddities are not."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features

from airflow_provider_evoimage.exceptions import DownloadError
from airflow_provider_evoimage.images.containers import (
    DamagedError,
    OversizedError,
    bound_metadata,
    measure,
)
from airflow_provider_evoimage.images.result_file import describe_image


def drawn(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((48, 32), 80).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def box(name: bytes, *inside: bytes) -> bytes:
    content = b"".join(inside)
    return struct.pack(">I4s", 8 + len(content), name) + content


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    packed = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(packed)) + b"WEBP" + packed


def vp8(width: int, height: int) -> bytes:
    return b"\x10\0\0" + b"\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(16)


def vp8l(width: int, height: int) -> bytes:
    return b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(16)


def avif(
    *,
    version: int = 0,
    flags: int = 0,
    item: int = 1,
    property_number: int = 1,
    pixels: int = 20,
    without: bytes = b"",
    place_of: int | None = None,
) -> bytes:
    """An AVIF of 48 × 32 pixels as far as its metadata tells; the pixels themselves are nothing."""
    wide, form = (4, ">I") if version else (2, ">H")
    number_of = struct.pack(form, item)
    iloc_id = struct.pack(">I" if version == 2 else ">H", item if place_of is None else place_of)
    iloc_count = struct.pack(">I" if version == 2 else ">H", 1)
    place = iloc_id + (b"\0\0" if version else b"") + b"\0\0" + b"\0\1" + struct.pack(">II", 40, pixels)
    associations = bytes([1]) + (
        struct.pack(">H", property_number) if flags else bytes([property_number | 0x80])
    )
    parts = {
        b"pitm": box(b"pitm", bytes([bool(version), 0, 0, 0]), number_of),
        b"iloc": box(b"iloc", bytes([version, 0, 0, 0]), b"\x44\0", iloc_count, place),
        b"iprp": box(
            b"iprp",
            box(b"ipco", box(b"ispe", bytes(4), struct.pack(">II", 48, 32)), box(b"pixi", bytes(8))),
            b""
            if without == b"ipma"
            else box(
                b"ipma",
                bytes([bool(version), 0, 0, flags]),
                struct.pack(">I", 2),
                (item + 1).to_bytes(wide, "big") + bytes([1] if not flags else [1, 0]) + b"\1",
                number_of + associations,
            ),
        ),
    }
    meta = box(b"meta", bytes(4), *(part for name, part in parts.items() if name != without))
    return box(b"ftyp", b"avif", bytes(4)) + meta + box(b"mdat", bytes(40))


WHOLE: dict[str, tuple[str, bytes, tuple[int, int]]] = {
    "webp with an animation": (
        "WEBP",
        riff((b"ANMF", bytes(16) + b"ALPH\x04\0\0\0abcd" + b"VP8 " + struct.pack("<I", 26) + vp8(9, 7))),
        (9, 7),
    ),
    "webp without loss": ("WEBP", riff((b"ICCP", b"abc"), (b"VP8L", vp8l(9, 7))), (9, 7)),
    "webp with a canvas": (
        "WEBP",
        riff((b"VP8X", bytes(4) + b"\x0f\0\0\x0e\0\0"), (b"VP8 ", vp8(9, 7)), (b"VP8 ", vp8(1, 1))),
        (16, 15),
    ),
    "avif": ("AVIF", avif(), (48, 32)),
    "avif with long numbers": ("AVIF", avif(version=1, flags=1), (48, 32)),
    "avif of version 2": ("AVIF", avif(version=2), (48, 32)),
    "avif with a box of 64 bits in front": (
        "AVIF",
        struct.pack(">I4sQ", 1, b"free", 20) + bytes(4) + avif(),
        (48, 32),
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_size_is_read_from_every_form_of_a_container(case: str) -> None:
    kind, data, size = WHOLE[case]
    assert measure(kind, io.BytesIO(data)) == size


BROKEN: dict[str, tuple[str, bytes]] = {
    "webp, a part longer than the file": ("WEBP", riff((b"VP8 ", vp8(9, 7)))[:-4] + b"\xff\xff\0\0"),
    "webp, nothing but metadata": ("WEBP", riff((b"EXIF", b"abcd"))),
    "webp, a frame too short": ("WEBP", riff((b"VP8 ", b"abcd"))),
    "webp, packed otherwise": ("WEBP", riff((b"VP8L", b"\x00" * 20))),
    "webp, a frame that depends on another": ("WEBP", riff((b"VP8 ", b"\x11" + vp8(9, 7)[1:]))),
    "avif, no picture": ("AVIF", avif(without=b"pitm")),
    "avif, no pixels": ("AVIF", avif(pixels=0)),
    "avif, pixels of another item": ("AVIF", avif(place_of=7)),
    "avif, pixels behind its end": ("AVIF", avif(pixels=4000)),
    "avif, properties of nothing": ("AVIF", avif(without=b"ipma")),
    "avif, no such property": ("AVIF", avif(property_number=9)),
    "avif, a property that is no size": ("AVIF", avif(property_number=2)),
    "avif, no metadata": ("AVIF", box(b"ftyp", b"avif")),
    "avif, a box of no length": ("AVIF", struct.pack(">I4s", 3, b"free")),
    "avif, an inner box longer than its own": (
        "AVIF",
        box(b"meta", bytes(4), struct.pack(">I4s", 99, b"pitm")),
    ),
    "avif, places cut off": (
        "AVIF",
        box(
            b"meta",
            bytes(4),
            box(b"pitm", bytes(4), b"\0\1"),
            box(b"iloc", bytes(4), b"\x44\0", b"\0\1"),
            box(b"iprp"),
        ),
    ),
    "avif, to its end without metadata": ("AVIF", struct.pack(">I4s", 0, b"mdat") + bytes(20)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_container_without_a_picture_is_damaged(case: str) -> None:
    kind, data = BROKEN[case]
    if "longer than the file" in case:
        data = b"RIFF" + struct.pack("<I", 24) + b"WEBP" + b"VP8 \xff\0\0\0" + bytes(12)
    with pytest.raises(DamagedError):
        measure(kind, io.BytesIO(data))


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(OversizedError, match="parts"):
        measure("WEBP", io.BytesIO(riff(*[(b"EXIF", b"")] * 5000)))


def test_too_much_metadata_of_an_avif_is_refused() -> None:
    with pytest.raises(OversizedError, match="bytes of metadata"):
        measure("AVIF", io.BytesIO(struct.pack(">I4s", 2**31, b"meta") + bytes(100)))


def test_kind_without_a_container_is_measured_elsewhere() -> None:
    assert measure("PNG", io.BytesIO(drawn("PNG"))) is None


MALFORMED: dict[str, tuple[str, bytes]] = {
    "png, another part first": ("PNG", b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 0, b"tEXt") + bytes(4)),
    "png, its end before its pixels": (
        "PNG",
        drawn("PNG")[:33] + struct.pack(">I4s", 0, b"IEND") + bytes(4),
    ),
    "jpeg, no marker": ("JPEG", b"\xff\xd8\x00\x00"),
    "jpeg, its end before its pixels": ("JPEG", b"\xff\xd8\xff\xd9"),
    "gif, no block": ("GIF", drawn("GIF")[:10] + b"\0\0\0" + b"x"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_metadata_that_breaks_the_rules_is_damaged(case: str) -> None:
    with pytest.raises(DamagedError):
        bound_metadata(MALFORMED[case][0], io.BytesIO(MALFORMED[case][1]))


def test_tiff_with_too_many_entries_is_refused() -> None:
    for start in (b"II*\0\x10\0\0\0" + bytes(8), b"MM\0*\0\0\0\x10" + bytes(8)):
        with pytest.raises(OversizedError, match="entries"):
            bound_metadata("TIFF", io.BytesIO(start + b"\xff\xff"))


def test_packed_bmp_is_refused() -> None:
    packed = bytearray(drawn("BMP"))
    packed[30] = 1
    with pytest.raises(OversizedError, match="packed"):
        bound_metadata("BMP", io.BytesIO(packed))


def jpeg_with_fill_bytes() -> bytes:
    jpeg = drawn("JPEG")
    return jpeg[:2] + b"\xff\xff" + jpeg[2:-2] + b"\xff\xff" + jpeg[-2:]


def gif_with_stray_ends() -> bytes:
    gif = drawn("GIF")
    at = 13 + (3 << ((gif[10] & 7) + 1))
    return gif[:at] + b"\0\0" + b"!\xfe\x03abc\0" + gif[at:-1] + b"\0;"


@pytest.mark.parametrize(
    ("kind", "make"), [("image/jpeg", jpeg_with_fill_bytes), ("image/gif", gif_with_stray_ends)]
)
def test_harmless_oddities_are_taken(tmp_path: Path, kind: str, make: Callable[[], bytes]) -> None:
    path = tmp_path / "image"
    path.write_bytes(make())
    found = describe_image(path)
    assert (found.content_type, found.width, found.height) == (kind, 48, 32)


def jpeg_without_pixels() -> bytes:
    jpeg = drawn("JPEG")
    return jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9"


def jpeg_with_a_wrong_marker() -> bytes:
    jpeg = drawn("JPEG")
    return jpeg[:-2] + b"\xff\xfe\x00\x02" + b"no" + jpeg[-2:]


def gif_with_junk() -> bytes:
    return drawn("GIF")[:-1] + b"x;"


def gif_without_pixels() -> bytes:
    gif = drawn("GIF")
    return gif[: 13 + (3 << ((gif[10] & 7) + 1))] + b";"


@pytest.mark.parametrize(
    "make", [jpeg_without_pixels, jpeg_with_a_wrong_marker, gif_with_junk, gif_without_pixels]
)
def test_file_whose_end_cannot_be_found_is_damaged(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "image"
    path.write_bytes(make())
    with pytest.raises(DownloadError, match="damaged"):
        describe_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot write AVIF")
@pytest.mark.parametrize(
    "behind",
    [
        b"\0\0\0\0\0\0\0\0",
        struct.pack(">I4sQ", 1, b"free", 24) + bytes(8),
        struct.pack(">I4s", 0, b"free") + bytes(9),
    ],
)
def test_boxes_behind_an_avif_are_part_of_it(tmp_path: Path, behind: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(drawn("AVIF") + behind)
    assert describe_image(path).content_type == "image/avif"
