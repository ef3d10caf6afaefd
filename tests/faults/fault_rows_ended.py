"""The wait is ended by a person or by one of Airflow's time limits: the log tells what becomes of the money."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.fault_bench import MATRIX, Bench, Row, Run, persistently
from tools.local_airflow.processes import poll

End = Callable[[Bench, Run], None]


def _mark(state: str) -> End:
    def mark(bench: Bench, run: Run) -> None:
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/draw"
        persistently(lambda: bench.airflow.request("PATCH", path, json={"new_state": state}))

    return mark


def _wait(bench: Bench, run: Run) -> None:
    del bench, run


def _ended(name: str, words: str, dag_id: str, end: End, *, state: str, seconds: int = 90) -> None:
    """End the wait; then look for the line with the id, and let a clear deliver what was paid."""

    def fault(bench: Bench) -> Row:
        run = bench.start(dag_id, "A poster [[duration:40]]", n=2)
        run.wait_for("deferred")
        bench.wait_for_count(lambda seen: seen["reads"]["task"] > 0, "the trigger's first look")
        end(bench, run)
        run.wait_for(state, seconds=seconds)
        (generation,) = bench.generations()
        poll(
            lambda: any(
                generation["id"] in line and "billed" in line for line in run.all_logs().splitlines()
            ),
            seconds=30,
            what="a line that names the generation and what becomes of the money",
        )
        bench.wait_for_end_of_generations()
        if run.dag_id == "fault_short_run":
            # The run is over its time; what was paid is collected by hand.
            return bench.row(words, paid=1, files=0, end="failed", submissions=1, phase="waiting")
        run.clear()
        run.wait_for("success", seconds=180)
        return bench.row(words, paid=1, files=2, submissions=1, phase="waiting", remark="then cleared")

    MATRIX.add(name, fault)


_ended("marked_failed", "marked failed while deferred", "fault_steady", _mark("failed"), state="failed")
_ended("marked_success", "marked success while deferred", "fault_steady", _mark("success"), state="success")
_ended("run_timeout", "DAG-run timeout while deferred", "fault_short_run", _wait, state="skipped")
_ended("deferral_timeout", "Airflow's own deferral timeout", "fault_short_deferral", _wait, state="failed")
