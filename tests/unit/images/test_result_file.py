"""What a downloaded file is, told from its bytes alone."""

import contextlib
import hashlib
import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from airflow_provider_evoimage.exceptions import DownloadError, NotAnImageError
from airflow_provider_evoimage.images.result_file import IMAGE_TYPES, describe_image

KINDS = [
    ("PNG", "png", "image/png"),
    ("JPEG", "jpg", "image/jpeg"),
    ("WEBP", "webp", "image/webp"),
    ("GIF", "gif", "image/gif"),
    ("BMP", "bmp", "image/bmp"),
    ("TIFF", "tiff", "image/tiff"),
    ("AVIF", "avif", "image/avif"),
]


def drawn(kind: str, size: tuple[int, int] = (48, 32)) -> bytes:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow cannot write AVIF")
    picture = Image.effect_noise(size, 80).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header promises any number of pixels."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"\x00" * 100))
        + png_chunk(b"IEND", b"")
    )


def png_of_pixels(*pieces: bytes) -> bytes:
    """A PNG of 4 × 4 points of 3 bytes, its packed pixels in so many pieces."""
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(png_chunk(b"IDAT", piece) for piece in pieces)
        + png_chunk(b"IEND", b"")
    )


def interlaced_png(width: int, height: int) -> bytes:
    """A grey PNG in Adam7's seven passes, which Pillow cannot write."""
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    rows = b"".join(
        b"\x00" + b"\x80" * len(range(left, width, across))
        for left, top, across, down in passes
        for _ in range(top, height, down)
        if left < width
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    # No extension: it must not matter.
    return tmp_path / "downloaded"


@pytest.mark.parametrize(("kind", "extension", "content_type"), KINDS)
def test_each_kind_is_known_by_its_bytes(file: Path, kind: str, extension: str, content_type: str) -> None:
    content = drawn(kind)
    file.write_bytes(content)
    image = describe_image(file)
    assert (image.extension, image.content_type) == (extension, content_type)
    assert (image.width, image.height) == (48, 32)
    assert image.bytes == len(content)
    assert image.sha256 == hashlib.sha256(content).hexdigest()


def test_tests_cover_every_kind_that_is_taken() -> None:
    assert {(extension, content_type) for _, extension, content_type in KINDS} == set(IMAGE_TYPES.values())


def test_wrong_name_does_not_mislead(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(drawn("JPEG"))
    assert describe_image(file).extension == "jpg"


@pytest.mark.parametrize("kind", [kind for kind, _, _ in KINDS])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated_image_is_refused(file: Path, kind: str, share: float) -> None:
    content = drawn(kind, (300, 200))
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DownloadError):
        describe_image(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<html><body>One moment, please</body></html>", "web page"),
        (b"  \n<!DOCTYPE html>", "web page"),
        (b'{"error": "expired"}', "JSON"),
        (b"plain text that goes on for a while", "no known kind"),
        (b"\x00" * 5000, "no known kind"),
        (b"%PDF-1.7\n", "no known kind"),
    ],
)
def test_what_is_no_image_is_refused_in_words(file: Path, content: bytes, words: str) -> None:
    file.write_bytes(content)
    with pytest.raises(NotAnImageError, match=words) as refused:
        describe_image(file)
    assert refused.value.billed is True


def test_image_of_a_kind_that_is_not_taken_is_refused(file: Path) -> None:
    file.write_bytes(drawn("ICO"))
    with pytest.raises(NotAnImageError, match="no known kind"):
        describe_image(file)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000)], ids=["bomb", "large"])
def test_small_file_that_claims_a_huge_image_is_refused_as_a_bomb(file: Path, size: tuple[int, int]) -> None:
    file.write_bytes(png_that_claims(*size))
    with pytest.raises(NotAnImageError, match="bomb"):
        describe_image(file)


def test_image_of_a_kind_that_is_not_taken_is_never_decoded(file: Path) -> None:
    # Decoding an EPS would run Ghostscript.
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(NotAnImageError, match="no known kind"):
        describe_image(file)


@pytest.mark.parametrize("kind", [kind for kind, _, _ in KINDS if kind != "TIFF"])
@pytest.mark.parametrize("appended", [b"<script>alert(1)</script>", b"PK\x03\x04 a zip", b"\x00" * 9 + b"x"])
def test_image_with_something_else_appended_is_refused(file: Path, kind: str, appended: bytes) -> None:
    file.write_bytes(drawn(kind) + appended)
    with pytest.raises(DownloadError, match=r"something else follows|damaged"):
        describe_image(file)


@pytest.mark.parametrize("kind", [kind for kind, _, _ in KINDS])
def test_padding_after_an_image_is_nothing(file: Path, kind: str) -> None:
    file.write_bytes(drawn(kind) + b"\x00" * 100)
    assert describe_image(file).width == 48


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "1", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {"bits": 4}),
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "I;16", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"restart_marker_blocks": 1}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("MPO", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (47, 31), "red")]}),
        ("GIF", "P", {"save_all": True, "append_images": [Image.new("P", (47, 31), 3)], "comment": b"made"}),
        ("BMP", "1", {}),
        ("BMP", "P", {}),
        ("BMP", "RGBA", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
        ("TIFF", "I;16", {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value,
)
def test_every_way_to_write_a_kind_is_taken(file: Path, kind: str, mode: str, options: dict) -> None:
    noise = Image.effect_noise((47, 31), 80)
    picture = (
        Image.frombytes("I;16", (47, 31), noise.tobytes() * 2) if mode == "I;16" else noise.convert(mode)
    )
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    file.write_bytes(buffer.getvalue())
    assert (describe_image(file).width, describe_image(file).height) == (47, 31)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 2), (64, 64)])
def test_interlaced_png_is_measured_by_its_passes(file: Path, size: tuple[int, int]) -> None:
    file.write_bytes(interlaced_png(*size))
    assert (describe_image(file).width, describe_image(file).height) == size


@pytest.mark.parametrize(
    "header", [b"\x79\x9c", b"\x78\x9d", b"\x78\xbb"], ids=["method", "check", "dictionary"]
)
def test_png_whose_pixels_are_not_packed_as_they_must_be_is_damaged(file: Path, header: bytes) -> None:
    pixels = header + zlib.compress(bytes(4 * 13))[2:]
    file.write_bytes(png_of_pixels(pixels))
    with pytest.raises(DownloadError, match="not packed as they must be"):
        describe_image(file)


def test_png_whose_pixels_come_in_pieces_of_a_byte_is_taken(file: Path) -> None:
    pixels = zlib.compress(bytes(4 * 13))
    file.write_bytes(png_of_pixels(*(pixels[place : place + 1] for place in range(len(pixels)))))
    assert (describe_image(file).width, describe_image(file).height) == (4, 4)


def test_png_with_fewer_pixels_than_its_header_says_is_damaged(file: Path) -> None:
    file.write_bytes(png_that_claims(100, 100))
    with pytest.raises(DownloadError, match=r"100 of 30,100 bytes of pixels"):
        describe_image(file)


def test_beginning_of_a_kind_alone_is_a_damaged_file_that_another_download_may_mend(file: Path) -> None:
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DownloadError, match="PNG is damaged") as damaged:
        describe_image(file)
    assert damaged.value.retryable


def test_judging_an_image_takes_no_memory_for_its_pixels(file: Path) -> None:
    # 80 million pixels: 240 MB once decoded.
    Image.new("RGB", (10_000, 8_000), "navy").save(file, "PNG")
    tracemalloc.start()
    try:
        describe_image(file)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from([kind for kind, _, _ in KINDS if kind != "AVIF"]),
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=4
    ),
)
def test_damaged_image_is_described_or_refused_and_nothing_else(
    file: Path, kind: str, damage: list[tuple[float, bytes]]
) -> None:
    content = bytearray(drawn(kind))
    for share, junk in damage:
        at = int(share * len(content))
        content[at : at + len(junk)] = junk
    file.write_bytes(content)
    with contextlib.suppress(DownloadError):
        assert describe_image(file).bytes == len(content)


@pytest.mark.parametrize("brand", [b"mif1", b"msf1"])
def test_avif_whose_first_brand_is_that_of_its_container_is_taken(tmp_path: Path, brand: bytes) -> None:
    content = drawn("AVIF")
    assert content[8:12] == b"avif"
    path = tmp_path / "downloaded"
    path.write_bytes(content[:8] + brand + content[12:])
    image = describe_image(path)
    assert (image.extension, image.content_type, image.width, image.height) == ("avif", "image/avif", 48, 32)


def test_container_without_an_avif_brand_is_no_image(tmp_path: Path) -> None:
    content = drawn("AVIF").replace(b"avif", b"heic", 2)
    path = tmp_path / "downloaded"
    path.write_bytes(content[:8] + b"mif1" + content[12:])
    with pytest.raises(NotAnImageError, match="no known kind"):
        describe_image(path)
