"""Output of the command: tables for people, plain JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from airflow_provider_evoimage.command.estimates import EstimatedRequest, Priced, Sized
from airflow_provider_evoimage.evolink.answers import Credits, Generation
from airflow_provider_evoimage.evolink.prices import ModelPrice, PriceList
from airflow_provider_evoimage.evolink.pricing import in_usd, price_in_usd

_STATUS_STYLES = {"completed": "green", "failed": "red", "cancelled": "red"}


def estimates_table(wanted: EstimatedRequest, cells: Sequence[Priced]) -> RenderableType:
    """Draw a column for each quality and a row for each size; each cell holds credits above USD. Add notes below."""
    qualities = list(dict.fromkeys(cell.quality for cell in cells))
    table = Table(show_lines=True)
    table.add_column("size", overflow="fold")
    for quality in qualities:
        table.add_column("any quality" if quality == "any" else quality, justify="right", overflow="fold")
    for row in dict.fromkeys(cell.row for cell in cells):
        of_row = {cell.quality: cell for cell in cells if cell.row == row}
        table.add_row(row, *(_cell(of_row[quality]) for quality in qualities))
    prices = cells[0].estimate
    if prices.rule != "tokens":
        prompt = "whatever the prompt"
    elif wanted.prompt is None:
        prompt = "without the prompt (0.306 credits per 1,000 tokens)"
    else:
        prompt = "with the prompt"
    notes = [
        f"Credits above USD, {prompt}; failed generations are documented as free.",
        f"Public prices, {prices.source} ({prices.as_of}). Your account may have others.",
    ]
    if any(not cell.estimate.is_exact for cell in cells):
        notes.insert(
            1,
            "A range: EvoLink's pages do not give the exact price; max_credits is compared with the upper end.",
        )
    if wanted.resolution and not any(cell.resolution for cell in cells):
        notes.insert(
            0,
            f"The resolution {wanted.resolution} is not used: it does not matter if the size is auto or in pixels.",
        )
    title = Text(_title(wanted), style="bold")
    return Group(title, table, *(Text(note, style="dim") for note in notes))


def sizes_table(model: str, found: Sequence[Sized]) -> RenderableType:
    """Draw a row for each channel."""
    table = Table()
    table.add_column("channel", overflow="fold")
    for column in ("takes", "size", "cropped", "scaled", "credits"):
        table.add_column(column, justify="right", overflow="fold")
    for each in found:
        native, cost = each.native, each.estimate
        if cost is None:
            price = "unknown"
        elif cost.is_exact:
            price = f"{cost.credits_high:,.4f}"
        else:
            price = f"{cost.credits_low:,.4f} to {cost.credits_high:,.4f}"
        table.add_row(
            native.channel.name,
            f"{native.channel.width}×{native.channel.height}",
            native.size,
            f"{native.cropped:.1%}",
            "unknown" if native.scaled is None else f"×{native.scaled:.2f}",
            price,
        )
    note = "One image in the model's default quality, without the prompt. Above ×1 the image is enlarged."
    return Group(Text(model, style="bold"), table, Text(note, style="dim"))


def prices_table(prices: PriceList) -> RenderableType:
    """Draw every rate of a price list."""
    table = Table()
    table.add_column("model", overflow="fold")
    table.add_column("what", overflow="fold")
    table.add_column("credits", justify="right", overflow="fold")
    table.add_column("USD", justify="right", overflow="fold")
    sources = []
    for models, price in _alike(prices):
        rates = list(price.rule.rates.items())
        for number in range(max(len(models), len(rates))):
            model = models[number] if number < len(models) else ""
            what, rate = rates[number] if number < len(rates) else ("", None)
            table.add_row(model, what, *(("", "") if rate is None else _exact(rate, prices)))
        table.add_section()
        sources.append(Text(f"{models[0]}: {price.source} ({price.as_of})", style="dim"))
    has_tokens = any(price.rule.name == "tokens" for price in prices.models.values())
    unit = Text(
        f"For {'1,000 tokens; for one image where it says so' if has_tokens else 'one image'}. "
        f"{prices.credits_per_usd} credits are 1 USD. Public prices: your account may have others."
    )
    return Group(Text(f"EvoLink's prices: {prices.name}", style="bold"), table, unit, *sources)


def _alike(prices: PriceList) -> list[tuple[list[str], ModelPrice]]:
    """Group models with the same price."""
    groups: list[tuple[list[str], ModelPrice]] = []
    for model, price in prices.models.items():
        same = next((models for models, other in groups if other.rule.rates == price.rule.rates), None)
        if same is None:
            groups.append(([model], price))
        else:
            same.append(model)
    return groups


def _exact(rate: Decimal, prices: PriceList) -> tuple[str, str]:
    usd = (rate / prices.credits_per_usd).quantize(Decimal("0.000001")).normalize()
    return f"{rate.normalize():f}", f"{usd:f}"


def prices_json(prices: PriceList) -> dict[str, Any]:
    """Describe a price list as plain JSON."""
    return {
        "name": prices.name,
        "credits_per_usd": float(prices.credits_per_usd),
        "models": {
            model: {
                "rule": price.rule.name,
                "unit": "1,000 tokens" if price.rule.name == "tokens" else "image",
                "credits": {what: float(rate) for what, rate in price.rule.rates.items()},
                "source": price.source,
                "as_of": price.as_of,
            }
            for model, price in prices.models.items()
        },
    }


def credits_table(balance: Credits) -> RenderableType:
    """Draw the balance of account and key."""
    table = Table()
    for column in ("", "credits left", "USD left", "credits used"):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    rows = (
        ("account", balance.account_remaining, balance.account_used),
        ("this API key", balance.key_remaining, balance.key_used),
    )
    for name, left, used in rows:
        in_dollars = "" if left is None else f"{in_usd(Decimal(str(left))):,.2f}"
        table.add_row(name, "no own limit" if left is None else f"{left:,.4f}", in_dollars, _amount(used))
    usable = max(balance.usable, 0.0)
    words = f"Left: {usable:,.4f} credits."
    return Group(table, Text(words, style="" if usable else "red"))


def credits_json(balance: Credits) -> dict[str, Any]:
    """Describe the balance as plain JSON."""
    return {
        "account": {"remaining": balance.account_remaining, "used": balance.account_used},
        "key": {"remaining": balance.key_remaining, "used": balance.key_used},
        "usable": max(balance.usable, 0.0),
    }


def generations_table(generations: Sequence[Generation]) -> RenderableType:
    """Draw a row for each generation, and the sum of what they were charged below."""
    table = Table()
    for column in ("created (UTC)", "status", "model", "credits", "EvoLink task"):
        table.add_column(column, justify="right" if column == "credits" else "left", overflow="fold")
    for each in generations:
        created = "" if each.created is None else f"{each.created:%Y-%m-%d %H:%M:%S}"
        status = Text(each.status, style=_STATUS_STYLES.get(each.status, "yellow"))
        table.add_row(
            created, status, each.model or "unknown", _amount(each.usage.credits_used), each.evolink_task_id
        )
    charges = [
        Decimal(str(each.usage.credits_used)) for each in generations if each.usage.credits_used is not None
    ]
    total = sum(charges, Decimal(0))
    count = "1 generation" if len(generations) == 1 else f"{len(generations):,} generations"
    words = f"{count}; charged: {total:,.4f} credits ({_usd(in_usd(total))} USD)"
    unknown = len(generations) - len(charges)
    if unknown:
        words += f"; charge unknown or not settled: {unknown:,}"
    return Group(table, Text(f"{words}."))


def generation_table(generation: Generation, *, now: float) -> RenderableType:
    """Draw one generation without its links, which a terminal would break."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(generation, now):
        table.add_row(name, value)
    return table


def generation_json(generation: Generation) -> dict[str, Any]:
    """Describe a generation as plain JSON."""
    error = generation.error
    return {
        "evolink_task_id": generation.evolink_task_id,
        "status": generation.status,
        "progress": generation.progress,
        "model": generation.model,
        "created": generation.created.isoformat() if generation.created else None,
        "expires_at": generation.expires_at.isoformat() if generation.expires_at else None,
        "duration": generation.duration,
        "images": list(generation.image_urls),
        "usage": {
            "reserved": generation.usage.credits_reserved,
            "charged": generation.usage.credits_used,
            "tokens": dict(generation.usage.tokens),
        },
        "billed": generation.billed,
        "error": None if error is None else {"code": error.code, "message": error.message},
    }


def saved_lines(images: Iterable[Mapping[str, Any]]) -> list[str]:
    """Describe the saved images, one line each, the whole path last."""
    return [
        f"{image['width']}×{image['height']}  {image['bytes'] / 1000:,.0f} kB  {image['path']}"
        for image in images
    ]


def _title(wanted: EstimatedRequest) -> str:
    images = "1 image" if wanted.n == 1 else f"{wanted.n} images"
    references = {0: "", 1: ", 1 reference"}.get(wanted.references, f", {wanted.references} references")
    times = "" if wanted.times == 1 else f"{wanted.times:,} requests of "
    return f"{wanted.model}: {times}{images}{references}"


def _cell(cell: Priced) -> Text:
    low, high = cell.credits
    usd_low, usd_high = cell.usd
    credits_ = _credits(high) if low == high else f"{_credits(low)}\nto {_credits(high)}"
    usd = f"${_usd(usd_high)}" if low == high else f"${_usd(usd_low)}\nto ${_usd(usd_high)}"
    return Text.assemble(credits_, "\n", (usd, "dim"))


def _credits(amount: Decimal) -> str:
    return f"{amount:,}" if amount < 100 else f"{amount:,.2f}"


def _usd(amount: Decimal) -> str:
    return price_in_usd(amount) if amount < 1 else f"{amount:,.2f}"


def _facts(generation: Generation, now: float) -> Iterable[tuple[str, Text]]:
    status = Text(generation.status, style=_STATUS_STYLES.get(generation.status, "yellow"))
    if not generation.is_terminal and generation.progress is not None:
        status.append(f" ({generation.progress:.0f} %)")
    yield "EvoLink task", Text(generation.evolink_task_id)
    yield "status", status
    yield "model", Text(generation.model or "unknown")
    if generation.created is not None:
        yield "created", Text(f"{generation.created:%Y-%m-%d %H:%M:%S} UTC")
    if generation.image_urls:
        yield "images", Text(f"{len(generation.image_urls)}{_lifetime(generation, now)}")
    if generation.usage.credits_used is not None:
        charged = Decimal(str(generation.usage.credits_used))
        yield "charged", Text(f"{charged:,.4f} credits ({_usd(in_usd(charged))} USD)")
    elif generation.usage.credits_reserved is not None:
        yield "reserved", Text(f"{generation.usage.credits_reserved:,.4f} credits")
    if generation.is_terminal:
        yield "billed", Text({True: "yes", False: "no", None: "unknown"}[generation.billed])
    if generation.error is not None:
        yield "error", Text(f"{generation.error.code}: {generation.error.message}", style="red")


def _lifetime(generation: Generation, now: float) -> str:
    expires_at = generation.expires_at
    if expires_at is None:
        return ""
    over = datetime.fromtimestamp(now, UTC) >= expires_at
    return f"; the links {'died' if over else 'live until'} {expires_at:%Y-%m-%d %H:%M} UTC"


def _amount(value: float | None) -> str:
    return "" if value is None else f"{value:,.4f}"
