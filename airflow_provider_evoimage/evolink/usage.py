"""How fast an account spends its credits, from its list of tasks. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from airflow_provider_evoimage.evolink.answers import Credits, GenerationPage
from airflow_provider_evoimage.shapes import CreditsSensorResult

WEEK_SECONDS = 7 * 86_400.0
DAY_SECONDS = 86_400.0
#: Pages of fifty that are read at the most: of busier accounts the mean of a shorter time is taken.
MOST_PAGES = 200


class WeekOfUse:
    """Adds up what the tasks of the last seven days were charged, page by page, newest first.

    :param now: Unix seconds, by EvoLink's clock.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._seen: set[str] = set()
        self._charged = 0.0
        self._knows_charge = False
        self._has_ended = False
        self._oldest = now
        self._has_older = False

    def add(self, page: GenerationPage) -> bool:
        """Count a page; return whether the next one is needed."""
        fresh = [each for each in page.generations if each.evolink_task_id not in self._seen]
        self._seen.update(each.evolink_task_id for each in fresh)
        for each in fresh:
            began = self._now if each.created is None else each.created.timestamp()
            if self._now - began > WEEK_SECONDS:
                self._has_older = True
                continue
            self._oldest = min(self._oldest, began)
            if each.is_terminal:
                self._has_ended = True
                charged = each.usage.credits_used
                self._knows_charge = self._knows_charge or charged is not None
                self._charged += max(charged or 0.0, 0.0)
        return bool(fresh) and not self._has_older

    @property
    def per_day(self) -> float | None:
        """Credits a day, on the mean of the last seven days; None where EvoLink tells no charges.

        Of an account whose list goes back less far, the mean of that time, but of a day at least: too high a mean for
        one that has just begun, which is the careful side.
        """
        if self._has_ended and not self._knows_charge:
            return None
        seconds = WEEK_SECONDS if self._has_older else max(self._now - self._oldest, DAY_SECONDS)
        return self._charged / (min(seconds, WEEK_SECONDS) / DAY_SECONDS)


@dataclass(frozen=True, kw_only=True)
class CreditsLeft:
    """What may still be spent, and for how long it lasts.

    :param per_day: credits that the account spends a day; None where that is unknown or was not asked for.
    """

    balance: Credits
    per_day: float | None = None

    @property
    def days(self) -> float | None:
        """Days that the credits last at that pace; infinite where nothing is spent, None where it is unknown."""
        if self.per_day is None:
            return None
        return max(self.balance.usable, 0.0) / self.per_day if self.per_day > 0 else math.inf

    def lacking(self, *, min_credits: float | None, min_days: float | None) -> str:
        """Say in words what is lacking; empty if there is enough."""
        usable = self.balance.usable
        if min_credits is not None and usable < min_credits:
            return f"{usable:,.2f} credits are left, fewer than {min_credits:,.2f}"
        if min_days is not None and self.days is not None and self.days < min_days:
            return (
                f"{usable:,.2f} credits are left, which last {self.days:,.1f} days at {self.per_day or 0.0:,.2f} "
                f"credits a day, fewer than {min_days:g} days"
            )
        return ""

    def to_json(self) -> CreditsSensorResult:
        """Return it as plain JSON; ``days`` is null where nothing is spent."""
        days = self.days
        return {
            "credits": self.balance.usable,
            "account": self.balance.account_remaining,
            "key": self.balance.key_remaining,
            "credits_per_day": None if self.per_day is None else round(self.per_day, 6),
            "days": None if days is None or math.isinf(days) else round(days, 3),
        }
