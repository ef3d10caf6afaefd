"""Every table of the command fits a terminal of 80 columns, and a wider one, whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console, Group

from airflow_provider_evoimage.command import tables
from airflow_provider_evoimage.command.estimates import EstimatedRequest, priced
from airflow_provider_evoimage.evolink.answers import Credits, Generation
from airflow_provider_evoimage.evolink.prices import MULTIPLIERS, PUBLISHED
from airflow_provider_evoimage.exceptions import InvalidRequestError, PriceUnknownError

widths = pytest.mark.parametrize("width", [80, 120])


def drawn(table: Any, width: int) -> str:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    output = captured.get()
    assert max(map(len, output.splitlines())) <= width
    assert "…" not in output
    return output


def ask(model: str, **fields: Any) -> EstimatedRequest:
    return EstimatedRequest(model=model, **{"n": 1, "references": 0, **fields})


@widths
@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("model", PUBLISHED.models)
def test_estimates_of_every_model_fit(model: str, times: int, width: int):
    wanted = ask(model, times=times)
    cells = priced(wanted)
    output = drawn(tables.estimates_table(wanted, cells), width)

    assert output.startswith(f"{model}: ")
    assert json.dumps([cell.to_json() for cell in cells])
    for cell in cells:
        assert tables._credits(cell.credits[1]) in output


@widths
@pytest.mark.parametrize("model", ["gpt-image-1", "gpt-image-2.5-flare"])
def test_the_dearest_request_fits(model: str, width: int):
    wanted = ask(model, n=10, references=16, times=1000)
    cells = priced(wanted)
    output = drawn(tables.estimates_table(wanted, cells), width)

    assert "1,000 requests of 10 images, 16 references" in output
    for cell in cells:
        assert all(tables._credits(amount) in output for amount in cell.credits)
        assert all(f"${tables._usd(amount)}" in output for amount in cell.usd)


def test_only_what_was_asked_for_is_priced():
    (cell,) = priced(ask("gpt-image-1.5", size="2:3", quality="low"))
    assert (cell.row, cell.quality) == ("2:3", "low")
    assert [cell.row for cell in priced(ask("gpt-image-2", quality="low", resolution="2K"))] == ["2K"]
    assert {cell.row for cell in priced(ask("gpt-image-2"))} == {"1K", "2K", "4K", "auto"}
    (cell,) = priced(ask("gpt-image-2", size="3:2", quality="low", resolution="4K"))
    assert (cell.row, cell.to_json()["resolution"]) == ("3:2, 4K", "4K")


@pytest.mark.parametrize(
    "model", ["gpt-image-1", "gpt-image-1.5", "gpt-image-1.5-beta", "gpt-image-1.5-lite"]
)
@pytest.mark.parametrize("size", [None, "1:1"])
def test_resolution_is_refused_where_the_model_has_none(model: str, size: str | None):
    with pytest.raises(InvalidRequestError, match=f"{model} has no resolution"):
        priced(ask(model, size=size, resolution="4K"))


@pytest.mark.parametrize("size", ["auto", "1024x1024", "3840x2160"])
def test_resolution_that_has_no_say_is_left_out_with_a_note(size: str):
    wanted = ask("gpt-image-2", size=size, quality="low", resolution="2K")
    (cell,) = priced(wanted)
    (plain,) = priced(ask("gpt-image-2", size=size, quality="low"))

    assert cell.row == size
    assert cell.to_json() == plain.to_json()
    assert cell.to_json()["resolution"] is None
    assert "The resolution 2K is not used: it does not matter" in drawn(
        tables.estimates_table(wanted, [cell]), 80
    )


def test_resolution_of_a_flat_price_counts_with_any_size():
    wanted = ask("gpt-image-2-beta", size="auto", resolution="4K")
    (cell,) = priced(wanted)

    assert (cell.row, cell.to_json()["resolution"]) == ("auto, 4K", "4K")
    assert "is not used" not in drawn(tables.estimates_table(wanted, [cell]), 80)


def test_unknown_model_and_wrong_size_are_told_apart():
    with pytest.raises(PriceUnknownError, match="Models with a price: gpt-image-1, "):
        priced(ask("gpt-image-9"))
    with pytest.raises(InvalidRequestError, match="is not a size of"):
        priced(ask("gpt-image-1", size="9:9"))


@widths
@pytest.mark.parametrize("prices", [PUBLISHED, MULTIPLIERS], ids=lambda prices: prices.name)
def test_price_lists_fit_and_name_every_model(prices: Any, width: int):
    output = drawn(tables.prices_table(prices), width)

    assert all(f" {model} " in output for model in prices.models)
    assert f"{prices.credits_per_usd} credits are 1 USD" in output


def test_prices_are_whole_in_a_narrow_terminal():
    output = drawn(tables.prices_table(PUBLISHED), 50)

    for price in PUBLISHED.models.values():
        assert all(f" {rate.normalize():f} " in output for rate in price.rule.rates.values())


@widths
def test_balance_and_generation_fit(width: int):
    balance = Credits(
        account_remaining=1_234_567.8901, account_used=99_999.5, key_remaining=68, key_used=None
    )
    assert "1,234,567.8901" in drawn(tables.credits_table(balance), width)
    generation = Generation.read(
        {
            "id": "t" * 128,
            "status": "failed",
            "model": "gpt-image-1.5",
            "created": 1_780_000_000,
            "error": {"code": "content_policy_violation", "message": "[red]word[/red] " * 30},
        }
    )
    output = drawn(tables.generation_table(generation, now=1_780_000_001), width)
    assert "[red]word[/red]" in output


def test_nothing_can_be_spent_where_the_limit_of_the_key_is_overdrawn():
    balance = Credits(account_remaining=1095.4, key_remaining=-2)

    assert "Left: 0.0000 credits" in drawn(tables.credits_table(balance), 80)
    assert tables.credits_json(balance)["usable"] == 0
    assert tables.credits_json(balance)["key"]["remaining"] == -2


def test_links_that_are_over_are_told():
    generation = Generation.read(
        {
            "id": "task-1",
            "status": "completed",
            "created": 1_780_000_000,
            "results": ["https://files.evolink.ai/a.png"],
        }
    )
    assert "the links live until 2026-05-29" in drawn(
        tables.generation_table(generation, now=1_780_000_001), 80
    )
    assert "the links died 2026-05-29" in drawn(tables.generation_table(generation, now=1_790_000_000), 80)


SOME = {"id": "task-unified-1757156400-abc", "status": "processing", "progress": 40}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (SOME, ["processing (40 %)", "model", "unknown"]),
        (SOME | {"progress": None}, ["processing"]),
        (SOME | {"usage": {"credits_reserved": 2}}, ["reserved", "2.0000 credits"]),
        (SOME | {"usage": {"credits_used": 70}}, ["70.0000 credits (1.03 USD)"]),
        (SOME | {"status": "failed", "error": {"code": "x", "message": "no"}}, ["billed", "x: no"]),
        (SOME | {"created": 1757156400}, ["2025-09-06 11:00:00 UTC"]),
    ],
)
def test_facts_of_a_generation_are_those_that_are_known(answer: dict[str, Any], words: list[str]):
    output = drawn(Group(*(text for _, text in tables._facts(Generation.read(answer), 1757156500.0))), 80)
    names = " ".join(name for name, _ in tables._facts(Generation.read(answer), 1757156500.0))
    assert [each for each in words if each not in f"{names} {output}"] == []


def test_links_of_a_generation_live_until_a_time_or_have_died():
    answer = SOME | {"status": "completed", "results": ["https://x.example/a.png"]}
    ended = Generation.read(answer | {"completed": 1757156400, "created": 1757156300})
    lifetimes = [tables._lifetime(ended, now) for now in (1757156500.0, 1757156400.0 + 90_000)]
    if ended.expires_at is not None:
        assert ["live until" in lifetimes[0], "died" in lifetimes[1]] == [True, True]
    assert tables._lifetime(Generation(evolink_task_id="a"), 0.0) == ""


def test_unknown_charges_are_counted_below_the_list():
    output = " ".join(drawn(tables.generations_table([Generation.read(SOME)]), 80).split())
    assert "1 generation; charged: 0.0000 credits" in output
    assert "charge unknown or not settled: 1" in output
