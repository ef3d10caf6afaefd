"""The simulated service without HTTP: accounts, generations, what was remembered, and what goes wrong.

Nothing here sleeps or reads a clock of its own: a generation's state follows from the injected clock
whenever a request arrives.
"""

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from airflow_provider_evoimage.simulator.service.accounts import Account, Caller, KeyRing
from airflow_provider_evoimage.simulator.service.bank import Bank, as_credits
from airflow_provider_evoimage.simulator.service.callbacks import Callbacks
from airflow_provider_evoimage.simulator.service.clock import Clock
from airflow_provider_evoimage.simulator.service.counters import Counters
from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.faults import Fault, FaultBoard, Script
from airflow_provider_evoimage.simulator.service.generations import (
    Generation,
    billing,
    ending,
    images_made,
    report_line,
    submit_answer,
    task_detail,
    usual_duration,
)
from airflow_provider_evoimage.simulator.service.idempotency import KeyMemory, Remembered, read_key
from airflow_provider_evoimage.simulator.service.limits import RateLimits, too_many
from airflow_provider_evoimage.simulator.service.names import TASK_ID_PREFIX, Names
from airflow_provider_evoimage.simulator.service.orders import Order
from airflow_provider_evoimage.simulator.service.prices import reservation, settlement
from airflow_provider_evoimage.simulator.service.references import Inspected
from airflow_provider_evoimage.simulator.service.settings import Settings, read_settings
from airflow_provider_evoimage.simulator.service.uploads import FILES_PATH, Upload, Uploads

MAX_BATCH = 50
ENDINGS = ("completed", "failed", "cancelled")
# Longest Retry-After of a refused submission: running generations may never end.
LONGEST_RETRY_AFTER = 30.0


class SimulatorState:
    """Everything one simulator knows.

    :param settings: how it behaves; `reset` returns to them.
    :param credits: balance with which every account starts.
    :param api_key: the only accepted key; None accepts any.
    :param clock: tells the time.
    :param report: gets one line for every accepted generation.
    :param seed: makes ids repeatable; `reset` starts them again.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        credits: float = 1000,  # noqa: A002 - the service's own word
        api_key: str | None = None,
        clock: Clock | None = None,
        report: Callable[[str], None] | None = None,
        seed: int | None = None,
    ) -> None:
        self._initial_settings = settings or Settings()
        self._initial_credits = as_credits(credits)
        self._initial_keys = KeyRing()
        self._initial_keys.accept(None if api_key is None else [api_key])
        self._report = report
        self._seed = seed
        self.clock = clock or Clock()
        self.base_url = "http://127.0.0.1"
        self.ready_at = 0.0
        self.counters = Counters()
        self.uploads = Uploads(Names(seed))
        # A server settles by itself for its webhooks, while a test may do so from another thread.
        self._lock = threading.RLock()
        self.reset()

    def begin(self) -> None:
        """Note that the server starts: a slow start counts from here."""
        self.ready_at = self.clock.now() + self.settings.slow_start

    def reset(self) -> None:
        """Forget everything, and behave as at the start."""
        with self._lock:
            self._reset()

    def _reset(self) -> None:
        self.settings = dataclasses.replace(self._initial_settings)
        self.keys = KeyRing(self._initial_keys.accepted)
        self.bank = Bank(self._initial_credits)
        self.names = Names(self._seed)
        self.uploads.close()
        self.uploads = Uploads(self.names)
        self.generations: dict[str, Generation] = {}
        self.callbacks = Callbacks()
        self.rates = RateLimits()
        self.faults = FaultBoard()
        self.counters = Counters(requests=self.counters.requests)
        self.counters.requests.most = 0
        self.clock.reset()
        self.ready_at = 0.0
        self.key_memory = KeyMemory()
        self._open: dict[str, Generation] = {}
        self._files: dict[str, tuple[Generation, int]] = {}
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
        self.bank.configure(changes)
        if "api_keys" in changes:
            self.keys.accept(changes["api_keys"])
        if "revoked_keys" in changes:
            self.keys.revoke(changes["revoked_keys"])
        if "slow_start" in changes:
            self.begin()
        if "freeze" in changes:
            (self.clock.freeze if changes["freeze"] else self.clock.resume)()
        self.clock.advance(changes.get("advance", 0.0))

    # Accounts

    def account(self, name: str) -> Account:
        """Return an account; it is opened at its first use."""
        return self.bank.account(name)

    def credits(self, caller: Caller) -> dict[str, Any]:
        """Describe the balances of an account and a key as the service does."""
        self.settle()
        return self.bank.describe(caller, self.clock.now())

    def check_rate(self, caller: Caller) -> None:
        """Count a request of an account.

        :raises Refusal: with status 429 when the account sends too many.
        """
        self.rates.check(caller.account, self.clock.now(), self.settings.rps)

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
        return None if self.settings.ignore_keys else read_key(header)

    def recall(self, caller: Caller, key: str | None, body: str) -> Generation | None:
        """Return the generation which an earlier submission with this key made.

        :param body: hash of the body now sent.
        :raises Refusal: with status 409 for another body, or while the first submission is not decided.
        """
        return self.key_memory.recall(caller, key, body, self.clock.now(), self.counters)

    def undecided(self, caller: Caller, key: str | None, body: str) -> AbstractContextManager[Remembered]:
        """Remember a submission while it is being decided, and afterwards if it was accepted."""
        return self.key_memory.undecided(caller, key, body, self.clock.now())

    def accept(
        self,
        caller: Caller,
        order: Order,
        script: Script,
        key: str | None,
        *,
        inspected: Inspected | None = None,
        age: float = 0.0,
    ) -> Generation:
        """Accept an order: reserve its credits and start the generation.

        :param inspected: what its references are.
        :param age: seconds ago that it was accepted.
        :raises Refusal: with status 402 when the account or the key is short of credits, 429 when the account
            has too many running generations, 503 when the service has no capacity for the model.
        """
        self.settle()
        self._check_capacity(caller, order.model)
        inspected = inspected or Inspected()
        reserved = reservation(order, self.settings.reserve_factor)
        now = self.clock.now()
        self.bank.reserve(caller, reserved, now)
        failure = script.failure or inspected.failure
        generation = Generation(
            id=self.names.task_id(now - age),
            caller=caller,
            order=order,
            script=script,
            idempotency_key=key,
            accepted_at=now - age,
            duration=self._duration(order, script),
            reserved=reserved,
            speed=self.settings.speed,
            ends_as=ending(script, failure),
            failure=failure,
            made=images_made(order, script, single=self.settings.n_behaviour == "single"),
            references=inspected.references,
        )
        with self._lock:
            self.generations[generation.id] = self._open[generation.id] = generation
        self.counters.paid += 1
        self.counters.per_key[caller.key]["paid"] += 1
        if self._report is not None:
            self._report(report_line(generation))
        self.settle()
        return generation

    def _check_capacity(self, caller: Caller, model: str) -> None:
        if model in self.settings.unavailable_models:
            raise Refusal(503, f"No capacity for {model} right now.", code="model_unavailable")
        allowed = self.settings.concurrency
        running = [each for each in self._open.values() if each.caller.account == caller.account]
        if not allowed or len(running) < allowed:
            return
        ends = [each.accepted_at + each.duration for each in running if each.ends_as is not None]
        seconds = min([end - self.clock.now() for end in ends] + [LONGEST_RETRY_AFTER])
        raise too_many(f"Too many running generations: at most {allowed}.", seconds)

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
        with self._lock:
            now = self.clock.now()
            for generation in [each for each in self._open.values() if each.is_due(now)]:
                self._end(generation, generation.accepted_at + generation.duration)

    @property
    def callback_awaited(self) -> bool:
        """Whether a running generation has a receiver that must learn of its end in time."""
        with self._lock:
            return any(each.order.callback_url is not None for each in self._open.values())

    def end(self, task_id: str, ends_as: str, failure: str | None = None) -> Generation:
        """End a generation now.

        :param ends_as: completed, failed or cancelled.
        :param failure: error code when it ends as failed.
        :raises ValueError: when it is unknown or has ended already, or for another ending.
        """
        if ends_as not in ENDINGS:
            raise ValueError(f"end must be one of {', '.join(ENDINGS)}")
        with self._lock:
            generation = self._unfinished(task_id)
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
        made = generation.made if generation.ends_as == "completed" else generation.order.images
        if generation.ends_as == "completed" or self.settings.charge_failed:
            generation.charge = settlement(generation.order, made, self.settings.charge_factor)
        charged = generation.charge.credits
        self.bank.settle(generation.caller, generation.reserved, charged, generation.accepted_at)
        self.counters.credits_charged += charged
        account = self.account(generation.caller.account)
        for index, path in enumerate(generation.file_paths):
            self._files[f"{account.id}/{path}"] = (generation, index)
        callback_url = generation.order.callback_url
        if callback_url is not None:
            now = self.clock.now()
            self.callbacks.add(self._detail(generation, now), callback_url, now, generation.speed)

    def describe(self, generation: Generation, *, submitted: bool = False) -> dict[str, Any]:
        """Describe a generation as the service does.

        :param submitted: whether this answers its submission; an ended one shows its details there, too.
        """
        self.settle()
        now = self.clock.now()
        task = self._detail(generation, now)
        if submitted:
            answer = submit_answer(generation, now)
            usage = answer.pop("usage") | task.pop("usage", {})
            task_info = answer.pop("task_info") | task.pop("task_info")
            task = answer | task | {"usage": usage, "task_info": task_info}
        return task

    def _detail(self, generation: Generation, now: float) -> dict[str, Any]:
        task = task_detail(generation, now, self.links(generation))
        if self.settings.billing_object:
            task["billing"] = billing(generation)
        return task

    def links(self, generation: Generation) -> list[str]:
        """Return the URLs of a generation's results."""
        account = self.account(generation.caller.account)
        return [f"{self.base_url}{FILES_PATH}/{account.id}/{path}" for path in generation.file_paths]

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

    def of(self, caller: Caller) -> Iterable[Generation]:
        """Return the generations of the caller's account, newest first."""
        self.settle()
        with self._lock:
            # Stable, then turned around: of one moment, the last accepted comes first.
            everything = sorted(self.generations.values(), key=lambda each: each.accepted_at)
        everything.reverse()
        return (generation for generation in everything if generation.caller.account == caller.account)

    # Files

    def upload(self, path: str) -> Upload | None:
        """Return the uploaded file under a path below `/files/`."""
        self.uploads.expire(self.clock.now(), self.settings.file_lifetime)
        account, _, url_path = path.partition("/")
        return self.uploads.at(account, url_path)

    def downloadable(self, file_id: str) -> Upload | None:
        """Return the uploaded file with an id."""
        self.uploads.expire(self.clock.now(), self.settings.file_lifetime)
        return self.uploads.by_id(file_id)

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
        """Return the fault of this download that its prompt requests."""
        fault = generation.script.download
        if fault is None or (fault.times is not None and generation.downloads_spoiled >= fault.times):
            return None
        generation.downloads_spoiled += 1
        return fault
