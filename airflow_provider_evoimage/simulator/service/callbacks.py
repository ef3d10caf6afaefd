"""Webhooks: which deliveries are due, and what became of each. `courier.py` sends them."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_evoimage.simulator.service.orders import is_loopback_host

# As documented: three more attempts, after 1, 2 and 4 seconds.
RETRY_DELAYS = (1.0, 2.0, 4.0)
KEPT_DELIVERIES = 1_000

WAITING, DELIVERED, FAILED = "waiting", "delivered", "failed"
OUTSIDE = "not sent: outside"


@dataclass(eq=False, kw_only=True)
class Delivery:
    """One task-detail JSON on its way to one receiver.

    :param due: Unix time of the next attempt, on the simulator's clock.
    :param answers: what became of each attempt: an HTTP status, or the reason why there is none.
    :param under_way: whether an attempt is being made.
    """

    task_id: str
    url: str
    body: Mapping[str, Any]
    due: float
    speed: float
    answers: list[int | str] = field(default_factory=list)
    outcome: str = WAITING
    under_way: bool = False

    @property
    def host(self) -> str:
        """The receiver's host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def answered(self, answer: int | str, now: float) -> None:
        """Note how an attempt ended: delivered, once more later, or given up."""
        self.under_way = False
        self.answers.append(answer)
        if isinstance(answer, int) and 200 <= answer < 300:
            self.outcome = DELIVERED
        elif len(self.answers) > len(RETRY_DELAYS):
            self.outcome = FAILED
        else:
            self.due = now + RETRY_DELAYS[len(self.answers) - 1] / self.speed

    def as_json(self) -> dict[str, Any]:
        """Describe the delivery; the path of its URL stays out, for it may hold the receiver's secret."""
        return {
            "task_id": self.task_id,
            "status": self.body["status"],
            "host": self.host,
            "attempts": len(self.answers),
            "statuses": self.answers,
            "outcome": self.outcome,
        }


class Callbacks:
    """The deliveries of one simulator, the last thousand of them."""

    def __init__(self) -> None:
        self.deliveries: deque[Delivery] = deque(maxlen=KEPT_DELIVERIES)

    def add(self, task: Mapping[str, Any], url: str, now: float, speed: float) -> None:
        """Deliver a task that has ended; one for another machine is only noted."""
        outcome = WAITING if is_loopback_host(urlsplit(url).hostname) else OUTSIDE
        delivery = Delivery(task_id=task["id"], url=url, body=task, due=now, speed=speed, outcome=outcome)
        self.deliveries.append(delivery)

    def due(self, now: float) -> list[Delivery]:
        """Return the deliveries to be attempted now."""
        return [
            delivery
            for delivery in list(self.deliveries)
            if delivery.outcome == WAITING and not delivery.under_way and now >= delivery.due
        ]
