"""A hundred prompts: one batch task, mapped tasks, and a loop in Python; these two fitted to a thousand.

python -m benchmarks.scaling --only one-machine
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.cluster import Cluster, Meter, run_to_the_end, table

FEW, MANY, THOUSAND = 20, 100, 1000
DURATION_SECONDS = 10.0
WAYS = {"batch": "one batch task", "mapped": "mapped tasks", "loop": "a loop in one Python task"}
TABLES = ("task_instance", "xcom", "log", "task_state_store", "trigger", "rendered_task_instance_fields")
GOAL = 20


@dataclass(frozen=True)
class Figures:
    """What one campaign took: seconds, CPU and slot-seconds of workers without saving, rows, and requests."""

    wall: float
    work: float
    held: float
    rows: float
    requests: float

    @classmethod
    def of(cls, meter: Meter) -> Figures:
        """Take the figures of a measured run."""
        return cls(meter.wall, meter.work, meter.held, sum(meter.rows.values()), meter.requests)

    def cells(self, label: str, prompts: str) -> tuple[object, ...]:
        """Return the cells of a row."""
        figures = f"{self.wall:,.0f}", f"{self.work:,.1f}", f"{self.held:,.0f}"
        return (label, prompts, *figures, f"{self.rows:,.0f}", f"{self.requests:,.0f}")


def campaign(airflow: Cluster, dag_id: str, items: int, folder: Path) -> Meter:
    """Run a campaign, and check that each image was paid for once and is there."""
    save_to = folder / f"{dag_id}-{items}"
    with Meter(airflow) as meter:
        conf = {"items": items, "save_to": save_to.as_uri()}
        run_to_the_end(airflow, dag_id, conf, seconds=120 + 6 * items)
    print(f"{dag_id} of {items}: {Figures.of(meter)}", flush=True)
    images = len(list(save_to.rglob("*.png")))
    if (meter.counters["paid"], images) != (items, items):
        raise RuntimeError(f"{dag_id}: {items} asked, {meter.counters['paid']} paid, {images} images")
    return meter


def fitted(few: Figures, many: Figures) -> Figures:
    """Continue the line through two measured sizes to a thousand."""

    def at_a_thousand(one: float, other: float) -> float:
        return other + (other - one) / (MANY - FEW) * (THOUSAND - MANY)

    return Figures(*(at_a_thousand(vars(few)[name], vars(many)[name]) for name in vars(few)))


def in_proportion(few: Figures, items: int) -> Figures:
    """Continue what is done item by item; its rows are the same for any number."""
    times = items / FEW
    return Figures(few.wall * times, few.work * times, few.held * times, few.rows, few.requests * times)


def measure(airflow: Cluster, folder: Path, batch_of_a_thousand: Meter) -> str:
    """Run all three; return a section of the page.

    :param batch_of_a_thousand: as measured; only what is too slow for that is fitted.
    """
    airflow.evolink.configure(duration=DURATION_SECONDS)
    batch = campaign(airflow, "batch", MANY, folder)
    cells = [
        Figures.of(batch).cells(WAYS["batch"], f"{MANY}"),
        Figures.of(batch_of_a_thousand).cells("", f"{THOUSAND:,}"),
    ]
    per_table = [_rows("batch", batch)]
    thousand = {"batch": Figures.of(batch_of_a_thousand)}
    few, many = (campaign(airflow, "mapped", items, folder) for items in (FEW, MANY))
    thousand["mapped"] = fitted(Figures.of(few), Figures.of(many))
    cells += [
        Figures.of(few).cells(WAYS["mapped"], f"{FEW}"),
        Figures.of(many).cells("", f"{MANY}"),
        thousand["mapped"].cells("", f"{THOUSAND:,}, fitted"),
    ]
    per_table.append(_rows("mapped", many))
    # One image after the other: a hundred would take a quarter of an hour, and tell nothing new.
    loop = Figures.of(campaign(airflow, "loop", FEW, folder))
    cells += [
        loop.cells(WAYS["loop"], f"{FEW}"),
        *(in_proportion(loop, items).cells("", f"{items:,}, fitted") for items in (MANY, THOUSAND)),
    ]
    work = thousand["mapped"].work / thousand["batch"].work
    held = thousand["mapped"].held / thousand["batch"].held
    columns = ("", "prompts", "wall, s", "worker CPU, s", "slot-seconds", "rows", "requests")
    return (
        f"{table(columns, cells)}\nRows at {MANY} prompts, by table (of `trigger`, those that came and went):\n\n"
        f"{table(('', *(f'`{each}`' for each in TABLES)), per_table)}\nAt {THOUSAND:,} prompts mapped tasks, fitted, "
        f"take {work:.0f} times the workers' CPU seconds of the batch, measured, and {held:,.0f} times its "
        f"slot-seconds (goal: {GOAL}).\n"
    )


def _rows(way: str, meter: Meter) -> tuple[object, ...]:
    return (WAYS[way], *(f"{meter.rows[name]:,}" for name in TABLES))
