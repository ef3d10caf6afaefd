"""``evoimage list``: the generations of the account, and what they were charged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from airflow_provider_evoimage.command.account import CommandHook
from airflow_provider_evoimage.defaults import ListedStatus
from airflow_provider_evoimage.evolink.answers import Generation

_PAGE_SIZE = 50


def recent(
    conn_id: str | None, *, hours: float, limit: int, status: ListedStatus | None, model: str | None
) -> list[Generation]:
    """Read the newest generations, newest first.

    :param hours: how far back.
    :param limit: how many at most.
    :param status: ``processing``, ``completed``, ``failed`` or ``cancelled``.
    """
    since = datetime.now(UTC) - timedelta(hours=hours)
    hook = CommandHook(conn_id)
    found: list[Generation] = []
    try:
        for generation in _newest(hook, status=status, model=model):
            if generation.created is not None and generation.created < since:
                break
            found.append(generation)
            if len(found) == limit:
                break
    finally:
        hook.close()
    return found


def _newest(hook: CommandHook, *, status: ListedStatus | None, model: str | None) -> Iterator[Generation]:
    page, read, known = 1, 0, set[str]()
    while True:
        answer = hook.list_generations(status=status, model=model, page=page, page_size=_PAGE_SIZE)
        for generation in answer.generations:
            # A generation that is made meanwhile moves the others to the next page.
            if generation.evolink_task_id not in known:
                known.add(generation.evolink_task_id)
                yield generation
        read += len(answer.generations)
        if not answer.generations or read >= answer.total:
            return
        page += 1
