"""Content credentials and marks in every store: what is read back is byte for byte what was written, and valid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.simulator.drawing import images
from tests.integration.stores.store_servers import RunningStore
from tests.integration.task_driver import TaskRun, batch, generate

pytest.importorskip("c2pa", reason="c2pa-python is not installed", exc_type=ImportError)

from tests.integration.credentials import TYPES, identity, problems, signed_picture

pytestmark = pytest.mark.usefixtures("airflow_connection")


def images_below(store: RunningStore, folder: str) -> list[str]:
    return [
        name
        for name in store.names()
        if name.startswith(f"{folder}/") and name.endswith((".png", ".jpg", ".webp"))
    ]


@pytest.mark.parametrize("kind", TYPES)
def test_signed_file_stays_valid(
    store: RunningStore,
    folder: str,
    kind: str,
    finished: Callable[..., str],
    save_to: Callable[..., Any],
    fake_time: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    del fake_time
    content = signed_picture(kind)
    # From now on EvoLink delivers this as the result of everything.
    monkeypatch.setattr(images, "draw", lambda picture: content)
    root = f"{store.root}/{folder}-{kind}"
    save_to(finished(), root=root)
    TaskRun(generate(save_to=f"{root}/generate")).run()
    TaskRun(batch(["a mug"], f"{root}/batch")).run()
    names = images_below(store, f"{folder}-{kind}")
    assert len(names) == 3
    for name in names:
        there = store.read(name)
        assert there.content == content
        assert problems(kind, there.content) == []
        if store.is_object_store:
            assert there.content_type == TYPES[kind]


def test_signed_renditions_and_their_sheet_go_from_the_store_to_the_store(
    store: RunningStore,
    folder: str,
    finished: Callable[..., str],
    save_to: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
):
    of = identity()
    connection = {"conn_type": "generic", "password": of.key, "extra": {"certificate_chain": of.chain}}
    monkeypatch.setenv("AIRFLOW_CONN_SIGNER", json.dumps(connection))
    drawn = save_to(finished())

    def operator() -> EvoImageRenditionsOperator:
        return EvoImageRenditionsOperator(
            task_id="cut",
            images=drawn,
            save_to=f"{store.root}/{folder}/cut",
            renditions=[
                "meta.square",
                Rendition("hero", width=400, height=300, format="webp"),
                Rendition("logo", width=40, height=40, format="png"),
            ],
            contact_sheet=True,
            sign_conn_id="signer",
        )

    manifest = TaskRun(operator, task_id="cut", run_id="run").run()
    listed = [*manifest["images"][0]["renditions"], *manifest["contact_sheets"]]
    assert len(images_below(store, f"{folder}/cut")) == len(listed) == 4
    for each in listed:
        there = store.read(each["path"].removeprefix(f"{store.root}/"))
        assert hashlib.sha256(there.content).hexdigest() == each["sha256"]
        if store.is_object_store:
            assert there.content_type == each["content_type"]
        if each in manifest["images"][0]["renditions"]:
            assert problems(each["content_type"], there.content) == []
