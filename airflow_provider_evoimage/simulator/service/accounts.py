"""API keys and the balances behind them. A key itself is never kept: only its hash."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from airflow_provider_evoimage.simulator.service.errors import Refusal

DEFAULT_ACCOUNT = "default"
BEARER = "bearer "


def key_hash(api_key: str) -> str:
    """Return the name under which a key appears in counters and listings."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def read_bearer(authorization: str | None) -> str:
    """Return the key in an `Authorization` header, or nothing."""
    header = authorization or ""
    return header[len(BEARER) :].strip() if header[: len(BEARER)].lower() == BEARER else ""


@dataclass
class Purse:
    """Credits of an account or of a key.

    :param limit: all credits there ever were; None means without limit.
    """

    limit: Decimal | None
    used: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)

    @property
    def remaining(self) -> Decimal | None:
        """Credits that can still be reserved; None means without limit."""
        return None if self.limit is None else self.limit - self.used - self.reserved

    def covers(self, amount: Decimal) -> bool:
        """Whether this much can be reserved."""
        return self.remaining is None or amount <= self.remaining

    def settle(self, reserved: Decimal, charged: Decimal) -> None:
        """Give a reservation back and take the final charge."""
        self.reserved -= reserved
        self.used += charged

    def refill(self, remaining: Decimal) -> None:
        """Set what remains, whatever was used before."""
        self.limit = remaining + self.used + self.reserved


@dataclass
class Account:
    """One customer of the service.

    :param name: what tests call it.
    """

    name: str
    purse: Purse

    @property
    def id(self) -> str:
        """The id which stands in the links of this account's results."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Caller:
    """Who sent a request: the account, and the hash of the key used."""

    account: str
    key: str


@dataclass
class KeyRing:
    """Which keys open which account.

    :param accepted: key hash to account name; None accepts every key for the default account.
    :param revoked: hashes of keys that are refused whatever `accepted` says.
    """

    accepted: dict[str, str] | None = None
    revoked: set[str] = field(default_factory=set)

    def accept(self, keys: Iterable[str] | Mapping[str, str] | None) -> None:
        """Replace the accepted keys: a list for the default account, or keys with their accounts."""
        if keys is None:
            self.accepted = None
        elif isinstance(keys, Mapping):
            self.accepted = {key_hash(key): account for key, account in keys.items()}
        else:
            self.accepted = {key_hash(key): DEFAULT_ACCOUNT for key in keys}

    def revoke(self, keys: Iterable[str]) -> None:
        """Replace the revoked keys."""
        self.revoked = {key_hash(key) for key in keys}

    def caller(self, authorization: str | None) -> Caller:
        """Read an `Authorization` header.

        :raises Refusal: with status 401 when there is no key, or not a valid one.
        """
        api_key = read_bearer(authorization)
        if not api_key:
            raise Refusal(401, "Missing API key. Send it as: Authorization: Bearer YOUR_API_KEY")
        key = key_hash(api_key)
        account = DEFAULT_ACCOUNT if self.accepted is None else self.accepted.get(key)
        if account is None or key in self.revoked:
            raise Refusal(401, "Invalid API key.", code="invalid_token")
        return Caller(account, key)
