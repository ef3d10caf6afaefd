"""Total times of HTTP exchanges on worker threads. httpx's own timeouts limit each pause, not the whole.

A host that sends a byte now and then could go on for ever. :class:`DeadlineWatch` cuts the connection instead.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A time limit for a whole operation.

    :param seconds: how long it may take in all.
    :param at: that moment, by the monotonic clock.
    """

    seconds: float
    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Begin now."""
        return cls(seconds=seconds, at=time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then, 0 where it has passed."""
        return max(0.0, self.at - time.monotonic())


class DeadlinePassedError(Exception):
    """An exchange was cut at its deadline. Internal: the clients say it in their own words."""


class Exchange:
    """One request at the network level, which another thread may end.

    :param connected: the socket of a connection that is used again; None where the exchange connects.
    :param check_peer: called with the host that is connected to, and its address; refuses by raising.
    """

    def __init__(
        self,
        deadline: Deadline,
        *,
        connected: socket.socket | None = None,
        check_peer: Callable[[str, str], None] | None = None,
    ) -> None:
        self.deadline = deadline
        #: The socket that carries the exchange.
        self.connected = connected
        self._check_peer = check_peer
        self._is_over = False
        self._host = ""

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Look at each connection when it stands, before a byte is sent over it (httpcore's hook)."""
        if event.endswith(".connect_tcp.started"):
            # A proxy's, where httpx takes one: only httpx knows how it reads NO_PROXY.
            self._host = str(info["host"])
        if not event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            return
        stream = info["return_value"]
        try:
            if event.endswith(".connect_tcp.complete") and self._check_peer is not None:
                self._check_peer(self._host, str(stream.get_extra_info("server_addr")[0]))
            self.connected = stream.get_extra_info("socket")
            self.check_time()
        except OSError as error:  # It is gone already, and so is the peer's address.
            stream.close()
            raise httpx.ConnectError(str(error)) from error
        except Exception:
            stream.close()
            raise

    def check_time(self) -> None:
        """Raise when the time is over, as what was read is then incomplete.

        :raises DeadlinePassedError: when this exchange was cut.
        """
        if self._is_over:
            raise DeadlinePassedError

    def end(self) -> None:
        """Cut the connection, also while another thread reads it."""
        self._is_over = True
        if (connected := self.connected) is not None:
            with suppress(OSError):
                # Shut down the bare socket below TLS, so that a blocked read ends.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


class DeadlineWatch:
    """Ends exchanges at their deadlines; one thread for all, as a thread for each costs more than a small image."""

    def __init__(self) -> None:
        self._exchanges: set[Exchange] = set()
        self._changed = threading.Condition()
        self._wakes_at = math.inf
        self._is_closed = False
        self._is_abandoned = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def over(self, exchange: Exchange) -> Iterator[None]:
        """End an exchange at its deadline, unless the block is left before.

        :raises CancelledError: after :meth:`end_all`.
        """
        with self._changed:
            if self._is_abandoned:
                raise CancelledError
            self._exchanges.add(exchange)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="evoimage-deadlines", daemon=True)
                self._thread.start()
            elif exchange.deadline.at < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._exchanges.discard(exchange)

    def end_all(self) -> None:
        """End every exchange now, and let none begin."""
        with self._changed:
            self._is_abandoned = True
            for exchange in self._exchanges:
                exchange.end()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                for exchange in [each for each in self._exchanges if not each.deadline.left]:
                    self._exchanges.discard(exchange)
                    exchange.end()
                # It is not woken when an exchange ends in time; it then finds nothing to do.
                self._wakes_at = min((each.deadline.at for each in self._exchanges), default=math.inf)
                self._changed.wait(min(max(0.0, self._wakes_at - time.monotonic()), threading.TIMEOUT_MAX))


_shared: DeadlineWatch | None = None


def shared_watch() -> DeadlineWatch:
    """Return the one watch of this process for exchanges with the API; it is never closed."""
    global _shared  # noqa: PLW0603 (a process has one)
    if _shared is None:
        _shared = DeadlineWatch()
    return _shared


def _forget() -> None:
    """Begin anew in a forked process, where the thread of the other one does not run."""
    global _shared  # noqa: PLW0603 (as above)
    _shared = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
