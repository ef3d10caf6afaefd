"""Counters and timings in Airflow's own metrics, so that dashboards show what images cost.

============================  =======  ==============================================================
name                          kind     what is counted; tags
============================  =======  ==============================================================
``evoimage.generations``      counter  generations that a task handed over or gave up; ``model``,
                                       ``outcome``: completed, failed, cancelled, expired
``evoimage.images``           counter  images of completed generations; ``model``
``evoimage.credits_used``     counter  credits charged, with decimals; ``model``
``evoimage.wait_seconds``     timing   from acceptance until the task had the result, in milliseconds
                                       like Airflow's own timings; ``model``
``evoimage.ids_read``         counter  generations whose state was read while waiting
``evoimage.bytes_saved``      counter  bytes of images written to the storage
``evoimage.approvals``        counter  answered approvals; ``outcome``: approved, rejected, timed_out
``evoimage.images_approved``  counter  images that a person, or a timeout, approved
============================  =======  ==============================================================

As Airflow does with its own, each name with tags is sent once more with the tags' values in the name, for
servers that know no tags: ``evoimage.generations.gpt-image-1_5.completed``. A generation counts when its task
(generate, batch or sensor) delivers it or gives it up, so a retry that saves again does not count twice; a
cleared task that delivers it again does. A failing metric never fails a task.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from datetime import timedelta
from typing import Literal

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.version_compat import airflow_stats

log = logging.getLogger(__name__)

_NO_NAME_CHARACTER = re.compile(r"[^A-Za-z0-9_-]")


def generation_ended(generation: Generation, *, is_expired: bool = False) -> None:
    """Count a generation whose task is done with it.

    :param is_expired: whether its images were made but their links are dead.
    """
    outcome = "expired" if is_expired else generation.status
    model = {"model": generation.model or "unknown"}
    _count("generations", 1, {**model, "outcome": outcome})
    if generation.image_urls:
        _count("images", len(generation.image_urls), model)
    if generation.usage.credits_used:
        _count("credits_used", generation.usage.credits_used, model)
    if generation.created is not None:
        # Airflow takes a bare number for milliseconds.
        waited = timedelta(seconds=max(0.0, time.time() - generation.created.timestamp()))
        _send("timing", "wait_seconds", waited, model)


def ids_read(ids: int) -> None:
    """Count generations whose state was read. In a trigger, await :func:`prepare_for_asyncio` first."""
    _count("ids_read", ids, {})


def image_saved(size: int) -> None:
    """Count the bytes of one image that was written."""
    _count("bytes_saved", size, {})


def approval_ended(outcome: str, images: int) -> None:
    """Count an approval and the images that it approved."""
    _count("approvals", 1, {"outcome": outcome})
    if images:
        _count("images_approved", images, {})


async def prepare_for_asyncio() -> None:
    """Prepare in a thread what blocks when a process sends its first metric: imports, files, a DNS lookup."""
    await asyncio.to_thread(ids_read, 0)


def _count(name: str, amount: float, tags: dict[str, str]) -> None:
    _send("incr", name, amount, tags)


def _send(
    kind: Literal["incr", "timing"], name: str, amount: float | timedelta, tags: dict[str, str]
) -> None:
    try:
        send = getattr(airflow_stats(), kind)
        send(f"evoimage.{name}", amount, tags=tags)
        if tags:
            values = (_NO_NAME_CHARACTER.sub("_", value) for value in tags.values())
            send(".".join(("evoimage", name, *values)), amount, tags={})
    except Exception:  # A failing metric must not lose an image.
        log.debug("Metric evoimage.%s could not be sent", name, exc_info=True)
