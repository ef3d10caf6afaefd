"""Runs tries of tasks that reuse, each in a process of its own that SIGKILL may end at a chosen moment.

Reads lines of JSON: a list of tries that run at the same time, each a mapping with

``kind``        generate or batch
``save_to``     folder of the images
``run_id``      of the DAG run
``try_number``  of the task
``store``       a folder for what Airflow 3.3 keeps of the task; null for an older Airflow
``moment``      when SIGKILL comes; empty for never
``result``      file for what the task returns

Answers each line with the exit codes. Processes are forked, as importing Airflow takes far longer than a try.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import airflow_provider_evoimage
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


def forked(asked: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        attempt(asked)
    except BaseException:  # noqa: BLE001 (its parent sees the exit code)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    # Operators import what only a running task needs when they run; each fork would do it anew.
    for module in pkgutil.walk_packages(airflow_provider_evoimage.__path__, "airflow_provider_evoimage."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()
    # A fork of several threads may inherit a lock that nobody opens.
    assert threading.active_count() == 1
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        children = [forked(each) for each in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), file=answers, flush=True)
