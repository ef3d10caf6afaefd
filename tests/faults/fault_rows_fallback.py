"""The worker dies while the request moves on to another model: one model is paid, once."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.fault_bench import MATRIX, Bench, Row, Run
from tests.faults.fault_rows_worker import LOST, taken
from tools.local_airflow.processes import poll

FIRST, OTHER = "gpt-image-2", "gpt-image-1.5"
#: How EvoLink lets the first model down: it refuses the submission, or accepts it and fails without a charge.
WAYS = {
    "model_unavailable": "503 model_unavailable",
    "model_not_found": "404 model_not_found",
    "service_error": "failed generation",
}


def _start(bench: Bench, code: str, prompt: str, **conf: str) -> Run:
    setting = "failing_models" if code == "service_error" else "unavailable_models"
    bench.configure(**{setting: {FIRST: code}})
    return bench.start("fault_fallback", prompt, **conf)


def _ended(bench: Bench, code: str, words: str, phase: str, *, model: str = OTHER) -> Row:
    bench.runs[0].end()
    made = [each["model"] for each in bench.generations() if each["status"] == "completed"]
    bench.check(made == [model], f"made by {made}")
    failed = code == "service_error"
    remark = "the failed one was accepted, and is not charged" if failed else ""
    return bench.row(
        f"{LOST}{WAYS[code]} of the first model, {words}",
        paid=1 + failed,
        files=1,
        phase=phase,
        remark=remark,
    )


def _first_in_flight(bench: Bench, code: str) -> Row:
    """Nobody knows what became of the POST, so no other model is asked: the first one is, until it answers."""
    run = _start(bench, code, "A poster [[delay:6]] [[duration:2]]")
    instance = taken(bench, run)
    bench.wait_for_count(lambda seen: seen["submissions"] == 1, "the POST")
    bench.kill(instance)
    bench.check(bench.counters()["paid"] == 0, "the POST had been accepted")
    bench.configure(unavailable_models={})
    return _ended(bench, code, "its POST in flight", "nothing decided; then it is back", model=FIRST)


def _other_in_flight(bench: Bench, code: str) -> Row:
    run = _start(bench, code, "A poster [[delay:6 times=4]] [[duration:2]]")
    poll(lambda: run.record().get("tried"), seconds=180, what="the first to be left behind", interval=0.1)
    bench.wait_for_count(lambda seen: seen["open_requests"] > 0, "the other model's POST")
    models = [each["model"] for each in bench.generations()]
    bench.kill(run.instance())
    bench.check(OTHER not in models, "the other model's POST had been accepted")
    return _ended(bench, code, "the other's POST in flight", "the first left behind, record says submitting")


def _other_recorded(bench: Bench, code: str) -> Row:
    hold = bench.folder / "hold"
    if code == "service_error":
        # Where the first is accepted, only the second deferral is to be held.
        run = _start(bench, code, "A poster [[duration:4]]", hold=str(hold))
        run.wait_for("deferred")
        hold.touch()
    else:
        hold.touch()
        run = _start(bench, code, "A poster [[duration:2]]", hold=str(hold))
    poll(lambda: len(run.record().get("tried") or ()) == 1, seconds=180, what="the first to be left behind")
    poll(lambda: run.record().get("phase") == "submitted", seconds=180, what="the record")
    instance = run.instance()
    bench.kill(instance)
    hold.unlink()
    return _ended(bench, code, "the other recorded, not deferred", "record says submitted")


MOMENTS: dict[str, Callable[[Bench, str], Row]] = {
    "first_in_flight": _first_in_flight,
    "other_in_flight": _other_in_flight,
    "other_recorded": _other_recorded,
}


def _add(code: str, moment: str) -> None:
    def fault(bench: Bench) -> Row:
        return MOMENTS[moment](bench, code)

    MATRIX.add(f"fallback_{code}_{moment}", fault)


for _code in WAYS:
    for _moment in MOMENTS:
        # What EvoLink would have answered matters only once it has answered.
        if _moment != "first_in_flight" or _code == "model_unavailable":
            _add(_code, _moment)
