"""A limit holds: before one request, for a whole batch under concurrency, and against the balance."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink.answers import Credits
from airflow_provider_evoimage.evolink.pricing import estimate_with_prompt
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    BudgetExceededError,
    InsufficientCreditsError,
    InvalidRequestError,
    KeyLimitError,
    PriceUnknownError,
)
from airflow_provider_evoimage.submission.budget import (
    Budget,
    changes_that_fit,
    charge_warning,
    credit_limit,
    more_than_expected,
    most_credits,
    most_credits_of,
    require_balance,
    require_within,
)


def ask(model: str = "gpt-image-1.5", references: int = 0, **fields: object) -> ImageRequest:
    urls = [f"https://example.com/{number}.png" for number in range(references)]
    return ImageRequest.build(model=model, prompt="a red fox", image_urls=urls, **fields)


def words(request: ImageRequest, limit: str) -> list[str]:
    return [change.words for change in changes_that_fit(request, Decimal(limit))]


# The limit itself


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        (5, 5),
        ("2.5", "2.5"),
        (" 3 ", 3),
        (0, 0),
        (0.1, "0.1"),
        (None, None),
        ("", None),
        ("None", None),
        ("null", None),
    ],
)
def test_limit_is_read_from_numbers_and_from_what_templates_leave(value: object, limit: object):
    assert credit_limit(value) == (None if limit is None else Decimal(str(limit)))


@pytest.mark.parametrize("value", [None, "", " ", "None", "none", "null"])
def test_limit_that_was_given_and_renders_to_nothing_is_refused(value: object):
    with pytest.raises(InvalidRequestError, match="max_credits was given and renders to"):
        credit_limit(value, is_given=True)


def test_negative_charge_makes_no_room():
    budget = Budget(Decimal(1))
    budget.hold("a", ask(quality="low"))
    budget.settle("a", -50.0)
    assert budget.left == 1


def test_reservation_above_the_estimate_counts_for_every_later_item():
    budget = Budget(Decimal(20))
    found = budget.hold("a", ask(quality="low"))
    budget.accepted("a", 12.5)
    assert found is not None
    assert budget.knows_rate_of("gpt-image-1.5")
    assert not budget.knows_rate_of("gpt-image-1")
    with pytest.raises(BudgetExceededError):
        budget.hold("b", ask(quality="low"))
    assert budget.held == Decimal("12.5")


def test_item_that_is_held_is_checked_again_before_its_post():
    budget = Budget(Decimal(20))
    for item in ("a", "b"):
        budget.hold(item, ask(quality="low"))
    budget.accepted("a", 19.9)
    with pytest.raises(BudgetExceededError):
        budget.hold("b", ask(quality="low"))
    assert budget.held == Decimal("19.9")


@pytest.mark.parametrize("value", [-1, "-0.5", True, "a lot", float("nan"), "inf", []])
def test_anything_else_is_no_limit(value: object):
    with pytest.raises(InvalidRequestError, match="max_credits must be a number of credits"):
        credit_limit(value)


# One request


def test_request_below_the_limit_passes_with_its_estimate():
    found = require_within(ask(quality="low"), Decimal(1))

    assert found is not None
    assert found.credits_high <= 1


def test_request_at_the_limit_passes():
    most = estimate_with_prompt(ask()).credits_high

    assert require_within(ask(), most)
    with pytest.raises(BudgetExceededError):
        require_within(ask(), most - Decimal("0.0001"))


def test_request_above_the_limit_is_refused_with_parts_and_changes():
    request = ask(n=4, size="2:3", references=2)

    with pytest.raises(BudgetExceededError) as raised:
        require_within(request, Decimal(20))

    error = raised.value
    assert error.billed is False
    assert not error.retryable
    assert "more than max_credits=20" in error.message
    assert "image output: 24,960 tokens at 1.9584 credits per 1,000 tokens, up to 48.8817" in error.message
    assert "reference images: 3,072 to 12,288 tokens" in error.message
    assert "quality='medium' (at most 18.43" in error.message
    assert "or n=1 (at most 13.72" in error.message


def test_without_a_limit_an_unknown_price_passes():
    assert require_within(ask("gpt-image-9"), None) is None


def test_with_a_limit_an_unknown_price_is_refused_and_says_how_to_go_on():
    with pytest.raises(PriceUnknownError, match="leave max_credits out") as raised:
        require_within(ask("gpt-image-9"), Decimal(1000))
    assert raised.value.billed is False
    assert not raised.value.retryable


def test_changes_are_the_smallest_that_fit():
    assert words(ask(n=4), "16") == ["quality='medium'", "n=1"]
    assert words(ask(n=4), "25") == ["quality='medium'", "n=3"]
    assert words(ask(n=4), "5") == ["quality='low'"]


def test_several_changes_are_named_where_one_is_not_enough():
    assert words(ask(n=10, size="2:3"), "1") == ["quality='low' and n=1"]
    assert words(ask(n=2, size="2:3"), "0.6") == ["quality='low' and n=1 and size='1:1'"]


def test_size_and_resolution_are_named_where_the_model_has_them():
    big = ask("gpt-image-2", size="16:9", extra_body={"resolution": "4K"}, quality="low")

    assert words(big, "0.8") == ["resolution='2K' in extra_body"]
    assert words(ask("gpt-image-2", quality="low"), "0.4") == ["size='1:1'"]


@pytest.mark.parametrize("references", [16, 5, 4])
def test_fewer_references_are_named(references: int):
    assert words(ask(quality="low", references=references), "3") == ["3 references"]


@pytest.mark.parametrize(("count", "named"), [(0, "no references"), (1, "1 reference"), (2, "2 references")])
def test_number_of_references_is_said_in_words(count: int, named: str):
    fits = ask(quality="low", references=count)
    most = most_credits_of(fits)
    assert most is not None
    assert words(ask(quality="low", references=count + 1), f"{most:f}") == [named]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_change_to_exactly_the_limit_is_named(n: int):
    most = most_credits_of(ask(n=n - 1, quality="low", size="1:1"))
    assert most is not None
    assert words(ask(n=n, quality="low", size="1:1"), f"{most:f}") == [f"n={n - 1}"]


def test_price_of_one_request_is_its_upper_end_or_unknown():
    found = estimate_with_prompt(ask())
    assert found is not None
    assert most_credits_of(ask()) == found.credits_high
    assert most_credits_of(ask("a-model-of-tomorrow")) is None


def test_nothing_is_named_where_nothing_fits():
    assert words(ask(), "0.1") == []
    with pytest.raises(BudgetExceededError, match="No smaller request of this model fits"):
        require_within(ask(), Decimal("0.1"))


@given(
    st.sampled_from(
        ["gpt-image-1", "gpt-image-1.5", "gpt-image-1.5-beta", "gpt-image-2", "gpt-image-2.5-flare"]
    ),
    st.integers(1, 10),
    st.integers(0, 16),
    st.decimals("0.01", "100", places=2),
)
def test_every_change_that_is_named_fits_and_is_needed(model: str, n: int, references: int, limit: Decimal):
    request = ask(model, n=n, references=references)
    if estimate_with_prompt(request).credits_high <= limit:
        assert require_within(request, limit)
        return
    with pytest.raises(BudgetExceededError):
        require_within(request, limit)
    assert all(change.credits_high <= limit for change in changes_that_fit(request, limit))


# A batch


def test_held_until_charged():
    budget = Budget(Decimal(20))
    budget.hold("a", ask(quality="medium"))
    assert budget.held == estimate_with_prompt(ask(quality="medium")).credits_high

    budget.accepted("a", 4.5)
    assert (budget.held, budget.charged, budget.left) == (Decimal("4.5"), 0, Decimal("15.5"))

    budget.settle("a", 2.0681)
    assert (budget.held, budget.charged, budget.left) == (0, Decimal("2.0681"), Decimal("17.9319"))


def test_what_does_not_fit_is_refused_and_holds_nothing():
    budget = Budget(Decimal(9))
    budget.hold("a", ask())

    with pytest.raises(BudgetExceededError, match=r"may cost 8\.14.* are left"):
        budget.hold("b", ask())
    assert budget.hold("c", ask(quality="low"))
    assert budget.held < 9


def test_reservation_below_the_estimate_frees_nothing():
    budget = Budget(Decimal(20))
    most = budget.hold("a", ask()).credits_high
    budget.accepted("a", 1)

    assert budget.held == most


def test_failed_items_free_what_was_held():
    budget = Budget(Decimal(9))
    budget.hold("a", ask())
    budget.settle("a", 0)
    budget.hold("b", ask())
    budget.release("b")

    assert budget.left == 9


def test_unknown_charge_keeps_what_is_held():
    budget = Budget(Decimal(9))
    budget.hold("a", ask())
    held = budget.held
    budget.settle("a", None)

    assert (budget.held, budget.charged) == (held, 0)


def test_holding_again_counts_once():
    budget = Budget(Decimal(9))
    budget.hold("a", ask())
    budget.hold("a", ask())

    assert budget.held == estimate_with_prompt(ask()).credits_high
    budget.settle("a", 8)
    budget.hold("a", ask())
    assert (budget.held, budget.charged) == (0, 8)


def test_a_lower_limit_after_a_restart_lets_nothing_more_through():
    budget = Budget(Decimal(1))
    # What an earlier try reserved.
    budget.accepted("a", 5)

    assert budget.left < 0
    with pytest.raises(BudgetExceededError, match="so 0 are left"):
        budget.hold("b", ask(quality="low"))


def test_unknown_price_in_a_batch_with_a_limit_is_refused():
    with pytest.raises(PriceUnknownError):
        Budget(Decimal(100)).hold("a", ask("gpt-image-9"))
    assert Budget(None).hold("a", ask("gpt-image-9")) is None


@given(st.randoms(use_true_random=False), st.decimals("1", "60", places=1))
def test_two_hundred_at_once_in_an_event_loop_never_exceed_the_limit(random_: random.Random, limit: Decimal):
    budget = Budget(limit)
    spent: list[float] = []

    async def submit(item: int) -> None:
        quality = random_.choice(["low", "medium", "high"])
        try:
            found = budget.hold(str(item), ask(quality=quality))
        except BudgetExceededError:
            return
        await asyncio.sleep(0)
        budget.accepted(str(item), float(found.credits_low))
        assert budget.held + budget.charged <= limit
        await asyncio.sleep(0)
        charge = 0.0 if random_.random() < 0.2 else float(found.credits_low)
        budget.settle(str(item), charge)
        spent.append(charge)

    async def all_at_once() -> None:
        await asyncio.gather(*(submit(item) for item in range(200)))

    asyncio.run(all_at_once())

    assert budget.held == 0
    assert sum(map(Decimal, map(str, spent))) == budget.charged <= limit


def test_threads_never_exceed_the_limit():
    budget = Budget(Decimal(30))
    request = ask(quality="medium")

    def submit(item: int) -> bool:
        try:
            budget.hold(str(item), request)
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        accepted = sum(pool.map(submit, range(500)))

    assert accepted == int(30 / estimate_with_prompt(request).credits_high)
    assert budget.held <= 30


# The balance


def test_what_many_need_is_the_sum_of_their_upper_ends():
    requests = [ask(quality="low"), ask(n=3), ask("gpt-image-1.5-beta", n=2)]

    assert most_credits(requests) == sum(estimate_with_prompt(each).credits_high for each in requests)
    assert most_credits([]) == 0


def test_what_many_need_cannot_be_told_without_a_price():
    with pytest.raises(PriceUnknownError, match=r"gpt-image-9 \(2 requests\)"):
        most_credits([ask(), ask("gpt-image-9"), ask("gpt-image-9")])


def balance(account: float, key: float | None = None) -> Credits:
    return Credits(account_remaining=account, key_remaining=key)


def test_enough_on_both_passes():
    require_balance(balance(10), Decimal(10))
    require_balance(balance(20, 10), Decimal(10))


def test_account_that_lacks_credits_is_named_with_how_many():
    with pytest.raises(
        InsufficientCreditsError, match=r"the account has 4\.5000: 5\.5000 are missing\."
    ) as raised:
        require_balance(balance(4.5), Decimal(10))
    assert type(raised.value) is InsufficientCreditsError
    assert raised.value.billed is False


def test_key_that_lacks_credits_is_named_with_how_many():
    with pytest.raises(KeyLimitError, match=r"API key's own limit leaves 3\.0000: 7\.0000 are missing"):
        require_balance(balance(100, 3), Decimal(10))


def test_where_both_lack_credits_both_are_named():
    with pytest.raises(InsufficientCreditsError, match=r"account has 5.*The API key may use 3"):
        require_balance(balance(5, 3), Decimal(10))


def test_limit_of_the_key_above_the_balance_is_not_named():
    with pytest.raises(InsufficientCreditsError, match="missing") as raised:
        require_balance(balance(1095, 99_416), Decimal(200_000))
    assert "API key" not in raised.value.message


def test_key_that_is_overdrawn_may_use_none():
    with pytest.raises(InsufficientCreditsError, match=r"The API key may use 0\.0000 of them"):
        require_balance(balance(5, -2), Decimal(10))


def test_what_was_spent_before_counts_against_the_limit_of_one_request():
    request = ask(quality="low")
    most = estimate_with_prompt(request).credits_high
    assert require_within(request, 3 * most, spent=2 * most) is not None
    with pytest.raises(BudgetExceededError):
        require_within(request, 3 * most, spent=2 * most + Decimal("0.01"))


def test_changes_are_named_for_what_is_left_of_the_limit():
    request = ask(quality="high", n=4)
    with pytest.raises(BudgetExceededError) as whole:
        require_within(request, Decimal(6), spent=Decimal(0))
    with pytest.raises(BudgetExceededError) as rest:
        require_within(request, Decimal(6), spent=Decimal("5.4"))
    assert "It would fit with" in str(whole.value)
    assert str(whole.value) != str(rest.value)
    for words_, changed in ((change.words, change) for change in changes_that_fit(request, Decimal("0.6"))):
        assert words_ in str(rest.value)
        assert changed is not None


@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_limits(value: bool):
    with pytest.raises(InvalidRequestError, match="number of credits"):
        credit_limit(value)


def test_refusals_for_lack_of_credits_were_not_billed():
    for account, key in ((1, None), (5, 1)):
        balance = Credits(account_remaining=account, key_remaining=key)
        with pytest.raises((InsufficientCreditsError, KeyLimitError)) as caught:
            require_balance(balance, Decimal(2))
        assert caught.value.billed is False
        assert "clear the task" in str(caught.value)


def test_released_item_holds_nothing_and_releasing_it_again_is_nothing():
    budget = Budget(Decimal(10))
    budget.hold("a", ask(quality="low"))
    for _ in range(2):
        budget.release("a")
    assert budget.held == 0
    budget.settle("b", 1.0)
    assert budget.charged == 1


@pytest.mark.parametrize(
    ("charged", "limit", "estimate", "before", "words_"),
    [
        ("5", "10", "6", "0", ""),
        ("6", "10", "6", "0", ""),
        ("6.1", "10", "6", "0", "6.1000"),
        ("10.1", "10", "20", "0", "max_credits=10"),
        ("5", "10", "6", "5", ""),
        ("5", "10", "6", "5.1", "max_credits=10"),
        ("50", None, None, "0", ""),
    ],
)
def test_charge_above_limit_or_estimate_is_told_with_its_number(
    charged: str, limit: str | None, estimate: str | None, before: str, words_: str
):
    found = more_than_expected(
        Decimal(charged),
        limit=None if limit is None else Decimal(limit),
        estimate=None if estimate is None else Decimal(estimate),
        before=Decimal(before),
    )
    assert (words_ in found) if words_ else found == ""


def test_charge_that_is_not_known_is_no_warning():
    estimate = {"credits_high": 6}
    assert charge_warning({"charged": None, "estimate": estimate}, limit=Decimal(0)) == ""
    assert charge_warning({"charged": 5.0, "estimate": estimate}) == ""
    assert charge_warning({"charged": 5.0, "estimate": None}) == ""
    assert "estimate of 6.0000" in charge_warning({"charged": 7.0, "estimate": estimate})
    assert "max_credits=4" in charge_warning({"charged": 5.0, "estimate": None}, limit=Decimal(4))
    assert "max_credits=6" in charge_warning(
        {"charged": 5.0, "estimate": None}, limit=Decimal(6), before=Decimal(2)
    )


def test_item_that_does_not_fit_says_what_is_left():
    budget = Budget(Decimal("1.5"))
    budget.settle("a", 1.25)
    with pytest.raises(BudgetExceededError, match=r"1\.25 of max_credits=1\.5 .* so 0\.25 are left"):
        budget.hold("b", ask(quality="low"))


def test_charge_beside_earlier_ones_names_both():
    assert "for earlier generations" not in more_than_expected(Decimal(7), limit=Decimal(6), estimate=None)
    both = more_than_expected(Decimal(5), limit=Decimal(6), estimate=None, before=Decimal(2))
    assert "charged 5.0000 credits and up to 2.0000 for earlier generations, more than" in both


def test_charge_above_the_estimate_counts_for_every_later_item():
    budget = Budget(None)
    first = budget.hold("a", ask())
    assert first is not None
    budget.settle("a", float(first.credits_high * 3))
    assert budget.knows_rate_of("gpt-image-1.5")
    budget.hold("b", ask())
    assert budget.held == first.credits_high * 3


def test_item_that_begins_again_is_counted_elsewhere():
    budget = Budget(None)
    budget.hold("a", ask())
    budget.begin_again("a")
    assert budget.held == 0
    budget.settle("a", 2.0)
    budget.begin_again("a")
    assert (budget.held, budget.charged) == (0, 0)
    budget.begin_again("never seen")


def test_balance_that_key_and_account_share_is_named_once_and_nothing_was_sent():
    for key, says in ((3.0, False), (2.0, True)):
        with pytest.raises(InsufficientCreditsError, match=r"2\.0000 are missing") as raised:
            require_balance(balance(3.0, key), Decimal(5))
        assert ("The API key may use" in raised.value.message) is says
        assert raised.value.on_retry.startswith("Nothing was sent")
    with pytest.raises(KeyLimitError) as limited:
        require_balance(balance(9.0, 3.0), Decimal(5))
    assert "raise the key's limit" in limited.value.on_retry
