"""One hook has one client, whoever asks for it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_evoimage.hooks import evoimage
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> EvoImageHook:
    connection = {"conn_type": "evoimage", "password": "sk-evo-0123456789abcdef"}
    monkeypatch.setenv("AIRFLOW_CONN_EVOIMAGE_DEFAULT", json.dumps(connection))
    return EvoImageHook()


def test_threads_share_one_client(hook: EvoImageHook, monkeypatch: pytest.MonkeyPatch):
    make = evoimage.EvoLinkClient

    def make_slowly(*arguments: Any) -> evoimage.EvoLinkClient:
        time.sleep(0.02)
        return make(*arguments)

    monkeypatch.setattr(evoimage, "EvoLinkClient", make_slowly)
    with ThreadPoolExecutor(8) as pool:
        clients = set(pool.map(lambda _: hook.get_conn(), range(8)))
    assert clients == {hook.get_conn()}
    hook.close()


def test_closed_hook_makes_a_new_client(hook: EvoImageHook):
    before = hook.get_conn()
    hook.close()
    hook.close()
    assert hook.get_conn() is not before
    hook.close()
