"""Ten to two thousand items in one batch task: what grows, and how; writes a picture of it.

python -m benchmarks.scaling --only one-machine
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.batch_and_mapped import campaign
from benchmarks.cluster import Cluster, Meter, table

SIZES = (10, 100, 1000, 2000)
DURATION_SECONDS = 10.0
PICTURE = "batch-growth.svg"

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 60
COLOURS = ("#3465a4", "#c4531c", "#4e7d1c", "#75507b")


@dataclass(frozen=True)
class Line:
    """One line of the picture: its name, and a value for each size."""

    name: str
    values: Sequence[float]


def measure(airflow: Cluster, folder: Path) -> dict[int, Meter]:
    """Run a batch of each size."""
    airflow.evolink.configure(duration=DURATION_SECONDS)
    return {items: campaign(airflow, "batch", items, folder) for items in SIZES}


def section(meters: Mapping[int, Meter], pictures: Path) -> str:
    """Draw the picture; return a section of the page."""
    lines = (
        Line("requests", [each.requests for each in meters.values()]),
        Line("wall, s", [each.wall for each in meters.values()]),
        Line("slot-seconds", [each.slot for each in meters.values()]),
        Line("worker CPU, s", [each.cpu for each in meters.values()]),
    )
    (pictures / PICTURE).write_text(
        picture("A batch of 10 to 2,000 items", tuple(meters), lines), encoding="utf-8"
    )
    cells = [row(items, meter) for items, meter in meters.items()]
    columns = (
        *(
            "items",
            "wall, s",
            "worker CPU, s",
            "of it saving",
            "slot-seconds",
            "of it saving",
            "rows",
            "requests",
        ),
        *("largest task, MB", "ms of CPU per item over 10"),
    )
    first = meters[SIZES[0]]
    over = [
        "",
        *(f"{(meters[items].cpu - first.cpu) / (items - SIZES[0]) * 1000:.1f}" for items in SIZES[1:]),
    ]
    return (
        f"{table(columns, [(*cell, extra) for cell, extra in zip(cells, over, strict=True)])}\n"
        f"![Worker CPU, slot-seconds, wall time and requests over the number of items]({PICTURE})\n"
    )


def row(items: int, meter: Meter) -> tuple[object, ...]:
    """Return the cells of one size."""
    return (
        f"{items:,}",
        f"{meter.wall:,.0f}",
        f"{meter.cpu:,.1f}",
        f"{meter.saving_cpu:,.1f}",
        f"{meter.slot:,.0f}",
        f"{meter.saving:,.1f}",
        f"{sum(meter.rows.values()):,}",
        f"{meter.requests:,}",
        f"{meter.largest / 1e6:,.0f}",
    )


def picture(title: str, sizes: Sequence[int], lines: Sequence[Line]) -> str:
    """Draw lines over sizes, both axes logarithmic, as SVG; a dashed line shows what grows in proportion."""
    values = [max(value, 0.1) for line in lines for value in line.values]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    left, right = math.log10(sizes[0]), math.log10(sizes[-1])

    def x(size: float) -> float:
        return LEFT + (math.log10(size) - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(max(value, 0.1)) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" fill="#333">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        at = y(10**power)
        label = f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"
        parts += [
            f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>',
        ]
    for size in sizes:
        parts += [
            f'<path d="M{x(size):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>',
            f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{size:,}</text>',
        ]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">items in the batch</text>')
    # In proportion: from the corner below the lines, one decade up for each decade to the right.
    start = 10.0**low
    end = min(sizes[-1], sizes[0] * 10.0 ** (high - low))
    parts.append(
        f'<path d="M{x(sizes[0]):.1f} {y(start):.1f}L{x(end):.1f} {y(start * end / sizes[0]):.1f}" '
        'stroke="#999" stroke-dasharray="5 4" fill="none"/>'
    )
    names: list[tuple[float, str, str]] = [(y(start * end / sizes[0]), "in proportion", "#777")]
    for line, colour in zip(lines, COLOURS, strict=True):
        points = [(x(size), y(value)) for size, value in zip(sizes, line.values, strict=True)]
        path = "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
        parts.append(f'<path d="M{path}" stroke="{colour}" stroke-width="2.5" fill="none"/>')
        parts += [
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}"/>' for across, down in points
        ]
        names.append((points[-1][1], f"{line.name}: {line.values[-1]:,.0f}", colour))
    lowest = 0.0
    for down, name, colour in sorted(names):
        # Names of lines that end close together stand below each other.
        lowest = max(down, lowest + 17)
        parts.append(
            f'<text x="{WIDTH - RIGHT + 12}" y="{lowest + 4:.1f}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
