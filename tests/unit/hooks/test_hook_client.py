"""One hook has one client, whoever asks for it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.answers import Credits
from airflow_provider_evoimage.hooks import evoimage
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from tests.crowded_lock import CrowdedLock


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> EvoImageHook:
    connection = {"conn_type": "evoimage", "password": "sk-evo-0123456789abcdef"}
    monkeypatch.setenv("AIRFLOW_CONN_EVOIMAGE_DEFAULT", json.dumps(connection))
    return EvoImageHook()


def test_threads_share_one_client(hook: EvoImageHook, monkeypatch: pytest.MonkeyPatch):
    make, lock = evoimage.EvoLinkClient, CrowdedLock(8)

    def make_while_others_ask(*arguments: Any) -> evoimage.EvoLinkClient:
        lock.wait_for_all()
        return make(*arguments)

    monkeypatch.setattr(evoimage, "_MAKING_CLIENT", lock)
    monkeypatch.setattr(evoimage, "EvoLinkClient", make_while_others_ask)
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


@pytest.mark.parametrize(
    ("account", "key", "advice"),
    [
        (1095.4, -2, "Raise the key's limit"),
        (1095.4, 0, "Raise the key's limit"),
        (0, -2, "Top up"),
        (-0.5, 100, "Top up"),
    ],
)
def test_advice_names_what_is_used_up(account: float, key: float, advice: str):
    works, sentence = evoimage._balance_in_words(Credits(account_remaining=account, key_remaining=key))

    assert works is False
    assert advice in sentence
    assert f"{key:,.2f}" not in sentence.replace(f"{account:,.2f}", "")
