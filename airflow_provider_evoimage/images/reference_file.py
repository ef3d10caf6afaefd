"""A local reference image: its type, size and transparency by its bytes."""

from __future__ import annotations

import re
import secrets
import warnings
from pathlib import Path

from airflow_provider_evoimage.evolink.files import MAX_UPLOAD_BYTES, UPLOAD_TYPES
from airflow_provider_evoimage.exceptions import InvalidRequestError

EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}
_MAX_STEM_CHARACTERS = 60
# Larger images are not decoded, as that takes gigabytes; their header and checksums tell what they can.
_MAX_DECODED_PIXELS = 25_000_000
# Only these kinds are opened: Pillow's readers of some others run programs (EPS: Ghostscript). A JPEG with a
# second picture, as phones write it, opens as JPEG and is then called MPO.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
_TYPES = {"MPO": "image/jpeg"} | {kind: f"image/{kind.lower()}" for kind in _FORMATS}


def look_at(path: Path, source: str, field: str) -> tuple[str, int, int]:
    """Return Content-Type, width and height of an image by its bytes.

    :raises InvalidRequestError: when it is none, or damaged.
    """
    from PIL import Image

    if not path.stat().st_size:
        raise InvalidRequestError(f"{field}: {source} is empty.")
    try:
        with warnings.catch_warnings():
            # Large, and not decoded here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                facts = (_TYPES[image.format or ""], image.width, image.height)
                image.verify()
            if facts[1] * facts[2] <= _MAX_DECODED_PIXELS:
                # Only decoding shows that a JPEG, GIF or WebP is cut off.
                with Image.open(path, formats=_FORMATS) as image:
                    image.load()
    except Image.DecompressionBombError as error:
        raise InvalidRequestError(f"{field}: {source} has too many pixels: {error}") from error
    except Exception as error:
        raise InvalidRequestError(
            f"{field}: {source} is no image of an accepted type by its bytes, or a damaged one; "
            f"EvoLink takes {', '.join(UPLOAD_TYPES)}."
        ) from error
    return facts


def has_alpha(path: Path) -> bool:
    """Tell whether an image can be transparent."""
    from PIL import Image

    with Image.open(path, formats=_FORMATS) as image:
        return image.has_transparency_data


def reference_type(path: Path) -> str:
    """Return the Content-Type of a local image by its bytes, checked against what EvoLink takes.

    :raises InvalidRequestError: when there is no such file, it is of another type, or larger than 100 MB.
    """
    if not path.is_file():
        raise InvalidRequestError(f"There is no reference file {path}.")
    size = path.stat().st_size
    if size > MAX_UPLOAD_BYTES:
        raise InvalidRequestError(
            f"The reference {path} has {size:,} bytes; EvoLink takes up to {MAX_UPLOAD_BYTES:,}."
        )
    return look_at(path, str(path), "The reference")[0]


def unique_name(name: str, content_type: str) -> str:
    """Return a file name that nothing else has: EvoLink overwrites a file of the same name."""
    stem = re.sub(r"[^\w.-]+", "-", Path(name).stem)[:_MAX_STEM_CHARACTERS].strip("-.") or "reference"
    return f"{stem}-{secrets.token_hex(8)}.{EXTENSIONS[content_type]}"
