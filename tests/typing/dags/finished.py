"""An asset watcher on what the account has finished (Airflow 3.3 and later)."""

from __future__ import annotations

from airflow.sdk import Asset, AssetWatcher

from airflow_provider_evoimage.retry_policy import DEFAULT_RETRY_POLICY
from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED, EvoImageFinishedTrigger

if IS_SUPPORTED:
    FINISHED = Asset(
        "typed_finished",
        watchers=[
            AssetWatcher(
                name="account",
                trigger=EvoImageFinishedTrigger(asset="typed_finished", model="gpt-image-1.5"),
            )
        ],
    )
    assert DEFAULT_RETRY_POLICY is not None
