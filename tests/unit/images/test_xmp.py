"""XMP packets of other programs: what they say is read in every form that RDF has, and stays when ours is added."""

from __future__ import annotations

import pytest

from airflow_provider_evoimage.images import xmp
from airflow_provider_evoimage.images.xmp import Mark, OddPacketError, added_to, mark_in, packet_of

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = "http://ns.adobe.com/xap/1.0/"
AI = "trainedAlgorithmicMedia"
OURS = Mark(digital_source_type=AI, creator_tool=f"{xmp.CREATOR} 1.0", alt_text="A fox")


def packet(inner: str = "", attributes: str = "") -> bytes:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}" xmlns:xmp="{XMP}">'
        f'<rdf:Description rdf:about="" {attributes}>{inner}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


@pytest.mark.parametrize(
    ("found", "tool"),
    [
        (packet(attributes='xmp:CreatorTool=" Painter "'), "Painter"),
        (packet(attributes='xmp:CreatorTool=""'), None),
        (packet("<xmp:CreatorTool>Painter</xmp:CreatorTool>"), "Painter"),
        (packet('<xmp:CreatorTool rdf:resource="Painter"/>'), "Painter"),
        (packet("<xmp:CreatorTool/><xmp:CreatorTool>Painter</xmp:CreatorTool>"), "Painter"),
        (packet("<xmp:CreatorTool><rdf:Alt><rdf:li>Painter</rdf:li></rdf:Alt></xmp:CreatorTool>"), "Painter"),
        (packet("<xmp:Label>Painter</xmp:Label>"), None),
        (packet(f'<a:b xmlns:a="a"><rdf:Description xmlns:rdf="{RDF}" xmp:CreatorTool="x"/></a:b>'), None),
    ],
)
def test_value_is_read_in_every_form(found: bytes, tool: str | None) -> None:
    assert mark_in(found).creator_tool == tool


@pytest.mark.parametrize(
    "odd",
    [
        b"no XML",
        b"<!DOCTYPE x><x/>",
        packet("<xmp:CreatorTool><![CDATA[Painter]]></xmp:CreatorTool>"),
        b"\xff\xfe<x/>",
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>',
        b"<x>" + b"a" * xmp.MOST_PACKET_BYTES + b"</x>",
    ],
)
def test_packet_that_is_none_is_not_touched(odd: bytes) -> None:
    with pytest.raises(OddPacketError):
        added_to(odd, OURS)


def test_mark_is_added_beside_what_another_program_wrote() -> None:
    written = added_to(packet("<xmp:Label>red</xmp:Label>"), OURS)
    assert mark_in(written) == OURS
    assert b"<xmp:Label>red</xmp:Label>" in written
    assert added_to(written, OURS) == written


def test_tool_and_ai_source_of_another_program_stay() -> None:
    theirs = packet_of(Mark(digital_source_type=AI, creator_tool="Painter", alt_text="A fox"))
    assert added_to(theirs, OURS) == theirs
    other = mark_in(added_to(theirs, Mark(digital_source_type=AI, alt_text="A cat")))
    assert other == Mark(digital_source_type=AI, creator_tool="Painter", alt_text="A cat")
    assert added_to(theirs, Mark()) == theirs


def test_source_type_that_is_no_ai_is_replaced() -> None:
    photo = packet_of(Mark(digital_source_type="digitalCapture"))
    assert mark_in(added_to(photo, OURS)).digital_source_type == AI


def test_own_earlier_mark_is_replaced_and_what_is_left_out_is_removed() -> None:
    assert added_to(packet_of(OURS), Mark(alt_text="A cat")) == packet_of(Mark(alt_text="A cat"))
    # Another program has added its own to a packet of ours, and moved the tool to an attribute.
    edited = packet("<xmp:Label>red</xmp:Label>", attributes=f'xmp:CreatorTool="{OURS.creator_tool}"')
    changed = added_to(edited, Mark(digital_source_type=AI))
    assert mark_in(changed) == Mark(digital_source_type=AI)
    assert b"red" in changed


def test_mark_that_makes_the_packet_too_large_is_refused() -> None:
    with pytest.raises(OddPacketError, match="bytes"):
        added_to(packet(), Mark(alt_text="a" * xmp.MOST_PACKET_BYTES))


def test_empty_mark_is_a_whole_packet() -> None:
    assert mark_in(packet_of(Mark(alt_text="\x01"))) == Mark()
