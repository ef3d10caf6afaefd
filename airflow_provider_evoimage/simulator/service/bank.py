"""The balances: what accounts and keys may still spend, what is held, and what was charged."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from airflow_provider_evoimage.simulator.service.accounts import Account, Caller, Purse
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.prices import LEDGER_UNIT

# EvoLink's times carry this offset; its days are taken to end there, too.
RESET_TIMEZONE = "Asia/Shanghai"
SERVICE_TIME = timezone(timedelta(hours=8))


def as_credits(amount: float) -> Decimal:
    """Round an amount to the ledger's unit."""
    return Decimal(str(amount)).quantize(LEDGER_UNIT)


def service_day(now: float) -> int:
    """Return the number of the day in the time zone in which daily limits end."""
    return datetime.fromtimestamp(now, UTC).astimezone(SERVICE_TIME).toordinal()


@dataclass
class DailyPurse:
    """What one key spends in a day, held credits among it."""

    day: int = 0
    used: Decimal = Decimal(0)

    def on(self, day: int) -> Decimal:
        """Return what is used on this day; a new day starts with nothing."""
        if day != self.day:
            self.day, self.used = day, Decimal(0)
        return self.used

    def correct(self, day: int, amount: Decimal) -> None:
        """Add to what was used on this day, if it is still that day."""
        if day == self.day:
            self.used += amount


class Bank:
    """All balances of one simulator.

    :param start_credits: balance with which every account starts.
    """

    def __init__(self, start_credits: Decimal) -> None:
        self.start_credits = start_credits
        self.token_credits: Decimal | None = None
        self.daily_credits: Decimal | None = None
        self.accounts: dict[str, Account] = {}
        self.tokens: dict[str, Purse] = {}
        self.days: dict[str, DailyPurse] = {}

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Set balances and limits; `changes` are checked settings."""
        if "credits" in changes:
            self.start_credits = as_credits(changes["credits"])
            for account in self.accounts.values():
                account.purse.refill(self.start_credits)
        if "token_credits" in changes:
            self.token_credits = _limit(changes["token_credits"])
            for token in self.tokens.values():
                token.limit = None
                if self.token_credits is not None:
                    token.refill(self.token_credits)
        if "token_daily_credits" in changes:
            self.daily_credits = _limit(changes["token_daily_credits"])

    def account(self, name: str) -> Account:
        """Return an account; it is opened at its first use."""
        return self.accounts.setdefault(name, Account(name, Purse(self.start_credits)))

    def token(self, key: str) -> Purse:
        """Return the credits of one API key, by the key's hash."""
        return self.tokens.setdefault(key, Purse(self.token_credits))

    def reserve(self, caller: Caller, amount: Decimal, now: float) -> None:
        """Hold credits of an account and a key.

        :raises Refusal: with status 402 when one of them is short.
        """
        account, token = self.account(caller.account).purse, self.token(caller.key)
        details = {"estimated_credits": float(amount)}
        if not account.covers(amount):
            raise Refusal(402, details=details | {"account_balance_credits": float(account.remaining or 0)})
        if not token.covers(amount):
            details |= {
                "total_limit_credits": float(token.limit or 0),
                "used_credits": float(token.used),
                "remaining_credits": float(token.remaining or 0),
            }
            message = "This API key has used up its credit limit."
            raise Refusal(402, message, code="key_quota_exhausted", details=_of_key(caller, details))
        today = self.days.setdefault(caller.key, DailyPurse())
        used_today = today.on(service_day(now))
        if self.daily_credits is not None and used_today + amount > self.daily_credits:
            details |= {
                "daily_limit_credits": float(self.daily_credits),
                "daily_used_credits": float(used_today),
            }
            message = "This API key has used up its credit limit of today."
            details = _of_key(caller, details) | {"reset_timezone": RESET_TIMEZONE}
            raise Refusal(402, message, code="key_daily_quota_exhausted", details=details)
        account.reserved += amount
        token.reserved += amount
        today.used += amount

    def settle(self, caller: Caller, reserved: Decimal, charged: Decimal, reserved_at: float) -> None:
        """Give a reservation back and take the final charge."""
        for purse in (self.account(caller.account).purse, self.token(caller.key)):
            purse.settle(reserved, charged)
        self.days.setdefault(caller.key, DailyPurse()).correct(service_day(reserved_at), charged - reserved)

    def describe(self, caller: Caller, now: float) -> dict[str, Any]:
        """Describe the balances of an account and a key as the service does."""
        token, user = self.token(caller.key), self.account(caller.account).purse
        shown: dict[str, Any] = {
            "remaining_credits": float(token.remaining or 0),
            "unlimited_credits": token.limit is None,
            "used_credits": float(token.used),
        }
        if self.daily_credits is not None:
            today = self.days.setdefault(caller.key, DailyPurse())
            shown |= {
                "daily_limit_credits": float(self.daily_credits),
                "daily_used_credits": float(today.on(service_day(now))),
                "reset_timezone": RESET_TIMEZONE,
            }
        return {
            "data": {
                "token": shown,
                "user": {"remaining_credits": float(user.remaining or 0), "used_credits": float(user.used)},
            },
            "message": "",
            "success": True,
        }


def _limit(amount: float | None) -> Decimal | None:
    return None if amount is None else as_credits(amount)


def _of_key(caller: Caller, details: dict[str, Any]) -> dict[str, Any]:
    return {"key_name": f"key-{caller.key[:6]}"} | details
