"""Request rates: a token bucket for each account."""

import math
from dataclasses import dataclass

from airflow_provider_evoimage.simulator.service.errors import Refusal


@dataclass
class Bucket:
    """Holds a second's worth of requests, and fills at the allowed rate."""

    tokens: float
    filled_at: float

    def seconds_until_free(self, now: float, rate: float) -> float:
        """Take one token if there is one, and return 0; else return when there will be one."""
        room = max(rate, 1.0)
        self.tokens = min(self.tokens + max(now - self.filled_at, 0.0) * rate, room)
        self.filled_at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / rate


class RateLimits:
    """The buckets of all accounts."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def check(self, account: str, now: float, rate: float) -> None:
        """Count one request.

        :param rate: requests per second an account may send; 0 for any number.
        :raises Refusal: with status 429 and `Retry-After` when there were too many.
        """
        if not rate:
            return
        bucket = self._buckets.setdefault(account, Bucket(max(rate, 1.0), now))
        seconds = bucket.seconds_until_free(now, rate)
        if seconds:
            raise too_many("Too many requests. Please slow down.", seconds)


def too_many(message: str, seconds: float) -> Refusal:
    """Return the refusal of a request that may come again after some seconds."""
    return Refusal(429, message, retry_after=str(max(math.ceil(seconds), 1)))
