"""What a downloaded file is, told from its bytes alone."""

import contextlib
import hashlib
import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from airflow_provider_evoimage.exceptions import DownloadError, NotAnImageError
from airflow_provider_evoimage.storage.download import IMAGE_TYPES, describe_image

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

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00" * 100))
        + chunk(b"IEND", b"")
    )


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
        (b"\x89PNG\r\n\x1a\n", "no known kind"),
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
    with pytest.raises(NotAnImageError, match="ICO"):
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
    with pytest.raises(NotAnImageError, match="EPS"):
        describe_image(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
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
