"""Opens saved images for the pages: whole in pieces, and small as thumbnails that are kept in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from airflow_provider_evoimage.plugins.roots import Location, NotShownError

PIECE_BYTES = 256 * 1024
THUMBNAIL_EDGE = 384
THUMBNAIL_TYPE = "image/webp"
#: A larger file is not decoded for a thumbnail.
MAX_FILE_BYTES = 100 * 2**20
MAX_PIXELS = 64_000_000
MAX_CACHE_BYTES = 256 * 2**20
#: The cache is trimmed once per this many new thumbnails.
CACHE_CHECK_EVERY = 64

# The page's own types: a browser shows them, and runs nothing in them.
_TYPES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", "PNG"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", "JPEG"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp", "WEBP"),
    (re.compile(rb"GIF8[79]a"), "image/gif", "GIF"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "image/avif", "AVIF"),
)


@dataclass
class OpenPicture:
    """An image file that is open; reading it to its end closes it."""

    file: BinaryIO
    beginning: bytes
    content_type: str
    size: int | None

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes."""
        with contextlib.closing(self.file):
            yield self.beginning
            while piece := self.file.read(PIECE_BYTES):
                yield piece


def open_picture(location: Location) -> OpenPicture:
    """Open an image file; its first bytes say what it is.

    :raises NotShownError: when it is gone, cannot be read, or is no image.
    """
    file, size = open_file(location)
    try:
        beginning = file.read(PIECE_BYTES)
        content_type, _ = _type_of(beginning)
    except BaseException:
        file.close()
        raise
    return OpenPicture(file, beginning, content_type, size)


def open_file(location: Location) -> tuple[BinaryIO, int | None]:
    """Open a file that may be shown; return it with its size in bytes.

    :raises NotShownError: when it is gone or cannot be read.
    """
    _require_connection(location.connection_id)
    try:
        if location.is_local:
            # What was checked is what is opened: no link in the way, and nothing that waits for a writer.
            return _open_local(os.path.realpath(location.path))
        from airflow.sdk import ObjectStoragePath

        stored = ObjectStoragePath(location.url)
        size = stored.stat().st_size
        return stored.open("rb", block_size=1024 * 1024), int(size)
    except FileNotFoundError:
        raise NotShownError("The file is gone.", status=404) from None
    except NotShownError:
        raise
    except PermissionError:
        raise NotShownError("The storage does not let Airflow's api-server read it.", status=502) from None
    except Exception as error:  # noqa: BLE001 (each storage has its own kinds)
        raise NotShownError(f"The storage cannot be read now ({type(error).__name__}).", status=502) from None


def _open_local(path: str) -> tuple[BinaryIO, int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise NotShownError("This path is no file.", status=415)
    return os.fdopen(descriptor, "rb"), about.st_size


def _require_connection(conn_id: str | None) -> None:
    """Refuse an unknown connection: storages would fall back to the credentials of the api-server's machine."""
    if conn_id is None:
        return
    from airflow.sdk import BaseHook

    try:
        BaseHook.get_connection(conn_id)
    except Exception:  # noqa: BLE001 (whatever the secrets backend raises)
        raise NotShownError(f"There is no Airflow connection {conn_id!r}.", status=403) from None


def _type_of(beginning: bytes) -> tuple[str, str]:
    for pattern, content_type, name in _TYPES:
        if pattern.match(beginning):
            return content_type, name
    raise NotShownError("The file is no image.", status=415)


class Thumbnails:
    """Small copies of images, in a folder of this process's user that holds 256 MB at most.

    :param folder: default: a folder in the temporary directory.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"evoimage-thumbnails-{os.getuid()}"
        self._max_bytes = max_bytes
        self._made = 0

    def get(self, location: Location, version: str) -> bytes:
        """Return the thumbnail of an image, a WebP of 384 pixels at most on each side.

        :param version: the file's hash as far as known: a new version of a file gets a new thumbnail.
        :raises NotShownError: when it cannot be made.
        """
        if not version:
            return self._make(location)
        name = hashlib.sha256(f"{location.url}\n{version}".encode()).hexdigest()
        kept = self._folder / f"{name}.webp"
        with contextlib.suppress(OSError):
            content = kept.read_bytes()
            os.utime(kept)
            return content
        content = self._make(location)
        with contextlib.suppress(OSError):
            self._keep(kept, content)
        return content

    def _make(self, location: Location) -> bytes:
        file, size = open_file(location)
        with contextlib.closing(file):
            if size is not None and size > MAX_FILE_BYTES:
                raise NotShownError("The file is too large for a small picture; open it whole.", status=415)
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise NotShownError("The file is too large for a small picture; open it whole.", status=415)
        _, name = _type_of(data)
        try:
            return _small(data, name)
        except NotShownError:
            raise
        except Exception:  # noqa: BLE001 (Pillow raises many kinds)
            raise NotShownError("The image is damaged.", status=415) from None

    def _keep(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._folder.stat().st_uid != os.getuid():
            return
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as part:
            part.write(content)
        Path(part.name).replace(path)
        self._made += 1
        if self._made % CACHE_CHECK_EVERY == 1:
            self.trim()

    def trim(self) -> None:
        """Remove what was not used for longest, until the folder is within its limit."""
        kept = []
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                about = path.stat()
                kept.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _small(data: bytes, name: str) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=[name]) as image:
        if image.width * image.height > MAX_PIXELS:
            raise NotShownError(
                "The image has too many pixels for a small picture; open it whole.", status=415
            )
        image.draft("RGB", (THUMBNAIL_EDGE, THUMBNAIL_EDGE))
        image.thumbnail((THUMBNAIL_EDGE, THUMBNAIL_EDGE))
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        small = image.convert("RGBA" if has_alpha else "RGB")
    file = io.BytesIO()
    small.save(file, "WEBP", quality=82, method=2)
    return file.getvalue()
