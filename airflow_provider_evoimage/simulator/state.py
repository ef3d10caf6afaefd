"""The simulated service without HTTP: accounts, generations, what was remembered, and what goes wrong.

Nothing here sleeps or reads a clock of its own: a generation's state follows from the injected clock
whenever somebody asks.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from airflow_provider_evoimage.simulator.accounts import Account, Caller, KeyRing, Purse
from airflow_provider_evoimage.simulator.clock import Clock
from airflow_provider_evoimage.simulator.counters import Counters
from airflow_provider_evoimage.simulator.errors import Refusal
from airflow_provider_evoimage.simulator.faults import Fault, FaultBoard, Script
from airflow_provider_evoimage.simulator.generations import (
    TASK_ID_PREFIX,
    Generation,
    billing,
    new_task_id,
    submit_answer,
    task_detail,
    usual_duration,
)
from airflow_provider_evoimage.simulator.orders import Order
from airflow_provider_evoimage.simulator.prices import LEDGER_UNIT, Charge, reservation, settlement
from airflow_provider_evoimage.simulator.settings import Settings, read_settings

# How long the service remembers an Idempotency-Key, in seconds.
KEY_MEMORY = 24 * 3600
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._-]{16,96}")
MAX_BATCH = 50
ENDINGS = ("completed", "failed", "cancelled")


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


class SimulatorState:
    """Everything one simulator knows.

    :param settings: how it behaves; `reset` returns to them.
    :param credits: balance with which every account starts.
    :param api_key: the only accepted key; None accepts any.
    :param clock: tells the time.
    :param report: gets one line for every accepted generation.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        credits: float = 1000,  # noqa: A002 - the service's own word
        api_key: str | None = None,
        clock: Clock | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._initial_settings = settings or Settings()
        self._initial_credits = _as_credits(credits)
        self._initial_keys = KeyRing()
        self._initial_keys.accept(None if api_key is None else [api_key])
        self._report = report
        self.clock = clock or Clock()
        self.base_url = "http://127.0.0.1"
        self.counters = Counters()
        self.reset()

    def reset(self) -> None:
        """Forget everything, and behave as at the start."""
        open_requests = self.counters.open_requests
        self.settings = dataclasses.replace(self._initial_settings)
        self.keys = KeyRing(self._initial_keys.accepted)
        self.start_credits = self._initial_credits
        self.token_credits: Decimal | None = None
        self.accounts: dict[str, Account] = {}
        self.tokens: dict[str, Purse] = {}
        self.generations: dict[str, Generation] = {}
        self.faults = FaultBoard()
        self.counters = Counters(open_requests=open_requests)
        self.clock.reset()
        self._open: dict[str, Generation] = {}
        self._files: dict[str, tuple[Generation, int]] = {}
        self._remembered: dict[tuple[str, str], Remembered] = {}
        self._posts: Counter[str] = Counter()

    # Settings

    def configure(self, body: Mapping[str, Any]) -> None:
        """Change settings; nothing changes when one of them is wrong.

        :raises ValueError: naming the setting at fault.
        """
        changes = read_settings(body)
        # What is due under the old settings happens first.
        self.settle()
        for name in {field.name for field in dataclasses.fields(Settings)} & changes.keys():
            setattr(self.settings, name, changes[name])
        self._configure_accounts(changes)
        if "freeze" in changes:
            (self.clock.freeze if changes["freeze"] else self.clock.resume)()
        self.clock.advance(changes.get("advance", 0.0))

    def _configure_accounts(self, changes: Mapping[str, Any]) -> None:
        if "api_keys" in changes:
            self.keys.accept(changes["api_keys"])
        if "revoked_keys" in changes:
            self.keys.revoke(changes["revoked_keys"])
        if "credits" in changes:
            self.start_credits = _as_credits(changes["credits"])
            for account in self.accounts.values():
                account.purse.refill(self.start_credits)
        if "token_credits" in changes:
            limit = changes["token_credits"]
            self.token_credits = None if limit is None else _as_credits(limit)
            for token in self.tokens.values():
                token.limit = None
                if self.token_credits is not None:
                    token.refill(self.token_credits)

    # Accounts

    def account(self, name: str) -> Account:
        """Return an account; it is opened when it is first asked for."""
        return self.accounts.setdefault(name, Account(name, Purse(self.start_credits)))

    def token(self, key: str) -> Purse:
        """Return the credits of one API key, by the key's hash."""
        return self.tokens.setdefault(key, Purse(self.token_credits))

    def credits(self, caller: Caller) -> dict[str, Any]:
        """Describe the balances of an account and a key as the service does."""
        self.settle()
        token, user = self.token(caller.key), self.account(caller.account).purse
        return {
            "data": {
                "token": {
                    "remaining_credits": float(token.remaining or 0),
                    "unlimited_credits": token.limit is None,
                    "used_credits": float(token.used),
                },
                "user": {"remaining_credits": float(user.remaining or 0), "used_credits": float(user.used)},
            },
            "message": "",
            "success": True,
        }

    # Submissions

    def next_submit_fault(self, order: Order, script: Script) -> Fault | None:
        """Return what goes wrong with this submission, counting those with the same prompt."""
        post = self._posts[order.prompt]
        self._posts[order.prompt] += 1
        return script.submit_fault(post)

    def idempotency_key(self, header: str | None) -> str | None:
        """Check the `Idempotency-Key` header of a submission.

        :raises Refusal: with status 400 when it is no such key.
        """
        if header is None or self.settings.ignore_keys:
            return None
        if not IDEMPOTENCY_KEY.fullmatch(header):
            message = "Idempotency-Key must be 16 to 96 characters of A-Z a-z 0-9 . _ -"
            raise Refusal(400, message, param="Idempotency-Key")
        return header

    def recall(self, caller: Caller, key: str | None, body: str) -> Generation | None:
        """Return the generation which an earlier submission with this key made.

        :param body: hash of the body now sent.
        :raises Refusal: with status 409 for another body, or while the first submission is not decided.
        """
        remembered = None if key is None else self._remembered.get((caller.account, key))
        if remembered is None or self.clock.now() >= remembered.since + KEY_MEMORY:
            return None
        if remembered.body != body:
            self.counters.conflicts += 1
            message = "This Idempotency-Key was already used with another request body."
            raise Refusal(409, message, code="idempotency_conflict")
        if remembered.generation is None:
            self.counters.in_flight += 1
            raise Refusal(409, "The first submission with this Idempotency-Key is still being processed.")
        self.counters.replays += 1
        self.counters.per_key[caller.key]["replays"] += 1
        remembered.generation.replays += 1
        return remembered.generation

    @contextmanager
    def undecided(self, caller: Caller, key: str | None, body: str) -> Iterator[Remembered]:
        """Remember a submission while it is being decided, and afterwards if it was accepted."""
        remembered = Remembered(body, self.clock.now())
        if key is None:
            yield remembered
            return
        self._remembered[caller.account, key] = remembered
        try:
            yield remembered
        finally:
            if remembered.generation is None:
                self._remembered.pop((caller.account, key), None)

    def accept(self, caller: Caller, order: Order, script: Script, key: str | None) -> Generation:
        """Accept an order: reserve its credits and start the generation.

        :raises Refusal: with status 402 when the account or the key is short of credits.
        """
        self.settle()
        reserved = reservation(order)
        self._reserve(caller, reserved)
        now = self.clock.now()
        generation = Generation(
            id=new_task_id(now),
            caller=caller,
            order=order,
            script=script,
            idempotency_key=key,
            accepted_at=now,
            duration=self._duration(order, script),
            reserved=reserved,
            speed=self.settings.speed,
            ends_as=_ending(script),
            failure=script.failure,
            made=order.images if script.results is None else min(script.results, order.images),
        )
        self.generations[generation.id] = self._open[generation.id] = generation
        self.counters.paid += 1
        self.counters.per_key[caller.key]["paid"] += 1
        if self._report is not None:
            self._report(_line(generation))
        self.settle()
        return generation

    def _reserve(self, caller: Caller, amount: Decimal) -> None:
        account, token = self.account(caller.account).purse, self.token(caller.key)
        if not account.covers(amount):
            details = {
                "estimated_credits": float(amount),
                "account_balance_credits": float(account.remaining or 0),
            }
            raise Refusal(402, details=details)
        if not token.covers(amount):
            details = {
                "estimated_credits": float(amount),
                "total_limit_credits": float(token.limit or 0),
                "used_credits": float(token.used),
                "remaining_credits": float(token.remaining or 0),
            }
            message = "This API key has used up its credit limit."
            raise Refusal(402, message, code="key_quota_exhausted", details=details)
        account.reserved += amount
        token.reserved += amount

    def _duration(self, order: Order, script: Script) -> float:
        duration = script.duration
        if duration is None:
            duration = self.settings.duration
        if duration is None:
            duration = usual_duration(order)
        return duration / self.settings.speed

    # Generations

    def settle(self) -> None:
        """End every generation whose time has come, and charge for it."""
        now = self.clock.now()
        for generation in [each for each in self._open.values() if each.is_due(now)]:
            self._end(generation, generation.accepted_at + generation.duration)

    def end(self, task_id: str, ends_as: str, failure: str | None = None) -> Generation:
        """End a generation now.

        :param ends_as: completed, failed or cancelled.
        :param failure: error code when it ends as failed.
        :raises ValueError: when it is unknown or has ended already, or for another ending.
        """
        generation = self._unfinished(task_id)
        if ends_as not in ENDINGS:
            raise ValueError(f"end must be one of {', '.join(ENDINGS)}")
        generation.ends_as = ends_as
        generation.failure = (failure or "unknown_error") if ends_as == "failed" else None
        self._end(generation, self.clock.now())
        return generation

    def set_duration(self, task_id: str, duration: float) -> Generation:
        """Let a generation take this many seconds, before the division by its speed.

        :raises ValueError: when it is unknown or has ended already.
        """
        generation = self._unfinished(task_id)
        generation.duration = duration / generation.speed
        self.settle()
        return generation

    def _unfinished(self, task_id: str) -> Generation:
        self.settle()
        generation = self._open.get(task_id)
        if generation is None:
            raise ValueError(f"there is no unfinished generation {task_id}")
        return generation

    def _end(self, generation: Generation, at: float) -> None:
        generation.ended_at = at
        del self._open[generation.id]
        if generation.ends_as == "completed":
            generation.charge = settlement(generation.order, generation.made)
        charge: Charge = generation.charge
        for purse in (self.account(generation.caller.account).purse, self.token(generation.caller.key)):
            purse.settle(generation.reserved, charge.credits)
        self.counters.credits_charged += charge.credits
        account = self.account(generation.caller.account)
        for index, path in enumerate(generation.file_paths):
            self._files[f"{account.id}/{path}"] = (generation, index)

    def describe(self, generation: Generation, *, submitted: bool = False) -> dict[str, Any]:
        """Describe a generation as the service does.

        :param submitted: whether this answers its submission; an ended one shows its details there, too.
        """
        self.settle()
        now = self.clock.now()
        task = task_detail(generation, now, self.links(generation))
        if submitted:
            answer = submit_answer(generation, now)
            usage = answer.pop("usage") | task.pop("usage", {})
            task_info = answer.pop("task_info") | task.pop("task_info")
            task = answer | task | {"usage": usage, "task_info": task_info}
        if self.settings.billing_object:
            task["billing"] = billing(generation)
        return task

    def links(self, generation: Generation) -> list[str]:
        """Return the URLs of a generation's results."""
        account = self.account(generation.caller.account)
        return [f"{self.base_url}/files/{account.id}/{path}" for path in generation.file_paths]

    def task(self, caller: Caller, task_id: str) -> dict[str, Any]:
        """Describe one of the caller's generations.

        :raises Refusal: with status 400 for what is no task id, 404 for a task the caller does not have.
        """
        if not task_id.startswith(TASK_ID_PREFIX):
            message = f"A task id starts with {TASK_ID_PREFIX}"
            raise Refusal(400, message, code="invalid_task_id", param="task_id")
        generation = self.generations.get(task_id)
        if generation is None or generation.caller.account != caller.account:
            raise Refusal(404, f"Task {task_id} not found.", code="task_not_found")
        return self.describe(generation)

    def batch(self, caller: Caller, task_ids: list[str]) -> list[dict[str, Any]]:
        """Describe those of the caller's generations that exist."""
        found = (self.generations.get(task_id) for task_id in dict.fromkeys(task_ids))
        return [
            self.describe(generation)
            for generation in found
            if generation is not None and generation.caller.account == caller.account
        ]

    # Files

    def file(self, path: str) -> tuple[Generation, int] | None:
        """Return whose result stands under a path below `/files/`, and its position there."""
        self.settle()
        return self._files.get(path)

    def is_expired(self, generation: Generation) -> bool:
        """Whether the links of an ended generation are dead."""
        if generation.script.expired or generation.ended_at is None:
            return True
        return self.clock.now() >= generation.ended_at + self.settings.link_lifetime

    def download_fault(self, generation: Generation) -> Fault | None:
        """Return what goes wrong with this download because its prompt asked for it."""
        fault = generation.script.download
        if fault is None or (fault.times is not None and generation.downloads_spoiled >= fault.times):
            return None
        generation.downloads_spoiled += 1
        return fault


def _ending(script: Script) -> str | None:
    if script.never:
        return None
    if script.cancelled:
        return "cancelled"
    return "completed" if script.failure is None else "failed"


def _as_credits(amount: float) -> Decimal:
    return Decimal(str(amount)).quantize(LEDGER_UNIT)


def _line(generation: Generation) -> str:
    order = generation.order
    prompt = " ".join(order.prompt.split())
    shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."  # noqa: PLR2004 - width of a line
    printable = "".join(letter if letter.isprintable() else "?" for letter in shown)
    return (
        f"{generation.id}  {order.model} {order.quality} {order.size} n={order.images}"
        f"  {generation.reserved} credits reserved  {generation.duration:.1f} s  {printable}"
    )
