"""A limit on many requests at once, over real HTTP: what EvoLink charges in the end stays below it."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import pytest

from airflow_provider_evoimage.client import Account, EvoLinkClient
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import BudgetExceededError, EvoImageError, KeyLimitError
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.submission.budget import Budget, most_credits, require_balance
from tests.integration.task_driver import API_KEY

AT_ONCE = 25


def two_hundred(seed: int) -> list[ImageRequest]:
    """Requests of every price; one in eight fails, and is free."""
    chance = random.Random(seed)
    requests = []
    for number in range(200):
        words = "[[fail:content_policy_violation]]" if chance.random() < 1 / 8 else ""
        references = chance.choice([0, 0, 1, 3])
        requests.append(
            ImageRequest.build(
                model=chance.choice(["gpt-image-1", "gpt-image-1.5", "gpt-image-1.5-beta", "gpt-image-2"]),
                prompt=f"campaign image {number} {words}",
                quality=chance.choice(["low", "medium", "high"]),
                size=chance.choice(["1:1", "2:3"]),
                n=chance.choice([1, 1, 2, 4]),
                image_urls=[f"https://example.com/{each}.png" for each in range(references)],
            )
        )
    return requests


class Batch:
    """Submits all it may, several at a time, and collects what has ended; then goes on with what was freed."""

    def __init__(self, client: EvoLinkClient, evolink: SimulatorServer, budget: Budget) -> None:
        self.client = client
        self.evolink = evolink
        self.budget = budget
        self.slots = asyncio.Semaphore(AT_ONCE)
        self.ids: dict[str, str] = {}

    async def submit(self, item: str, request: ImageRequest) -> str | None:
        """Return the item when it is left out."""
        async with self.slots:
            try:
                self.budget.hold(item, request)
            except BudgetExceededError:
                return item
            try:
                submitted = await asyncio.to_thread(
                    self.client.submit, request, f"{item}-of-the-batch-{id(self)}"
                )
            except EvoImageError:
                self.budget.release(item)
                raise
            self.budget.accepted(item, submitted.generation.usage.credits_reserved)
            self.ids[item] = submitted.generation.evolink_task_id
            return None

    async def collect(self) -> None:
        self.evolink.state.clock.advance(600)
        found = self.client.get_generations(list(self.ids.values()))
        for item, evolink_task_id in self.ids.items():
            generation = found[evolink_task_id]
            assert generation.is_terminal
            self.budget.settle(item, generation.usage.credits_used if generation.status == "completed" else 0)
        self.ids.clear()

    async def run(self, requests: dict[str, ImageRequest]) -> set[str]:
        """Go on until nothing more fits; return what was left out."""
        left = set(requests)
        while True:
            done = await asyncio.gather(*(self.submit(item, requests[item]) for item in sorted(left)))
            still = {item for item in done if item is not None}
            await self.collect()
            if still == left:
                return left
            left = still


@pytest.mark.parametrize(("seed", "limit"), [(1, "40"), (2, "250"), (3, "100000")])
async def test_two_hundred_requests_at_once_are_never_charged_above_the_limit(
    evolink: SimulatorServer, seed: int, limit: str
):
    evolink.state.configure({"credits": 1_000_000})
    requests = {f"item-{number:03}": request for number, request in enumerate(two_hundred(seed))}
    budget = Budget(Decimal(limit))
    with EvoLinkClient(Account(base_url=evolink.url, api_key=API_KEY)) as client:
        left_out = await Batch(client, evolink, budget).run(requests)

    charged = evolink.state.counters.credits_charged
    assert charged <= Decimal(limit)
    assert budget.charged == charged
    assert budget.held == 0
    assert evolink.state.counters.paid == 200 - len(left_out)
    # It is no limit that lets nothing through: what was left out did not fit into what was left.
    assert all(most_credits([requests[item]]) > budget.left for item in left_out)
    assert bool(left_out) is (limit != "100000")


def test_key_that_has_too_little_is_told_before_anything_is_sent(evolink: SimulatorServer):
    evolink.state.configure({"credits": 10_000, "token_credits": 5})
    with EvoLinkClient(Account(base_url=evolink.url, api_key=API_KEY)) as client:
        balance = client.get_credits()

    with pytest.raises(KeyLimitError, match=r"key's own limit leaves 5\.0000"):
        require_balance(balance, most_credits(two_hundred(1)))
    assert evolink.state.counters.submissions == 0
