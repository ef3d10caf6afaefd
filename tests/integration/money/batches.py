"""A batch to test with, its worker that dies at a chosen moment, and what must stand there in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_evoimage.batch.ledger import BatchLedger
from airflow_provider_evoimage.evolink.protocol import Answer
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.transport import Outgoing, Transport
from tests.integration.copies import copy_with
from tests.integration.money.crashes import POST, paid
from tests.integration.task_driver import Killed, TaskRun

PROMPTS = [f"a poster {number % 9}" for number in range(20)]


def lines(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.rglob("*.batch.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_whole(evolink: SimulatorServer, folder: Path, prompts: list[str]) -> None:
    """Each item has an image of its own, made from its own prompt, and each was paid for once."""
    assert paid(evolink) == len(prompts)
    requested = {key: each.order.prompt for key, each in evolink.state.generations.items()}
    ledger = lines(folder)
    assert [requested[line["evolink_task_id"]] for line in ledger] == prompts
    assert len({line["evolink_task_id"] for line in ledger}) == len(prompts)
    files = sorted(folder.rglob("*.png"))
    assert len(files) == len(prompts)
    for file in files:
        with Image.open(file) as image:
            image.load()
    assert not [each for each in folder.rglob("*") if each.name.startswith(".")]


class Death:
    """Ends the worker at the nth of what it counts, once."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def die_at(moment: str, nth: int, monkeypatch: pytest.MonkeyPatch) -> Death:
    death = Death(nth)
    if moment == "mid copy":
        copy_with(death, monkeypatch)
    else:
        _die_around(moment, death, monkeypatch)
    return death


def _die_around(moment: str, death: Death, monkeypatch: pytest.MonkeyPatch) -> None:
    request, write, publish = Transport.send, BatchLedger.write, Destination.publish

    def doomed_request(transport: Transport, outgoing: Outgoing) -> Answer:
        posts = outgoing.url.endswith(POST)
        if posts and moment == "before POST":
            death()
        answer = request(transport, outgoing)
        if posts and moment == "after POST":
            death()
        return answer

    def doomed_write(ledger: BatchLedger, found: Any) -> None:
        if moment == "before ledger":
            death()
        write(ledger, found)
        if moment == "after ledger":
            death()

    def doomed_publish(destination: Destination, local: Path, name: str, kind: str) -> str:
        if moment == "before save" and name.endswith(".png"):
            death()
        url = publish(destination, local, name, kind)
        if moment == "after save" and name.endswith(".png"):
            death()
        return url

    monkeypatch.setattr(Transport, "send", doomed_request)
    monkeypatch.setattr(BatchLedger, "write", doomed_write)
    monkeypatch.setattr(Destination, "publish", doomed_publish)


def run_until_it_lives(task: TaskRun) -> Any:
    while True:
        try:
            return task.run()
        except Killed:
            continue
