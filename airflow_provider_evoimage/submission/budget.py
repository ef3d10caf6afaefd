"""Limits on cost: checked before a request is sent, and held while many are under way. Pure.

The upper end of an estimate is held, so the charge stays below the limit as long as the published prices
hold. If no price is known and a limit is set, nothing is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from airflow_provider_evoimage.evolink.answers import Credits
from airflow_provider_evoimage.evolink.model_facts import facts_of
from airflow_provider_evoimage.evolink.pricing import CostEstimate, estimate_with_prompt
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    BudgetExceededError,
    InsufficientCreditsError,
    InvalidRequestError,
    KeyLimitError,
    PriceUnknownError,
)

_MOST_SUGGESTIONS = 3
_OTHER_RATES = (
    "your account may have other rates than the published ones; set a limit on the API key at EvoLink."
)
_NOTHING_SENT = "Nothing was sent and no retry follows: top up, then clear the task."


def credit_limit(
    value: float | str | Decimal | None, *, is_given: bool = False, name: str = "max_credits"
) -> Decimal | None:
    """Read a limit from an argument or a rendered template; None if there is none.

    :param is_given: whether the DAG author gave one: if it renders to nothing, the task fails rather than run
        without.
    :raises InvalidRequestError: when it is not a number of credits, 0 or more, or was given and is nothing.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in {"", "none", "null"}):
        if is_given:
            raise InvalidRequestError(
                f"{name} was given and renders to {value!r}, which is no limit: the task it comes from was skipped or "
                "returned nothing. Leave it out where there is to be none."
            )
        return None
    try:
        limit = None if isinstance(value, bool) else Decimal(str(value).strip())
    except InvalidOperation:
        limit = None
    if limit is None or not limit.is_finite() or limit < 0:
        raise InvalidRequestError(f"{name} must be a number of credits, 0 or more, not {value!r}.")
    return limit


def require_within(
    request: ImageRequest, max_credits: Decimal | None, *, spent: Decimal = Decimal(0)
) -> CostEstimate | None:
    """Check one request against a limit and return its estimate; None where no price is known and no limit set.

    :param spent: credits that earlier generations of the same task cost.
    :raises BudgetExceededError: when it may cost more, with the parts and the smallest changes that would
        fit.
    :raises PriceUnknownError: when no price is known.
    """
    found = estimate_with_prompt(request)
    if max_credits is None:
        return found
    if found is None:
        raise price_unknown(request, max_credits)
    if found.credits_high + spent > max_credits:
        raise _exceeded(request, found, max_credits, spent)
    return found


def most_credits(requests: Iterable[ImageRequest]) -> Decimal:
    """Return what all of these may cost together at the most, for :func:`require_balance`.

    :raises PriceUnknownError: naming the models without a known price.
    """
    most = Decimal(0)
    unknown: dict[str, int] = {}
    for request in requests:
        found = estimate_with_prompt(request)
        if found is None:
            unknown[request.model] = unknown.get(request.model, 0) + 1
        else:
            most += found.credits_high
    if unknown:
        models = ", ".join(f"{model} ({count} requests)" for model, count in unknown.items())
        raise PriceUnknownError(
            f"No price is known for {models}, so their total is unknown. Use models with a published "
            "price, or leave check_credits out."
        )
    return most


def most_credits_of(request: ImageRequest) -> Decimal | None:
    """Return what one request may cost at the most; None where no price is known."""
    found = estimate_with_prompt(request)
    return None if found is None else found.credits_high


def price_unknown(request: ImageRequest, max_credits: Decimal) -> PriceUnknownError:
    """Return the error for a limit that cannot be enforced, as no price is known."""
    return PriceUnknownError(
        f"No price is known for {request.summary}, so max_credits={max_credits:f} cannot be enforced. Use a model with "
        "a published price, or leave max_credits out and set a limit on the API key at EvoLink."
    )


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a request, and what it would cost at the most.

    :param words: the arguments to set, for instance ``quality='low'``.
    """

    words: str
    credits_high: Decimal


def changes_that_fit(request: ImageRequest, max_credits: Decimal) -> list[Change]:
    """Return changes that make a request fit: of one argument if that is enough, else of several together.

    Of each argument the smallest change is named: the best quality, the most images that still fit.
    """
    single = [
        found
        for steps in (_qualities(request), _counts(request), _sizes(request), _references(request))
        if (found := _first_that_fits(steps, max_credits))
    ]
    return single or [found for found in (_first_that_fits(_everything_less(request), max_credits),) if found]


class Budget:
    """The budget of a batch: holds an amount for each item from before it is submitted until its charge is known.

    For each item it counts the charge or, while that is unknown, the larger of EvoLink's reservation and the
    upper end of the estimate. No item is allowed that would lift their sum above the limit. Each call
    is one step under a lock, so any number of submissions may run at once, in threads or in one event loop.

    :param limit: credits; None for no limit.
    """

    def __init__(self, limit: Decimal | None) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._held: dict[str, Decimal] = {}
        self._estimated: dict[str, tuple[str, Decimal]] = {}
        self._worst_rate = Decimal(1)
        self._known_models: set[str] = set()
        self._charged: dict[str, Decimal] = {}

    @property
    def held(self) -> Decimal:
        """Credits held for items whose charge is not known yet."""
        with self._lock:
            return sum(self._held.values(), Decimal(0))

    @property
    def charged(self) -> Decimal:
        """Credits charged so far."""
        with self._lock:
            return sum(self._charged.values(), Decimal(0))

    @property
    def left(self) -> Decimal | None:
        """Credits that may still be held; None without a limit."""
        with self._lock:
            return None if self.limit is None else self.limit - self._committed()

    def knows_rate_of(self, model: str) -> bool:
        """Whether EvoLink has reserved or charged credits for an item of this model."""
        with self._lock:
            return model in self._known_models

    def hold(self, item: str, request: ImageRequest) -> CostEstimate | None:
        """Hold the most that an item can cost, or check again that it still fits, right before it is submitted.

        Accounts may have other rates than the published ones: where EvoLink reserved or charged more than the estimate
        of an earlier item, estimates count in that proportion.

        :param item: identifies the item, for instance its idempotency key.
        :returns: the estimate; None where no price is known and there is no limit.
        :raises BudgetExceededError: when it does not fit; nothing is held for it then.
        :raises PriceUnknownError: when there is a limit and no price is known.
        """
        found = estimate_with_prompt(request)
        if found is None and self.limit is not None:
            raise price_unknown(request, self.limit)
        estimate = Decimal(0) if found is None else found.credits_high
        with self._lock:
            self._estimated[item] = request.model, estimate
            most = estimate * self._worst_rate
            if item in self._charged:
                return found
            # Already held, but EvoLink's reservations for other items may have left too little.
            committed = self._committed() - self._held.get(item, Decimal(0))
            most = max(most, self._held.get(item, most))
            if self.limit is not None and committed + most > self.limit:
                self._held.pop(item, None)
                raise _spent(most, committed, self.limit)
            self._held[item] = most
        return found

    def accepted(self, item: str, reserved: float | Decimal | None) -> None:
        """Record EvoLink's reservation for an item; it may raise the held amount, never lower it."""
        with self._lock:
            if item not in self._charged:
                self._held[item] = max(self._held.get(item, Decimal(0)), _amount(reserved))
            self._learn(item, _amount(reserved))

    def settle(self, item: str, charged: float | None) -> None:
        """Record the charge of an ended item; None (unknown) keeps the held amount."""
        with self._lock:
            if charged is None:
                return
            self._held.pop(item, None)
            # A negative charge, whatever it means, makes no room for others.
            self._charged[item] = max(_amount(charged), Decimal(0))
            self._learn(item, self._charged[item])

    def release(self, item: str) -> None:
        """Release the amount of an item that was certainly not accepted."""
        with self._lock:
            self._held.pop(item, None)

    def _learn(self, item: str, amount: Decimal) -> None:
        model, estimate = self._estimated.get(item, ("", Decimal(0)))
        if estimate:
            self._worst_rate = max(self._worst_rate, amount / estimate)
            self._known_models.add(model)

    def _committed(self) -> Decimal:
        return sum(self._held.values(), Decimal(0)) + sum(self._charged.values(), Decimal(0))


def more_than_expected(
    charged: Decimal, *, limit: Decimal | None, estimate: Decimal | None, before: Decimal = Decimal(0)
) -> str:
    """Describe a charge above the limit or above the upper end of the estimate; empty where it is neither.

    :param estimate: upper end, in credits; None or 0 where no price is known.
    :param before: credits that earlier generations cost, or may have cost, which the limit counts as well.
    """
    if limit is not None and charged + before > limit:
        earlier = f" and up to {before:,.4f} for earlier generations" if before else ""
        return f"EvoLink charged {charged:,.4f} credits{earlier}, more than max_credits={limit:f}: {_OTHER_RATES}"
    if estimate and charged > estimate:
        return f"EvoLink charged {charged:,.4f} credits, more than the estimate of {estimate:,.4f}: {_OTHER_RATES}"
    return ""


def charge_warning(
    usage: Mapping[str, Any], *, limit: Decimal | None = None, before: Decimal = Decimal(0)
) -> str:
    """Describe a charge above the limit or the estimate; empty where it is neither, or is unknown.

    :param usage: of a manifest.
    """
    if usage["charged"] is None:
        return ""
    estimate = None if usage["estimate"] is None else Decimal(str(usage["estimate"]["credits_high"]))
    return more_than_expected(Decimal(str(usage["charged"])), limit=limit, estimate=estimate, before=before)


def require_balance(balance: Credits, needed: Decimal) -> None:
    """Check that account and API key have the credits that are needed.

    :raises InsufficientCreditsError: when the account lacks some; says how many.
    :raises KeyLimitError: when only the key's own limit is in the way.
    """
    account, key = _amount(balance.account_remaining), balance.key_remaining
    lacks_key = key is not None and _amount(key) < needed
    if account < needed:
        has_less = key is not None and _amount(key) < account
        key_words = f" The API key may use {max(_amount(key), Decimal(0)):,.4f} of them." if has_less else ""
        raise InsufficientCreditsError(
            f"Up to {needed:,.4f} credits are needed and the account has {account:,.4f}: "
            f"{needed - account:,.4f} are missing.{key_words}",
            billed=False,
            on_retry=_NOTHING_SENT,
        )
    if key is not None and lacks_key:
        raise KeyLimitError(
            f"Up to {needed:,.4f} credits are needed and the API key's own limit leaves {_amount(key):,.4f}: "
            f"{needed - _amount(key):,.4f} are missing. The account has {account:,.4f}.",
            billed=False,
            on_retry="Nothing was sent and no retry follows: raise the key's limit, then clear the task.",
        )


def _exceeded(
    request: ImageRequest, found: CostEstimate, limit: Decimal, spent: Decimal
) -> BudgetExceededError:
    parts = "; ".join(f"{part}, up to {part.credits_high:,}" for part in found.parts)
    changes = [
        f"{change.words} (at most {change.credits_high:,} credits)"
        for change in changes_that_fit(request, limit - spent)[:_MOST_SUGGESTIONS]
    ]
    advice = (
        f"It would fit with {', or '.join(changes)}."
        if changes
        else "No smaller request of this model fits: raise max_credits or take another model."
    )
    left = f"max_credits={limit:f}"
    if spent:
        left = (
            f"the {max(limit - spent, Decimal(0)):,.4f} that are left of {left}: earlier generations of this task cost "
            f"up to {spent:,.4f}"
        )
    return BudgetExceededError(
        f"{request.summary} may cost {found}, more than {left}. {parts}. {advice} "
        f"Prices: {found.source} ({found.as_of})."
    )


def _spent(most: Decimal, committed: Decimal, limit: Decimal) -> BudgetExceededError:
    return BudgetExceededError(
        f"This item may cost {most:,} credits; {committed:,} of max_credits={limit:f} are charged or held for others, "
        f"so {max(limit - committed, Decimal(0)):,} are left."
    )


def _first_that_fits(steps: Iterable[tuple[str, ImageRequest]], limit: Decimal) -> Change | None:
    for words, request in steps:
        found = estimate_with_prompt(request)
        if found is not None and found.credits_high <= limit:
            return Change(words=words, credits_high=found.credits_high)
    return None


def _with(request: ImageRequest, **fields: object) -> ImageRequest:
    return request.model_copy(update=fields)


def _qualities(request: ImageRequest) -> Iterator[tuple[str, ImageRequest]]:
    """Lower qualities, the best first; all of them where the model was to choose."""
    facts = facts_of(request.model)
    known = [quality for quality in (facts.qualities if facts else ()) if quality != "auto"]
    below = known[: known.index(request.quality)] if request.quality in known else known
    for quality in reversed(below):
        yield f"quality={quality!r}", _with(request, quality=quality)


def _counts(request: ImageRequest) -> Iterator[tuple[str, ImageRequest]]:
    for n in range(request.image_count - 1, 0, -1):
        yield f"n={n}", _with(request, n=n)


def _sizes(request: ImageRequest) -> Iterator[tuple[str, ImageRequest]]:
    tiers = ("4K", "2K", "1K")
    tier = str(request.extra_body.get("resolution") or "1K").upper()
    for smaller in tiers[tiers.index(tier) + 1 :] if tier in tiers else ():
        yield (
            f"resolution={smaller!r} in extra_body",
            _with(request, extra_body={**request.extra_body, "resolution": smaller}),
        )
    if request.size != "1:1":
        yield "size='1:1'", _with(request, size="1:1")


def _references(request: ImageRequest) -> Iterator[tuple[str, ImageRequest]]:
    for count in range(len(request.image_urls) - 1, -1, -1):
        words = f"{count} reference{'' if count == 1 else 's'}" if count else "no references"
        yield words, _with(request, image_urls=request.image_urls[:count])


def _everything_less(request: ImageRequest) -> Iterator[tuple[str, ImageRequest]]:
    """Reduce one argument after another to its minimum, least important first."""
    words: list[str] = []
    for changes in (_qualities, _counts, _sizes, _references):
        steps = [(*step, found) for step in changes(request) if (found := estimate_with_prompt(step[1]))]
        if steps:
            word, request, _ = min(steps, key=lambda step: step[2].credits_high)
            words.append(word)
            yield " and ".join(words), request


def _amount(value: float | Decimal | None) -> Decimal:
    return Decimal(0) if value is None else Decimal(str(value))
