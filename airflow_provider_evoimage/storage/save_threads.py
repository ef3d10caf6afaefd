"""The threads of one save: some for images, some for the small files beside them."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

# Sidecars and what is read of earlier saves: little work, and a long wait where the storage is far away.
SMALL_FILES_AT_ONCE = 8
# Time for uploads in progress when a task is stopped; everything else stops at once.
LAST_UPLOADS_SECONDS = 10

P = ParamSpec("P")
T = TypeVar("T")


class SaveThreads:
    """Two pools of threads. Leaving the block waits for all work that was given to them.

    Where the task is ended (Airflow's time-out, a signal), work that has not begun is dropped, and what has begun
    gets ``LAST_UPLOADS_SECONDS``.

    :param images: at a time.
    :param abandon: is called first in that case, so that downloads end.
    """

    def __init__(self, images: int, *, abandon: Callable[[], object]) -> None:
        self._images = ThreadPoolExecutor(images, thread_name_prefix="evoimage-save")
        self._small = ThreadPoolExecutor(SMALL_FILES_AT_ONCE, thread_name_prefix="evoimage-sidecar")
        self._abandon = abandon
        self._given: list[Future[object]] = []

    def for_image(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Bring an image."""
        return self._submit(self._images, work, *args, **kwargs)

    def for_small_file(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Read or write what is small."""
        return self._submit(self._small, work, *args, **kwargs)

    def _submit(
        self, pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        # Each in its own copy of the context, so that log lines find their task.
        run = partial(contextvars.copy_context().run, work, *args, **kwargs)
        future = pool.submit(run)
        self._given.append(future)  # type: ignore[arg-type]
        return future

    def __enter__(self) -> Self:
        """Threads start when there is work."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the work, as far as the class says."""
        if kind is None or issubclass(kind, Exception):
            self._images.shutdown()
            self._small.shutdown()
            return
        self._abandon()
        for pool in (self._images, self._small):
            pool.shutdown(wait=False, cancel_futures=True)
        wait([each for each in self._given if not each.cancelled()], timeout=LAST_UPLOADS_SECONDS)
