"""A reference image on its way to EvoLink: what kind of file it is, and a name for it."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from airflow_provider_evoimage.evolink.uploads import MAX_UPLOAD_BYTES, UPLOAD_TYPES
from airflow_provider_evoimage.exceptions import InvalidRequestError

_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}
_MAX_STEM_CHARACTERS = 60


def reference_type(path: Path) -> str:
    """Return the Content-Type of a local image by its bytes, checked against what EvoLink takes.

    :raises InvalidRequestError: when there is no such file, it is of another type, or larger than 100 MB.
    """
    from PIL import Image

    if not path.is_file():
        raise InvalidRequestError(f"There is no reference file {path}.")
    size = path.stat().st_size
    if size > MAX_UPLOAD_BYTES:
        raise InvalidRequestError(
            f"The reference {path} has {size:,} bytes; EvoLink takes up to {MAX_UPLOAD_BYTES:,}."
        )
    try:
        with Image.open(path) as image:
            content_type = Image.MIME.get(image.format or "", "")
    except Exception:  # noqa: BLE001 (damaged bytes make Pillow raise anything)
        content_type = ""
    if content_type not in UPLOAD_TYPES:
        raise InvalidRequestError(
            f"The reference {path} is {content_type or 'no image'} by its bytes; EvoLink takes "
            f"{', '.join(UPLOAD_TYPES)}."
        )
    return content_type


def unique_name(name: str, content_type: str) -> str:
    """Return a file name that nothing else has: EvoLink overwrites a file of the same name."""
    stem = re.sub(r"[^\w.-]+", "-", Path(name).stem)[:_MAX_STEM_CHARACTERS].strip("-.") or "reference"
    return f"{stem}-{secrets.token_hex(8)}.{_EXTENSIONS[content_type]}"
