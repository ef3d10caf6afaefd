"""Holds a connection's ``budget_credits_per_month`` against what its API key has used since the month began.

EvoLink tells how much a key has used in all, not in a month. So an Airflow Variable keeps the figure with which the
month began: the last one that was read in the month before, or else the first one that was read at all. A soft limit:
what other tasks have submitted and EvoLink has not charged yet is in no figure, so tasks that run at the same time can
overshoot by what their requests cost together.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_evoimage.evolink.json_values import mapping, number, text
from airflow_provider_evoimage.exceptions import BudgetUnknownError, EvoImageError, MonthBudgetError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

KEY_PAGE = "https://evolink.ai/dashboard/keys"
MONTH_VERSION = 1
#: Seconds for which a figure of EvoLink's is taken for new.
READING_SECONDS = 60.0
# Seconds after which the Variable gets a newer figure, which is where the next month begins.
_KEPT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class MonthUse:
    """What a key has used in a month, as the Variable keeps it. All amounts in credits.

    :param month: in UTC, for instance ``2026-11``.
    :param key: tells keys apart: the start of a hash, which does not lead back to the key.
    :param start: what the key had used in all when this month's count began.
    :param last: what it had used at the last reading.
    :param carried: used this month under earlier keys of the connection.
    :param since: Unix seconds from which use counts for this month.
    :param at: Unix seconds of the last reading.
    """

    month: str
    key: str
    start: Decimal
    last: Decimal
    carried: Decimal = Decimal(0)
    since: float
    at: float

    @property
    def spent(self) -> Decimal:
        """Credits used since the month began."""
        return self.carried + max(self.last - self.start, Decimal(0))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        amounts = {name: float(getattr(self, name)) for name in ("start", "last", "carried")}
        return {
            "v": MONTH_VERSION,
            "month": self.month,
            "key": self.key,
            **amounts,
            "since": self.since,
            "at": self.at,
        }

    @classmethod
    def read(cls, data: object) -> MonthUse | None:
        """Read what is stored; None for anything else, as people can edit it."""
        stored = mapping(data)
        month, key = text(stored.get("month")), text(stored.get("key"))
        numbers = [number(stored.get(name)) for name in ("start", "last", "carried", "since", "at")]
        start, last, carried, since, at = numbers
        if stored.get("v") != MONTH_VERSION or month is None or key is None:
            return None
        if start is None or last is None or carried is None or since is None or at is None:
            return None
        start_, last_, carried_ = (Decimal(str(each)) for each in (start, last, carried))
        return cls(month=month, key=key, start=start_, last=last_, carried=carried_, since=since, at=at)


def month_use(earlier: MonthUse | None, *, used: Decimal, key: str, now: float) -> MonthUse:
    """Bring what is stored up to date with a new figure of EvoLink's. Pure.

    :param used: what the key has used in all.
    :param now: Unix seconds, by EvoLink's clock.
    """
    month = f"{datetime.fromtimestamp(now, UTC):%Y-%m}"
    if earlier is None:
        return MonthUse(month=month, key=key, start=used, last=used, since=now, at=now)
    is_same_count = earlier.key == key and used >= earlier.last
    if earlier.month != month:
        if is_same_count:
            # What was used since that reading may belong to either month; it counts for the new one.
            return MonthUse(month=month, key=key, start=earlier.last, last=used, since=earlier.at, at=now)
        return MonthUse(month=month, key=key, start=used, last=used, since=now, at=now)
    if is_same_count:
        return replace(earlier, last=used, at=now)
    # Another key, or one whose count EvoLink has set back: this month's use goes on from here.
    return replace(earlier, key=key, start=used, last=used, carried=earlier.spent, at=now)


class MonthStore(Protocol):
    """Where what is known of a month is kept, for all tasks of one connection."""

    def get(self) -> object:
        """Return what is stored; None where there is nothing."""

    def set(self, value: Mapping[str, Any]) -> None:
        """Store plain JSON."""


@dataclass(frozen=True)
class VariableStore:
    """An Airflow Variable, one for each connection.

    :param conn_id: id of the connection.
    """

    conn_id: str

    @property
    def name(self) -> str:
        """The name of the Variable."""
        return f"evoimage_month_{self.conn_id}"

    def get(self) -> object:
        """Return what the Variable holds."""
        from airflow.sdk import Variable  # noqa: PLC0415 (only where a budget is set)

        value = Variable.get(self.name, default=None)
        try:
            return json.loads(value) if isinstance(value, str) else None
        except ValueError:
            return None

    def set(self, value: Mapping[str, Any]) -> None:
        """Store it as JSON."""
        from airflow.sdk import Variable  # noqa: PLC0415

        about = (
            "Kept by airflow-provider-evoimage for budget_credits_per_month. Delete it to count from now on."
        )
        Variable.set(self.name, json.dumps(value), description=about)


class MonthBudget:
    """The budget of one connection, as one task checks it before each request. Safe to call from several threads.

    :param limit: credits a month.
    """

    def __init__(self, limit: Decimal, *, hook: EvoImageHook, store: MonthStore, log: Logger) -> None:
        self._limit = limit
        self._hook = hook
        self._store = store
        self._log = log
        self._lock = threading.Lock()
        self._use: MonthUse | None = None
        self._read_at = 0.0
        self._charged_then = Decimal(0)

    @classmethod
    def of(cls, hook: EvoImageHook, log: Logger) -> MonthBudget | None:
        """Return the budget of a hook's connection; None where it has none."""
        limit = hook.settings.budget_credits_per_month
        if limit is None:
            return None
        store = VariableStore(hook.evoimage_conn_id)
        # Decimal('1.0') would be written so.
        return cls(Decimal(str(limit)).normalize(), hook=hook, store=store, log=log)

    def require(self, most: Decimal | None, *, charged: Decimal = Decimal(0)) -> None:
        """Check that what is about to be sent fits into the month.

        :param most: credits that this request may cost, with those of this task that are not charged yet; None where
            no price is known: then anything fits as long as something is left.
        :param charged: credits that EvoLink has charged to this task so far.
        :raises MonthBudgetError: when it does not fit; nothing was sent.
        :raises BudgetUnknownError: when EvoLink or Airflow does not tell what was used.
        """
        with self._lock:
            if self._use is None or time.monotonic() - self._read_at > READING_SECONDS:
                self._use = self._reading()
                self._read_at, self._charged_then = time.monotonic(), charged
            spent = self._use.spent + max(charged - self._charged_then, Decimal(0))
            if spent + (most or Decimal(0)) > self._limit or (most is None and spent >= self._limit):
                raise self._exceeded(self._use, spent, most)

    def _reading(self) -> MonthUse:
        try:
            balance = self._hook.get_credits()
        except EvoImageError as error:
            raise error.restate(
                message=f"budget_credits_per_month cannot be checked: {error.message}",
                billed=False,
            ) from None
        if balance.key_used is None:
            raise self._unknown("EvoLink does not say how much this API key has used")
        key = _short_hash(self._hook.settings.account.api_key)
        try:
            earlier = MonthUse.read(self._store.get())
        except Exception as error:
            raise self._unknown(f"Airflow's Variable cannot be read ({type(error).__name__})") from error
        use = month_use(earlier, used=Decimal(str(balance.key_used)), key=key, now=self._hook.now())
        if earlier is None:
            self._log.info("Counting the credits of this month from now on, for budget_credits_per_month.")
        is_new_count = earlier is None or (earlier.month, earlier.key, earlier.start) != (
            use.month,
            use.key,
            use.start,
        )
        if is_new_count or earlier is None or use.at - earlier.at > _KEPT_SECONDS:
            self._keep(use, is_new_count=is_new_count)
        return use

    def _keep(self, use: MonthUse, *, is_new_count: bool) -> None:
        try:
            self._store.set(use.to_json())
        except Exception as error:
            if is_new_count:
                # Without it every task would count from its own start, and the budget would hold nothing.
                raise self._unknown(
                    f"Airflow's Variable cannot be written ({type(error).__name__})"
                ) from error
            self._log.warning("Airflow's Variable of the month's budget cannot be written: %s", error)

    def _unknown(self, why: str) -> BudgetUnknownError:
        return BudgetUnknownError(f"budget_credits_per_month={self._limit:f} cannot be checked: {why}.")

    def _exceeded(self, use: MonthUse, spent: Decimal, most: Decimal | None) -> MonthBudgetError:
        conn_id = self._hook.evoimage_conn_id
        since = datetime.fromtimestamp(use.since, UTC)
        wanted = "" if most is None else f", and up to {most:,.4f} more are about to be spent"
        return MonthBudgetError(
            f"The API key of connection {conn_id!r} has used {spent:,.4f} credits of "
            f"budget_credits_per_month={self._limit:f} in {_month_in_words(use.month)} (counted since "
            f"{since:%Y-%m-%d %H:%M} UTC){wanted}. The key's use and its own limit: {KEY_PAGE}"
        )


def _month_in_words(month: str) -> str:
    """Write ``2026-11`` as ``November 2026``."""
    return f"{datetime.fromisoformat(f'{month}-01').replace(tzinfo=UTC):%B %Y}"


def _short_hash(api_key: str) -> str:
    # 32 bits tell a few keys apart and are far too few to find one by.
    return hashlib.sha256(f"evoimage month {api_key}".encode()).hexdigest()[:8]
