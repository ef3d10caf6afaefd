"""Marks: in every kind of file, without a change of pixels, readable by others, and never over a signature."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_evoimage.images.provenance import (
    KeptImage,
    MarkedImage,
    Statement,
    mark_image,
    mark_of,
    read_statement,
)
from airflow_provider_evoimage.images.result_file import describe_image
from airflow_provider_evoimage.images.xmp import (
    MOST_PACKET_BYTES,
    SOURCE_TYPES,
    Mark,
    OddPacketError,
    added_to,
    mark_in,
    packet_of,
)

MARK = mark_of(model="gpt-image-1.5", has_references=False, alt_text="A mug & a <spoon>")
FOREIGN = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:a="http://ns.adobe.com/xap/1.0/" '
    'a:CreatorTool="Studio 9" dc:format="image/png"><dc:creator><rdf:Seq><rdf:li>Ann</rdf:li></rdf:Seq></dc:creator>'
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
).encode()


def drawn(mode: str, size: tuple[int, int] = (37, 21)) -> Image.Image:
    """Draw noise, so that a shifted pixel shows."""
    plain = Image.effect_noise(size, 90).convert("RGBA")
    plain.putalpha(Image.linear_gradient("L").resize(size))
    return (
        plain.convert(mode) if mode != "I;16" else Image.effect_noise(size, 90).convert("I").convert("I;16")
    )


VARIANTS = [
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
]


def written(path: Path, kind: str, mode: str = "RGB", **options: object) -> Path:
    drawn(mode).save(path, kind, **options)
    return path


def marked(path: Path, mark: Mark = MARK) -> Path:
    outcome = mark_image(describe_image(path), path.with_suffix(".marked"), mark)
    assert isinstance(outcome, MarkedImage), outcome
    return outcome.file.path


def kept(path: Path, mark: Mark = MARK) -> KeptImage:
    target = path.with_suffix(".marked")
    outcome = mark_image(describe_image(path), target, mark)
    assert isinstance(outcome, KeptImage), outcome
    assert not target.exists()
    return outcome


def pixels(path: Path) -> tuple[str, tuple[int, int], bytes]:
    with Image.open(path) as image:
        return image.mode, image.size, image.tobytes()


def statement(path: Path) -> Statement:
    with path.open("rb") as file:
        return read_statement(file)


def packet_by_pillow(path: Path) -> bytes:
    with Image.open(path) as image:
        image.load()
        packet = image.info.get("xmp")
    return packet.encode() if isinstance(packet, str) else packet


def by_an_xml_parser(packet: bytes, local_name: str) -> list[str]:
    return [
        "".join(each.itertext()).strip()
        for each in ET.fromstring(packet.decode().replace("\ufeff", "")).iter()
        if each.tag.endswith("}" + local_name)
    ]


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    VARIANTS,
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value,
)
def test_mark_is_there_for_others_and_pixels_are_the_same(
    tmp_path: Path, kind: str, mode: str, options: dict[str, object]
):
    path = written(tmp_path / "image", kind, mode, **options)
    result = marked(path)

    assert pixels(result) == pixels(path)
    assert result.stat().st_size - path.stat().st_size < 1000
    packet = packet_by_pillow(result)
    assert by_an_xml_parser(packet, "DigitalSourceType") == [SOURCE_TYPES + "trainedAlgorithmicMedia"]
    assert by_an_xml_parser(packet, "CreatorTool") == ["airflow-provider-evoimage (EvoLink gpt-image-1.5)"]
    assert by_an_xml_parser(packet, "AltTextAccessibility") == ["A mug & a <spoon>"]
    found = statement(result)
    assert found.digital_source_type == "trainedAlgorithmicMedia"
    assert found.alt_text == "A mug & a <spoon>"
    with Image.open(path) as before, Image.open(result) as after:
        assert after.info.get("exif") == before.info.get("exif")
        assert after.info.get("icc_profile") == before.info.get("icc_profile")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_marking_gives_the_same_bytes_each_time_and_a_second_mark_replaces_the_first(
    tmp_path: Path, kind: str
):
    path = written(tmp_path / "image", kind)
    first = marked(path).read_bytes()
    assert marked(path).read_bytes() == first

    again = tmp_path / "again"
    again.write_bytes(first)
    assert kept(again).because == "it says so already"
    other = mark_of(model="gpt-image-1.5", has_references=True)
    second = marked(again, other)
    assert second.read_bytes() == marked(path, other).read_bytes()
    assert by_an_xml_parser(packet_by_pillow(second), "AltTextAccessibility") == []


def test_references_make_it_a_composite():
    assert mark_of(model=None, has_references=True).digital_source_type == (
        "compositeWithTrainedAlgorithmicMedia"
    )
    assert mark_of(model=None, has_references=False).creator_tool == "airflow-provider-evoimage (EvoLink)"


# Packets of other programs


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_packet_of_another_program_keeps_what_it_says(tmp_path: Path, kind: str):
    if kind == "PNG":
        path = tmp_path / "image"
        path.write_bytes(with_chunk(png(), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + FOREIGN))
    else:
        path = written(tmp_path / "image", kind, xmp=FOREIGN)
    result = marked(path)
    packet = packet_by_pillow(result)
    assert by_an_xml_parser(packet, "creator") == ["Ann"]
    assert b"Studio 9" in packet
    assert by_an_xml_parser(packet, "DigitalSourceType") == [SOURCE_TYPES + "trainedAlgorithmicMedia"]
    assert pixels(result) == pixels(path)


def test_ai_source_type_of_another_program_stays():
    earlier = added_to(FOREIGN, Mark(digital_source_type="compositeWithTrainedAlgorithmicMedia"))
    assert mark_in(added_to(earlier, MARK)).digital_source_type == "compositeWithTrainedAlgorithmicMedia"
    camera = added_to(FOREIGN, Mark(digital_source_type="digitalCapture"))
    assert mark_in(added_to(camera, MARK)).digital_source_type == "trainedAlgorithmicMedia"


@pytest.mark.parametrize(
    "packet",
    [
        b"not XML",
        b"<a/>",
        "<x>é</x>".encode("latin-1"),
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        FOREIGN.decode().encode("utf-16"),
        FOREIGN + b" " * 10 + b"<",
        b"",
        b"<a>" * 20_000,
    ],
)
def test_odd_packet_leaves_the_file_as_it_is(tmp_path: Path, packet: bytes):
    path = tmp_path / "image"
    path.write_bytes(with_chunk(png(), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
    outcome = kept(path)
    assert outcome.is_odd
    assert "XMP packet" in outcome.because


def test_packed_packet_is_read_and_a_bomb_is_not(tmp_path: Path):
    path = tmp_path / "image"
    head = b"XML:com.adobe.xmp\0\1\0\0\0"
    path.write_bytes(with_chunk(png(), b"iTXt", head + zlib.compress(FOREIGN)))
    assert b"Studio 9" in packet_by_pillow(marked(path))
    path.write_bytes(with_chunk(png(), b"iTXt", head + zlib.compress(b" " * 400_000)))
    (tmp_path / "image.marked").unlink()
    assert kept(path).because == "its XMP packet is too large"
    path.write_bytes(with_chunk(png(), b"iTXt", head + b"nothing"))
    assert kept(path).because == "its XMP packet is packed in a wrong way"


def test_two_packets_that_differ_are_kept_and_two_of_ours_become_one(tmp_path: Path):
    path = tmp_path / "image"
    head = b"XML:com.adobe.xmp\0\0\0\0\0"
    ours = with_chunk(with_chunk(png(), b"iTXt", head + packet_of(MARK)), b"iTXt", head + packet_of(MARK))
    path.write_bytes(ours)
    result = marked(path, mark_of(model=None, has_references=True))
    assert result.read_bytes().count(b"XML:com.adobe.xmp") == 1
    result.unlink()
    path.write_bytes(with_chunk(ours, b"iTXt", head + FOREIGN))
    assert kept(path).because == "it has several XMP packets"


def test_extended_packet_of_a_jpeg_stays(tmp_path: Path):
    path = written(tmp_path / "image", "JPEG", xmp=FOREIGN)
    extension = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + struct.pack(">II", 3, 0) + b"<a>"
    content = path.read_bytes()
    path.write_bytes(content[:2] + segment(0xE1, extension) + content[2:])
    result = marked(path).read_bytes()
    assert extension in result
    assert b"DigitalSourceType" in result


def test_several_pictures_in_one_jpeg_are_kept(tmp_path: Path):
    path = tmp_path / "image"
    drawn("RGB").save(path, "MPO", save_all=True, append_images=[drawn("RGB")])
    assert kept(path).because == "it holds several pictures"


# Content credentials


def png() -> bytes:
    buffer = io.BytesIO()
    drawn("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def with_chunk(content: bytes, name: bytes, body: bytes, *, at_end: bool = False) -> bytes:
    """Put a chunk behind the header of a PNG, or behind the pixels."""
    place = len(content) - 12 if at_end else 33
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return content[:place] + chunk + content[place:]


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_riff_chunk(content: bytes, name: bytes, body: bytes) -> bytes:
    chunk = name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    size = len(content) - 8 + len(chunk)
    return content[:4] + struct.pack("<I", size) + content[8:] + chunk


def saved_as(kind: str) -> bytes:
    buffer = io.BytesIO()
    drawn("RGB").save(buffer, kind)
    return buffer.getvalue()


SIGNED = {
    "PNG": lambda: with_chunk(png(), b"caBX", b"signature"),
    "PNG behind the pixels": lambda: with_chunk(png(), b"caBX", b"signature", at_end=True),
    "JPEG": lambda: saved_as("JPEG")[:2] + segment(0xEB, b"JP\0\1signature") + saved_as("JPEG")[2:],
    "WebP": lambda: with_riff_chunk(saved_as("WEBP"), b"C2PA", b"signature"),
    "named in the packet": lambda: with_chunk(
        png(),
        b"iTXt",
        b"XML:com.adobe.xmp\0\0\0\0\0"
        + FOREIGN.replace(
            b'dc:format="image/png"',
            b'xmlns:t="http://purl.org/dc/terms/" t:provenance="https://credentials.test/1.c2pa"',
        ),
    ),
}


@pytest.mark.parametrize("kind", SIGNED)
def test_file_with_content_credentials_is_never_changed(tmp_path: Path, kind: str):
    path = tmp_path / "image"
    path.write_bytes(SIGNED[kind]())
    outcome = kept(path)
    assert outcome.statement.content_credentials is True
    assert not outcome.is_odd
    assert "content credentials" in outcome.because


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "AVIF"])
def test_other_kinds_are_kept(tmp_path: Path, kind: str):
    outcome = kept(written(tmp_path / "image", kind))
    assert outcome.because == "only PNG, JPEG and WebP files are marked"
    assert outcome.statement.content_credentials is None


# Containers


def test_webp_whose_header_leaves_out_its_last_byte_is_marked(tmp_path: Path):
    for size in range(20, 80):
        path = tmp_path / "image"
        drawn("RGB", (size, size)).save(path, "WEBP", lossless=True)
        content = path.read_bytes()
        length, whole = int.from_bytes(content[16:20], "little"), pixels(path)[2]
        if length % 2:
            path.write_bytes(content[:4] + struct.pack("<I", len(content) - 9) + content[8:])
            result = marked(path)
            assert describe_image(result).width == size
            assert statement(result).digital_source_type == "trainedAlgorithmicMedia"
            assert pixels(result)[2] == whole
            return
    pytest.fail("No WebP of odd length was made.")


def test_animated_webp_keeps_its_frames(tmp_path: Path):
    path = tmp_path / "image"
    drawn("RGB").save(path, "WEBP", save_all=True, append_images=[drawn("RGB"), drawn("RGB")], duration=50)
    with Image.open(marked(path)) as image:
        assert image.n_frames == 3
        assert "xmp" in image.info


def test_packet_is_written_behind_the_exif_header_of_a_jpeg(tmp_path: Path):
    path = written(tmp_path / "image", "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    content = marked(path).read_bytes()
    assert (
        content.index(b"JFIF")
        < content.index(b"Exif\0")
        < content.index(b"xap/1.0")
        < content.index(b"\xff\xdb")
    )


def test_padding_behind_an_image_stays(tmp_path: Path):
    for kind in ("PNG", "JPEG", "WEBP"):
        path = tmp_path / kind
        path.write_bytes(saved_as(kind) + b"\0" * 10)
        assert marked(path).read_bytes().endswith(b"\0" * 10)


def test_marking_a_large_file_takes_constant_memory(tmp_path: Path):
    path = tmp_path / "image"
    Image.effect_noise((4000, 4000), 90).save(path, "PNG", compress_level=0)
    image = describe_image(path)
    tracemalloc.start()
    outcome = mark_image(image, tmp_path / "marked", MARK)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(outcome, MarkedImage)
    assert path.stat().st_size > 16_000_000
    assert peak < 1_500_000


def test_full_disk_keeps_the_image(tmp_path: Path):
    path = written(tmp_path / "image", "PNG")
    outcome = mark_image(describe_image(path), tmp_path / "nowhere" / "marked", MARK)
    assert isinstance(outcome, KeptImage)
    assert outcome.is_odd


# Wild input


@given(st.text(max_size=300))
def test_any_alt_text_gives_a_valid_packet(text: str):
    packet = packet_of(Mark(digital_source_type="trainedAlgorithmicMedia", alt_text=text))
    ET.fromstring(packet.decode().replace("\ufeff", "", 1))
    again = mark_in(packet)
    assert packet_of(again) == packet


@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.integers(0, 5000), st.binary(min_size=1, max_size=8))
def test_damaged_file_raises_nothing(kind: str, at: int, new: bytes):
    content = saved_as(kind)
    at %= len(content)
    read_statement(io.BytesIO(content[:at] + new + content[at + len(new) :]))
    read_statement(io.BytesIO(content[:at]))


@given(st.binary(max_size=200))
def test_any_packet_is_read_or_refused(packet: bytes):
    with contextlib.suppress(OddPacketError):
        mark_in(packet)


def test_packet_that_would_not_fit_into_a_jpeg_is_refused(tmp_path: Path):
    path = written(tmp_path / "image", "PNG")
    assert kept(path, Mark(digital_source_type="x", alt_text="a" * MOST_PACKET_BYTES)).is_odd


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt"])
@pytest.mark.parametrize("keyword", [b"Raw profile type xmp\0", b"XML:com.adobe.xmp\0"])
def test_packet_of_an_older_kind_leaves_the_file_as_it_is(tmp_path: Path, name: bytes, keyword: bytes):
    path = tmp_path / "image"
    text = b"x" if name == b"tEXt" else b"\0" + zlib.compress(b"x")
    path.write_bytes(with_chunk(png(), name, keyword + text))
    outcome = kept(path)
    assert outcome.is_odd
    assert outcome.because == "it has an XMP packet of an older kind"


def test_statement_names_the_kind_of_any_image(tmp_path: Path):
    for kind in ("GIF", "BMP"):
        Image.new("RGB", (4, 4)).save(tmp_path / "image", kind)
        with (tmp_path / "image").open("rb") as file:
            assert read_statement(file) == Statement(kind=kind)
    (tmp_path / "image").write_bytes(b"text")
    with (tmp_path / "image").open("rb") as file:
        assert read_statement(file) == Statement(kind=None)


def test_alt_text_of_several_languages_is_the_default_one():
    packet = packet_of(Mark(alt_text="a mug"))
    other = b'<rdf:li xml:lang="de">ein Becher</rdf:li>'
    for place in (b"<rdf:Alt>", b"</rdf:Alt>"):
        both = packet.replace(place, place + other if place == b"<rdf:Alt>" else other + place)
        assert mark_in(both).alt_text == "a mug"
    assert mark_in(packet.replace(b"x-default", b"de")).alt_text == "a mug"
