"""The triggerer dies while tasks wait in it. These rows run one after the other: every run shares it."""

from __future__ import annotations

import math
import re
import time

from tests.faults.fault_bench import MATRIX, Bench, Row

INTERVAL = 3
LONGEST_WAIT = 120


def _limit(seconds: float) -> int:
    """Ids that may be read: the looks of an undisturbed wait, the resume's own, and two for the hand-over."""
    return math.ceil(seconds / INTERVAL) + 1 + 2


@MATRIX.fault(alone=True)
def triggerer_killed(bench: Bench) -> Row:
    run = bench.start("fault_steady", "A poster [[duration:25]]", n=2)
    run.wait_for("deferred")
    bench.wait_for_count(lambda seen: seen["reads"]["task"] >= 2, "two looks")
    bench.airflow.kill_component("triggerer")
    seen = bench.counters()["reads"]["task"]
    bench.airflow.start_component("triggerer")
    bench.wait_for_count(lambda now: now["reads"]["task"] > seen, "a look after the kill")
    return bench.row(
        "triggerer SIGKILL while waiting, started again",
        paid=1,
        files=2,
        submissions=1,
        phase="waiting",
        ids_read_limit=_limit(25),
    )


@MATRIX.fault(alone=True)
def triggerer_killed_beside_a_second(bench: Bench) -> Row:
    run = bench.start("fault_steady", "A poster [[duration:50]]", n=2)
    run.wait_for("deferred")
    bench.wait_for_count(lambda seen: seen["reads"]["task"] >= 1, "a look by the first")
    bench.airflow.start_component("triggerer-2")
    try:
        bench.airflow.kill_component("triggerer")
        seen = bench.counters()["reads"]["task"]
        bench.wait_for_count(lambda now: now["reads"]["task"] > seen, "a look by the second")
        return bench.row(
            "triggerer SIGKILL while waiting, a second one runs",
            paid=1,
            files=2,
            submissions=1,
            phase="waiting",
            ids_read_limit=_limit(50),
        )
    finally:
        bench.airflow.start_component("triggerer")
        bench.airflow.stop_component("triggerer-2")


@MATRIX.fault(alone=True)
def triggerer_away_past_the_end(bench: Bench) -> Row:
    run = bench.start("fault_steady", "A poster [[duration:8]]", n=2)
    run.wait_for("deferred")
    bench.airflow.kill_component("triggerer")
    bench.wait_for_end_of_generations()
    time.sleep(10)  # How long the triggerer stays away after the end.
    bench.check(run.instance()["state"] == "deferred", "it was not waiting any more")
    bench.airflow.start_component("triggerer")
    return bench.row(
        "no triggerer until 10 s after the generation's end",
        paid=1,
        files=2,
        submissions=1,
        phase="waiting",
        ids_read_limit=_limit(8),
    )


@MATRIX.fault(alone=True)
def triggerer_frozen(bench: Bench) -> Row:
    """Two triggerers wait for the same generation once the frozen one wakes up."""
    run = bench.start("fault_steady", "A poster [[duration:45]]", n=2)
    run.wait_for("deferred")
    bench.wait_for_count(lambda seen: seen["reads"]["task"] >= 1, "a look by the first")
    bench.airflow.start_component("triggerer-2")
    first = bench.airflow.components["triggerer"]
    frozen = first.processes()
    try:
        for process in frozen:
            process.suspend()
        seen = bench.counters()["reads"]["task"]
        bench.wait_for_count(lambda now: now["reads"]["task"] > seen, "a look by the second", LONGEST_WAIT)
        for process in frozen:
            process.resume()
        run.end()
        bench.check(not re.search("Traceback", run.all_logs()), "a traceback in the log")
        return bench.row(
            "triggerer frozen until another took over, then awake",
            paid=1,
            files=2,
            submissions=1,
            phase="waiting",
            ids_read_limit=_limit(45) + math.ceil(45 / INTERVAL),
            remark="both may look for a while",
        )
    finally:
        bench.airflow.kill_component("triggerer")
        bench.airflow.start_component("triggerer")
        bench.airflow.stop_component("triggerer-2")
