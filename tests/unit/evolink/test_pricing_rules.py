"""The three ways of charging, each over a small table of its own."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.pricing_rules import FlatRule, MultiplierRule, TokensByTier
from airflow_provider_evoimage.evolink.request import ImageRequest

TIERS = TokensByTier(
    tokens={"low": 100, "high": 400},
    tiers={"1K": Decimal(1), "2K": Decimal(2), "4K": Decimal(4)},
    areas={"1K": 1024 * 1024, "2K": 2048 * 2048, "4K": 4096 * 4096},
    inferred=frozenset({"4K"}),
    doubt=Decimal("0.5"),
)


def ask(**fields: Any) -> ImageRequest:
    return ImageRequest.build(model="model-of-tomorrow", prompt="a red fox", **fields)


@pytest.mark.parametrize(
    ("size", "resolution", "tokens"),
    [
        # An exact tier, also with the 2 % by which ratios differ.
        ("1024x1024", None, (100, 100)),
        ("1024x1034", None, (100, 100)),
        ("1034x1024", None, (100, 100)),
        ("2048x2048", None, (200, 200)),
        # Between two tiers: either.
        ("1024x1536", None, (100, 200)),
        ("1536x1024", None, (100, 200)),
        ("3000x3000", None, (200, 600)),
        # Below the first and above the last.
        ("512x512", None, (100, 100)),
        ("5000x5000", None, (400, 600)),
        # The model chooses.
        ("auto", None, (100, 600)),
        (None, None, (100, 600)),
        ("auto", "1K", (100, 600)),
        # The tier is given, 1K by default.
        ("16:9", None, (100, 100)),
        ("16:9", "2k", (200, 200)),
        ("16:9", "4K", (400, 600)),
    ],
)
def test_tier_follows_from_size_and_resolution(
    size: str | None, resolution: str | None, tokens: tuple[int, int]
) -> None:
    extra = {} if resolution is None else {"resolution": resolution}
    assert TIERS.of(ask(size=size, quality="low", extra_body=extra)) == tokens


@pytest.mark.parametrize("quality", [None, "auto"])
def test_quality_that_the_model_chooses_is_any(quality: str | None) -> None:
    assert TIERS.of(ask(size="1024x1024", quality=quality)) == (100, 400)


def test_unknown_quality_and_unknown_tier_have_no_price_each() -> None:
    assert TIERS.of(ask(size="1024x1024", quality="ultra")) is None
    assert TIERS.of(ask(size="16:9", quality="low", extra_body={"resolution": "8K"})) is None


@pytest.mark.parametrize(
    ("has_n", "n", "resolution", "high", "rate"),
    [
        (True, 3, None, 3, 5),
        (False, 3, None, 1, 5),
        (True, 1, "2k", 1, 10),
    ],
)
def test_flat_price_is_for_the_request_at_least_and_for_each_image_at_most(
    has_n: bool, n: int, resolution: str | None, high: int, rate: int
) -> None:
    rule = FlatRule(price=Decimal(5), tiers={"1K": Decimal(1), "2K": Decimal(2)}, has_n=has_n)
    extra = {} if resolution is None else {"resolution": resolution}
    (part,) = rule.parts(ask(n=n, extra_body=extra), (0, 0)) or ()
    assert (part.name, part.unit, part.low, part.high, part.rate) == ("image", "images", 1, high, rate)


def test_flat_price_without_tiers_is_one_whatever_the_resolution() -> None:
    rule = FlatRule(price=Decimal(5), tiers={})
    (part,) = rule.parts(ask(extra_body={"resolution": "8K"}), (0, 0)) or ()
    assert part.rate == 5
    tiered = FlatRule(price=Decimal(5), tiers={"1K": Decimal(1)})
    assert tiered.parts(ask(extra_body={"resolution": "8K"}), (0, 0)) is None


@pytest.mark.parametrize(
    ("size", "quality", "rate"),
    [
        ("1024x1024", "medium", "4.0"),
        ("1024x1536", "medium", "6.0"),
        ("1024x1024", "high", "16.0"),
        (None, "medium", None),
        ("1024x1024", None, None),
        ("1024x1024", "ultra", None),
    ],
)
def test_multipliers_need_quality_and_size(size: str | None, quality: str | None, rate: str | None) -> None:
    rule = MultiplierRule(
        base=Decimal(4),
        qualities={"medium": Decimal(1), "high": Decimal(4)},
        non_square=Decimal("1.5"),
        square=frozenset({"1024x1024"}),
    )
    parts = rule.parts(ask(size=size, quality=quality, n=2), (0, 0))
    if rate is None:
        assert parts is None
        return
    (part,) = parts or ()
    assert (part.name, part.unit, part.low, part.high, part.rate) == ("image", "images", 2, 2, Decimal(rate))
