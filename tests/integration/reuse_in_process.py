"""A try of a task that reuses, which SIGKILL may end at a chosen moment: the only work of its process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

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
        # What the tries before have left.
        self.rows = {file.name: file.read_text() for file in folder.iterdir()}

    def set(self, key: str, value: Any) -> None:
        super().set(key, value)
        (self._folder / key).write_text(self.rows[key])


wanted = ""


def die(moment: str) -> None:
    if moment == wanted:
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


whole_publish, whole_send = Destination.publish, Transport.send


def attempt(asked: dict[str, Any]) -> None:
    """Run one try.

    :param asked: has these keys

        ``kind``        generate or batch
        ``save_to``     folder of the images
        ``run_id``      of the DAG run
        ``try_number``  of the task
        ``store``       a folder for what Airflow 3.3 keeps of the task; None for an older Airflow
        ``moment``      when SIGKILL comes; empty for never
        ``result``      file for what the task returns
    """
    global wanted  # noqa: PLW0603 (of this process alone)
    wanted = asked["moment"]
    Destination.publish, Transport.send = publish, send
    arguments: dict[str, Any] = {"reuse": True, "deferrable": False, "poll_interval": 1}
    made = (
        generate(save_to=asked["save_to"], **arguments)
        if asked["kind"] == "generate"
        else batch(["a red fox", "a blue fox"], asked["save_to"], **arguments)
    )
    store = None if asked["store"] is None else FileStore(Path(asked["store"]))
    task = TaskRun(made, store=store, run_id=asked["run_id"])
    task.ti.try_number = asked["try_number"] - 1
    Path(asked["result"]).write_text(json.dumps(task.run()))
