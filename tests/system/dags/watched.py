"""Two assets that watch the same account, each for itself, and DAGs that return what they are told."""

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_evoimage.triggers.finished import IS_SUPPORTED, EvoImageFinishedTrigger

# A busy machine may lose a worker.
RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=1)}


def watched(name):
    asset = Asset(
        name,
        watchers=[AssetWatcher(name="account", trigger=EvoImageFinishedTrigger(asset=name, poll_interval=1))],
    )
    with DAG(f"{name}_consumer", schedule=[asset], catchup=False, default_args=RETRIES) as dag:

        @task
        def told(*, triggering_asset_events):
            return [event.extra["payload"] for event in triggering_asset_events[asset]]

        told()
    return dag


if IS_SUPPORTED:
    FIRST = watched("watched_one")
    SECOND = watched("watched_two")
