"""An image of a manifest while its renditions are made: fetched once, decoded once, let go after the last one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.exceptions import DestinationError, InvalidRequestError
from airflow_provider_evoimage.images.provenance import read_statement
from airflow_provider_evoimage.images.rendering import open_for_rendering
from airflow_provider_evoimage.images.result_file import HEAD_BYTES, IMAGE_TYPES, kind_of_bytes
from airflow_provider_evoimage.images.xmp import AI_SOURCE_TYPES, CREATOR, Mark

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_BLOCK_BYTES = 1024 * 1024


@dataclass(kw_only=True)
class Original:
    """One image, and how many renditions still need it.

    :param entry: of the manifest.
    :param default_mark: for renditions of a file that says nothing of its origin.
    :param uses: renditions that are to be made of it.
    """

    entry: Mapping[str, Any]
    default_mark: Mark
    uses: int
    _mark: Mark | None = None
    _local: Path | None = None
    _pixels: PillowImage | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> str:
        """URL of the file."""
        return str(self.entry["path"])

    @property
    def content_type(self) -> str:
        """Type of the copy by its bytes, after :meth:`fetch`."""
        with self.local.open("rb") as file:
            kind = kind_of_bytes(file.read(HEAD_BYTES))
        return IMAGE_TYPES[kind][1] if kind in IMAGE_TYPES else "application/octet-stream"

    @property
    def mark(self) -> Mark:
        """The mark of the renditions: what the file says, after :meth:`fetch`, as far as it speaks of AI."""
        return self._mark or self.default_mark

    @property
    def local(self) -> Path:
        """The copy on this machine, after :meth:`fetch`."""
        if self._local is None:
            raise RuntimeError(f"{self.path} was not fetched")
        return self._local

    @property
    def pixels(self) -> PillowImage:
        """The decoded image, after :meth:`decode`."""
        if self._pixels is None:
            raise RuntimeError(f"{self.path} was not decoded")
        return self._pixels

    def fetch(self, local: Path) -> None:
        """Copy the file from its storage, and read what it says of its origin.

        :raises DestinationError: when it cannot be read.
        :raises InvalidRequestError: when it is no longer the image of the manifest.
        """
        self._local = local
        digest = hashlib.sha256()
        try:
            with ObjectStoragePath(self.path).open("rb") as source, local.open("wb") as copy:
                while block := source.read(_BLOCK_BYTES):
                    digest.update(block)
                    copy.write(block)
        except Exception as error:
            raise DestinationError(
                f"{self.path} cannot be read: {str(error) or type(error).__name__}"
            ) from error
        if self.entry.get("sha256") not in {None, digest.hexdigest()}:
            raise InvalidRequestError(
                f"{self.path} is no longer the image of its manifest: its SHA-256 is another."
            )
        self._mark = self._carried_on()

    def decode(self) -> None:
        """Decode the copy.

        :raises DestinationError: when it is no image that Pillow can read.
        """
        try:
            self._pixels = open_for_rendering(self.local)
        except Exception as error:  # Pillow's readers may raise any exception on damaged bytes.
            raise self.unrenderable(error) from error

    def unrenderable(self, error: Exception) -> DestinationError:
        """Return the error for an image that Pillow could not handle."""
        return DestinationError(f"{self.path} cannot be rendered: {str(error) or type(error).__name__}")

    def used(self) -> None:
        """Note that one rendition needs it no longer; after the last one copy and pixels go."""
        with self._lock:
            self.uses -= 1
            is_last = self.uses <= 0
        if is_last:
            self.let_go()

    def let_go(self) -> None:
        """Remove copy and pixels."""
        self._pixels = None
        if self._local is not None:
            self._local.unlink(missing_ok=True)

    def _carried_on(self) -> Mark:
        with self.local.open("rb") as file:
            says = read_statement(file)
        is_of_ai = says.digital_source_type in AI_SOURCE_TYPES
        tool = says.creator_tool or ""
        return Mark(
            digital_source_type=says.digital_source_type
            if is_of_ai
            else self.default_mark.digital_source_type,
            creator_tool=tool if tool.startswith(CREATOR) else self.default_mark.creator_tool,
            alt_text=says.alt_text,
        )
