"""When to look next, when to give up, what a look means. Pure: a function of what was seen and the time.

The trigger and the path that waits on a worker ask the same :class:`Wait`, so they cannot drift.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import Literal

from airflow_provider_evoimage.evolink.answers import Generation, GenerationState
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    EvoImageError,
    GenerationNotFoundError,
)

Ending = Literal["completed", "failed", "cancelled", "timeout", "lost"]

# EvoLink names 100 s for GPT models, while small images take 5 to 15 s: the first look comes early.
FIRST_LOOK_SHARE = 0.1
FIRST_LOOK_BOUNDS = (1.0, 15.0)
# Looks come the rarer the longer it takes: a tenth of the time waited so far, within these bounds (seconds). For
# tasks of 5 to 90 s these numbers need as many looks as one every 5 s, and learn of the end sooner.
SHORTEST_INTERVAL = 3.5
INTERVAL_SHARE = 0.1
LONGEST_INTERVAL = 15.0
# A look that shares its request with others costs less, so looks come more often: up to this many times.
SHARED_SPEED_UP = 1.6
# However near the progress says the end is.
LEAST_INTERVAL = 1.0
# Looks are spread by up to this share of the interval, so that a thousand tasks do not look at once.
JITTER_SHARE = 0.2
# How long EvoLink may be unreadable before the wait ends.
FAILURE_BUDGET_SECONDS = 600.0
# However long EvoLink asks us to stay away: generations end meanwhile, and their links with them.
LONGEST_PAUSE_SECONDS = 600.0
# A generation that was just accepted may not be readable everywhere at once, and one 404 may be a mistake.
NOT_FOUND_GRACE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """Look again at ``at`` (Unix seconds)."""

    at: float


@dataclass(frozen=True, kw_only=True)
class End:
    """The wait is over: how, and why where that is not plain."""

    ending: Ending
    reason: str = ""


Outcome = Look | End


@dataclass(frozen=True, kw_only=True)
class Wait:
    """The wait for one generation, as far as it has come. Immutable: each step returns the next.

    :param deadline: Unix seconds; one last look is made then, and a generation still running is given up on.
    :param poll_interval: fixed seconds between looks; None adapts to the generation.
    :param started: Unix seconds of the first step.
    """

    evolink_task_id: str
    deadline: float
    poll_interval: float | None = None
    estimated_time: float | None = None
    started: float = 0.0
    failing_since: float | None = None
    status: str = "pending"
    progress: float | None = None

    def begin(self, now: float) -> tuple[Wait, Look]:
        """Start waiting; return when to look first."""
        if self.poll_interval is not None:
            first = self.poll_interval
        else:
            low, high = FIRST_LOOK_BOUNDS
            first = min(max((self.estimated_time or 0) * FIRST_LOOK_SHARE, low), high)
        return replace(self, started=now), self._look(now, first)

    def seen(
        self, generation: Generation | GenerationState, now: float, *, sharing: int = 1
    ) -> tuple[Wait, Outcome]:
        """Take what a look showed; return when to look next, or how the wait ended.

        :param sharing: how many generations the request showed.
        """
        after = self
        if (self.failing_since, self.status, self.progress) != (None, generation.status, generation.progress):
            after = replace(self, failing_since=None, status=generation.status, progress=generation.progress)
        if generation.status in {"completed", "failed", "cancelled"}:
            return after, End(ending=generation.status)  # type: ignore[arg-type]  # narrowed by the line above
        if now >= self.deadline:
            return after, End(ending="timeout")
        return after, after.next_look(now, sharing=sharing)

    def missed(self, error: EvoImageError, now: float) -> tuple[Wait, Outcome]:
        """Take a look that showed nothing; return when to look next, or how the wait ended.

        No single error ends a wait: the generation is paid for and goes on. A refused key ends it (the caller
        has read the connection again by then), an unknown id after a grace, anything else after a budget.
        """
        after = self if self.failing_since is not None else replace(self, failing_since=now)
        failing_for = now - (after.failing_since or now)
        if isinstance(error, GenerationNotFoundError):
            if failing_for >= NOT_FOUND_GRACE_SECONDS:
                return after, End(ending="lost", reason="not found")
        elif isinstance(error, AuthenticationError):
            return after, End(ending="lost", reason="unauthorized")
        elif not error.retryable:
            return after, End(ending="lost", reason="refused")
        if now >= self.deadline:
            return after, End(ending="timeout")
        # To stay away when EvoLink asks for it is no failure.
        if failing_for >= FAILURE_BUDGET_SECONDS + (error.retry_after or 0):
            return after, End(ending="lost", reason="unreadable")
        return after, after.next_look(now, at_least=min(error.retry_after or 0, LONGEST_PAUSE_SECONDS))

    def next_look(self, now: float, *, at_least: float = 0, sharing: int = 1) -> Look:
        """When to look next, in no less than ``at_least`` seconds."""
        return self._look(now, max(self._step(now, sharing), at_least))

    def _step(self, now: float, sharing: int) -> float:
        """Seconds to the next look: growing, and shorter when the progress says that the end is near."""
        if self.poll_interval is not None:
            return self.poll_interval
        waited = max(0.0, now - self.started)
        step = min(max(waited * INTERVAL_SHARE, SHORTEST_INTERVAL), LONGEST_INTERVAL)
        # Where a look costs 1/c, looking √c times as often gives the least delay for the cost.
        step /= min(math.sqrt(max(sharing, 1)), SHARED_SPEED_UP)
        if self.progress is not None and 0 < self.progress < 100:
            remaining = waited * (100 - self.progress) / self.progress
            return max(min(step, remaining), LEAST_INTERVAL)
        return step

    def _look(self, now: float, step: float) -> Look:
        return Look(at=min(now + step * self._spread, max(self.deadline, now)))

    @property
    def _spread(self) -> float:
        """Between 1 and 1.2, always the same for one generation."""
        share = (zlib.crc32(self.evolink_task_id.encode()) % 1000) / 1000
        return 1 + JITTER_SHARE * share
