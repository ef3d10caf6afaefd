"""Polls the account's list for a watched asset and keeps the position there. Airflow 3.3 and later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog

from airflow_provider_evoimage.client import AsyncEvoLinkClient
from airflow_provider_evoimage.evolink.answers import Generation, GenerationState
from airflow_provider_evoimage.evolink.protocol import MAX_IDS_PER_BATCH
from airflow_provider_evoimage.exceptions import (
    EvoImageError,
    EvoLinkApiError,
    GenerationNotFoundError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.version_compat import AssetStateStoreAccessor, SharedStreamProducer
from airflow_provider_evoimage.waiting.finished import News, Position, begin, look

POSITION_KEY = "evoimage_position"
#: Pages of one look: 10,000 generations between two looks.
MOST_PAGES = 200
_LONGEST_PAUSE = 300.0
_STORE_ATTEMPTS = 5
_NO_SUCH_ENDPOINT = frozenset({404, 405, 501})

log: Any = structlog.get_logger(__name__)


class FinishedStream(SharedStreamProducer):
    """One asset's stream of finished generations; see :class:`EvoImageFinishedTrigger` for the parameters.

    The position in the store never runs ahead of what Airflow has stored as events. Every look that fails is repeated
    later, with a growing pause.
    """

    def __init__(
        self,
        *,
        asset: str,
        statuses: Sequence[str],
        model: Sequence[str],
        poll_interval: float,
        evoimage_conn_id: str,
    ) -> None:
        self._asset = asset
        self._statuses = tuple(statuses)
        self._models = tuple(model)
        self._poll_interval = poll_interval
        self._conn_id = evoimage_conn_id
        self._store = AssetStateStoreAccessor(name=asset)
        self._client: AsyncEvoLinkClient | None = None
        #: Events that Airflow has not stored yet.
        self._unconfirmed = 0
        self._kept: dict[str, Any] | None = None

    async def open_stream(self) -> AsyncIterator[tuple[Any, Any]]:
        """Yield what has finished, with the position to keep once that is stored."""
        position: Position | None = await self._stored_position()
        failures = 0
        while True:
            try:
                news = await self._look(position)
            except EvoImageError as error:
                failures += 1
                await self._reconnect()
                pause = max(min(self._poll_interval * 2**failures, _LONGEST_PAUSE), error.retry_after or 0.0)
                await log.awarning(
                    "The list of generations could not be read for asset %s; next look in %.0f s: %s",
                    self._asset,
                    pause,
                    error,
                )
                await asyncio.sleep(pause)
                continue
            failures = 0
            position = news.position
            if news.finished:
                self._unconfirmed += 1
                yield [dict(each) for each in news.finished], position.to_json()
            elif self._unconfirmed == 0:
                await self._keep(position.to_json())
            if not news.has_more:
                await asyncio.sleep(self._poll_interval)

    async def advance(self, batch: Sequence[Any]) -> None:
        """Keep the position of the last event that Airflow has stored.

        :raises RuntimeError: when an event was not stored: Airflow then starts the stream again from the position kept.
        """
        for item in batch:
            if not item.outcome.is_clean:
                raise RuntimeError("Airflow did not store an event; reporting it again.")
        await self._keep(batch[-1].broker_payload)
        self._unconfirmed -= len(batch)

    async def aclose(self) -> None:
        """Close the connections to EvoLink."""
        await self._reconnect()

    async def _stored_position(self) -> Position | None:
        stored = await self._store.aget(POSITION_KEY)
        position = Position.read(stored)
        if position is None and stored is not None:
            await log.awarning(
                "The position in the state of asset %s cannot be read; watching from now on.", self._asset
            )
        if position is not None:
            self._kept = position.to_json()
        return position

    async def _keep(self, position: dict[str, Any]) -> None:
        if position == self._kept:
            return
        for attempt in range(_STORE_ATTEMPTS):
            try:
                await self._store.aset(POSITION_KEY, position)
            except Exception:
                # Airflow's database may be busy. Without the position the last events would be sent again.
                if attempt == _STORE_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(1)
            else:
                self._kept = position
                return

    async def _look(self, position: Position | None) -> News:
        client = self._client = self._client or await EvoImageHook(self._conn_id).aget_conn()
        now = time.time()
        if position is None:
            running = await self._listed(client, since=0.0, status="processing")
            latest = await client.list_generations(model=self._only_model, page_size=MAX_IDS_PER_BATCH)
            # What ended between the two requests counts as running, so that it is reported.
            found = {each.evolink_task_id: each for each in (*latest.generations, *running)}
            return News(finished=(), position=begin(found.values(), models=self._models, now=now))
        listed = await self._listed(client, since=position.listed_from)
        ids = {each.evolink_task_id for each in listed}
        states = await self._states(client, [each for each in position.running if each not in ids])
        return look(position, listed, states, statuses=self._statuses, models=self._models, now=now)

    @property
    def _only_model(self) -> str | None:
        """The model that EvoLink is asked for; of several the others are left out here."""
        return self._models[0] if len(self._models) == 1 else None

    async def _listed(
        self, client: AsyncEvoLinkClient, *, since: float, status: str | None = None
    ) -> list[Generation]:
        """Read the list, newest first, back to a moment of EvoLink's clock."""
        found: dict[str, Generation] = {}
        for page in range(1, MOST_PAGES + 1):
            answer = await client.list_generations(
                status=status, model=self._only_model, page=page, page_size=MAX_IDS_PER_BATCH
            )
            fresh = [each for each in answer.generations if each.evolink_task_id not in found]
            found |= {each.evolink_task_id: each for each in fresh}
            if not any(each.created and each.created.timestamp() > since for each in fresh):
                break
        return list(found.values())

    async def _states(self, client: AsyncEvoLinkClient, ids: Sequence[str]) -> dict[str, GenerationState]:
        found: dict[str, GenerationState] = {}
        for start in range(0, len(ids), MAX_IDS_PER_BATCH):
            some = ids[start : start + MAX_IDS_PER_BATCH]
            try:
                found |= await client.get_states(some)
            except EvoLinkApiError as error:
                if error.http_status not in _NO_SUCH_ENDPOINT:
                    raise
                found |= await self._states_one_by_one(client, some)
        return found

    @staticmethod
    async def _states_one_by_one(
        client: AsyncEvoLinkClient, ids: Sequence[str]
    ) -> dict[str, GenerationState]:
        found: dict[str, GenerationState] = {}
        for each in ids:
            try:
                found[each] = await client.get_state(each)
            except GenerationNotFoundError:
                continue
        return found

    async def _reconnect(self) -> None:
        """Read the connection again at the next look: the key may have been changed."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
