"""Every figure that EvoLink's pages print follows from the price lists; and what holds for every estimate."""

from __future__ import annotations

import doctest
import subprocess
import sys
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink import pricing
from airflow_provider_evoimage.evolink.model_facts import MODELS
from airflow_provider_evoimage.evolink.prices import MULTIPLIERS, OLD_CREDITS_PER_USD, PUBLISHED, PriceList
from airflow_provider_evoimage.evolink.pricing import (
    CostEstimate,
    estimate,
    estimate_with_prompt,
    in_usd,
    price_in_usd,
    prompt_tokens,
)
from airflow_provider_evoimage.evolink.pricing_rules import LEDGER_UNIT, total
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import InvalidRequestError

EN = "evolink.ai/gpt-image-1"
ZH = "evolink.ai/zh/gpt-image-1"
BETA = "evolink.ai/gpt-image-1-5"
ZH_1_5 = "evolink.ai/zh/gpt-image-1-5"
RULES = "EvoLink's public price rules of 2026-10-10"


def ask(model: str, references: int = 0, **fields: object) -> ImageRequest:
    urls = [f"https://example.com/{number}.png" for number in range(references)]
    return ImageRequest.build(model=model, prompt="a red fox", image_urls=urls, **fields)


def cost(request: ImageRequest, prices: PriceList = PUBLISHED) -> CostEstimate:
    found = estimate(request, prices=prices)
    assert found is not None
    return found


def exact(request: ImageRequest, prices: PriceList = PUBLISHED) -> Decimal:
    """What the pages print: not rounded part by part, and each reference once."""
    return total(part.exact_low for part in cost(request, prices).parts)


def rounded(amount: Decimal, decimals: int) -> str:
    """Round as the pages do where they round to the nearest, ending zeros cut."""
    return f"{amount.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP):f}"


# page, request, credits as printed, USD as printed
RANGES = [
    (EN, ask("gpt-image-1", quality="low", size="1:1"), "0.66586", "0.0098"),
    (EN, ask("gpt-image-1", quality="high", size="2:3", references=16), "30.31603", "0.446"),
    (ZH_1_5, ask("gpt-image-1.5", quality="low", size="1:1"), "0.53268", "0.0078"),
    (ZH_1_5, ask("gpt-image-1.5", quality="high", size="2:3", references=16), "24.25283", "0.357"),
    (BETA, ask("gpt-image-1.5-beta"), "0.9", "0.013"),
    (RULES, ask("gpt-image-2-beta"), "1.02", "0.015"),
]


@pytest.mark.parametrize(("page", "request_", "printed", "usd"), RANGES, ids=lambda value: str(value)[:30])
def test_range_or_price_is_that_of_the_page(page: str, request_: ImageRequest, printed: str, usd: str):
    decimals = len(printed.partition(".")[2])

    assert rounded(exact(request_), decimals) == printed, page
    assert price_in_usd(exact(request_) / PUBLISHED.credits_per_usd) == usd, page


# The six prices of the Chinese page: five decimals of credits, four of USD at 72 credits.
SIX_PRICES = [
    ("low", "1024x1024", "0.62899", "0.0087"),
    ("low", "1024x1536", "0.92462", "0.0128"),
    ("low", "1536x1024", "0.92462", "0.0128"),
    ("medium", "1024x1024", "2.4192", "0.0336"),
    ("medium", "1024x1536", "3.55622", "0.0494"),
    ("medium", "1536x1024", "3.55622", "0.0494"),
    ("high", "1024x1024", "9.45907", "0.1314"),
    ("high", "1024x1536", "13.90484", "0.1931"),
    ("high", "1536x1024", "13.90484", "0.1931"),
]


@pytest.mark.parametrize(("quality", "size", "printed", "usd"), SIX_PRICES)
def test_older_price_is_that_of_the_chinese_page(quality: str, size: str, printed: str, usd: str):
    amount = exact(ask("gpt-image-1", quality=quality, size=size), MULTIPLIERS)

    assert Decimal(rounded(amount, 5)) == Decimal(printed), ZH
    assert rounded(amount / OLD_CREDITS_PER_USD, 4) == usd, ZH


# docs.evolink.ai, image-series/gpt-image-1.5 of early 2026: three decimals, the last one cut off or rounded.
OLD_1_5 = [
    ("low", "1:1", "0.509"),
    ("low", "2:3", "0.749"),
    ("medium", "1:1", "1.958"),
    ("medium", "3:2", "2.879"),
    ("high", "1:1", "7.657"),
    ("high", "2:3", "11.256"),
]


@pytest.mark.parametrize(("quality", "size", "printed"), OLD_1_5)
def test_older_price_of_gpt_image_1_5_is_that_of_its_documentation(quality: str, size: str, printed: str):
    assert abs(
        exact(ask("gpt-image-1.5", quality=quality, size=size), MULTIPLIERS) - Decimal(printed)
    ) < Decimal("0.001")


# model, what, credits per 1,000 tokens, USD as printed
TOKEN_RATES = [
    (EN, "gpt-image-1", "image output", "2.448", "0.036"),
    (EN, "gpt-image-1", "image input", "0.612", "0.0090"),
    (EN, "gpt-image-1", "image cached input", "0.153", "0.0022"),
    (EN, "gpt-image-1", "text input", "0.306", "0.0045"),
    (EN, "gpt-image-1", "text cached input", "0.0765", "0.0011"),
    (ZH_1_5, "gpt-image-1.5", "image output", "1.9584", "0.0288"),
    (ZH_1_5, "gpt-image-1.5", "image input", "0.4896", "0.0072"),
    (ZH_1_5, "gpt-image-1.5", "image cached input", "0.1224", "0.0018"),
    (ZH_1_5, "gpt-image-1.5", "text input", "0.306", "0.0045"),
    (ZH_1_5, "gpt-image-1.5", "text cached input", "0.0765", "0.001125"),
    (ZH_1_5, "gpt-image-1.5", "text output", "0.612", "0.009"),
    *(
        (RULES, model, name, credits_, usd)
        for model in ("gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst")
        for name, credits_, usd in (
            ("image output", "1.836", "0.027"),
            ("image input", "0.4896", "0.0072"),
            ("image cached input", "0.1224", "0.0018"),
            ("text input", "0.306", "0.0045"),
            ("text cached input", "0.0765", "0.001125"),
        )
    ),
]


@pytest.mark.parametrize(("page", "model", "name", "credits_", "usd"), TOKEN_RATES)
def test_token_rate_is_that_of_the_page(page: str, model: str, name: str, credits_: str, usd: str):
    rate = PUBLISHED.models[model].rule.rates[name]

    assert rate == Decimal(credits_), page
    exact_usd = rate / PUBLISHED.credits_per_usd
    # The seed pages print four decimals, 0.00225 as 0.0022; the price rules print all there are.
    assert usd in {price_in_usd(exact_usd), f"{exact_usd.normalize():f}"}, page


def test_68_credits_are_a_dollar_and_72_were():
    assert in_usd(Decimal(68)) == 1
    assert in_usd(Decimal(72), MULTIPLIERS) == 1


def test_tiers_of_gpt_image_2_beta():
    tiers = {
        tier: exact(ask("gpt-image-2-beta", size="1:1", extra_body={"resolution": tier}))
        for tier in ("1K", "2K", "4K")
    }

    assert tiers == {"1K": Decimal("1.02"), "2K": Decimal("1.734"), "4K": Decimal("2.652")}


@pytest.mark.parametrize(
    ("quality", "tier", "usd"),
    [
        *(("low", "1K", "0.0054"), ("low", "2K", "0.0108"), ("low", "4K", "0.0144")),
        *(("medium", "1K", "0.0477"), ("medium", "2K", "0.0963"), ("medium", "4K", "0.1251")),
        *(("high", "1K", "0.1899"), ("high", "2K", "0.3852"), ("high", "4K", "0.5085")),
    ],
)
def test_gpt_image_2_is_near_the_price_that_a_reseller_lists_and_its_upper_end_not_below(
    quality: str, tier: str, usd: str
):
    found = cost(ask("gpt-image-2", quality=quality, size="1:1", extra_body={"resolution": tier}))

    assert float(found.usd_low) == pytest.approx(float(usd), rel=0.03)
    assert Decimal(usd) <= found.usd_high <= Decimal(usd) * Decimal("1.06")


@pytest.mark.parametrize(
    ("quality", "tokens"), [("low", 196), ("medium", 439), ("high", 1756), ("xhigh", 3122), ("max", 7024)]
)
@pytest.mark.parametrize("model", ["gpt-image-2.5-flare", "gpt-image-2.5-sunburst"])
def test_tokens_of_gpt_image_2_5_are_those_of_its_documentation(model: str, quality: str, tokens: int):
    assert cost(ask(model, quality=quality, size="1024x1024")).parts[0].high == tokens


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from([*PUBLISHED.models, "some-other-model"]),
    st.dictionaries(st.sampled_from(["resolution", "mask_url", "background", "x"]), json_values),
    st.text(min_size=1).filter(str.strip),
)
def test_whatever_can_be_sent_can_be_estimated_or_has_no_price(model: str, extra_body: dict, prompt: str):
    try:
        request = ImageRequest.build(model=model, prompt=prompt, extra_body=extra_body)
    except InvalidRequestError:
        return
    found = estimate_with_prompt(request)
    assert found is None or found.credits_high > 0
    assert found is not None or model == "some-other-model"


def test_each_part_is_rounded_up_to_the_ledger_s_unit():
    both = cost(ask("gpt-image-1.5", quality="low", size="1:1", references=1))

    # 272 × 1.9584 / 1000 = 0.5326848 and 1,536 × 0.4896 / 1000 = 0.7520256
    assert [part.credits_low for part in both.parts] == [Decimal("0.5327"), Decimal("0.7521")]
    assert both.credits_low == Decimal("1.2848")


def test_what_is_counted_is_told_with_its_rate():
    both = cost(ask("gpt-image-1", quality="high", size="2:3", references=2, n=3))

    assert [str(part) for part in both.parts] == [
        "image output: 18,720 tokens at 2.448 credits per 1,000 tokens",
        "reference images: 3,072 to 9,216 tokens at 0.612 credits per 1,000 tokens",
    ]
    assert (
        str(cost(ask("gpt-image-1.5-beta", n=4)).parts[0]) == "image: 1 to 4 images at 0.9 credits per image"
    )


def test_mask_may_cost_as_much_as_one_more_reference():
    masked = cost(ask("gpt-image-1", 1, extra_body={"mask_url": "https://example.com/mask.png"}))
    assert masked.credits_high == cost(ask("gpt-image-1", 2)).credits_high
    assert masked.credits_low == cost(ask("gpt-image-1", 1)).credits_low


def test_an_unknown_model_has_no_price_rather_than_none_to_pay():
    assert estimate(ImageRequest.build(model="gpt-image-9", prompt="a red fox")) is None


def test_an_unknown_quality_has_no_price():
    request = ask("gpt-image-1", size="1:1").model_copy(update={"quality": "ultra"})

    assert estimate(request) is None


def test_quality_auto_is_a_range_over_all_qualities():
    auto = cost(ask("gpt-image-1.5", quality="auto", size="1:1"))
    low, high = (cost(ask("gpt-image-1.5", quality=quality, size="1:1")) for quality in ("low", "high"))

    assert (auto.credits_low, auto.credits_high) == (low.credits_low, high.credits_high)


def test_size_auto_is_a_range_over_all_tiers():
    auto = cost(ask("gpt-image-2"))

    assert auto.credits_low == cost(ask("gpt-image-2", size="1:1")).credits_low
    assert (
        auto.credits_high
        == cost(ask("gpt-image-2", size="1:1", extra_body={"resolution": "4K"})).credits_high
    )


def test_estimate_as_json_is_plain_numbers():
    assert cost(ask("gpt-image-1.5-beta")).to_json() == {
        "credits_low": 0.9,
        "credits_high": 0.9,
        "usd_low": 0.013236,
        "usd_high": 0.013236,
        "rule": "flat",
        "source": "evolink.ai/gpt-image-1-5, Pricing",
        "as_of": "undated",
    }


@pytest.mark.parametrize("tokens", [-1, (2, 1), (-1, 5)])
def test_impossible_token_counts_are_refused(tokens: int | tuple[int, int]):
    with pytest.raises(ValueError, match="text_tokens"):
        estimate(ask("gpt-image-1"), tokens)


PRICED = sorted(set(MODELS) & set(PUBLISHED.models))


@st.composite
def requests(draw: st.DrawFn) -> ImageRequest:
    model = draw(st.sampled_from(PRICED))
    facts = MODELS[model]
    extra = (
        {"resolution": draw(st.sampled_from(facts.extra_values["resolution"]))} if facts.extra_values else {}
    )
    sizes = st.sampled_from(
        [*facts.sizes, *(["1536x1024", "2048x2048", "3840x2160"] if facts.pixel_sizes else [])]
    )
    return ask(
        model,
        references=draw(st.integers(0, facts.max_references)),
        size=draw(sizes),
        quality=draw(st.sampled_from(facts.qualities)) if facts.qualities else None,
        n=draw(st.integers(1, facts.max_n)),
        extra_body=extra,
    )


def ends(request: ImageRequest, tokens: int = 0) -> tuple[Decimal, Decimal]:
    found = estimate(request, tokens)
    assert found is not None
    return found.credits_low, found.credits_high


@given(requests(), st.integers(0, 10_000))
def test_an_estimate_is_a_sum_of_rounded_up_parts_and_never_negative(request_: ImageRequest, tokens: int):
    found = estimate(request_, tokens)

    assert found is not None
    assert 0 < found.credits_low <= found.credits_high
    assert 0 < found.usd_low <= found.usd_high
    assert found.credits_low == total(part.credits_low for part in found.parts)
    for part in found.parts:
        assert part.credits_high % LEDGER_UNIT == 0
        assert 0 <= part.credits_high - part.exact_high < LEDGER_UNIT
        assert 0 <= part.credits_low - part.exact_low < LEDGER_UNIT


@given(requests())
def test_more_images_never_cost_less(request_: ImageRequest):
    more = request_.model_copy(update={"n": request_.image_count + 1})

    assert all(now <= then for now, then in zip(ends(request_), ends(more), strict=True))


@given(requests())
def test_more_references_never_cost_less(request_: ImageRequest):
    more = request_.model_copy(update={"image_urls": (*request_.image_urls, "https://example.com/more.png")})

    assert all(now <= then for now, then in zip(ends(request_), ends(more), strict=True))


@given(requests())
def test_a_better_quality_never_costs_less(request_: ImageRequest):
    qualities = MODELS[request_.model].qualities
    prices = [ends(request_.model_copy(update={"quality": quality})) for quality in qualities]

    assert prices == sorted(prices)


@given(requests(), st.integers(0, 5000), st.integers(0, 5000))
def test_a_longer_prompt_never_costs_less(request_: ImageRequest, tokens: int, more: int):
    assert ends(request_, tokens)[1] <= ends(request_, tokens + more)[1]


@given(st.text(max_size=300))
def test_a_prompt_has_at_most_one_token_a_byte(prompt: str):
    assert prompt_tokens(prompt) == (0, len(prompt.encode()))


@given(requests())
def test_the_upper_end_counts_the_prompt_and_the_lower_end_is_the_page_s(request_: ImageRequest):
    with_prompt = estimate_with_prompt(request_)

    assert with_prompt is not None
    assert with_prompt.credits_low == ends(request_)[0]
    assert with_prompt.credits_high >= ends(request_)[1]


def test_pricing_is_light_to_import():
    """Operators import it; it must bring nothing that the request itself does not."""
    code = (
        "import sys, airflow_provider_evoimage.evolink.request; before = set(sys.modules);"
        "import airflow_provider_evoimage.evolink.pricing;"
        "print(sorted(name for name in set(sys.modules) - before if 'evoimage' not in name))"
    )
    added = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert added.stdout.strip() in {"[]", "['_decimal', 'decimal']", "['_decimal', 'decimal', 'numbers']"}


def test_the_example_in_the_docstring_is_right():
    assert doctest.testmod(pricing, raise_on_error=False).failed == 0
    assert doctest.testmod(pricing).attempted > 0
