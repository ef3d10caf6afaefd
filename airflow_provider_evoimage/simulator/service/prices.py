"""What a generation costs: the published token rates and prices, typed in here a second time.

Deliberately not shared with the provider's own price table: two readings of the same pages that disagree
are a finding.
"""

import math
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal

from airflow_provider_evoimage.simulator.service.orders import Order

# The ledger counts in 1/10,000 credit; every component is rounded up to it.
LEDGER_UNIT = Decimal("0.0001")
TOKENS_PER_REFERENCE = 1_536
CHARACTERS_PER_TOKEN = 4

PORTRAIT, LANDSCAPE = (1024, 1536), (1536, 1024)

# Image output tokens of GPT image 1 and 1.5: square, portrait, landscape.
CLASSIC_TOKENS: dict[str, tuple[int, int, int]] = {
    "low": (272, 408, 400),
    "medium": (1056, 1584, 1568),
    "high": (4160, 6240, 6208),
}
# Image output tokens at 1K; a larger tier multiplies them.
GPT_IMAGE_2_TOKENS = {"low": 196, "medium": 1756, "high": 7024}
GPT_IMAGE_2_5_TOKENS = {"low": 196, "medium": 439, "high": 1756, "xhigh": 3122, "max": 7024}
TIER_TOKENS = {"1K": Decimal(1), "2K": Decimal(2), "4K": Decimal("2.7")}


@dataclass(frozen=True)
class TokenRates:
    """Credits per 1,000 tokens."""

    image_output: Decimal
    image_input: Decimal
    text_input: Decimal = Decimal("0.306")


RATES_2 = TokenRates(Decimal("1.836"), Decimal("0.4896"))
TOKEN_RATES: dict[str, TokenRates] = {
    "gpt-image-1": TokenRates(Decimal("2.448"), Decimal("0.612")),
    "gpt-image-1.5": TokenRates(Decimal("1.9584"), Decimal("0.4896")),
    "gpt-image-2": RATES_2,
    "gpt-image-2.5-flare": RATES_2,
    "gpt-image-2.5-sunburst": RATES_2,
}

# Credits per image at 1K for the models with a flat price.
FLAT_PRICES: dict[str, Decimal] = {
    "gpt-image-1.5-beta": Decimal("0.9"),
    "gpt-image-1.5-lite": Decimal("0.9"),
    "gpt-image-2-beta": Decimal("1.02"),
}
FLAT_TIERS = {"1K": Decimal(1), "2K": Decimal("1.7"), "4K": Decimal("2.6")}
# No page prices the models which are not listed; a round number shows that it is invented.
UNLISTED_PRICE = Decimal(1)


@dataclass(frozen=True)
class Charge:
    """What one generation costs.

    :param credits: the sum of the components, each rounded up to the ledger's unit.
    :param tokens: the token counters of `usage`; empty for a flat price.
    """

    credits: Decimal
    tokens: dict[str, int]


def billing_rule(model: str) -> str:
    """Return what `usage.billing_rule` says for this model."""
    return "per_token" if model in TOKEN_RATES else "per_call"


def reservation(order: Order, factor: float = 1.0) -> Decimal:
    """Credits held at submission: the most this order can cost.

    :param factor: of an account with other rates than the listed ones.
    """
    if order.model not in TOKEN_RATES:
        return _flat(order, order.images) * Decimal(str(factor))
    # Inputs count once per image here and once at settlement: no page says which is right.
    once = _token_charge(order, 1, "high" if order.quality == "auto" else order.quality)
    return once.credits * order.images * Decimal(str(factor))


def settlement(order: Order, made: int, factor: float = 1.0) -> Charge:
    """Return the final charge for the images really made.

    :param factor: of an account with other rates than the listed ones.
    """
    if order.model not in TOKEN_RATES:
        # "Per request" and "charged per image" stand on the same page: one is always paid.
        charge = Charge(_flat(order, max(made, 1)), {})
    else:
        charge = _token_charge(order, made, "medium" if order.quality == "auto" else order.quality)
    return replace(charge, credits=charge.credits * Decimal(str(factor)))


def _flat(order: Order, images: int) -> Decimal:
    price = FLAT_PRICES.get(order.model, UNLISTED_PRICE)
    tier = FLAT_TIERS[order.tier] if order.model == "gpt-image-2-beta" else 1
    return _round_up(price * tier * images)


def _token_charge(order: Order, images: int, quality: str) -> Charge:
    rates = TOKEN_RATES[order.model]
    image_output = image_output_tokens(order, quality) * images
    image_input = TOKENS_PER_REFERENCE * order.references
    text_input = math.ceil(len(order.prompt) / CHARACTERS_PER_TOKEN)
    total = (
        _component(image_output, rates.image_output)
        + _component(image_input, rates.image_input)
        + _component(text_input, rates.text_input)
    )
    tokens = {
        "image_cached_input_tokens": 0,
        "image_input_tokens": image_input,
        "image_output_tokens": image_output,
        "text_cached_input_tokens": 0,
        "text_input_tokens": text_input,
        "total_tokens": image_output + image_input + text_input,
    }
    return Charge(total, tokens)


def image_output_tokens(order: Order, quality: str) -> int:
    """Return the output tokens of one image."""
    if order.model in ("gpt-image-1", "gpt-image-1.5"):
        shape = {PORTRAIT: 1, LANDSCAPE: 2}.get(order.pixels, 0)
        return CLASSIC_TOKENS[quality][shape]
    tokens = GPT_IMAGE_2_TOKENS if order.model == "gpt-image-2" else GPT_IMAGE_2_5_TOKENS
    return math.ceil(tokens[quality] * TIER_TOKENS[order.tier])


def _component(tokens: int, rate: Decimal) -> Decimal:
    return _round_up(tokens * rate / 1000)


def _round_up(amount: Decimal) -> Decimal:
    return amount.quantize(LEDGER_UNIT, rounding=ROUND_CEILING)
