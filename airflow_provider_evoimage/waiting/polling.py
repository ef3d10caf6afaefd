"""When to poll next and when to give up. Pure: it depends only on the answers so far and the time.

The trigger and the wait on a worker both ask :class:`Wait`, so they always decide alike.
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

# EvoLink estimates 100 s for GPT models, but small images take 5 to 15 s: poll early the first time.
FIRST_POLL_SHARE = 0.1
FIRST_POLL_BOUNDS = (1.0, 15.0)
# Poll less often as time passes: every tenth of the time waited so far, within these bounds (seconds). For tasks of
# 5 to 90 s this takes as many polls as polling every 5 s, and sees the end sooner.
SHORTEST_INTERVAL = 3.5
INTERVAL_SHARE = 0.1
LONGEST_INTERVAL = 15.0
# A poll that shares its request with others costs less, so poll more often: up to this many times.
SHARED_SPEED_UP = 2.4
# The shortest interval, even when the progress says that the end is near.
LEAST_INTERVAL = 1.0
# Spread polls by up to this share of the interval, so that a thousand tasks do not poll at once.
JITTER_SHARE = 0.2
# The wait ends when EvoLink could not be read for this long.
FAILURE_BUDGET_SECONDS = 600.0
# Never pause longer, whatever Retry-After says: generations end meanwhile, and their links expire.
LONGEST_PAUSE_SECONDS = 600.0
# A generation that was just accepted may not be readable everywhere yet, and a single 404 may be a mistake. This long
# for an id from elsewhere, which may be mistyped; an id that EvoLink gave us has the budget above.
NOT_FOUND_GRACE_SECONDS = 60.0
# Seconds after its deadline at which a wait ends although EvoLink has not answered its last poll.
LAST_POLL_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class NextPoll:
    """Poll again at ``at`` (Unix seconds)."""

    at: float


@dataclass(frozen=True, kw_only=True)
class End:
    """The wait is over. ``ending`` says how it ended; ``reason`` says why, where the ending does not."""

    ending: Ending
    reason: str = ""


Outcome = NextPoll | End


@dataclass(frozen=True, kw_only=True)
class Wait:
    """The state of the wait for one generation. Immutable: each step returns the next state.

    :param deadline: Unix seconds; the last poll happens then, and a generation still running times out.
    :param poll_interval: fixed seconds between polls; None adapts to the generation.
    :param was_accepted: whether EvoLink gave this id to a task of ours; then a 404 is taken for a transient error.
    :param started: Unix seconds of the first step.
    """

    evolink_task_id: str
    deadline: float
    poll_interval: float | None = None
    estimated_time: float | None = None
    was_accepted: bool = False
    started: float = 0.0
    failing_since: float | None = None
    status: str = "pending"
    progress: float | None = None

    def begin(self, now: float) -> tuple[Wait, NextPoll]:
        """Start waiting; return when to poll first."""
        if self.poll_interval is not None:
            first = self.poll_interval
        else:
            low, high = FIRST_POLL_BOUNDS
            first = min(max((self.estimated_time or 0) * FIRST_POLL_SHARE, low), high)
        return replace(self, started=now), self._poll_after(now, first)

    def seen(
        self, generation: Generation | GenerationState, now: float, *, sharing: int = 1
    ) -> tuple[Wait, Outcome]:
        """Take the answer to a poll; return when to poll next, or how the wait ended.

        :param sharing: how many generations the request read.
        """
        after = self
        if (self.failing_since, self.status, self.progress) != (None, generation.status, generation.progress):
            after = replace(self, failing_since=None, status=generation.status, progress=generation.progress)
        if generation.status in {"completed", "failed", "cancelled"}:
            return after, End(ending=generation.status)  # type: ignore[arg-type]  # narrowed by the line above
        if now >= self.deadline:
            return after, End(ending="timeout")
        return after, after.next_poll(now, sharing=sharing)

    def missed(self, error: EvoImageError, now: float) -> tuple[Wait, Outcome]:
        """Take the error of a failed poll; return when to poll next, or how the wait ended.

        A transient error does not end the wait: the generation is paid for and goes on. It ends after a budget of
        time. An unknown id ends it after a grace period, or after the same budget if EvoLink gave us the id. A
        refused key ends it at once, as the caller has read the connection again by then, and so does any other error
        that no retry fixes.
        """
        after = self if self.failing_since is not None else replace(self, failing_since=now)
        failing_for = now - (after.failing_since or now)
        if isinstance(error, GenerationNotFoundError):
            if failing_for >= (FAILURE_BUDGET_SECONDS if self.was_accepted else NOT_FOUND_GRACE_SECONDS):
                return after, End(ending="lost", reason="not found")
        elif isinstance(error, AuthenticationError):
            return after, End(ending="lost", reason="unauthorized")
        elif not error.retryable:
            return after, End(ending="lost", reason="refused")
        if now >= self.deadline:
            return after, End(ending="timeout")
        # Honouring Retry-After does not count as a failure.
        if failing_for >= FAILURE_BUDGET_SECONDS + (error.retry_after or 0):
            return after, End(ending="lost", reason="unreadable")
        return after, after.next_poll(now, at_least=min(error.retry_after or 0, LONGEST_PAUSE_SECONDS))

    def next_poll(self, now: float, *, at_least: float = 0, sharing: int = 1) -> NextPoll:
        """Return when to poll next: in ``at_least`` seconds or more."""
        return self._poll_after(now, max(self._step(now, sharing), at_least))

    def _step(self, now: float, sharing: int) -> float:
        """Return the seconds to the next poll: growing, and shorter when the progress says that the end is near."""
        if self.poll_interval is not None:
            return self.poll_interval
        waited = max(0.0, now - self.started)
        step = min(max(waited * INTERVAL_SHARE, SHORTEST_INTERVAL), LONGEST_INTERVAL)
        # If a poll costs 1/c, polling √c times as often gives the least delay for the cost.
        step /= min(math.sqrt(max(sharing, 1)), SHARED_SPEED_UP)
        if self.progress is not None and 0 < self.progress < 100:
            remaining = waited * (100 - self.progress) / self.progress
            return max(min(step, remaining), LEAST_INTERVAL)
        return step

    def _poll_after(self, now: float, step: float) -> NextPoll:
        return NextPoll(at=min(now + step * self._spread, max(self.deadline, now)))

    @property
    def _spread(self) -> float:
        """Between 1 and 1.2, always the same for one generation."""
        share = (zlib.crc32(self.evolink_task_id.encode()) % 1000) / 1000
        return 1 + JITTER_SHARE * share
