"""One generation: what was asked, how far it is at a given time, and how the service describes it."""

import hashlib
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from airflow_provider_evoimage.simulator.documents.catalog import rules_for
from airflow_provider_evoimage.simulator.drawing.pictures import Picture, Reference
from airflow_provider_evoimage.simulator.service.accounts import Caller
from airflow_provider_evoimage.simulator.service.errors import failure_message
from airflow_provider_evoimage.simulator.service.faults import Script
from airflow_provider_evoimage.simulator.service.orders import Order
from airflow_provider_evoimage.simulator.service.prices import Charge, billing_rule

EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}

# The part of its duration for which a generation waits in the queue.
QUEUED_SHARE = 0.15
MANY_IMAGES = 4
MANY_IMAGES_SECONDS = (30.0, 120.0)
LARGE_SECONDS = (30.0, 90.0)
USUAL_SECONDS = (10.0, 30.0)
SECONDS_BY_QUALITY = {"low": (5.0, 15.0), "high": (20.0, 60.0), "xhigh": (30.0, 90.0), "max": (40.0, 120.0)}


def usual_duration(order: Order) -> float:
    """Seconds the real service would take: always the same for the same order."""
    if order.images >= MANY_IMAGES:
        shortest, longest = MANY_IMAGES_SECONDS
    elif order.tier == "4K":
        shortest, longest = LARGE_SECONDS
    else:
        shortest, longest = SECONDS_BY_QUALITY.get(order.quality, USUAL_SECONDS)
    digest = hashlib.sha256(f"{order.model}\n{order.prompt}".encode()).digest()
    return shortest + (longest - shortest) * digest[0] / 255


def images_made(order: Order, script: Script, *, single: bool) -> int:
    """How many images a generation makes when it completes.

    :param single: models whose pages say so make one image, whatever was asked: always, or for most prompts.
    """
    if script.results is not None:
        return min(script.results, order.images)
    how = rules_for(order.model).single if single else "never"
    if how == "often":
        # Three prompts of four.
        how = "never" if hashlib.sha256(order.prompt.encode()).digest()[1] % 4 == 0 else "always"
    return 1 if how == "always" else order.images


def ending(script: Script, failure: str | None) -> str | None:
    """How a generation ends; None when it never does."""
    if script.never:
        return None
    if script.cancelled:
        return "cancelled"
    return "completed" if failure is None else "failed"


@dataclass(kw_only=True, eq=False)
class Generation:
    """A paid generation.

    :param accepted_at: Unix time of its acceptance.
    :param duration: seconds on the simulator's clock until it ends.
    :param ends_as: `completed`, `failed` or `cancelled`; None when it never ends.
    :param failure: error code when it ends as failed.
    :param made: images it makes when it completes.
    :param ended_at: Unix time of its end, once that was noticed and settled.
    :param references: its reference images, as its pictures show them.
    :param downloads_spoiled: how many downloads of its files went wrong as its prompt asked.
    """

    id: str
    caller: Caller
    order: Order
    script: Script
    idempotency_key: str | None
    accepted_at: float
    duration: float
    reserved: Decimal
    speed: float
    ends_as: str | None
    failure: str | None = None
    made: int = 0
    references: tuple[Reference, ...] = ()
    ended_at: float | None = None
    charge: Charge = field(default_factory=lambda: Charge(Decimal(0), {}))
    replays: int = 0
    downloads_spoiled: int = 0

    def is_due(self, now: float) -> bool:
        """Whether it has ended by now."""
        return self.ends_as is not None and now >= self.accepted_at + self.duration

    def status(self, now: float) -> str:
        """Return `pending`, `processing`, or how it ended."""
        if self.ended_at is not None:
            return str(self.ends_as)
        return "pending" if self._share_done(now) < QUEUED_SHARE else "processing"

    def progress(self, now: float) -> int:
        """Return the percentage done; a failed generation shows 0."""
        if self.ended_at is not None:
            return 100 if self.ends_as == "completed" else 0
        share = (self._share_done(now) - QUEUED_SHARE) / (1 - QUEUED_SHARE)
        return min(max(math.floor(share * 100), 0), 99)

    def _share_done(self, now: float) -> float:
        return (now - self.accepted_at) / self.duration if self.duration else 1.0

    @property
    def file_paths(self) -> list[str]:
        """Paths of its result files, below `/files/`, without the account."""
        if self.ended_at is None or self.ends_as != "completed":
            return []
        day = datetime.fromtimestamp(self.accepted_at, UTC).strftime("%Y/%m/%d")
        name = hashlib.sha256(self.id.encode()).hexdigest()[:32]
        extension = EXTENSIONS[self.order.output_format]
        return [f"images/{day}/{name}_{index}.{extension}" for index in range(self.made)]

    def picture(self, index: int) -> Picture:
        """Return what one of its results shows."""
        order = self.order
        return Picture(
            prompt=order.prompt,
            model=order.model,
            quality=order.quality,
            width=order.pixels[0],
            height=order.pixels[1],
            index=index,
            count=order.images,
            file_format=order.output_format,
            transparent=order.transparent,
            references=self.references,
        )


def submit_answer(generation: Generation, now: float) -> dict[str, Any]:
    """Describe a generation as the answer to its submission does."""
    estimated_time = rules_for(generation.order.model).estimated_time
    return _heading(generation, now) | {
        "task_info": {
            "can_cancel": True,
            "estimated_time": max(1, math.ceil(estimated_time / generation.speed)),
        },
        "usage": {
            "billing_rule": billing_rule(generation.order.model),
            "credits_reserved": float(generation.reserved),
            "user_group": "default",
        },
    }


def task_detail(generation: Generation, now: float, links: list[str]) -> dict[str, Any]:
    """Describe a generation as the task endpoint does.

    :param links: URLs of its results.
    """
    task = _heading(generation, now) | {"task_info": {"can_cancel": generation.ended_at is None}}
    if generation.ended_at is None:
        return task
    if generation.ends_as == "completed":
        task |= {
            "duration": max(1, round(generation.ended_at - generation.accepted_at)),
            "result_data": [{"url": link} for link in links],
            "results": links,
            "usage": {"credits_used": float(generation.charge.credits)} | generation.charge.tokens,
        }
    elif generation.charge.credits:
        task["usage"] = {"credits_used": float(generation.charge.credits)}
    if generation.failure is not None:
        task["error"] = {
            "code": generation.failure,
            "message": failure_message(generation.failure),
            "type": "task_error",
        }
    return task


def list_item(generation: Generation, now: float) -> dict[str, Any]:
    """Describe a generation as the list of tasks does: without the URLs of its results."""
    return {
        "id": generation.id,
        "status": generation.status(now),
        "model": generation.order.model,
        "type": "image",
        "progress": generation.progress(now),
        "created_at": int(generation.accepted_at),
        "has_results": bool(generation.file_paths),
        "has_error": generation.ended_at is not None and generation.failure is not None,
        "credits_used": float(generation.charge.credits),
    }


def billing(generation: Generation) -> dict[str, Any]:
    """Return the `billing` object which newer gateways add to a task."""
    reserved, charged = float(generation.reserved), float(generation.charge.credits)
    states = {None: ("reserved", "not_required"), "completed": ("charged", "not_required")}
    outcome = generation.ends_as if generation.ended_at is not None else None
    if outcome is not None and generation.charge.credits:
        outcome = "completed"
    charge_status, refund_status = states.get(outcome, ("released", "completed"))
    released = charge_status == "released"
    return {
        "refund_scope": "account_balance",
        "charge_status": charge_status,
        "refund_status": refund_status,
        "reserved_credits": reserved,
        "charged_credits": charged,
        "refunded_credits": reserved if released else 0.0,
        "refunded_at": int(generation.ended_at) if released and generation.ended_at is not None else None,
    }


def report_line(generation: Generation) -> str:
    """Describe an accepted generation in one line for a terminal."""
    order = generation.order
    prompt = " ".join(order.prompt.split())
    shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
    printable = "".join(letter if letter.isprintable() else "?" for letter in shown)
    return (
        f"{generation.id}  {order.model} {order.quality} {order.size} n={order.images}"
        f"  {generation.reserved} credits reserved  {generation.duration:.1f} s  {printable}"
    )


def _heading(generation: Generation, now: float) -> dict[str, Any]:
    return {
        "created": int(generation.accepted_at),
        "id": generation.id,
        "model": generation.order.model,
        "object": "image.generation.task",
        "progress": generation.progress(now),
        "status": generation.status(now),
        "type": "image",
    }
