"""A clock for the provider and the simulated EvoLink together, moved by sleeping."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from airflow_provider_evoimage.simulator import SimulatorServer


class FakeTime:
    """A clock that sleeping moves: nothing waits, and the simulator's generations go on all the same.

    The simulator's own thread keeps the real time.

    :param evolink: whose clock is moved along.
    """

    def __init__(self, evolink: SimulatorServer) -> None:
        self._evolink = evolink
        self._real_async_sleep = asyncio.sleep
        self._thread = threading.get_ident()
        self._advanced = 0.0
        self.slept: list[float] = []
        self.on_sleep: Any = lambda seconds: None

    @property
    def passed(self) -> float:
        """Seconds that did not really pass."""
        return self._advanced + sum(self.slept)

    def time(self) -> float:
        return time.time() + self.passed

    def monotonic(self) -> float:
        return time.monotonic() + self.passed

    def sleep(self, seconds: float) -> None:
        self._pass(seconds)

    async def async_sleep(self, seconds: float, result: Any = None) -> Any:
        if threading.get_ident() != self._thread:
            return await self._real_async_sleep(seconds, result)
        self._pass(seconds)
        return await self._real_async_sleep(0, result)

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody sleeping."""
        self._advanced += seconds
        self._evolink.state.clock.advance(seconds)

    def _pass(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self._evolink.state.clock.advance(seconds)
        self.on_sleep(seconds)

    def set_ahead(self, seconds: float) -> None:
        """Put the machine's clock ahead of EvoLink's."""
        self._advanced += seconds
