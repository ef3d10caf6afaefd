"""A lock at which all threads of a test stand at the same moment, however fast each of them is."""

from __future__ import annotations

import threading


class CrowdedLock:
    """Takes the place of a lock; its owner can wait until all threads have come to it.

    :param crowd: number of threads.
    """

    def __init__(self, crowd: int) -> None:
        self._crowd = crowd
        self._lock = threading.Lock()
        self._comers: set[int] = set()
        self._one_more = threading.Condition()

    def __enter__(self) -> None:
        self._come()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait_for_all(self) -> None:
        """Wait until every thread stands at the lock, or has come here without it."""
        self._come()
        with self._one_more:
            assert self._one_more.wait_for(lambda: len(self._comers) == self._crowd, 30)

    def _come(self) -> None:
        with self._one_more:
            self._comers.add(threading.get_ident())
            self._one_more.notify_all()
