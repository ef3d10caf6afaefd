"""Runs one try of a task that reuses, in a process that SIGKILL ends at a chosen moment.

    python reuse_in_process.py KIND SAVE_TO RUN_ID TRY_NUMBER STORE [MOMENT]

``KIND`` is generate or batch, ``STORE`` a folder for what Airflow 3.3 keeps of the task, "-" for an older Airflow.
Prints the result as JSON in its last line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.transport import Outgoing, Transport
from tests.integration.task_driver import StateStore, TaskRun, batch, generate

KINDS = {"png": "image", "json": "sidecar"}


class FileStore(StateStore):
    """The task state store, in files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.rows = {file.name: file.read_text() for file in folder.iterdir()}

    def set(self, key: str, value: Any) -> None:
        super().set(key, value)
        (self._folder / key).write_text(self.rows[key])


def die(moment: str) -> None:
    if moment == WANTED:
        os.kill(os.getpid(), signal.SIGKILL)


def publish(self: Destination, local: Path, name: str, content_type: str) -> str:
    if name.startswith("_index/tasks/"):
        what = "note"
    elif name.startswith("_index/"):
        what = "index"
    else:
        what = KINDS.get(name.rpartition(".")[2], "other")
    die(f"before {what}")
    url = whole_publish(self, local, name, content_type)
    die(f"after {what}")
    return url


def send(self: Transport, outgoing: Outgoing) -> Any:
    posts = outgoing.url.endswith("/v1/images/generations")
    if posts:
        die("before POST")
    answer = whole_send(self, outgoing)
    if posts:
        die("after POST")
    return answer


if __name__ == "__main__":
    KIND, SAVE_TO, RUN_ID, TRY, STORE, *rest = sys.argv[1:]
    WANTED = rest[0] if rest else ""
    whole_publish, whole_send = Destination.publish, Transport.send
    Destination.publish, Transport.send = publish, send
    arguments: dict[str, Any] = {"reuse": True, "deferrable": False, "poll_interval": 1}
    made = (
        generate(save_to=SAVE_TO, **arguments)
        if KIND == "generate"
        else batch(["a red fox", "a blue fox"], SAVE_TO, **arguments)
    )
    task = TaskRun(made, store=None if STORE == "-" else FileStore(Path(STORE)), run_id=RUN_ID)
    task.ti.try_number = int(TRY) - 1
    print(json.dumps(task.run()))
