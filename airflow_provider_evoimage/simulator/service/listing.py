"""The list of an account's tasks: which of them, and in pages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_evoimage.simulator.service.errors import Refusal
from airflow_provider_evoimage.simulator.service.generations import Generation, list_item

# `processing` stands for all that has not ended.
STATUSES = {
    "processing": ("pending", "processing"),
    "completed": ("completed",),
    "failed": ("failed",),
    "cancelled": ("cancelled",),
}
TYPES = ("image", "video", "audio")
PAGE_SIZE, MAX_PAGE_SIZE, LAST_PAGE = 20, 50, 1_000_000


@dataclass(frozen=True, kw_only=True)
class TaskFilter:
    """What the query of a list asks for; None for any."""

    statuses: tuple[str, ...] | None
    type: str | None
    model: str | None
    page: int
    page_size: int

    def page_of(self, generations: Iterable[Generation], now: float) -> dict[str, Any]:
        """Return one page of those generations that match, in their order."""
        found = [each for each in generations if self._matches(each, now)]
        start = (self.page - 1) * self.page_size
        shown = found[start : start + self.page_size]
        return {
            "data": [list_item(each, now) for each in shown],
            "total": len(found),
            "page": self.page,
            "page_size": self.page_size,
        }

    def _matches(self, generation: Generation, now: float) -> bool:
        return (
            self.type in (None, "image")
            and (self.statuses is None or generation.status(now) in self.statuses)
            and self.model in (None, generation.order.model)
        )


def read_filter(query: Mapping[str, str]) -> TaskFilter:
    """Read the query of a list.

    :raises Refusal: with status 400 and the name of the parameter at fault.
    """
    status = _one_of(query, "status", tuple(STATUSES))
    return TaskFilter(
        statuses=None if status is None else STATUSES[status],
        type=_one_of(query, "type", TYPES),
        model=query.get("model") or None,
        page=_whole(query, "page", 1, LAST_PAGE),
        page_size=_whole(query, "page_size", PAGE_SIZE, MAX_PAGE_SIZE),
    )


def _one_of(query: Mapping[str, str], name: str, accepted: tuple[str, ...]) -> str | None:
    value = query.get(name) or None
    if value is not None and value not in accepted:
        message = f"{name} must be one of {', '.join(accepted)}."
        raise Refusal(400, message, code="invalid_parameters", param=name)
    return value


def _whole(query: Mapping[str, str], name: str, default: int, largest: int) -> int:
    value = query.get(name)
    if not value:
        return default
    # Short enough to be a number at all: int() refuses thousands of digits by raising.
    number = int(value) if value.isascii() and value.isdecimal() and len(value) <= len(str(largest)) else 0
    if not 1 <= number <= largest:
        message = f"{name} must be an integer between 1 and {largest}."
        raise Refusal(400, message, code="invalid_parameters", param=name)
    return number
