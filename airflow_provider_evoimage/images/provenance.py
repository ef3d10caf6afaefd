"""Provenance: reads what an image file says of its origin, and marks it as made by AI without touching its pixels.

A file with C2PA content credentials is never changed, because a change makes their signature invalid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from airflow_provider_evoimage.images.packets import KINDS, Found, edited, edits_for, find_packets
from airflow_provider_evoimage.images.result_file import (
    HEAD_BYTES,
    ImageFile,
    describe_image,
    kind_of_bytes,
)
from airflow_provider_evoimage.images.xmp import (
    CREATOR,
    MADE_BY_AI,
    MADE_BY_AI_FROM_REFERENCES,
    Mark,
    OddPacketError,
    added_to,
    mark_in,
    names_remote_credentials,
    packet_of,
)

__all__ = ["KeptImage", "MarkedImage", "Statement", "mark_image", "mark_of", "read_statement"]

_OF_OTHER_KIND = "only PNG, JPEG and WebP files are marked"
_SIGNED = "it has content credentials, which any change would make invalid"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a file says of its origin.

    :param kind: of the image, by Pillow's name; None for no image.
    :param content_credentials: whether it holds C2PA content credentials; None if nothing looked for them.
    :param odd: why it cannot be marked; empty where nothing speaks against it.
    """

    kind: str | None
    content_credentials: bool | None = None
    digital_source_type: str | None = None
    creator_tool: str | None = None
    alt_text: str | None = None
    odd: str = ""

    @property
    def says_anything(self) -> bool:
        """Whether it says anything of its origin."""
        return bool(self.content_credentials or self.digital_source_type or self.creator_tool)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "kind": self.kind,
            "content_credentials": self.content_credentials,
            "digital_source_type": self.digital_source_type,
            "creator_tool": self.creator_tool,
            "alt_text": self.alt_text,
        }


@dataclass(frozen=True, kw_only=True)
class MarkedImage:
    """An image that was marked, in a file of its own."""

    file: ImageFile
    statement: Statement


@dataclass(frozen=True, kw_only=True)
class KeptImage:
    """An image that was left as it is.

    :param because: the reason, as a part of a sentence.
    :param is_odd: whether the file is to blame, which is worth a warning.
    """

    statement: Statement
    because: str
    is_odd: bool = False


def mark_of(*, model: str | None, has_references: bool, alt_text: str | None = None) -> Mark:
    """Return the mark of a generated image.

    :param model: of EvoLink; None if it is unknown.
    :param has_references: whether the image was made from other images.
    """
    return Mark(
        digital_source_type=MADE_BY_AI_FROM_REFERENCES if has_references else MADE_BY_AI,
        creator_tool=f"{CREATOR} (EvoLink {model})" if model else f"{CREATOR} (EvoLink)",
        alt_text=alt_text or None,
    )


def read_statement(file: BinaryIO) -> Statement:
    """Read what an image says of its origin; memory stays small however large the file is.

    :param file: must be able to seek.
    """
    kind = kind_of_bytes(file.read(HEAD_BYTES))
    if kind not in KINDS:
        return Statement(kind=kind)
    try:
        return _statement(kind, find_packets(kind, file))
    except Exception as error:  # noqa: BLE001 (a damaged file says nothing)
        return Statement(kind=kind, odd=_in_words(error))


def mark_image(image: ImageFile, target: Path, mark: Mark) -> MarkedImage | KeptImage:
    """Write an image to another file, with a mark. Never raises: a paid image is saved with a mark or without.

    :param target: is removed again if the image is kept as it is.
    """
    statement = Statement(kind=None)
    try:
        with image.path.open("rb") as file:
            statement = read_statement(file)
            if statement.kind not in KINDS:
                return KeptImage(statement=statement, because=_OF_OTHER_KIND)
            if statement.content_credentials:
                return KeptImage(statement=statement, because=_SIGNED)
            if statement.odd:
                return KeptImage(statement=statement, because=statement.odd, is_odd=True)
            found = find_packets(statement.kind, file)
            packet = _packet(found, mark)
            if len(found.packets) == 1 and packet == found.packets[0].content:
                return KeptImage(statement=statement, because="it says so already")
            with target.open("wb") as written:
                for block in edited(file, edits_for(statement.kind, file, found, packet)):
                    written.write(block)
        return _checked(image, target)
    except Exception as error:  # noqa: BLE001 (any odd file, or a full disk)
        target.unlink(missing_ok=True)
        return KeptImage(statement=statement, because=_in_words(error), is_odd=True)


def _packet(found: Found, mark: Mark) -> bytes:
    """Return the packet that is to replace those of the file."""
    if not found.packets:
        return packet_of(mark)
    return added_to(found.packets[0].content, mark)


def _checked(image: ImageFile, target: Path) -> MarkedImage:
    """Check that the marked file is the same complete image.

    :raises ValueError: when it is another.
    """
    marked = describe_image(target)
    same = (image.content_type, image.width, image.height)
    if (marked.content_type, marked.width, marked.height) != same:
        raise ValueError("the marked file would be another image")
    with target.open("rb") as file:
        statement = read_statement(file)
    if statement.digital_source_type is None:
        raise ValueError("the mark could not be read back")
    return MarkedImage(file=marked, statement=statement)


def _statement(kind: str, found: Found) -> Statement:
    if len({each.content for each in found.packets}) > 1 and not _all_ours(found):
        found.odd = found.odd or "it has several XMP packets"
    try:
        says = mark_in(found.packets[0].content) if found.packets else Mark()
        is_remote = any(names_remote_credentials(each.content) for each in found.packets)
    except OddPacketError as error:
        says, is_remote = Mark(), False
        found.odd = found.odd or str(error)
    return Statement(
        kind=kind,
        content_credentials=found.has_credentials or is_remote,
        digital_source_type=says.digital_source_type,
        creator_tool=says.creator_tool,
        alt_text=says.alt_text,
        odd=found.odd,
    )


def _all_ours(found: Found) -> bool:
    try:
        return all(mark_in(each.content).is_ours for each in found.packets)
    except OddPacketError:
        return False


def _in_words(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
