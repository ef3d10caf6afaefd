"""A storage on another file system than that of temporary files, and a worker that dies while it copies to it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def copy_with(moment: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file reach its place as a copy, and call something when half of it is written.

    What that raises leaves the half where it is: the dead tidy nothing up.
    """
    halves: set[Path] = set()
    unlink = Path.unlink

    def copy(source: str | Path, target: str | Path) -> None:
        content, written = Path(source).read_bytes(), Path(target)
        with written.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            halves.add(written)
            moment()
            halves.discard(written)
            file.write(content[len(content) // 2 :])

    def rename(source: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))

    def unlink_unless_half(path: Path, missing_ok: bool = False) -> None:
        if path not in halves:
            unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(shutil, "copyfile", copy)
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(Path, "unlink", unlink_unless_half)
