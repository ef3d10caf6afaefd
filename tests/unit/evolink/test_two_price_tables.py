"""Two readings of EvoLink's pages, typed in independently: what the provider estimates, what the simulator charges."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given

from airflow_provider_evoimage.evolink.pricing import estimate, estimate_with_prompt
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.simulator.service import prices
from airflow_provider_evoimage.simulator.service.orders import read_order
from tests.unit.evolink.test_pricing import RANGES, exact, requests, rounded


def charged(request: ImageRequest) -> Decimal:
    """What the simulator charges for all images of a request."""
    order = read_order(request.body())
    return prices.settlement(order, order.images).credits


@pytest.mark.parametrize(("page", "request_", "printed", "usd"), RANGES, ids=lambda value: str(value)[:30])
def test_simulator_charges_what_the_page_prints(page: str, request_: ImageRequest, printed: str, usd: str):
    """The page leaves the prompt out and does not round up part by part: at most two units of the ledger more."""
    order = read_order(request_.body())
    text = Decimal(-(-len(order.prompt) // prices.CHARACTERS_PER_TOKEN)) * Decimal("0.306") / 1000
    over = prices.settlement(order, 1).credits - Decimal(printed)

    assert Decimal("-0.00001") <= over <= text + Decimal("0.0003"), page


def test_simulator_s_tokens_are_the_provider_s_for_every_quality_and_size():
    for model, qualities in {
        "gpt-image-1": ("low", "medium", "high"),
        "gpt-image-1.5": ("low", "medium", "high"),
    }.items():
        for quality in qualities:
            for size in ("1:1", "2:3", "3:2", "1024x1024", "1024x1536", "1536x1024"):
                request = ImageRequest.build(model=model, prompt="a red fox", quality=quality, size=size)
                found = estimate(request)
                assert found is not None
                assert found.parts[0].low == prices.image_output_tokens(read_order(request.body()), quality)


@given(requests())
def test_simulator_charges_and_reserves_within_the_estimate(request_: ImageRequest):
    found = estimate_with_prompt(request_)

    assert found is not None
    assert found.credits_low <= charged(request_) <= found.credits_high
    assert prices.reservation(read_order(request_.body())) <= found.credits_high + Decimal("0.003")


def test_both_tables_print_the_range_of_the_page():
    page, request, printed, _ = RANGES[1]
    rates = prices.TOKEN_RATES["gpt-image-1"]
    most = (
        prices.CLASSIC_TOKENS["high"][1] * rates.image_output
        + 16 * prices.TOKENS_PER_REFERENCE * rates.image_input
    ) / 1000

    assert rounded(most, 5) == rounded(exact(request), 5) == printed, page
