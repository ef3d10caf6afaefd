"""EvoLink's published prices as data, each with the page it stands on. Public defaults: an account may have others.

``PUBLISHED`` is what EvoLink charges today, as far as its pages and public price rules say; ``MULTIPLIERS`` is
what it charged before it charged by tokens, kept to explain old invoices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from airflow_provider_evoimage.evolink.pricing_rules import (
    FlatRule,
    MultiplierRule,
    PriceRule,
    TokenRule,
    TokensBySize,
    TokensByTier,
)

# 10 credits are 1 CNY and 6.8 CNY are 1 USD in today's price rules; the older pages reckoned 7.2.
CREDITS_PER_USD = Decimal(68)
OLD_CREDITS_PER_USD = Decimal(72)


@dataclass(frozen=True, kw_only=True)
class ModelPrice:
    """How one model is charged.

    :param source: the page or the rules the numbers are from, and what in them is inferred.
    :param as_of: date of that copy, ISO 8601, or ``undated``.
    """

    rule: PriceRule
    source: str
    as_of: str


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """Prices that belong together.

    :param credits_per_usd: the rate at which the list's pages print USD.
    """

    name: str
    credits_per_usd: Decimal
    models: Mapping[str, ModelPrice]


_SHAPES = {
    "1:1": "square",
    "1024x1024": "square",
    "2:3": "portrait",
    "1024x1536": "portrait",
    "3:2": "landscape",
    "1536x1024": "landscape",
}

# OpenAI's published table. EvoLink's own ranges for gpt-image-1 and gpt-image-1.5 follow from it to the last digit.
_CLASSIC_TOKENS = TokensBySize(
    tokens={
        "low": {"square": 272, "portrait": 408, "landscape": 400},
        "medium": {"square": 1056, "portrait": 1584, "landscape": 1568},
        "high": {"square": 4160, "portrait": 6240, "landscape": 6208},
    },
    shapes=_SHAPES,
)

# Per tier, a public price list of resellers (1K : 2K : 4K = 1 : 2 : 2.7); EvoLink prints 1K figures only.
_TIERS = {"1K": Decimal(1), "2K": Decimal(2), "4K": Decimal("2.7")}
_TIER_AREAS = {"1K": 1024 * 1024, "2K": 2048 * 2048, "4K": 8_294_400}


# Resellers list up to 2 % more than these factors and tokens come to.
_DOUBT = Decimal("0.03")


def _tokens_by_tier(*, inferred: tuple[str, ...] = ("2K", "4K"), **tokens: int) -> TokensByTier:
    return TokensByTier(
        tokens=tokens, tiers=_TIERS, areas=_TIER_AREAS, inferred=frozenset(inferred), doubt=_DOUBT
    )


def _gpt_image_2_family(output: TokensByTier) -> TokenRule:
    return TokenRule(
        output=output,
        image_output=Decimal("1.836"),
        image_input=Decimal("0.4896"),
        image_cached_input=Decimal("0.1224"),
        text_input=Decimal("0.306"),
        text_cached_input=Decimal("0.0765"),
    )


_GPT_IMAGE_2_5 = ModelPrice(
    rule=_gpt_image_2_family(_tokens_by_tier(low=196, medium=439, high=1756, xhigh=3122, max=7024)),
    source="EvoLink's public price rules; 1K tokens: docs.evolink.ai, image-series/gpt-image-2; 2K and 4K inferred",
    as_of="2026-10-10",
)
_GPT_IMAGE_1_5_BETA = ModelPrice(
    rule=FlatRule(price=Decimal("0.9"), tiers={}),
    source="evolink.ai/gpt-image-1-5, Pricing",
    as_of="undated",
)

PUBLISHED = PriceList(
    name="published",
    credits_per_usd=CREDITS_PER_USD,
    models={
        "gpt-image-1": ModelPrice(
            rule=TokenRule(
                output=_CLASSIC_TOKENS,
                image_output=Decimal("2.448"),
                image_input=Decimal("0.612"),
                image_cached_input=Decimal("0.153"),
                text_input=Decimal("0.306"),
                text_cached_input=Decimal("0.0765"),
            ),
            source="evolink.ai/gpt-image-1, Pricing; tokens by size: OpenAI's table",
            as_of="undated",
        ),
        "gpt-image-1.5": ModelPrice(
            rule=TokenRule(
                output=_CLASSIC_TOKENS,
                image_output=Decimal("1.9584"),
                image_input=Decimal("0.4896"),
                image_cached_input=Decimal("0.1224"),
                text_input=Decimal("0.306"),
                text_cached_input=Decimal("0.0765"),
                # Charged besides the image where the model reasons; no page tells how many tokens that is.
                text_output=Decimal("0.612"),
            ),
            source="EvoLink's public price rules and evolink.ai/zh/gpt-image-1-5; tokens by size: OpenAI's table",
            as_of="2026-10-10",
        ),
        "gpt-image-1.5-beta": _GPT_IMAGE_1_5_BETA,
        # The former name of the same model.
        "gpt-image-1.5-lite": _GPT_IMAGE_1_5_BETA,
        "gpt-image-2": ModelPrice(
            rule=_gpt_image_2_family(
                _tokens_by_tier(low=196, medium=1756, high=7024, inferred=("1K", "2K", "4K"))
            ),
            source="EvoLink's public price rules; tokens inferred from docs.evolink.ai, image-series/gpt-image-2",
            as_of="2026-10-10",
        ),
        "gpt-image-2.5-flare": _GPT_IMAGE_2_5,
        "gpt-image-2.5-sunburst": _GPT_IMAGE_2_5,
        "gpt-image-2-beta": ModelPrice(
            rule=FlatRule(
                price=Decimal("1.02"),
                tiers={"1K": Decimal(1), "2K": Decimal("1.7"), "4K": Decimal("2.6")},
                has_n=False,
            ),
            source="EvoLink's public price rules",
            as_of="2026-10-10",
        ),
    },
)


def _multipliers(base: str) -> MultiplierRule:
    return MultiplierRule(
        base=Decimal(base),
        qualities={"low": Decimal("0.26"), "medium": Decimal(1), "high": Decimal("3.91")},
        non_square=Decimal("1.47"),
        square=frozenset({"1:1", "1024x1024"}),
    )


MULTIPLIERS = PriceList(
    name="multipliers (superseded)",
    credits_per_usd=OLD_CREDITS_PER_USD,
    models={
        "gpt-image-1": ModelPrice(
            rule=_multipliers("2.4192"), source="evolink.ai/zh/gpt-image-1, Pricing", as_of="undated"
        ),
        # Printed in credits only. The same page's base of 1.96 for gpt-image-1 is this one, rounded.
        "gpt-image-1.5": ModelPrice(
            rule=_multipliers("1.9584"),
            source="docs.evolink.ai, image-series/gpt-image-1.5 of early 2026",
            as_of="2026",
        ),
    },
)
