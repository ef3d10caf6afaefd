"""Saves a generation or makes renditions, in a process that stops in the middle of a file until it is killed.

    python killed_process.py JSON

``stop_at`` is the number of the image file that is only half copied. Temporary files lie on another file system than
all others here, so that files are copied beside their final name.
Then the process says so on standard output, and waits.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from tests.integration.task_driver import TaskRun, save

ENDS = (".png", ".jpg", ".webp")
whole_copy = shutil.copyfile
counting = threading.Lock()
numbers = itertools.count(1)


def cannot_rename(source: Path, target: Any) -> Path:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))


def stopping_at(number: int) -> Any:
    def copied(source: Any, target: Any) -> None:
        is_image = any(end in str(target) for end in ENDS)
        with counting:
            is_it = is_image and next(numbers) == number
        if not is_it:
            whole_copy(source, target)
            return
        content = Path(source).read_bytes()
        with Path(target).open("wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            os.write(sys.stdout.fileno(), b"in mid-file\n")
            signal.pause()
            threading.Event().wait()

    return copied


def work_of(wanted: dict[str, Any], tries: int = 0) -> TaskRun:
    """Return the task, in this process or another one."""
    if "generation" in wanted:
        return TaskRun(
            save(wanted["generation"], wanted["save_to"], alt_text="A fox", parallel=1),
            task_id="save",
            run_id="run",
            try_number=tries,
        )

    def operator() -> EvoImageRenditionsOperator:
        return EvoImageRenditionsOperator(
            task_id="cut",
            images=wanted["images"],
            save_to=wanted["save_to"],
            renditions=["meta.story", "meta.square", Rendition("hero", width=400, height=300, format="webp")],
            contact_sheet=True,
            parallel=wanted["parallel"],
        )

    return TaskRun(operator, task_id="cut", run_id="run", try_number=tries)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    shutil.copyfile = stopping_at(given["stop_at"])
    Path.rename = cannot_rename
    work_of(given).run()
