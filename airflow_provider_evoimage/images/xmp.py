"""XMP packets: what a picture says of its origin, as XML. Pure.

A packet is written the same on every day and by every release, because a resumed save compares hashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.dom.minidom import Document, Element, parseString
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape

#: What ``xmp:CreatorTool`` begins with where this package wrote the packet.
CREATOR = "airflow-provider-evoimage"
#: The IPTC's list of what a picture was made by.
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE_BY_AI = "trainedAlgorithmicMedia"
MADE_BY_AI_FROM_REFERENCES = "compositeWithTrainedAlgorithmicMedia"
#: The words of that list that say that an AI took part.
AI_SOURCE_TYPES = frozenset(
    {MADE_BY_AI, MADE_BY_AI_FROM_REFERENCES, "algorithmicMedia", "compositeSynthetic"}
)
#: A segment of a JPEG has no room for more.
MOST_PACKET_BYTES = 65_502

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_CORE = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
_DCTERMS = "http://purl.org/dc/terms/"
_XML = "http://www.w3.org/XML/1998/namespace"

_SOURCE_TYPE = (_EXT, "DigitalSourceType", "Iptc4xmpExt")
_CREATOR_TOOL = (_XMP, "CreatorTool", "xmp")
_ALT_TEXT = (_CORE, "AltTextAccessibility", "Iptc4xmpCore")
_PROVENANCE = (_DCTERMS, "provenance", "dcterms")

_Name = tuple[str, str, str]


class OddPacketError(Exception):
    """The packet is not as XMP prescribes, so adding to it could destroy something."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a packet says of a picture's origin; never the prompt.

    :param digital_source_type: a word of the IPTC's list.
    :param creator_tool: the program that made it.
    :param alt_text: the picture in words, for people who do not see it.
    """

    digital_source_type: str | None = None
    creator_tool: str | None = None
    alt_text: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this package wrote it."""
        return (self.creator_tool or "").startswith(CREATOR)


def packet_of(mark: Mark) -> bytes:
    """Write a packet."""
    lines = []
    if mark.digital_source_type:
        value = escape(_uri(mark.digital_source_type))
        lines.append(f"<Iptc4xmpExt:DigitalSourceType>{value}</Iptc4xmpExt:DigitalSourceType>")
    if mark.creator_tool:
        lines.append(f"<xmp:CreatorTool>{escape(_written(mark.creator_tool))}</xmp:CreatorTool>")
    if mark.alt_text and _written(mark.alt_text):
        lines.append(
            "<Iptc4xmpCore:AltTextAccessibility><rdf:Alt>"
            f'<rdf:li xml:lang="x-default">{escape(_written(mark.alt_text))}</rdf:li>'
            "</rdf:Alt></Iptc4xmpCore:AltTextAccessibility>"
        )
    inner = "\n".join(f"   {line}" for line in lines)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        f' <rdf:RDF xmlns:rdf="{_RDF}">\n'
        f'  <rdf:Description rdf:about="" xmlns:xmp="{_XMP}" xmlns:Iptc4xmpExt="{_EXT}" xmlns:Iptc4xmpCore="{_CORE}">\n'
        f"{inner}\n"
        "  </rdf:Description>\n"
        " </rdf:RDF>\n"
        "</x:xmpmeta>\n"
        '<?xpacket end="w"?>'
    ).encode()


def mark_in(packet: bytes) -> Mark:
    """Read what a packet says.

    :raises OddPacketError: when it is not as XMP prescribes.
    """
    document = _parsed(packet)
    source_type = _text_of(document, _SOURCE_TYPE)
    if source_type is not None and "/" in source_type:
        source_type = source_type.rstrip("/").rpartition("/")[2]
    return Mark(
        digital_source_type=source_type,
        creator_tool=_text_of(document, _CREATOR_TOOL),
        alt_text=_text_of(document, _ALT_TEXT),
    )


def names_remote_credentials(packet: bytes) -> bool:
    """Tell whether a packet names content credentials that lie elsewhere; they hold the hash of the file.

    :raises OddPacketError: when it is not as XMP prescribes.
    """
    return _text_of(_parsed(packet), _PROVENANCE) is not None


def added_to(packet: bytes, mark: Mark) -> bytes:
    """Write a mark into a packet that another program may have written; everything else in it stays.

    An earlier mark of this package is replaced. Another program's own tool and AI source type stay as they are.

    :returns: the same bytes where the packet says all of it already.
    :raises OddPacketError: when it is not as XMP prescribes, or would get too large.
    """
    earlier = mark_in(packet)
    if earlier.is_ours and packet == packet_of(earlier):
        return packet_of(mark)
    document = _parsed(packet)
    wanted: dict[_Name, str | None] = {}
    if earlier.is_ours:
        wanted = {
            _SOURCE_TYPE: mark.digital_source_type,
            _CREATOR_TOOL: mark.creator_tool,
            _ALT_TEXT: mark.alt_text,
        }
    else:
        if mark.digital_source_type and earlier.digital_source_type not in AI_SOURCE_TYPES:
            wanted[_SOURCE_TYPE] = mark.digital_source_type
        if mark.creator_tool and earlier.creator_tool is None:
            wanted[_CREATOR_TOOL] = mark.creator_tool
        if mark.alt_text and earlier.alt_text != mark.alt_text:
            wanted[_ALT_TEXT] = mark.alt_text
    if not wanted or (
        earlier.is_ours
        and (earlier.digital_source_type, earlier.creator_tool, earlier.alt_text)
        == (mark.digital_source_type, mark.creator_tool, mark.alt_text)
    ):
        return packet
    for name, value in wanted.items():
        _set(document, name, value)
    written = "\n".join(node.toxml() for node in document.childNodes).encode()
    if len(written) > MOST_PACKET_BYTES:
        raise OddPacketError(f"its XMP packet would have {len(written):,} bytes, more than a JPEG can hold")
    return written


def _uri(word: str) -> str:
    return word if "://" in word else SOURCE_TYPES + word


def _written(text: str) -> str:
    """Leave out characters that XML has no way to write, and write all white space as single spaces."""
    kept = "".join(
        character
        for character in text
        if character.isspace() or (ord(character) >= 32 and _is_xml(character))
    )
    return " ".join(kept.split())


def _is_xml(character: str) -> bool:
    code = ord(character)
    return not 0xD800 <= code <= 0xDFFF and code not in {0xFFFE, 0xFFFF} and not 0x7F <= code <= 0x9F


def _parsed(packet: bytes) -> Document:
    text = packet.rstrip(b"\0 \t\r\n")
    if len(text) > MOST_PACKET_BYTES:
        raise OddPacketError("its XMP packet is too large")
    if b"<!" in text.replace(b"<!--", b""):
        raise OddPacketError("its XMP packet has declarations")
    try:
        text.decode()
        document = parseString(text)  # noqa: S318 (without declarations there are no entities)
    except (ExpatError, ValueError, RecursionError) as error:
        raise OddPacketError("its XMP packet is not valid XML in UTF-8") from error
    if next(_descriptions(document), None) is None:
        raise OddPacketError("its XMP packet describes nothing")
    return document


def _descriptions(document: Document) -> Iterator[Element]:
    for description in document.getElementsByTagNameNS(_RDF, "Description"):
        parent = description.parentNode
        if parent is not None and parent.namespaceURI == _RDF and parent.localName == "RDF":
            yield description


def _properties(document: Document, name: _Name) -> Iterator[Element]:
    for description in _descriptions(document):
        for node in list(description.childNodes):
            if isinstance(node, Element) and (node.namespaceURI, node.localName) == name[:2]:
                yield node


def _text_of(document: Document, name: _Name) -> str | None:
    """Return the value of a property, in any of the forms that RDF has; None where there is none."""
    for description in _descriptions(document):
        if description.hasAttributeNS(*name[:2]):
            return str(description.getAttributeNS(*name[:2])).strip() or None
    for found in _properties(document, name):
        if found.hasAttributeNS(_RDF, "resource"):
            return str(found.getAttributeNS(_RDF, "resource")).strip() or None
        items = found.getElementsByTagNameNS(_RDF, "li")
        default = next((each for each in items if each.getAttributeNS(_XML, "lang") == "x-default"), None)
        text = _inner_text(default or (items[0] if items else found))
        if text:
            return text
    return None


def _inner_text(element: Element) -> str:
    return "".join(
        node.data for node in element.childNodes if node.nodeType in {node.TEXT_NODE, node.CDATA_SECTION_NODE}
    ).strip()


def _set(document: Document, name: _Name, value: str | None) -> None:
    """Replace every value of a property by this one; None removes it."""
    namespace, local, prefix = name
    for description in _descriptions(document):
        if description.hasAttributeNS(namespace, local):
            description.removeAttributeNS(namespace, local)
    for found in list(_properties(document, name)):
        if found.parentNode is not None:
            found.parentNode.removeChild(found)
    if value is None:
        return
    element = document.createElementNS(namespace, f"{prefix}:{local}")
    element.setAttribute(f"xmlns:{prefix}", namespace)
    if name == _ALT_TEXT:
        # Prefixes of its own, whatever the packet calls them.
        alternatives = document.createElementNS(_RDF, "rdf:Alt")
        alternatives.setAttribute("xmlns:rdf", _RDF)
        item = document.createElementNS(_RDF, "rdf:li")
        item.setAttribute("xml:lang", "x-default")
        item.appendChild(document.createTextNode(_written(value)))
        alternatives.appendChild(item)
        element.appendChild(alternatives)
    else:
        text = _uri(value) if name == _SOURCE_TYPE else _written(value)
        element.appendChild(document.createTextNode(text))
    next(_descriptions(document)).appendChild(element)
