"""A TCP relay in front of a store, which can hold an upload fast in its middle."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Relay:
    """Passes bytes to and from a port of this machine.

    After ``hold_after(n)`` it passes n bytes more to the server, then nothing: ``held`` is set, and whoever
    uploads waits, until ``release``, which cuts the connections that wait.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._lock = threading.Lock()
        self._left: int | None = None
        self._held: set[socket.socket] = set()
        self.held = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._listener.close()
        self._cut()

    def hold_after(self, upload_bytes: int) -> None:
        self.held.clear()
        with self._lock:
            self._left = upload_bytes

    def release(self) -> None:
        with self._lock:
            self._left = None
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            held, self._held = self._held, set()
        for each in held:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_upload: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_upload and not self._may_pass(len(data)):
                    with self._lock:
                        self._held |= {source, sink}
                    self.held.set()
                    return
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def _may_pass(self, size: int) -> bool:
        with self._lock:
            if self._left is None:
                return True
            self._left -= size
            return self._left > 0
