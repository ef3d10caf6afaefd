"""Waits on a worker, for tasks that do not defer. ``polling`` decides when to poll and when to stop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from airflow_provider_evoimage import metrics
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.protocol import MAX_IDS_PER_BATCH
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    EvoImageError,
    GenerationNotFoundError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.polling import LAST_POLL_SECONDS, End, Ending, Outcome, Wait

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

# Polls that are due within this time share a request.
SHARED_POLL_SECONDS = 1.0

_Found = dict[str, Generation | EvoImageError]


def wait_on_worker(
    hook: EvoImageHook,
    waits: Iterable[Wait],
    log: Logger,
    *,
    save_every: int | None = None,
    save_after: float = 0.0,
    is_resumed: bool = False,
) -> WaitEvent:
    """Poll generations until all have ended, or until there is enough to save; return how they ended.

    :param waits: one for each generation, not begun.
    :param save_every: return when this many have ended and each was read once, as more may have; None waits for all.
    :param save_after: return this many seconds after the first has ended, even if fewer have.
    :param is_resumed: poll all at once first: they were waited for before.
    """
    waiting: dict[str, Wait] = {}
    next_poll_at: dict[str, float] = {}
    for each in waits:
        waiting[each.evolink_task_id], first = each.begin(time.time())
        next_poll_at[each.evolink_task_id] = time.time() if is_resumed else first.at
    endings: dict[str, Ending] = {}
    reason = ""
    first_ended_at = time.time()
    has_reconnected = False
    unread = set(waiting)
    while next_poll_at:
        if endings and save_every is not None:
            is_time = time.time() >= first_ended_at + save_after
            if is_time or (len(endings) >= save_every and not unread):
                break
        time.sleep(max(0.0, min(next_poll_at.values()) - time.time()))
        due = sorted(next_poll_at, key=next_poll_at.__getitem__)[:MAX_IDS_PER_BATCH]
        due = [each for each in due if next_poll_at[each] <= time.time() + SHARED_POLL_SECONDS]
        seen = _poll(hook, due, within=max(waiting[each].deadline for each in due) - time.time())
        if any(isinstance(found, AuthenticationError) for found in seen.values()) and not has_reconnected:
            has_reconnected = True
            hook.reconnect()
            continue
        unread.difference_update(seen)
        for evolink_task_id, found in seen.items():
            has_reconnected = has_reconnected and isinstance(found, EvoImageError)
            wait = waiting[evolink_task_id]
            if len(waiting) == 1:
                _log_change(wait, found, log)
            waiting[evolink_task_id], outcome = _after(wait, found, sharing=len(due))
            if isinstance(outcome, End):
                first_ended_at = first_ended_at if endings else time.time()
                endings[evolink_task_id] = outcome.ending
                reason = outcome.reason or reason
                del next_poll_at[evolink_task_id]
            else:
                next_poll_at[evolink_task_id] = outcome.at
    return WaitEvent.of_some(endings, total=len(waiting), reason=reason)


def _poll(hook: EvoImageHook, due: Sequence[str], *, within: float) -> _Found:
    """Read what is due; a slow service holds up no task past its deadline.

    :param within: seconds to the deadline.
    """
    try:
        with hook.reading_within(max(within, 0.0) + LAST_POLL_SECONDS):
            found = (
                {due[0]: hook.get_generation(due[0])} if len(due) == 1 else hook.get_generations(list(due))
            )
    except EvoImageError as error:
        return dict.fromkeys(due, error)
    metrics.ids_read(len(due))
    return {each: found.get(each) or GenerationNotFoundError("EvoLink does not know it.") for each in due}


def _after(wait: Wait, found: Generation | EvoImageError, *, sharing: int) -> tuple[Wait, Outcome]:
    if isinstance(found, EvoImageError):
        return wait.missed(found, time.time())
    return wait.seen(found, time.time(), sharing=sharing)


def _log_change(wait: Wait, found: Generation | EvoImageError, log: Logger) -> None:
    if isinstance(found, AuthenticationError):
        return
    if isinstance(found, EvoImageError):
        log.warning("EvoLink task %s could not be read: %s", wait.evolink_task_id, found.message)
    elif found.status != wait.status:
        log.info("EvoLink task %s: %s.", wait.evolink_task_id, found.status)
