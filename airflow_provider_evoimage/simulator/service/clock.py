"""The simulator's time: the machine's clock, which a test may stop or move forward."""

import time
from collections.abc import Callable


class Clock:
    """Unix time in seconds.

    :param source: what tells the real time.
    """

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._offset = 0.0
        self._frozen_at: float | None = None

    def now(self) -> float:
        """Tell the time, in Unix seconds."""
        if self._frozen_at is not None:
            return self._frozen_at
        return self._source() + self._offset

    @property
    def frozen(self) -> bool:
        """Whether time stands still."""
        return self._frozen_at is not None

    def advance(self, seconds: float) -> None:
        """Move time forward; a frozen clock stays frozen at the later moment."""
        if self._frozen_at is not None:
            self._frozen_at += seconds
        else:
            self._offset += seconds

    def freeze(self) -> None:
        """Stop time."""
        self._frozen_at = self.now()

    def resume(self) -> None:
        """Let time run on from where it was stopped."""
        if self._frozen_at is not None:
            self._offset = self._frozen_at - self._source()
            self._frozen_at = None

    def reset(self) -> None:
        """Return to the real time."""
        self._offset = 0.0
        self._frozen_at = None
