"""Work of a task that stops in the middle of a file until its process is killed.

Temporary files lie on another file system than all others here, so that files are copied beside their final name.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from tests.integration.task_driver import TaskRun, save

ENDS = (".png", ".jpg", ".webp")
whole_copy = shutil.copyfile
counting = threading.Lock()
numbers = itertools.count(1)


def cannot_rename(source: Path, target: Any) -> Path:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))


def stopping_at(number: int, said: str) -> Any:
    """Return a copy of files that stops in the middle of an image file, and then makes a file that says so."""

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
            Path(said).touch()
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


def work_until_killed(wanted: dict[str, Any], stop_at: int, said: str) -> None:
    """Do the work as the only one of this process.

    :param stop_at: the number of the image file that is only half copied.
    :param said: the file that is made when it is.
    """
    shutil.copyfile = stopping_at(stop_at, said)
    Path.rename = cannot_rename
    work_of(wanted).run()
