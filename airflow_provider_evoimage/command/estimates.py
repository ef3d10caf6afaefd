"""The table of ``evoimage estimate``: every quality and size of a model, or the chosen ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from airflow_provider_evoimage.evolink.model_facts import facts_of
from airflow_provider_evoimage.evolink.prices import PUBLISHED
from airflow_provider_evoimage.evolink.pricing import CostEstimate, estimate, prompt_tokens
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import InvalidRequestError, PriceUnknownError
from airflow_provider_evoimage.images.channels import Channel
from airflow_provider_evoimage.images.native_sizes import NativeSize, native_size

# One size of each shape, and each tier: other sizes cost the same.
_SHAPES = ("1:1", "2:3", "3:2")
_TIERS = ("1K", "2K", "4K")


@dataclass(frozen=True, kw_only=True)
class EstimatedRequest:
    """The request to estimate; None means every value."""

    model: str
    n: int
    references: int
    size: str | None = None
    quality: str | None = None
    resolution: str | None = None
    prompt: str | None = None
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Priced:
    """One cell of the table.

    :param row: size or tier, in words.
    :param quality: ``any`` if the model has no such field, or it does not change the price.
    :param resolution: tier; None if it does not change the price.
    """

    row: str
    quality: str
    resolution: str | None
    request: ImageRequest
    estimate: CostEstimate
    times: int

    @property
    def credits(self) -> tuple[Decimal, Decimal]:
        """Lower and upper end for all requests together."""
        return self.estimate.credits_low * self.times, self.estimate.credits_high * self.times

    @property
    def usd(self) -> tuple[Decimal, Decimal]:
        """The same in USD."""
        return self.estimate.usd_low * self.times, self.estimate.usd_high * self.times

    def to_json(self) -> dict[str, Any]:
        """Return the cell as plain JSON, for all requests together."""
        low, high = self.credits
        usd_low, usd_high = self.usd
        return {
            "size": self.request.body().get("size"),
            "resolution": self.resolution,
            "quality": None if self.quality == "any" else self.quality,
            **self.estimate.to_json(),
            "credits_low": float(low),
            "credits_high": float(high),
            "usd_low": float(usd_low),
            "usd_high": float(usd_high),
        }


def priced(wanted: EstimatedRequest) -> list[Priced]:
    """Estimate every chosen combination.

    :raises PriceUnknownError: when no price of the model is known.
    :raises InvalidRequestError: when the model has no such size, quality, resolution or number.
    """
    if wanted.model not in PUBLISHED.models:
        raise PriceUnknownError(
            f"No price is known for model {wanted.model!r}. Models with a price: {', '.join(PUBLISHED.models)}."
        )
    if wanted.resolution and not _has_resolution(wanted.model):
        raise InvalidRequestError(f"{wanted.model} has no resolution: omit --resolution.")
    tokens = (0, 0) if wanted.prompt is None else prompt_tokens(wanted.prompt)
    found = []
    for row, size, resolution in _rows(wanted):
        for quality in _qualities(wanted):
            request = ImageRequest.build(
                model=wanted.model,
                prompt=wanted.prompt or "an image",
                size=size,
                quality=quality,
                n=wanted.n,
                image_urls=[f"https://example.com/{number}.png" for number in range(wanted.references)],
                extra_body={"resolution": resolution} if resolution else {},
            )
            cost = estimate(request, tokens)
            if cost is None:
                raise PriceUnknownError(f"No price is known for {request.summary}.")
            found.append(
                Priced(
                    row=row,
                    quality=quality or "any",
                    resolution=resolution if _resolution_counts(wanted.model, size) else None,
                    request=request,
                    estimate=cost,
                    times=wanted.times,
                )
            )
    return found


@dataclass(frozen=True, kw_only=True)
class Sized:
    """The size to request for a channel, and its estimate.

    :param estimate: with the model's default quality; None where no price is known.
    """

    native: NativeSize
    estimate: CostEstimate | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        native, cost = self.native, self.estimate
        return {
            "channel": native.channel.name,
            "width": native.channel.width,
            "height": native.channel.height,
            "size": native.size,
            "cropped": round(native.cropped, 4),
            "scaled": None if native.scaled is None else round(native.scaled, 4),
            "credits_low": None if cost is None else float(cost.credits_low),
            "credits_high": None if cost is None else float(cost.credits_high),
        }


def sized(model: str, channel: Channel) -> Sized:
    """Find the size to request for a channel.

    :raises InvalidRequestError: when the sizes of the model are unknown.
    """
    native = native_size(model, channel)
    request = ImageRequest.build(model=model, prompt="an image", size=native.size)
    return Sized(native=native, estimate=estimate(request, (0, 0)))


def _qualities(wanted: EstimatedRequest) -> list[str | None]:
    facts = facts_of(wanted.model)
    if wanted.quality is not None:
        return [wanted.quality]
    if facts is None or PUBLISHED.models[wanted.model].rule.name == "flat":
        return [None]
    return list(facts.qualities) or [None]


def _rows(wanted: EstimatedRequest) -> Iterator[tuple[str, str | None, str | None]]:
    """Give each row's name, size and resolution."""
    facts = facts_of(wanted.model)
    if wanted.size is not None or facts is None:
        counts = wanted.resolution and _resolution_counts(wanted.model, wanted.size)
        yield (
            f"{wanted.size or 'any'}{f', {wanted.resolution}' if counts else ''}",
            wanted.size,
            wanted.resolution,
        )
    elif _has_resolution(wanted.model):
        for tier in [wanted.resolution] if wanted.resolution else _TIERS:
            yield tier, "1:1", tier
        if facts.qualities and not wanted.resolution:
            yield "auto", "auto", None
    elif PUBLISHED.models[wanted.model].rule.name == "flat":
        yield "any size", None, None
    else:
        for size in _SHAPES:
            yield size, size, None


def _has_resolution(model: str) -> bool:
    facts = facts_of(model)
    return facts is not None and "resolution" in facts.extra_values


def _resolution_counts(model: str, size: str | None) -> bool:
    """Tell whether ``resolution`` changes the price. Priced by tokens, it does so only with a ratio as size."""
    return PUBLISHED.models[model].rule.name == "flat" or ":" in (size or "")
