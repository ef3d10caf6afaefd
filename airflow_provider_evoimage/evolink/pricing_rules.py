"""The three ways in which EvoLink charges: by tokens, by image or request, and the older multipliers. Pure.

A rule turns a request into parts; ``evolink.prices`` holds the numbers, ``evolink.pricing`` adds them up.
Amounts are Decimals of credits, exact until a part is rounded up to the ledger's unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Protocol, TypeVar

from airflow_provider_evoimage.evolink.request import ImageRequest

# 10,000 units of EvoLink's ledger are 1 credit; each component of a charge is rounded up to a whole one.
LEDGER_UNIT = Decimal("0.0001")

_PIXELS = re.compile(r"(\d{1,5})[xX×](\d{1,5})")
# Ratios at 1K have up to 0.2 % more pixels than the square.
_SAME_AREA = 1.02

Range = tuple[int, int]
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class CostPart:
    """One component of a charge: a quantity at a rate.

    :param name: what is counted, for instance ``image output``.
    :param unit: ``tokens``, ``images`` or ``requests``.
    :param low: the fewest of them; differs from ``high`` where the pages leave it open.
    :param high: the most of them.
    :param rate: credits for ``per`` of them.
    """

    name: str
    unit: str
    low: int
    high: int
    rate: Decimal
    per: int = 1

    @property
    def exact_low(self) -> Decimal:
        """Credits for the fewest, not rounded: what EvoLink's pages print."""
        return self.low * self.rate / self.per

    @property
    def exact_high(self) -> Decimal:
        """Credits for the most, not rounded."""
        return self.high * self.rate / self.per

    @property
    def credits_low(self) -> Decimal:
        """Credits for the fewest, rounded up to 0.0001 as EvoLink settles them."""
        return _round_up(self.exact_low)

    @property
    def credits_high(self) -> Decimal:
        """Credits for the most, likewise."""
        return _round_up(self.exact_high)

    def __str__(self) -> str:
        quantity = f"{self.low:,}" if self.low == self.high else f"{self.low:,} to {self.high:,}"
        per = f"{self.per:,} " if self.per != 1 else ""
        unit = self.unit if per else self.unit.removesuffix("s")
        return f"{self.name}: {quantity} {self.unit} at {self.rate:f} credits per {per}{unit}"


class PriceRule(Protocol):
    """How a model is charged."""

    @property
    def name(self) -> str:
        """The rule in one word."""

    @property
    def rates(self) -> dict[str, Decimal]:
        """Every rate in credits, by what it is charged for."""

    def parts(self, request: ImageRequest, text_tokens: Range) -> tuple[CostPart, ...] | None:
        """Return the components; None where the rule knows no price for this request."""


@dataclass(frozen=True, kw_only=True)
class TokensBySize:
    """Output tokens of one image where quality and one of a few sizes decide.

    :param tokens: by quality, then by shape.
    :param shapes: the shape of each value of ``size``.
    """

    tokens: Mapping[str, Mapping[str, int]]
    shapes: Mapping[str, str]

    def of(self, request: ImageRequest) -> Range | None:
        """Return the fewest and the most tokens of one image."""
        by_quality = _matching(self.tokens, request.quality)
        shape = self.shapes.get(request.size or "")
        counts = [
            count
            for by_shape in by_quality
            for name, count in by_shape.items()
            if shape is None or name == shape
        ]
        return (min(counts), max(counts)) if counts else None


@dataclass(frozen=True, kw_only=True)
class TokensByTier:
    """Output tokens of one image where quality and the pixel tier decide.

    :param tokens: by quality, of a 1K image.
    :param tiers: factor of each tier, rising.
    :param areas: pixels of the square of each tier.
    :param inferred: the tiers of which no page of EvoLink tells the tokens: there the most is more by ``doubt``.
    """

    tokens: Mapping[str, int]
    tiers: Mapping[str, Decimal]
    areas: Mapping[str, int]
    inferred: frozenset[str] = frozenset()
    doubt: Decimal = Decimal(0)

    def of(self, request: ImageRequest) -> Range | None:
        """Return the fewest and the most tokens of one image."""
        counts = _matching(self.tokens, request.quality)
        tiers = self._tiers_of(request)
        if not counts or not tiers:
            return None
        least = min(self.tiers[tier] for tier in tiers)
        most = max(self.tiers[tier] * (1 + (self.doubt if tier in self.inferred else 0)) for tier in tiers)
        return _whole(min(counts) * least), _whole(max(counts) * most)

    def _tiers_of(self, request: ImageRequest) -> list[str]:
        size = request.size or "auto"
        pixels = _PIXELS.fullmatch(size)
        if pixels is not None:
            return self._tiers_around(int(pixels[1]) * int(pixels[2]))
        if size == "auto":
            # The model chooses, and "resolution" is documented to have no say in it.
            return list(self.tiers)
        tier = str(request.extra_body.get("resolution") or "1K").upper()
        return [tier] if tier in self.tiers else []

    def _tiers_around(self, area: int) -> list[str]:
        """Name the tiers next to a pixel size: no page says where one ends and the next begins."""
        below = [tier for tier, pixels in self.areas.items() if pixels <= area * _SAME_AREA]
        above = [tier for tier, pixels in self.areas.items() if pixels * _SAME_AREA >= area]
        return [*below[-1:], *above[:1]]


@dataclass(frozen=True, kw_only=True)
class TokenRule:
    """Charged by tokens, rates in credits per 1,000.

    :param output: output tokens of one image.
    :param reference_tokens: input tokens of one reference image, as EvoLink's own price ranges count them.
    :param text_output: None where the model has no such charge.
    """

    output: TokensBySize | TokensByTier
    image_output: Decimal
    image_input: Decimal
    image_cached_input: Decimal
    text_input: Decimal
    text_cached_input: Decimal
    text_output: Decimal | None = None
    reference_tokens: int = 1_536
    name: str = "tokens"

    @property
    def rates(self) -> dict[str, Decimal]:
        """Every rate that the page prints, by the page's words."""
        rates = {
            "image output": self.image_output,
            "image input": self.image_input,
            "image cached input": self.image_cached_input,
            "text input": self.text_input,
            "text cached input": self.text_cached_input,
        }
        return rates if self.text_output is None else {**rates, "text output": self.text_output}

    def parts(self, request: ImageRequest, text_tokens: Range) -> tuple[CostPart, ...] | None:
        """Return output, references and prompt.

        Whether inputs are charged once for a request or once for each image stands nowhere: the low end takes
        them once, the high end once for each image. A mask counts as one more reference at the high end.
        """
        output = self.output.of(request)
        if output is None:
            return None
        images = request.image_count
        references = len(request.image_urls)
        masks = 1 if request.extra_body.get("mask_url") else 0
        quantities = (
            ("image output", output[0] * images, output[1] * images, self.image_output),
            (
                "reference images",
                references * self.reference_tokens,
                (references + masks) * self.reference_tokens * images,
                self.image_input,
            ),
            ("prompt", text_tokens[0], text_tokens[1] * images, self.text_input),
        )
        return tuple(
            CostPart(name=name, unit="tokens", low=low, high=high, rate=rate, per=1000)
            for name, low, high, rate in quantities
            if high
        )


@dataclass(frozen=True, kw_only=True)
class FlatRule:
    """Charged by request or by image, whatever the quality; references are included.

    :param price: credits.
    :param tiers: factor of each ``resolution``; empty where the model has none.
    :param has_n: whether several images can be requested. Then "per request" and "charged per image" stand on
        the same page: the low end is one, the high end one for each image.
    """

    price: Decimal
    tiers: Mapping[str, Decimal]
    has_n: bool = True
    name: str = "flat"

    @property
    def rates(self) -> dict[str, Decimal]:
        """The price of one image, by tier where there are tiers."""
        if not self.tiers:
            return {"image": self.price}
        return {f"image, {tier}": self.price * factor for tier, factor in self.tiers.items()}

    def parts(self, request: ImageRequest, text_tokens: Range) -> tuple[CostPart, ...] | None:
        """Return the one part."""
        del text_tokens
        tier = str(request.extra_body.get("resolution") or "1K").upper()
        if self.tiers and tier not in self.tiers:
            return None
        images = request.image_count if self.has_n else 1
        rate = self.price * self.tiers[tier] if self.tiers else self.price
        return (CostPart(name="image", unit="images", low=1, high=images, rate=rate),)


@dataclass(frozen=True, kw_only=True)
class MultiplierRule:
    """base × quality × size × n, as EvoLink charged before it charged by tokens; references are included.

    :param base: credits of a square image of medium quality.
    :param square: values of ``size`` that are square.
    """

    base: Decimal
    qualities: Mapping[str, Decimal]
    non_square: Decimal
    square: frozenset[str]
    name: str = "multipliers"

    @property
    def rates(self) -> dict[str, Decimal]:
        """The price of one image by quality and shape."""
        return {
            f"{quality}, {shape}": self.base * factor * by_shape
            for quality, factor in self.qualities.items()
            for shape, by_shape in (("square", Decimal(1)), ("other shapes", self.non_square))
        }

    def parts(self, request: ImageRequest, text_tokens: Range) -> tuple[CostPart, ...] | None:
        """Return the one part."""
        del text_tokens
        quality = self.qualities.get(request.quality or "")
        if quality is None or request.size is None:
            return None
        shape = Decimal(1) if request.size in self.square else self.non_square
        rate = self.base * quality * shape
        return (
            CostPart(
                name="image", unit="images", low=request.image_count, high=request.image_count, rate=rate
            ),
        )


def _matching(table: Mapping[str, Value], quality: str | None) -> list[Value]:
    """Return the entries that a quality may mean: all of them where the model chooses, none for an unknown word."""
    if quality in {None, "auto"}:
        return list(table.values())
    return [table[quality]] if quality in table else []


def _whole(tokens: Decimal) -> int:
    return int(tokens.to_integral_value(rounding=ROUND_CEILING))


def _round_up(amount: Decimal) -> Decimal:
    return amount.quantize(LEDGER_UNIT, rounding=ROUND_CEILING)


def total(parts: Iterable[Decimal]) -> Decimal:
    """Add amounts."""
    return sum(parts, Decimal(0))
