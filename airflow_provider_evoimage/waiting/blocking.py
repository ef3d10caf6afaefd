"""Waits on a worker, for tasks that do not defer. The decisions are those of ``polling``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_provider_evoimage.exceptions import AuthenticationError, EvoImageError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.waiting.event import WaitEvent
from airflow_provider_evoimage.waiting.polling import End, Outcome, Wait

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


def wait_on_worker(hook: EvoImageHook, wait: Wait, log: Logger) -> WaitEvent:
    """Look at one generation until it has ended or its deadline is over; return how it ended."""
    outcome: Outcome
    wait, outcome = wait.begin(time.time())
    has_reconnected = False
    while not isinstance(outcome, End):
        time.sleep(max(0.0, outcome.at - time.time()))
        try:
            generation = hook.get_generation(wait.evolink_task_id)
        except AuthenticationError as error:
            if has_reconnected:
                wait, outcome = wait.missed(error, time.time())
            else:
                has_reconnected = True
                hook.reconnect()
            continue
        except EvoImageError as error:
            log.warning("EvoLink task %s could not be read: %s", wait.evolink_task_id, error.message)
            wait, outcome = wait.missed(error, time.time())
            continue
        if generation.status != wait.status:
            log.info("EvoLink task %s: %s.", wait.evolink_task_id, generation.status)
        has_reconnected = False
        wait, outcome = wait.seen(generation, time.time())
    return WaitEvent(endings={wait.evolink_task_id: outcome.ending}, reason=outcome.reason)
