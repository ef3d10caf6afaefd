"""Makes one rendition: rendered, marked, signed where that is wanted, recorded, and published complete."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_evoimage.exceptions import DestinationError, EvoImageError, InvalidRequestError
from airflow_provider_evoimage.images.channels import Channel, Format
from airflow_provider_evoimage.images.provenance import MarkedImage, mark_image
from airflow_provider_evoimage.images.rendering import Encoded, Plan, render
from airflow_provider_evoimage.images.result_file import ImageFile, describe_image
from airflow_provider_evoimage.images.signing import SigningIdentity, sign_image
from airflow_provider_evoimage.images.xmp import packet_of
from airflow_provider_evoimage.renditions.contact_sheet import preview_of
from airflow_provider_evoimage.renditions.original import Original
from airflow_provider_evoimage.shapes import Rendition
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.existing import new_file_in
from airflow_provider_evoimage.storage.progress import SaveProgress, temporary_folder_failed

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

#: Extension and Content-Type by format.
TYPES: dict[Format, tuple[str, str]] = {
    "jpeg": ("jpg", "image/jpeg"),
    "png": ("png", "image/png"),
    "webp": ("webp", "image/webp"),
}
# Of the part of a file that holds the packet.
_AROUND_PACKET_BYTES = 200


@dataclass(frozen=True, kw_only=True)
class Task:
    """One rendition to make.

    :param number: among those of its manifest.
    :param stem: name of the file without its extension.
    """

    number: int
    original: Original
    channel: Channel
    plan: Plan
    stem: str

    @property
    def names(self) -> list[str]:
        """Return the names that the file may get."""
        return [f"{self.stem}.{extension}" for extension, _ in TYPES.values()]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A rendition that is in its place.

    :param entry: of the record; its ``rendition`` is the entry of the manifest.
    :param preview: a small picture of it, where one is wanted.
    """

    entry: Mapping[str, Any]
    preview: PillowImage | None

    @property
    def rendition(self) -> Rendition:
        """The entry of the manifest."""
        return cast("Rendition", dict(self.entry["rendition"]))


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Makes renditions; threads share it.

    :param folder: a local folder for temporary files.
    :param identity: what files are signed with; None for no content credentials.
    :param preview_edge: longest edge of previews in pixels; None for no previews.
    """

    destination: Destination
    background: str | None
    folder: Path
    preview_edge: int | None
    identity: SigningIdentity | None = None

    def make(self, task: Task, progress: SaveProgress) -> Made:
        """Make a rendition of a fetched and decoded original.

        :raises InvalidRequestError: when the channel cannot have this image.
        :raises DestinationError: when a folder does not take the file.
        """
        local = new_file_in(self.folder)
        drawn, marked, signed = (local.with_suffix(end) for end in (".drawn", ".marked", ".signed"))
        try:
            found, file = self._complete(task, drawn, marked, signed)
            extension, content_type = TYPES[found.format]
            name = f"{task.stem}.{extension}"
            url = self.destination.url(name)
            entry = {
                "index": task.number,
                "path": url,
                "bytes": file.bytes,
                "sha256": file.sha256,
                "settings": self._settings(task),
                "rendition": {
                    "channel": task.channel.name,
                    "path": url,
                    "sha256": file.sha256,
                    "width": found.width,
                    "height": found.height,
                    "bytes": file.bytes,
                    "content_type": content_type,
                    "quality": found.quality,
                    "cropped": round(task.plan.cropped, 4),
                    "scaled": round(task.plan.scaled, 4),
                    "content_credentials": self.identity is not None,
                },
            }
            made = Made(entry=entry, preview=self._preview(file.path))
            progress.begins(entry, self.folder)
            self.destination.publish(file.path, name, content_type)
        finally:
            for each in (drawn, marked, signed):
                each.unlink(missing_ok=True)
        return made

    def still_there(self, task: Task, before: Mapping[str, Any] | None) -> Made | None:
        """Return what an earlier try made, if the file is there and nothing that shapes it has changed.

        :param before: its entry in the record of that try.
        """
        if before is None or before.get("settings") != self._settings(task):
            return None
        if not isinstance(before.get("rendition"), Mapping):
            return None
        name = next((each for each in task.names if self.destination.url(each) == before.get("path")), None)
        if name is None or not self.destination.exists(name):
            return None
        local = new_file_in(self.folder)
        try:
            self.destination.fetch(name, local)
            with local.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return (
                None if sha256 != before.get("sha256") else Made(entry=before, preview=self._preview(local))
            )
        finally:
            local.unlink(missing_ok=True)

    def _complete(self, task: Task, drawn: Path, marked: Path, signed: Path) -> tuple[Encoded, ImageFile]:
        """Render, mark and sign a rendition, so that all of it is small enough for its channel."""
        mark, most = task.original.mark, task.channel.max_bytes
        spare = len(packet_of(mark)) + _AROUND_PACKET_BYTES
        while True:
            found = self._drawn(task, spare_bytes=spare)
            outcome = mark_image(_written(drawn, found), marked, mark)
            if not isinstance(outcome, MarkedImage):
                raise DestinationError(f"A rendition could not be marked as made by AI: {outcome.because}.")
            if self.identity is None:
                return found, outcome.file
            file = self._signed(task, found, marked, signed)
            if most is None or file.bytes <= most:
                return found, file
            # How long credentials are shows only when they are there: they hold those of the original, too.
            spare += max(file.bytes - outcome.file.bytes, 1)
            if spare >= most:
                raise InvalidRequestError(
                    f"{task.channel.name} takes {most:,} bytes, and its content credentials alone have about {spare:,}."
                )

    def _signed(self, task: Task, found: Encoded, marked: Path, signed: Path) -> ImageFile:
        identity, original = self.identity, task.original
        if identity is None:
            raise RuntimeError("there is nothing to sign with")
        extension, content_type = TYPES[found.format]
        sign_image(
            identity,
            marked,
            signed,
            content_type=content_type,
            title=f"{task.stem}.{extension}".rpartition("/")[2],
            original=original.local,
            original_type=original.content_type,
            original_title=original.path.rpartition("/")[2],
            digital_source_type=original.mark.digital_source_type,
            actions=[*(["cropped"] if task.plan.cropped else []), "resized", "converted"],
        )
        return describe_image(signed)

    def _drawn(self, task: Task, *, spare_bytes: int) -> Encoded:
        try:
            return render(
                task.original.pixels,
                task.channel,
                task.plan,
                background=self.background,
                spare_bytes=spare_bytes,
            )
        except EvoImageError:
            raise
        except Exception as error:
            raise task.original.unrenderable(error) from error

    def _settings(self, task: Task) -> str:
        """Return a hash of everything that shapes a rendition, to tell whether an earlier try's is the same."""
        shaping = (
            task.original.entry.get("sha256"),
            repr(task.channel),
            repr(task.plan),
            self.background,
            repr(task.original.default_mark),
            self.identity and self.identity.fingerprint,
        )
        return hashlib.sha256(repr(shaping).encode()).hexdigest()

    def _preview(self, path: Path) -> PillowImage | None:
        if self.preview_edge is None:
            return None
        return preview_of(path, self.preview_edge)


def _written(path: Path, found: Encoded) -> ImageFile:
    """Write an encoded image to a temporary file."""
    try:
        path.write_bytes(found.content)
    except OSError as error:
        raise temporary_folder_failed(error) from error
    extension, content_type = TYPES[found.format]
    return ImageFile(
        path=path,
        bytes=len(found.content),
        sha256=hashlib.sha256(found.content).hexdigest(),
        content_type=content_type,
        extension=extension,
        width=found.width,
        height=found.height,
    )
