"""Which files the pages may show: only those below ``[evoimage] image_roots``. A path in an XCom proves nothing.

An administrator lists the roots as a JSON list of URLs, for instance ``["s3://marketing@shop/campaigns"]``. The
default is an empty list: no picture is shown.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_LOCAL = frozenset({"file", "local", ""})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class NotShownError(Exception):
    """A file is not shown; the text says why, and ``status`` is that of HTTP."""

    def __init__(self, words: str, *, status: int) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class Location:
    """A URL of a file or folder, taken apart.

    :param store: scheme and bucket, with the connection id: ``s3://conn@bucket``; ``file://`` for local files.
    """

    store: str
    path: str

    @classmethod
    def read(cls, url: str) -> Location:
        """Take a URL apart.

        :raises ValueError: for what no saved image has: control characters, ``..``, a relative path, a query.
        """
        if _CONTROL.search(url) or "\\" in url:
            raise ValueError("it has control characters or backslashes")
        scheme, separator, rest = url.partition("://")
        if not separator:
            scheme, rest = "file", url
        scheme = scheme.lower()
        netloc, slash, path = rest.partition("/")
        if scheme in _LOCAL:
            if netloc or not slash:
                raise ValueError("a local path begins with file:///")
            scheme = "file"
        elif not netloc:
            raise ValueError("it names no bucket or host")
        parts = path.split("/")
        if any(each in {".", ".."} for each in parts):
            raise ValueError("it has the parts . or ..")
        return cls(f"{scheme}://{netloc}", "/" + path.strip("/"))

    @property
    def is_local(self) -> bool:
        """Whether it is a file of this machine."""
        return self.store == "file://"

    @property
    def url(self) -> str:
        """The URL again."""
        return f"{self.store}{self.path}"

    @property
    def connection_id(self) -> str | None:
        """The Airflow connection that the URL names."""
        return urlsplit(f"{self.store}/").username

    def holds(self, other: Location) -> bool:
        """Tell whether the other lies below this folder, in the same store with the same connection."""
        if other.store != self.store:
            return False
        if not _is_below(self.path, other.path):
            return False
        # A symbolic link may lead out of it.
        return not self.is_local or _is_below(os.path.realpath(self.path), os.path.realpath(other.path))


def _is_below(folder: str, path: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True)
class ImageRoots:
    """The listed folders.

    :param problems: why an entry is not used, in words.
    """

    roots: tuple[Location, ...]
    problems: tuple[str, ...] = ()

    @classmethod
    def configured(cls) -> ImageRoots:
        """Read ``[evoimage] image_roots``."""
        from airflow.configuration import conf

        return cls.read(conf.get("evoimage", "image_roots", fallback="[]"))

    @classmethod
    def read(cls, setting: str | None) -> ImageRoots:
        """Read the setting: a JSON list of URLs, or one URL."""
        text = (setting or "").strip()
        if text and not text.startswith("["):
            return cls(*_read_all([text]))
        try:
            listed: list[object] = json.loads(text or "[]")
        except ValueError:
            return cls((), ("[evoimage] image_roots is no JSON list of URLs.",))
        return cls(*_read_all(listed))

    def location(self, url: str) -> Location:
        """Return where a file is, if it may be shown.

        :raises NotShownError: when it lies outside the roots.
        """
        try:
            location = Location.read(url)
        except ValueError as error:
            raise NotShownError(f"This path is not one of a saved image: {error}.", status=403) from None
        if not any(root.holds(location) for root in self.roots):
            raise NotShownError(
                "Its folder is not listed: an administrator can add it to [evoimage] image_roots.", status=403
            )
        return location

    def shows(self, url: object) -> bool:
        """Tell whether a file may be shown, by its path alone."""
        try:
            self.location(str(url))
        except NotShownError:
            return False
        return True


def _root(url: str) -> Location:
    root = Location.read(url)
    if root.is_local and root.path == "/":
        raise ValueError("it is the whole machine")
    return Location(root.store, str(Path(root.path))) if root.is_local else root


def _read_all(listed: Iterable[object]) -> tuple[tuple[Location, ...], tuple[str, ...]]:
    roots, problems = [], []
    for each in listed:
        try:
            roots.append(_root(str(each)))
        except ValueError as error:
            problems.append(f"[evoimage] image_roots: {str(each)[:80]!r} is not used: {error}.")
    return tuple(roots), tuple(problems)
