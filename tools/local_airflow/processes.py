"""Processes on this machine: starting them in sessions of their own, and leaving none behind.

Shared by the demo, by `LocalAirflow` and by the system tests; nothing here knows Airflow.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]

_STOP_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Found = TypeVar("Found")


class LocalAirflowError(RuntimeError):
    """Airflow did not start, stopped by itself, or refused a request; the message has the reason."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived: unwinds like Ctrl-C, so that everything is stopped on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def poll(
    look: Callable[[], Found | None], *, seconds: float, what: str, interval: float | None = None
) -> Found:
    """Call `look` until it returns something true.

    :param look: returns a false value as long as the state is not there yet.
    :param seconds: how long to go on before TimeoutError.
    :param what: what is waited for; a word of the error message.
    :param interval: seconds between two looks; None looks less often as time passes, as a look costs Airflow time
        that its tasks lack.
    """
    start = time.monotonic()
    while True:
        if found := look():
            return found
        waited = time.monotonic() - start
        if waited > seconds:
            raise TimeoutError(f"Waited {seconds:.0f} s for {what}.")
        time.sleep(min(max(0.4, waited / 15), 2.0) if interval is None else interval)


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def session_processes(session_ids: set[int]) -> list[psutil.Process]:
    """Return the living processes of these sessions, also those whose parent is gone.

    A component leads a session of its own. What it starts stays in that session, though not always in its
    process group: Airflow gives each task a group, and `serve-logs` outlives a killed parent.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(process.pid) in session_ids and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Let no stop signal interrupt the block; those that arrived are raised after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    previous: dict[int, Any] = {}

    def remember(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    try:
        for number in _STOP_SIGNALS:
            previous[number] = signal.signal(number, remember)
        yield
    finally:
        _restore_signal_handlers(previous)
        for number in arrived:
            signal.raise_signal(number)


@contextlib.contextmanager
def stop_signals_unwind() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `Terminated`, so that context managers and `finally` run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, Any] = {}

    def unwind(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)

    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            previous[number] = signal.signal(number, unwind)
        yield
    finally:
        _restore_signal_handlers(previous)


def _restore_signal_handlers(previous: Mapping[int, Any]) -> None:
    for number, handler in previous.items():
        # None: a handler that Python did not install and cannot put back.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@dataclass
class ManagedProcess:
    """A child process that leads its own session and writes to a log file.

    :param name: what it is called in messages.
    :param command: program and arguments.
    :param environment: its whole environment.
    :param log: its output is appended here.
    :param folder: its working directory.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    folder: Path
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; a signal that arrives meanwhile cannot leave it unrecorded."""
        self.started_at = datetime.now(UTC)
        with self.log.open("ab") as output, signals_deferred():
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment),
                cwd=self.folder,
                start_new_session=True,
            )

    @property
    def was_started(self) -> bool:
        """Whether `start` has made a process."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Its process id, which is its process group and session as well."""
        if self._process is None:
            raise LocalAirflowError(f"{self.name} was not started.")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process else None

    def processes(self) -> list[psutil.Process]:
        """Return it and everything it started that still lives."""
        return session_processes({self.pid}) if self._process else []

    def reap(self, seconds: float = 10) -> None:
        """Take the exit code of an ended process, so that no zombie stays."""
        if self._process is not None:
            self._process.wait(timeout=seconds)

    def log_tail(self, lines: int = 25) -> str:
        """Return the last lines of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def kill_processes(processes: Sequence[psutil.Process], *, seconds: float = 10) -> None:
    """End these with SIGKILL and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=seconds)


def stop_processes(started: Sequence[ManagedProcess], *, grace: float = 10) -> None:
    """Stop these and all they started: SIGTERM, up to `grace` seconds, then SIGKILL to what is left."""
    running = [each for each in started if each.was_started]
    with signals_deferred():
        for each in running:
            # To the leader alone: a LocalExecutor whose workers got SIGTERM as well waits for them for ever.
            if each.exit_code is None:
                os.kill(each.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            poll(
                lambda: all(each.exit_code is not None for each in running),
                seconds=grace,
                what="the processes to stop",
                interval=0.05,
            )
        kill_processes(session_processes({each.pid for each in running}))
        for each in running:
            each.reap()
