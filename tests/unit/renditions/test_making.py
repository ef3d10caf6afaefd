"""Work that is handed to threads."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor

from airflow_provider_evoimage.renditions.making import _submitted

WHOSE = contextvars.ContextVar("whose", default="nobody's")


def test_threads_find_the_connections_and_the_log_of_the_task():
    WHOSE.set("the task's")
    with ThreadPoolExecutor(1) as pool:
        assert _submitted(pool, lambda more: WHOSE.get() + more, " own").result() == "the task's own"
