"""Saves one generation, in a process that can be killed: python save_in_process.py EVOLINK_TASK_ID SAVE_TO.

With STOP_IN_MID_COPY set, temporary files lie on another file system than all others, and a copy of an image to
a local file stops in its middle and says so on standard output.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.integration.task_driver import TaskRun, save

whole_copy = shutil.copyfile


def half_a_copy(source: Any, target: Any) -> None:
    content = Path(source).read_bytes()
    if len(content) < 1_000_000:  # Not the image.
        whole_copy(source, target)
        return
    with Path(target).open("wb", buffering=0) as file:
        file.write(content[: len(content) // 2])
        # In one write: print sends the end of the line by itself, and two threads may be here at the same time.
        os.write(sys.stdout.fileno(), b"in mid-copy\n")
        signal.pause()


def cannot_rename(source: Path, target: Any) -> Path:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))


if __name__ == "__main__":
    if "STOP_IN_MID_COPY" in os.environ:
        shutil.copyfile = half_a_copy
        Path.rename = cannot_rename
    TaskRun(save(sys.argv[1], sys.argv[2]), task_id="save", run_id="run").run()
