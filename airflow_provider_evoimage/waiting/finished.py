"""Which generations of an account have finished since the last look: the position of the watching trigger. Pure.

The list is ordered by when generations began, not by when they ended. So the position holds up to when all of them
have been seen, and which of those were still running then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_evoimage.evolink.answers import (
    EVOLINK_TASK_ID,
    RESULT_LINK_LIFETIME,
    Generation,
    GenerationState,
)
from airflow_provider_evoimage.evolink.json_values import mapping, number

POSITION_VERSION = 1
#: Seconds that a generation may appear in the list late, among others that began after it.
LATE_SECONDS = 120.0
#: Generations in one event, as an event is a row of Airflow's database.
MOST_IN_EVENT = 100
_LINK_LIFETIME = RESULT_LINK_LIFETIME.total_seconds()
_ENDED = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A generation that is not reported yet.

    :param began: Unix seconds, by EvoLink's clock.
    """

    began: float
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far the account has been watched.

    :param seen_until: Unix seconds: every generation that began before has been seen.
    :param running: seen and not reported yet, by id.
    :param reported: ended, and began so late that the next look lists it again; by id, with its beginning.
    """

    seen_until: float
    running: Mapping[str, Tracked] = field(default_factory=dict)
    reported: Mapping[str, float] = field(default_factory=dict)

    @property
    def listed_from(self) -> float:
        """Unix seconds: the next look lists generations that began later."""
        return self.seen_until - LATE_SECONDS

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "v": POSITION_VERSION,
            "seen_until": self.seen_until,
            "running": {each: [tracked.began, tracked.model] for each, tracked in self.running.items()},
            "reported": dict(self.reported),
        }

    @classmethod
    def read(cls, data: object) -> Position | None:
        """Read a stored position; None for anything else, as people can edit it."""
        stored = mapping(data)
        seen_until = number(stored.get("seen_until"))
        if stored.get("v") != POSITION_VERSION or seen_until is None:
            return None
        running = {}
        for each, value in mapping(stored.get("running")).items():
            began, model = value if isinstance(value, list) and len(value) == 2 else (None, None)
            moment = number(began)
            if EVOLINK_TASK_ID.fullmatch(each) and moment is not None:
                running[each] = Tracked(began=moment, model=model if isinstance(model, str) else None)
        reported = {
            each: moment
            for each, value in mapping(stored.get("reported")).items()
            if (moment := number(value)) is not None
        }
        return cls(seen_until=seen_until, running=running, reported=reported)


@dataclass(frozen=True, kw_only=True)
class News:
    """What one look found.

    :param finished: reported now, as ``{"evolink_task_id", "status", "model"}``, in the order in which they began.
    :param position: to be kept once these have been reported.
    :param has_more: whether further ones have finished, which the next look reports.
    """

    finished: tuple[Mapping[str, Any], ...]
    position: Position
    has_more: bool = False


def begin(listed: Iterable[Generation], *, models: Collection[str], now: float) -> Position:
    """Return the position of a first look: what has ended by now is not reported, what runs will be.

    :param listed: the latest generations, and all that are running.
    :param models: those that are reported; empty for all.
    :param now: Unix seconds, to see that a moment cannot be right.
    """
    known = [(moment, each) for each in listed if (moment := _began(each, now)) is not None]
    # Of an account without generations everything is new.
    seen_until = max((moment for moment, _ in known), default=0.0)
    wanted = [(moment, each) for moment, each in known if not models or each.model in models]
    return Position(
        seen_until=seen_until,
        running={
            each.evolink_task_id: Tracked(began=moment, model=each.model)
            for moment, each in wanted
            if not each.is_terminal
        },
        reported={
            each.evolink_task_id: moment
            for moment, each in wanted
            if each.is_terminal and moment > seen_until - LATE_SECONDS
        },
    )


def look(
    position: Position,
    listed: Iterable[Generation],
    states: Mapping[str, GenerationState],
    *,
    statuses: Collection[str],
    models: Collection[str],
    now: float,
) -> News:
    """Compare the account with a position.

    :param listed: every generation that began since ``position.listed_from``, and any others.
    :param states: of those in ``position.running``, as far as EvoLink knows them.
    :param statuses: which endings are reported.
    :param models: those that are reported; empty for all.
    :param now: Unix seconds, to see that a moment cannot be right.
    """
    running = dict(position.running)
    reported = dict(position.reported)
    ended: dict[str, str] = {}
    seen_until = position.seen_until
    for each in listed:
        key, moment = each.evolink_task_id, _began(each, now)
        if moment is None:
            continue
        seen_until = max(seen_until, moment)
        is_seen = key in reported or (key not in running and moment <= position.listed_from)
        if is_seen or (models and each.model not in models):
            continue
        running[key] = Tracked(began=moment, model=each.model)
        if each.is_terminal:
            ended[key] = each.status
    ended |= {key: state.status for key, state in states.items() if key in running and state.status in _ENDED}
    due = sorted(ended, key=lambda key: (running[key].began, key))
    # What does not fit into this event stays among the running ones.
    later = set([key for key in due if ended[key] in statuses][MOST_IN_EVENT:])
    finished = []
    for key in (each for each in due if each not in later):
        tracked = running.pop(key)
        reported[key] = tracked.began
        if ended[key] in statuses:
            finished.append({"evolink_task_id": key, "status": ended[key], "model": tracked.model})
    return News(
        finished=tuple(finished),
        position=Position(
            seen_until=seen_until,
            # A day later there is nothing left to save. By EvoLink's clock: that of this machine may be wrong.
            running={key: each for key, each in running.items() if each.began > seen_until - _LINK_LIFETIME},
            reported={key: moment for key, moment in reported.items() if moment > seen_until - LATE_SECONDS},
        ),
        has_more=bool(later),
    )


def _began(generation: Generation, now: float) -> float | None:
    """Return when it began, None if that is unknown: a moment in the far future would hide all that comes before."""
    moment = None if generation.created is None else generation.created.timestamp()
    return None if moment is None or moment > now + _LINK_LIFETIME else moment
