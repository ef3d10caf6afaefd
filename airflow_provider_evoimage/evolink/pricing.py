"""What a request will cost, before it is sent. Pure.

>>> from airflow_provider_evoimage.evolink.request import ImageRequest
>>> print(estimate(ImageRequest.build(model="gpt-image-1", prompt="a red fox", quality="low")))
0.6659 credits (0.0098 USD)

An estimate is made from EvoLink's public price lists. An account may have other rates, and a reference image can
have more or fewer tokens than the published ranges count; what was charged stands in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any

from airflow_provider_evoimage.evolink.prices import PUBLISHED, ModelPrice, PriceList
from airflow_provider_evoimage.evolink.pricing_rules import CostPart, Range, total
from airflow_provider_evoimage.evolink.request import ImageRequest

_USD_UNIT = Decimal("0.000001")


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What one request costs: a range where EvoLink's pages leave something open, else twice the same.

    :param credits_low: credits at the least, each part rounded up to 0.0001 as EvoLink settles it.
    :param credits_high: credits at the most.
    :param usd_low: the same in USD, rounded up to a millionth.
    :param usd_high: likewise.
    :param parts: what is counted, at which rate.
    :param rule: ``tokens``, ``flat`` or ``multipliers``.
    :param source: where the prices stand.
    :param as_of: date of that copy, or ``undated``.
    """

    credits_low: Decimal
    credits_high: Decimal
    usd_low: Decimal
    usd_high: Decimal
    parts: tuple[CostPart, ...]
    rule: str
    source: str
    as_of: str

    @property
    def is_exact(self) -> bool:
        """Whether both ends are the same."""
        return self.credits_low == self.credits_high

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as plain JSON, for a manifest; amounts are numbers."""
        return {
            "credits_low": float(self.credits_low),
            "credits_high": float(self.credits_high),
            "usd_low": float(self.usd_low),
            "usd_high": float(self.usd_high),
            "rule": self.rule,
            "source": self.source,
            "as_of": self.as_of,
        }

    def __str__(self) -> str:
        credits_ = _range(f"{self.credits_low:,}", f"{self.credits_high:,}")
        return f"{credits_} credits ({_range(price_in_usd(self.usd_low), price_in_usd(self.usd_high))} USD)"


def estimate(
    request: ImageRequest, text_tokens: int | Range = 0, *, prices: PriceList = PUBLISHED
) -> CostEstimate | None:
    """Tell what a request will cost; None where no price is known.

    :param text_tokens: tokens of the prompt, or the fewest and the most, see ``prompt_tokens``. EvoLink's
        pages leave the prompt out of their ranges, and so does the default.
    :param prices: the price list.
    """
    price = prices.models.get(request.model)
    if price is None:
        return None
    fewest, most = (text_tokens, text_tokens) if isinstance(text_tokens, int) else text_tokens
    if not 0 <= fewest <= most:
        raise ValueError(f"text_tokens must be 0 or more, the fewest first, not {text_tokens!r}")
    parts = price.rule.parts(request, (fewest, most))
    return None if parts is None else _added_up(parts, price, prices.credits_per_usd)


def estimate_with_prompt(request: ImageRequest) -> CostEstimate | None:
    """Tell what a request will cost, the prompt included. ``max_credits`` limits the upper end."""
    return estimate(request, prompt_tokens(request.prompt))


def prompt_tokens(prompt: str) -> Range:
    """Return the fewest and the most text tokens that a prompt can be charged as.

    EvoLink's tokenizer is not public: the fewest is none, as in its own price ranges. The most is one a byte of
    UTF-8, which no tokenizer of this family exceeds; English has about one for four characters.
    """
    return 0, len(prompt.encode("utf-8", "surrogatepass"))


def in_usd(credits: Decimal, prices: PriceList = PUBLISHED) -> Decimal:  # noqa: A002 (the field's word)
    """Convert credits to USD, rounded up to a millionth."""
    return (credits / prices.credits_per_usd).quantize(_USD_UNIT, rounding=ROUND_CEILING)


def price_in_usd(usd: Decimal) -> str:
    """Print USD as EvoLink's pages do: three decimals, four below one cent, 0.00225 as 0.0022."""
    unit = Decimal("0.001") if usd >= Decimal("0.01") else Decimal("0.0001")
    return f"{usd.quantize(unit, rounding=ROUND_HALF_EVEN):,}"


def _range(low: str, high: str) -> str:
    return high if low == high else f"{low} to {high}"


def _added_up(parts: tuple[CostPart, ...], price: ModelPrice, credits_per_usd: Decimal) -> CostEstimate:
    low = total(part.credits_low for part in parts)
    high = total(part.credits_high for part in parts)
    return CostEstimate(
        credits_low=low,
        credits_high=high,
        usd_low=(low / credits_per_usd).quantize(_USD_UNIT, rounding=ROUND_CEILING),
        usd_high=(high / credits_per_usd).quantize(_USD_UNIT, rounding=ROUND_CEILING),
        parts=parts,
        rule=price.rule.name,
        source=price.source,
        as_of=price.as_of,
    )
