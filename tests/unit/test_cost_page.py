"""The tables of docs/cost.md are those of the price lists. To write them anew: python tests/unit/test_cost_page.py"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from airflow_provider_evoimage.command.estimates import EstimatedRequest, Priced, priced
from airflow_provider_evoimage.evolink.prices import PUBLISHED
from airflow_provider_evoimage.evolink.pricing import price_in_usd
from airflow_provider_evoimage.evolink.pricing_rules import TokenRule
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import BudgetExceededError
from airflow_provider_evoimage.submission.budget import credit_limit, require_within

PAGE = Path(__file__).parents[2] / "docs" / "cost.md"
MODELS = (
    "gpt-image-1",
    "gpt-image-1.5",
    "gpt-image-1.5-beta",
    "gpt-image-2",
    "gpt-image-2.5-flare",
    "gpt-image-2-beta",
)
QUALITIES = ("low", "medium", "high", "xhigh", "max")
ALIKE = {
    "gpt-image-2.5-flare": "gpt-image-2.5-flare, -sunburst",
    "gpt-image-1.5-beta": "gpt-image-1.5-beta, -lite",
}


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("  ", " ") for line in lines)


def cell(found: Priced) -> str:
    most = f"{found.credits[1]} ({price_in_usd(found.usd[1])})"
    return most if found.estimate.is_exact else f"≤ {most}"


def per_image() -> str:
    rows = []
    for model in MODELS:
        cells = [
            each for each in priced(EstimatedRequest(model=model, n=1, references=0)) if each.row != "auto"
        ]
        for number, row in enumerate(dict.fromkeys(each.row for each in cells)):
            of_row = {each.quality: cell(each) for each in cells if each.row == row}
            shown = (
                [of_row["any"], "same", "same", "", ""]
                if "any" in of_row
                else [of_row.get(q, "") for q in QUALITIES]
            )
            rows.append([ALIKE.get(model, model) if number == 0 else "", row, *shown])
    return markdown(["model", "size", *QUALITIES], rows)


def inputs() -> str:
    rows = []
    for model in MODELS:
        rule = PUBLISHED.models[model].rule
        if not isinstance(rule, TokenRule):
            rows.append([ALIKE.get(model, model), "included", "included"])
            continue
        plain, with_one = (
            ImageRequest.build(model=model, prompt="x", size="1:1", quality="low", image_urls=urls)
            for urls in ([], ["https://example.com/a.png"])
        )
        del plain
        parts = rule.parts(with_one, (1000, 1000))
        assert parts is not None
        of = {part.name: part.credits_low for part in parts}
        amounts = (of["reference images"], of["prompt"])
        rows.append([ALIKE.get(model, model), *(f"{each} ({price_in_usd(each / 68)})" for each in amounts)])
    return markdown(["model", "one reference", "1,000 tokens of prompt"], rows)


TABLES = {"per image": per_image, "inputs": inputs}


def filled(page: str) -> str:
    for name, table in TABLES.items():
        page = re.sub(
            rf"(<!-- {name} -->\n)(?:\|[^\n]*\n)*", lambda found, table=table: f"{found[1]}{table()}\n", page
        )
    return page


def test_tables_of_the_page_are_those_of_the_price_lists():
    page = PAGE.read_text(encoding="utf-8")

    assert filled(page) == page


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_on_the_page(name: str):
    assert f"<!-- {name} -->\n| model |" in PAGE.read_text(encoding="utf-8")


def test_figures_in_the_text_are_right():
    page = PAGE.read_text(encoding="utf-8")
    prompt = "Product photo of a trail shoe on wet rocks, shot from below, no text"
    final = ImageRequest.build(
        model="gpt-image-1.5",
        prompt=prompt,
        quality="medium",
        size="3:2",
        image_urls=["https://example.com/shoe.png"],
    )
    found = require_within(final, None)
    assert found is not None
    total = 200 * found.credits_high + credit_limit("643.44")
    assert f"{total:,.2f} credits, {total / 68:.2f} USD" in page
    with pytest.raises(BudgetExceededError) as raised:
        require_within(
            ImageRequest.build(model="gpt-image-1.5", prompt="A trail shoe on wet rocks"), credit_limit(4)
        )
    quoted = " ".join(re.findall(r"^> (.*)$", page, flags=re.MULTILINE))
    for words in quoted.split("…"):
        assert words.strip() in raised.value.message


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
