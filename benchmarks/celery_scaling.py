"""A Celery cluster with two triggerers: undisturbed, one killed, and what a limit of requests means there.

python -m benchmarks.scaling --only celery
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster, Meter, run_to_the_end, table
from tools.local_airflow.processes import poll

MAPPED, BATCH = 30, 1000
MAPPED_SECONDS, BATCH_SECONDS = 90.0, 90.0
LIMIT_PER_SECOND, LIMITED_BATCHES, LIMITED_ITEMS = 5.0, 3, 100
WINDOW_SECONDS = 10.0
BOUNDED_ITEMS, BOUND, BOUNDED_SECONDS = 12, 4, 15.0
LIMITED = "evoimage_limited"


def limited_connection(url: str) -> dict[str, Any]:
    """Return a connection of its own account that keeps to a number of requests per second."""
    extra = json.dumps({"max_requests_per_second": LIMIT_PER_SECOND})
    return {LIMITED: {"conn_type": "evoimage", "host": url, "password": "limited-key", "extra": extra}}


def measure(airflow: Cluster, folder: Path) -> str:
    """Run mapped tasks and a batch, each undisturbed and with a triggerer killed; return a section of the page."""
    cells: list[tuple[object, ...]] = []
    for dag_id, items, seconds in (("mapped", MAPPED, MAPPED_SECONDS), ("batch", BATCH, BATCH_SECONDS)):
        airflow.evolink.configure(duration=seconds)
        cells += [campaign(airflow, dag_id, items, folder, kills=kills) for kills in (False, True)]
    columns = (
        *("", "wall, s", "worker CPU, s", "waited in triggerers", "paid", "files", "requests", "ids read"),
        "taken over after, s",
    )
    return f"{table(columns, cells)}\n{limit(airflow, folder)}"


def campaign(airflow: Cluster, dag_id: str, items: int, folder: Path, *, kills: bool) -> tuple[object, ...]:
    """Run one campaign; return the cells of its row."""
    save_to = folder / f"celery-{dag_id}-{'killed' if kills else 'undisturbed'}"
    seen: dict[str, Any] = {"shares": "", "takeover": None}

    def meanwhile(run_id: str) -> None:
        most = items // 3 if dag_id == "mapped" else 1
        poll(
            lambda: sum(holders(airflow).values()) >= most,
            seconds=180,
            what=f"{most} triggers of {dag_id} {run_id} to be with triggerers",
            interval=0.2,
        )
        held = holders(airflow)
        seen["shares"] = " + ".join(str(held[each]) for each in sorted(held))
        if kills:
            seen["takeover"] = kill_the_busiest(airflow)

    with Meter(airflow) as meter:
        conf = {"items": items, "save_to": save_to.as_uri()}
        run_to_the_end(airflow, dag_id, conf, seconds=420, meanwhile=meanwhile)
    if kills:
        airflow.start_triggerer(seen["takeover"][0])
    images = len(list(save_to.rglob("*.png")))
    print(f"{dag_id} of {items}, killed: {kills}, {meter.wall:.0f} s, {seen}, {meter.counters}", flush=True)
    what = f"{items:,} mapped tasks" if dag_id == "mapped" else f"one batch of {items:,}"
    return (
        f"{what}{', one triggerer killed' if kills else ''}",
        f"{meter.wall:,.0f}",
        f"{meter.cpu:,.1f}",
        seen["shares"],
        f"{meter.counters['paid']:,} / {items:,}",
        f"{images:,} / {items:,}",
        f"{meter.requests:,}",
        f"{meter.counters['ids_read']:,}",
        "" if seen["takeover"] is None else f"{seen['takeover'][1]:.0f}",
    )


def holders(airflow: Cluster) -> Counter[int]:
    """Return how many triggers each triggerer has, by the id of its job."""
    held: Counter[int] = Counter()
    for job, count in airflow.query("SELECT triggerer_id, count(*) FROM trigger GROUP BY 1"):
        if job is not None:
            held[job] += count
    return held


def kill_the_busiest(airflow: Cluster) -> tuple[str, float]:
    """Kill the triggerer that holds most triggers; return its name, and the seconds until another has them all."""
    (job, _), *_ = holders(airflow).most_common(1)
    name = airflow.triggerer_of(job)
    orphans = [each for (each,) in airflow.query(f"SELECT id FROM trigger WHERE triggerer_id = {job}")]  # noqa: S608
    airflow.kill_component(name)
    began = time.monotonic()
    listed = ", ".join(map(str, orphans))

    def all_taken() -> bool:
        ((left,),) = airflow.query(
            f"SELECT count(*) FROM trigger WHERE id IN ({listed}) "  # noqa: S608 - our own ids
            f"AND (triggerer_id = {job} OR triggerer_id IS NULL)"
        )
        return bool(left == 0)

    poll(all_taken, seconds=120, what="the triggers to be taken over", interval=0.2)
    return name, time.monotonic() - began


def limit(airflow: Cluster, folder: Path) -> str:
    """Run batches at the same time with a connection that limits requests; return what came to EvoLink."""
    airflow.evolink.configure(duration=BOUNDED_SECONDS)
    airflow.evolink.reset()
    began = time.time()
    runs = [
        airflow.trigger(
            "batch",
            {
                "items": LIMITED_ITEMS,
                "save_to": (folder / f"limited-{number}").as_uri(),
                "conn_id": LIMITED,
            },
        )
        for number in range(LIMITED_BATCHES)
    ]
    for run_id in runs:
        state = airflow.wait_for_run("batch", run_id, deadline=300)
        if state != "success":
            raise RuntimeError(f"batch {run_id} {state}")
    times = request_times(airflow.evolink.log, began)
    most = busiest(times)
    return (
        f"With `max_requests_per_second` {LIMIT_PER_SECOND:g} and {LIMITED_BATCHES} batches of {LIMITED_ITEMS} at the "
        f"same time, each in a worker process of its own: {most:.1f} requests per second in the busiest "
        f"{WINDOW_SECONDS:.0f} seconds, of {len(times):,} in all.\n"
    )


def request_times(log: Path, began: float) -> list[float]:
    """Return when requests to the API came in; downloads are none."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    times = (
        datetime.fromisoformat(line["time"]).timestamp() for line in lines if line["path"].startswith("/v1/")
    )
    return sorted(each for each in times if each >= began)


def busiest(times: list[float]) -> float:
    """Return the requests per second in the busiest window."""
    first, most = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - WINDOW_SECONDS:
            first += 1
        most = max(most, last - first + 1)
    return most / WINDOW_SECONDS


def bounds(airflow: Cluster, folder: Path) -> str:
    """Bound how many items are out at a time in three ways; return the most that were."""
    airflow.evolink.configure(duration=BOUNDED_SECONDS)
    for name, waits in {"running_only": False, "with_waiting": True}.items():
        body = {"name": name, "slots": BOUND, "include_deferred": waits}
        airflow.request("POST", "/pools", json=body)
    ways = {
        "bounded_by_slots": f"a pool of {BOUND}",
        "bounded_by_pool": f"a pool of {BOUND} with `include_deferred`",
        "bounded_by_per_run": f"`max_active_tis_per_dagrun={BOUND}`",
    }
    for dag_id in ways:
        airflow.unpause(dag_id)
    runs = {
        dag_id: airflow.trigger(dag_id, {"items": BOUNDED_ITEMS, "save_to": (folder / dag_id).as_uri()})
        for dag_id in ways
    }
    most: Counter[str] = Counter()

    def all_ended() -> bool:
        for dag_id, run_id in runs.items():
            states = airflow.states(dag_id, run_id)
            out = sum(states.get(each, 0) for each in ("queued", "running", "deferred"))
            most[dag_id] = max(most[dag_id], out)
        return all(
            airflow.run_state(dag_id, run_id) in {"success", "failed"} for dag_id, run_id in runs.items()
        )

    with contextlib.suppress(TimeoutError):
        poll(all_ended, seconds=300, what="the bounded runs to end", interval=0.3)
    states = {dag_id: airflow.run_state(dag_id, run_id) for dag_id, run_id in runs.items()}
    if set(states.values()) != {"success"}:
        raise RuntimeError(f"bounded runs: {states}")
    cells: list[tuple[object, ...]] = [(label, most[dag_id]) for dag_id, label in ways.items()]
    return table((f"{BOUNDED_ITEMS} items, bounded by", "most out at a time"), cells)
