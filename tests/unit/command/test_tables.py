"""Every table of the command fits a terminal of 80 columns, and a wider one, whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from airflow_provider_evoimage.command import tables
from airflow_provider_evoimage.command.estimates import Asked, priced
from airflow_provider_evoimage.evolink.models import Credits, Generation
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


def ask(model: str, **fields: Any) -> Asked:
    return Asked(model=model, **{"n": 1, "references": 0, **fields})


@widths
@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("model", PUBLISHED.models)
def test_estimates_of_every_model_fit(model: str, times: int, width: int):
    asked = ask(model, times=times)
    cells = priced(asked)
    output = drawn(tables.estimates_table(asked, cells), width)

    assert output.startswith(f"{model}: ")
    assert json.dumps([cell.to_json() for cell in cells])
    for cell in cells:
        assert tables._credits(cell.credits[1]) in output


@widths
def test_the_dearest_request_fits(width: int):
    asked = ask("gpt-image-1", n=10, references=16, times=1000)

    assert "1,000 requests of 10 images, 16 references" in drawn(
        tables.estimates_table(asked, priced(asked)), width
    )


def test_only_what_was_asked_for_is_priced():
    (cell,) = priced(ask("gpt-image-1.5", size="2:3", quality="low"))
    assert (cell.row, cell.quality) == ("2:3", "low")
    assert [cell.row for cell in priced(ask("gpt-image-2", quality="low", resolution="2K"))] == ["2K"]
    assert {cell.row for cell in priced(ask("gpt-image-2"))} == {"1K", "2K", "4K", "auto"}


def test_unknown_model_and_wrong_size_are_told_apart():
    with pytest.raises(PriceUnknownError, match="there are prices for gpt-image-1, "):
        priced(ask("gpt-image-9"))
    with pytest.raises(InvalidRequestError, match="is not a size of"):
        priced(ask("gpt-image-1", size="9:9"))


@widths
@pytest.mark.parametrize("prices", [PUBLISHED, MULTIPLIERS], ids=lambda prices: prices.name)
def test_price_lists_fit_and_name_every_model(prices: Any, width: int):
    output = drawn(tables.prices_table(prices), width)

    assert all(f" {model} " in output for model in prices.models)
    assert f"{prices.credits_per_usd} credits are 1 USD" in output


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
