"""Reads the reference images which this simulator has itself: uploaded files, and earlier results."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from PIL import Image

from airflow_provider_evoimage.simulator.documents.models import ReferenceRules
from airflow_provider_evoimage.simulator.drawing.pictures import Reference
from airflow_provider_evoimage.simulator.service.errors import Refusal

THUMBNAIL_EDGE = 192
# As documented for the GPT models; larger ones cannot be read.
MAX_PIXELS = 178_956_970
# More than this many pixels are not decoded, only checked by their header.
MAX_DECODED_PIXELS = 40_000_000

Opener = Callable[[], BinaryIO]
# Tells what stands under a URL: None for another host's; raises LookupError when it is dead.
Finder = Callable[[str], Opener | None]


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """The references of one submission.

    :param failure: the code with which the generation has to fail for their sake.
    """

    references: tuple[Reference, ...] = ()
    failure: str | None = None


@dataclass(frozen=True)
class _Sized:
    """One reference image that was read: pixels, and a small copy."""

    size: tuple[int, int]
    thumbnail: bytes | None


class UnusableError(Exception):
    """A reference cannot be used; the argument is the code of the failure."""


def inspect(
    image_urls: tuple[str, ...], mask_url: str | None, find: Finder, rules: ReferenceRules
) -> Inspected:
    """Read the references of a submission. This takes time: not for the event loop.

    :raises Refusal: with status 400 when the mask is no PNG with an alpha channel.
    """
    references = []
    first_size = None
    try:
        for index, url in enumerate(image_urls):
            opener = _found(find, url)
            if opener is None:
                references.append(Reference(name_of(url, with_host=True)))
                continue
            read = _read(opener, rules)
            first_size = read.size if index == 0 else first_size
            references.append(Reference(name_of(url), read.thumbnail))
        if image_urls and mask_url is not None:
            _check_mask(_found(find, mask_url), rules, first_size)
    except UnusableError as error:
        return Inspected(failure=str(error))
    return Inspected(references=tuple(references))


def name_of(url: str, *, with_host: bool = False) -> str:
    """Return the last part of a URL's path; never its query, which may hold a signature."""
    parts = urlsplit(url)
    name = unquote(parts.path.rpartition("/")[2]) or "image"
    return f"{name} ({parts.hostname})" if with_host else name


def _found(find: Finder, url: str) -> Opener | None:
    try:
        return find(url)
    except LookupError:
        raise UnusableError("image_processing_error") from None


def _read(opener: Opener, rules: ReferenceRules) -> _Sized:
    try:
        with opener() as file:
            _check_length(file, rules)
            with Image.open(file, formats=rules.formats) as image:
                size = image.size
                thumbnail = _thumbnail(image)
    except UnusableError:
        raise
    except Exception:  # noqa: BLE001 - a broken file makes Pillow raise almost anything
        raise UnusableError("image_processing_error") from None
    if not rules.edges[0] <= min(size) <= max(size) <= rules.edges[1]:
        raise UnusableError("image_dimension_mismatch")
    return _Sized(size, thumbnail)


def _check_length(file: BinaryIO, rules: ReferenceRules) -> None:
    if file.seek(0, io.SEEK_END) > rules.max_bytes:
        raise UnusableError("image_processing_error")
    file.seek(0)


def _thumbnail(image: Image.Image) -> bytes | None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise UnusableError("image_processing_error")
    if pixels > MAX_DECODED_PIXELS:
        return None
    image.thumbnail((THUMBNAIL_EDGE, THUMBNAIL_EDGE))
    file = io.BytesIO()
    if image.has_transparency_data:
        image.convert("RGBA").save(file, "PNG")
    else:
        image.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


def _check_mask(opener: Opener | None, rules: ReferenceRules, first_size: tuple[int, int] | None) -> None:
    if opener is None:
        return
    try:
        with opener() as file, Image.open(file) as mask:
            suits = mask.format == "PNG" and mask.has_transparency_data
            size = mask.size
    except Exception:  # noqa: BLE001 - as above
        raise UnusableError("image_processing_error") from None
    if rules.mask == "alpha" and not suits:
        message = "mask_url must be a PNG with an alpha channel."
        raise Refusal(400, message, code="invalid_parameters", param="mask_url")
    if first_size is not None and size != first_size:
        message = (
            f"mask_url is {size[0]}x{size[1]}, but the first reference is {first_size[0]}x{first_size[1]}."
        )
        raise Refusal(400, message, code="image_dimension_mismatch", param="mask_url")
