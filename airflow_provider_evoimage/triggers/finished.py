"""The trigger of an asset watcher: tells when generations of the account have finished. Airflow 3.3 and later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from typing import TYPE_CHECKING, Any, get_args

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider_evoimage.arguments import one_of, poll_seconds, texts
from airflow_provider_evoimage.defaults import DEFAULT_CONN_ID, FinishedStatus, Model
from airflow_provider_evoimage.exceptions import InvalidRequestError

if TYPE_CHECKING:
    from airflow.triggers.shared_stream import SharedStreamProducer

EVENT_VERSION = 1
STATUSES: tuple[FinishedStatus, ...] = get_args(FinishedStatus)
DEFAULT_POLL_SECONDS = 15.0

#: Whether Airflow says when it has stored an event, without which a killed triggerer loses some (3.3 and later).
IS_SUPPORTED = hasattr(BaseEventTrigger, "create_shared_stream_producer")


class EvoImageFinishedTrigger(BaseEventTrigger):
    """Sends an asset event whenever generations of the account have finished, whoever asked for them.

    For ``AssetWatcher``; the event's payload, in ``event.extra["payload"]``, is
    ``{"v": 1, "generations": [{"evolink_task_id", "status", "model"}, …]}``, at most 100 of them. It reads the
    account's list of generations and submits nothing. How far it has come is kept in the state store of the asset,
    after Airflow has stored the event: a killed triggerer loses nothing. If it is killed in the second between the
    two, the last event is sent twice. What had finished before the watcher first ran is not reported.

    :param asset: name of the watched asset. Each asset needs a trigger of its own: Airflow 3.3.2 adds and removes one
        that two assets share without end.
    :param statuses: which endings to report.
    :param model: only generations of this model, or of these.
    :param poll_interval: seconds between two looks.
    :param evoimage_conn_id: id of the Airflow connection.
    :raises InvalidRequestError: below Airflow 3.3.
    """

    def __init__(
        self,
        *,
        asset: str,
        statuses: Sequence[FinishedStatus] = ("completed",),
        model: Model | str | Sequence[Model | str] | None = None,
        poll_interval: float = DEFAULT_POLL_SECONDS,
        evoimage_conn_id: str = DEFAULT_CONN_ID,
    ) -> None:
        if not IS_SUPPORTED:
            raise InvalidRequestError(
                "EvoImageFinishedTrigger needs Airflow 3.3: older ones lose events when a triggerer dies. Use "
                "EvoImageIngestOperator on a schedule."
            )
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        if not isinstance(asset, str) or not asset.strip():
            raise InvalidRequestError(f"asset must be the name of the watched asset, not {asset!r}.")
        self.asset = asset
        self.statuses = [one_of("statuses", each, STATUSES) for each in texts("statuses", statuses)]
        self.model = texts("model", model)
        self.poll_interval = poll_seconds(poll_interval)
        self.evoimage_conn_id = evoimage_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the constructor's arguments, all plain JSON."""
        names = ("asset", "statuses", "model", "poll_interval", "evoimage_conn_id")
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            name: getattr(self, name) for name in names
        }

    def shared_stream_key(self) -> Hashable:
        """Name the stream: that of one asset, as each has its own position."""
        return (
            "evoimage-finished",
            self.asset,
            self.evoimage_conn_id,
            *self.statuses,
            "of",
            *self.model,
            self.poll_interval,
        )

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Make what polls, and keeps the position once Airflow has stored an event."""
        # Older Airflows lack its base class.
        from airflow_provider_evoimage.triggers.finished_stream import FinishedStream  # noqa: PLC0415

        return FinishedStream(**cls(**kwargs).serialize()[1])

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Turn what the stream found into events."""
        self._require_own_asset()
        async for finished in shared_stream:
            # Not the log of each id: Airflow itself logs the event.
            yield TriggerEvent({"v": EVENT_VERSION, "generations": finished})

    def run(self) -> AsyncIterator[TriggerEvent]:
        """Refuse: Airflow calls this only where the trigger is no watcher's, for instance if a task defers to it."""
        raise InvalidRequestError("EvoImageFinishedTrigger is for AssetWatcher; a task cannot wait with it.")

    def _require_own_asset(self) -> None:
        """Check that the asset whose state holds the position is the one that is watched.

        :raises InvalidRequestError: when the trigger names another asset than that it watches.
        """
        from airflow.sdk import Asset  # noqa: PLC0415 (only for what runs)

        watched = self.asset_state_store
        try:
            is_own = watched is not None and watched[Asset(self.asset)] is not None
        except KeyError:
            is_own = False
        if not is_own:
            raise InvalidRequestError(
                f"EvoImageFinishedTrigger(asset={self.asset!r}) watches an asset of another name: give it the name of "
                "the asset whose watcher it is."
            )
