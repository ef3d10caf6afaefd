"""What the service remembers of submissions that came with an `Idempotency-Key`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from airflow_provider_evoimage.simulator.service.accounts import Caller
from airflow_provider_evoimage.simulator.service.counters import Counters
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.generations import Generation

# Seconds for which the service remembers a key.
KEY_MEMORY = 24 * 3600
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._-]{16,96}")


@dataclass(eq=False)
class Remembered:
    """A submission that came with an Idempotency-Key.

    :param body: hash of its body.
    :param since: Unix time of its arrival.
    :param generation: None while the submission is not decided.
    """

    body: str
    since: float
    generation: Generation | None = None


def read_key(header: str | None) -> str | None:
    """Read an `Idempotency-Key` header.

    :raises Refusal: with status 400 when it is not a valid key.
    """
    if header is None:
        return None
    if IDEMPOTENCY_KEY.fullmatch(header) is None:
        message = "Idempotency-Key must be 16 to 96 characters of A-Z a-z 0-9 . _ -"
        raise Refusal(400, message, param="Idempotency-Key")
    return header


class KeyMemory:
    """The remembered submissions of all accounts."""

    def __init__(self) -> None:
        self._remembered: dict[tuple[str, str], Remembered] = {}

    def recall(
        self, caller: Caller, key: str | None, body: str, now: float, counters: Counters
    ) -> Generation | None:
        """Return the generation which an earlier submission with this key started.

        :raises Refusal: with status 409 when the body is another one, or the first submission is not decided.
        """
        remembered = None if key is None else self._remembered.get((caller.account, key))
        if remembered is None or now >= remembered.since + KEY_MEMORY:
            return None
        if remembered.body != body:
            counters.conflicts += 1
            message = "This Idempotency-Key was already used with another request body."
            raise Refusal(409, message, code="idempotency_conflict")
        if remembered.generation is None:
            counters.in_flight += 1
            raise Refusal(409, "The first submission with this Idempotency-Key is still being processed.")
        counters.replays += 1
        counters.per_key[caller.key]["replays"] += 1
        remembered.generation.replays += 1
        return remembered.generation

    @contextmanager
    def undecided(self, caller: Caller, key: str | None, body: str, now: float) -> Iterator[Remembered]:
        """Remember a submission while it is being decided, and afterwards if it was accepted."""
        remembered = Remembered(body, now)
        if key is None:
            yield remembered
            return
        self._remembered[caller.account, key] = remembered
        try:
            yield remembered
        finally:
            if remembered.generation is None:
                self._remembered.pop((caller.account, key), None)
