"""Prices against the published figures, reservations, balances and limits."""

from decimal import Decimal

import pytest

from airflow_provider_evoimage.simulator.service.orders import read_order
from airflow_provider_evoimage.simulator.service.prices import TOKEN_RATES, image_output_tokens, settlement

REFERENCE = "https://example.com/a.png"

# Credits per image without references, as published: square, portrait, landscape.
PUBLISHED = {
    ("gpt-image-1", "low"): ("0.6659", "0.9988", "0.9792"),
    ("gpt-image-1", "medium"): ("2.5851", "3.8776", "3.8385"),
    ("gpt-image-1", "high"): ("10.1837", "15.2755", "15.1972"),
    ("gpt-image-1.5", "low"): ("0.5327", "0.7990", "0.7834"),
    ("gpt-image-1.5", "medium"): ("2.0681", "3.1021", "3.0708"),
    ("gpt-image-1.5", "high"): ("8.1469", "12.2204", "12.1577"),
}
SIZES = ("1:1", "2:3", "3:2")


@pytest.mark.parametrize(("model", "quality"), PUBLISHED)
def test_image_costs_what_is_published(model, quality):
    for size, published in zip(SIZES, PUBLISHED[model, quality], strict=True):
        order = read_order({"model": model, "quality": quality, "size": size, "prompt": "x"})
        exact = image_output_tokens(order, quality) * TOKEN_RATES[model].image_output / 1000
        assert abs(exact - Decimal(published)) <= Decimal("0.00005")
        # One text token more, and each component rounded up to 1/10,000 credit.
        charged = settlement(order, 1).credits
        assert exact + Decimal("0.000306") <= charged <= exact + Decimal("0.0005")


@pytest.mark.parametrize(("model", "published"), [("gpt-image-1", "30.31603"), ("gpt-image-1.5", "24.25283")])
def test_dearest_image_with_16_references_costs_the_published_maximum(model, published):
    body = {"model": model, "quality": "high", "size": "2:3", "prompt": "x"}
    charge = settlement(read_order(body | {"image_urls": [REFERENCE] * 16}), 1)
    assert charge.tokens["image_input_tokens"] == 16 * 1536
    assert Decimal(published) <= charge.credits <= Decimal(published) + Decimal("0.0006")


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"quality": "low"}, 196),
        ({"quality": "medium", "resolution": "2K", "size": "1:1"}, 3512),
        ({"quality": "high", "resolution": "4K", "size": "1:1"}, 18965),
        ({"quality": "medium", "size": "2048x2048"}, 3512),
        ({"model": "gpt-image-2.5-flare", "quality": "max"}, 7024),
    ],
)
def test_gpt_image_2_tokens_grow_with_the_tier(fields, tokens):
    order = read_order({"model": "gpt-image-2", "prompt": "x"} | fields)
    assert settlement(order, 1).tokens["image_output_tokens"] == tokens


def test_flat_prices():
    beta = read_order({"model": "gpt-image-1.5-beta", "prompt": "x", "n": 3})
    assert settlement(beta, 3).credits == Decimal("2.7")
    large = read_order({"model": "gpt-image-2-beta", "prompt": "x", "size": "1:1", "resolution": "2K"})
    assert settlement(large, 1).credits == Decimal("1.734")


def test_credits_are_reserved_at_submission_and_settled_at_completion(customer):
    reserved = customer.submit("x" * 4000, n=2, image_urls=[REFERENCE]).json()["usage"]["credits_reserved"]
    held = customer.credits()
    assert held["user"] == {"remaining_credits": round(1000 - reserved, 4), "used_credits": 0}
    customer.pass_time()
    settled = customer.credits()
    # Two low images, one reference and 1,000 text tokens.
    assert settled["user"]["used_credits"] == 1.0654 + 0.7521 + 0.306
    assert settled["user"]["remaining_credits"] == 1000 - 2.1235
    assert reserved == round(2 * (0.5327 + 0.7521 + 0.306), 4)
    assert customer.counters["credits_charged"] == 2.1235


@pytest.mark.parametrize("words", ["[[fail:content_policy_violation]]", "[[cancelled]]"])
def test_generation_that_does_not_complete_gives_its_reservation_back(customer, words):
    customer.finished(words)
    assert customer.credits()["user"] == {"remaining_credits": 1000, "used_credits": 0}


def test_fewer_images_cost_less(customer):
    task = customer.finished("fox [[results:1]]", n=3)
    assert len(task["results"]) == 1
    assert task["usage"]["image_output_tokens"] == 272


def test_account_short_of_credits_is_refused_and_nothing_is_paid(customer):
    customer.control("POST", "settings", credits=0.5)
    answer = customer.submit()
    error = answer.json()["error"]
    assert answer.status_code == 402
    assert error["code"] == "insufficient_quota"
    assert error["account_balance_credits"] == 0.5
    assert customer.counters["paid"] == 0


def test_key_short_of_credits_is_refused_by_its_own_code(customer):
    assert customer.credits()["token"]["unlimited_credits"] is True
    customer.control("POST", "settings", token_credits=1)
    assert customer.submit("one").status_code == 200
    answer = customer.submit("two")
    assert answer.status_code == 402
    assert answer.json()["error"]["code"] == "key_quota_exhausted"
    token = customer.credits()["token"]
    assert token["unlimited_credits"] is False
    assert token["remaining_credits"] < 0.5


def test_credits_page_has_the_documented_shape(customer):
    assert customer.http.get("/v1/credits").json() == {
        "data": {
            "token": {"remaining_credits": 0, "unlimited_credits": True, "used_credits": 0},
            "user": {"remaining_credits": 1000, "used_credits": 0},
        },
        "message": "",
        "success": True,
    }
