"""A person clears the task: what is paid for again, and what is not, by `on_clear`."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.fault_bench import MATRIX, Bench, Row, Run

MODES = ("auto", "regenerate", "reuse")

Situation = Callable[[Bench, str], Run]


def _while_deferred(bench: Bench, mode: str) -> Run:
    run = bench.start(f"fault_clear_{mode}", "A poster [[duration:15]]", n=2)
    run.wait_for("deferred")
    return run


def _while_running(bench: Bench, mode: str) -> Run:
    run = bench.start(f"fault_clear_{mode}", "A poster [[silence:20]] [[duration:5]]", n=2)
    bench.wait_for_count(lambda seen: seen["paid"] == 1, "the acceptance")
    run.wait_for("running")
    return run


def _after_a_failed_save(bench: Bench, mode: str) -> Run:
    bench.fault("download", "status", status=403)
    run = bench.start(f"fault_clear_{mode}", "A poster [[duration:2]]", n=2)
    bench.check(run.end() == "failed", "the save did not fail")
    bench.no_faults()
    return run


def _after_a_time_out(bench: Bench, mode: str) -> Run:
    bench.configure(duration=16)
    run = bench.start(f"fault_late_{mode}", "A poster", n=2)
    bench.check(run.end() == "failed", "it did not time out")
    bench.check("GenerationTimeoutError" in run.all_logs(), "it failed in another way")
    # The second try has no more time than the first.
    bench.wait_for_end_of_generations()
    for each in bench.generations():
        bench.check(each["status"] == "completed", f"a generation is {each['status']}")
    # A new generation must make it in time.
    bench.configure(duration=1)
    return run


def _after_success(bench: Bench, mode: str) -> Run:
    run = bench.start(f"fault_clear_{mode}", "A poster [[duration:2]]", n=2)
    bench.check(run.end() == "success", "it did not succeed")
    return run


def _after_a_failed_generation(bench: Bench, mode: str) -> Run:
    run = bench.start(f"fault_clear_{mode}", "A poster [[fail:service_error]] [[duration:2]]", n=2)
    bench.check(run.end() == "failed", "it did not fail")
    return run


#: situation → what makes it, and the generations in all by on_clear, as design and README say.
SITUATIONS: dict[str, tuple[Situation, dict[str, int]]] = {
    "while deferred": (_while_deferred, {"auto": 1, "regenerate": 2, "reuse": 1}),
    "while running": (_while_running, {"auto": 1, "regenerate": 2, "reuse": 1}),
    "after a failed save": (_after_a_failed_save, {"auto": 1, "regenerate": 2, "reuse": 1}),
    "after a time-out": (_after_a_time_out, {"auto": 1, "regenerate": 2, "reuse": 1}),
    "after success": (_after_success, {"auto": 2, "regenerate": 2, "reuse": 1}),
    # There is nothing to reuse.
    "after a failed generation": (_after_a_failed_generation, {"auto": 2, "regenerate": 2, "reuse": 2}),
}


def _cleared(situation: str, mode: str) -> None:
    make, paid = SITUATIONS[situation]

    def fault(bench: Bench) -> Row:
        run = make(bench, mode)
        tries = run.instance()["try_number"]
        run.clear()
        run.wait_for("failed" if "generation" in situation else "success", seconds=180, more_tries_than=tries)
        fails = situation == "after a failed generation"
        return bench.row(
            f"cleared {situation}, on_clear={mode}",
            paid=paid[mode],
            files=0 if fails else 2,
            end="failed" if fails else "success",
            phase=situation,
        )

    MATRIX.add(f"cleared_{situation.replace(' ', '_').replace('-', '_')}_{mode}", fault)


for _situation in SITUATIONS:
    for _mode in MODES:
        _cleared(_situation, _mode)
