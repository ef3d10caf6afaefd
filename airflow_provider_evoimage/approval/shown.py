"""The images that a person is shown, by the numbers on the page, and whether the files are still those images."""

from __future__ import annotations

import contextvars
import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.exceptions import DestinationError, ImagesChangedError, InvalidRequestError
from airflow_provider_evoimage.shapes import Manifest

#: More than a person can choose among.
MOST_IMAGES = 200
XCOM_VERSION = 1
_BLOCK_BYTES = 1024 * 1024
_FILES_AT_A_TIME = 4


@dataclass(frozen=True, kw_only=True)
class ShownFile:
    """One file.

    :param channel: of a rendition; None for the image itself.
    :param width: pixels.
    :param height: pixels.
    """

    path: str
    sha256: str
    width: int
    height: int
    channel: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShownImage:
    """One image, with its renditions.

    :param number: on the page, from 1.
    :param manifest: place of its manifest among those given.
    :param place: place among the images of its manifest.
    """

    number: int
    manifest: int
    place: int
    file: ShownFile
    renditions: tuple[ShownFile, ...] = ()

    @property
    def files(self) -> tuple[ShownFile, ...]:
        """The image and its renditions."""
        return (self.file, *self.renditions)


def shown_images(manifests: Sequence[Manifest]) -> list[ShownImage]:
    """Give each image of manifests its number on the page.

    :raises InvalidRequestError: when there are more than 200, or one has no SHA-256.
    """
    found: list[ShownImage] = []
    for number_of_manifest, manifest in enumerate(manifests):
        for place, image in enumerate(manifest["images"]):
            renditions = image.get("renditions")
            found.append(
                ShownImage(
                    number=len(found) + 1,
                    manifest=number_of_manifest,
                    place=place,
                    file=_file(image),
                    renditions=tuple(map(_file, renditions if isinstance(renditions, list) else [])),
                )
            )
    if len(found) > MOST_IMAGES:
        raise InvalidRequestError(
            f"images holds {len(found)} images; a person can choose among {MOST_IMAGES} at most. "
            "Map the task, for instance one for each manifest."
        )
    return found


def _file(entry: Any) -> ShownFile:
    try:
        file = ShownFile(
            **{name: entry.get(name) for name in ("path", "sha256", "width", "height", "channel")}
        )
    except AttributeError:
        raise InvalidRequestError(f"This is no image of a manifest: {entry!r:.200}.") from None
    if not isinstance(file.path, str) or not isinstance(file.sha256, str):
        raise InvalidRequestError(
            f"The image {file.path!r} has no path or no SHA-256, so nobody could say later what was approved. "
            "Pass the manifests as this package's tasks return them."
        )
    return file


def fingerprint(images: Iterable[ShownImage], choose: str) -> str:
    """Return a hash of what a person is asked: the files in their order, and how to choose."""
    asked = [choose, [[asdict(file) for file in image.files] for image in images]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def require_unchanged(images: Iterable[ShownImage]) -> None:
    """Read the files, and check that they are the images of their manifests.

    :raises ImagesChangedError: when a file has another SHA-256.
    :raises DestinationError: when one cannot be read.
    """
    files = [file for image in images for file in image.files]
    with ThreadPoolExecutor(_FILES_AT_A_TIME, thread_name_prefix="evoimage-approval") as pool:
        # Each in its own copy of the context, so that Airflow finds connections.
        futures = [pool.submit(contextvars.copy_context().run, _require_unchanged, file) for file in files]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _require_unchanged(file: ShownFile) -> None:
    if _sha256(file.path) != file.sha256:
        raise ImagesChangedError(
            f"{file.path} is no longer the image of its manifest: its SHA-256 is another."
        )


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with ObjectStoragePath(path).open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except Exception as error:
        raise DestinationError(
            f"{path} cannot be read: {str(error) or type(error).__name__}",
            billed=False,
            on_retry="A retry reads it again.",
        ) from error
    return digest.hexdigest()


def to_xcom(images: Iterable[ShownImage], choose: str) -> dict[str, Any]:
    """Return what was shown as plain JSON, in the shape of a manifest's images."""
    return {
        "v": XCOM_VERSION,
        "choose": choose,
        "images": [
            {
                **asdict(image.file),
                "number": image.number,
                "renditions": [asdict(each) for each in image.renditions],
            }
            for image in images
        ],
    }
