"""The worker dies, at each point between taking the task and the last saved file."""

from __future__ import annotations

import os
import signal
import time

import psutil

from tests.faults.fault_bench import MATRIX, Bench, Json, Row, Run
from tools.local_airflow.processes import poll

LOST = "worker and supervisor SIGKILL: "


def taken(bench: Bench, run: Run, *, more_tries_than: int = 0) -> Json:
    """Wait until a worker works for the task."""

    def look() -> Json | None:
        instance = run.instance()
        is_due = instance["try_number"] > more_tries_than and instance["state"] in {"queued", "running"}
        return instance if is_due and bench.processes(instance) else None

    return poll(look, seconds=60, what="a worker to take the task", interval=0.02)


@MATRIX.fault()
def worker_before_post(bench: Bench) -> Row:
    hold = bench.folder / "hold"
    hold.touch()
    run = bench.start("fault_one", "A poster [[duration:2]]", hold_first=str(hold))
    instance = taken(bench, run)
    poll(lambda: "Fault matrix: taken" in run.log_text(instance), seconds=60, what="the task to begin")
    killed = bench.kill(instance)
    hold.unlink()
    bench.check(killed == 2, "no process was killed")
    bench.check(
        bench.counters()["submissions"] == 0 and not run.record(), "a POST had been sent, or recorded"
    )
    return bench.row(
        f"{LOST}before the POST", paid=1, files=1, submissions=1, phase="running, nothing asked, no record"
    )


@MATRIX.fault()
def worker_post_in_flight(bench: Bench) -> Row:
    run = bench.start("fault_one", "A poster [[delay:6]] [[duration:2]]")
    instance = taken(bench, run)
    bench.wait_for_count(lambda seen: seen["submissions"] == 1, "the POST")
    paid, phase = bench.counters()["paid"], run.record().get("phase")
    bench.kill(instance)
    bench.check((paid, phase) == (0, "submitting"), f"hit with paid={paid} and the record {phase}")
    return bench.row(
        f"{LOST}POST in flight", paid=1, files=1, phase="EvoLink has the POST and has not decided"
    )


@MATRIX.fault()
def runner_post_in_flight(bench: Bench) -> Row:
    run = bench.start("fault_one", "A poster [[delay:6]] [[duration:2]]")
    instance = taken(bench, run)
    bench.wait_for_count(lambda seen: seen["submissions"] == 1, "the POST")
    bench.kill(instance, only_runner=True)
    bench.check(bench.counters()["paid"] == 0, "the POST had been accepted")
    return bench.row(
        "task process alone SIGKILL: POST in flight",
        paid=1,
        files=1,
        phase="EvoLink has the POST and has not decided",
    )


@MATRIX.fault()
def worker_accepted_answer_on_its_way(bench: Bench) -> Row:
    run = bench.start("fault_one", "A poster [[silence:30]] [[duration:2]]")
    instance = taken(bench, run)
    bench.wait_for_count(lambda seen: seen["paid"] == 1, "the acceptance")
    phase = run.record().get("phase")
    bench.kill(instance)
    bench.check(phase == "submitting", f"hit with the record {phase}")
    return bench.row(
        f"{LOST}accepted, answer on its way", paid=1, files=1, phase="paid, record says submitting"
    )


@MATRIX.fault()
def worker_answer_received_not_recorded(bench: Bench) -> Row:
    run = bench.start("fault_one", "A poster [[silence:4]] [[duration:2]]")
    instance = taken(bench, run)
    bench.wait_for_count(lambda seen: seen["paid"] == 1, "the acceptance")
    # The record goes through the supervisor. While it is stopped the runner has the answer and nobody else.
    supervisor, runner = bench.processes(instance)
    os.kill(supervisor.pid, signal.SIGSTOP)
    bench.wait_for_count(lambda seen: seen["open_requests"] == 0, "the answer to be out")
    poll(lambda: _is_idle(runner), seconds=10, what="the answer to be read")
    bench.kill(instance)
    phase = run.record().get("phase")
    bench.check(phase == "submitting", f"hit with the record {phase}")
    return bench.row(
        f"{LOST}answer received, not recorded", paid=1, files=1, phase="answer read, record says submitting"
    )


def _is_idle(process: psutil.Process) -> bool:
    """Whether a process sleeps: it has dealt with what came in."""
    before = process.cpu_times()
    time.sleep(0.2)
    return process.status() == psutil.STATUS_SLEEPING and process.cpu_times() == before


@MATRIX.fault()
def worker_recorded_not_deferred(bench: Bench) -> Row:
    hold = bench.folder / "hold"
    hold.touch()
    run = bench.start("fault_one", "A poster [[duration:2]]", hold=str(hold))
    instance = taken(bench, run)
    poll(lambda: "Fault matrix: recorded" in run.log_text(instance), seconds=60, what="the record")
    phase = run.record().get("phase")
    bench.kill(instance)
    hold.unlink()
    bench.check(phase == "submitted", f"hit with the record {phase}")
    return bench.row(
        f"{LOST}recorded, not deferred",
        paid=1,
        files=1,
        submissions=1,
        phase="record says submitted, not deferred",
    )


@MATRIX.fault()
def worker_resuming(bench: Bench) -> Row:
    run = bench.start("fault_one", "A poster [[duration:3]]", n=3)
    instance = run.wait_for("deferred")
    bench.wait_for_end_of_generations()
    poll(
        lambda: run.instance()["state"] in {"scheduled", "queued", "running"},
        seconds=60,
        what="the event",
        interval=0.05,
    )
    bench.fault("task", "delay", seconds=15, times=1)
    poll(
        lambda: "Fault matrix: resumed" in run.log_text(instance),
        seconds=180,
        what="the resume",
        interval=0.05,
    )
    bench.wait_for_count(lambda seen: seen["open_requests"] > 0, "the read to be held", seconds=10)
    bench.kill(run.instance())
    phase = run.phase(instance)
    bench.check(phase == "resuming", f"hit while {phase}")
    return bench.row(f"{LOST}execute_complete reads the task", paid=1, files=3, phase="resuming")


@MATRIX.fault()
def worker_saving(bench: Bench) -> Row:
    return _killed_while_saving(bench, only_runner=False)


@MATRIX.fault()
def runner_saving(bench: Bench) -> Row:
    return _killed_while_saving(bench, only_runner=True)


def _killed_while_saving(bench: Bench, *, only_runner: bool) -> Row:
    # Long enough to be hit in the middle on a busy machine too; nobody waits for it after the kill.
    bench.fault("download", "slow", seconds=120, times=1)
    run = bench.start("fault_one", "A poster [[duration:2]]", n=4)
    poll(lambda: len(list(bench.images.rglob("*.png"))) == 3, seconds=180, what="three of four files")
    instance = run.instance()
    killed = bench.kill(instance, only_runner=only_runner)
    bench.check(killed > 0, "no process was killed")
    files, phase = len(list(bench.images.rglob("*.png"))), run.phase(instance)
    bench.check((files, phase) == (3, "saving"), f"hit while {phase}, with {files} files")
    who = "task process alone SIGKILL: " if only_runner else LOST
    return bench.row(
        f"{who}3 of 4 images saved", paid=1, files=4, submissions=1, downloads=5, phase="saving the fourth"
    )


@MATRIX.fault()
def worker_waiting_on_worker(bench: Bench) -> Row:
    run = bench.start("fault_on_worker", "A poster [[duration:20]]")
    instance = taken(bench, run)
    bench.wait_for_count(lambda seen: seen["reads"]["task"] >= 1, "a look")
    bench.kill(instance)
    phase = run.record().get("phase")
    bench.check(phase == "submitted", f"hit with the record {phase}")
    return bench.row(
        f"{LOST}waiting with deferrable=False", paid=1, files=1, submissions=1, phase="waiting on the worker"
    )
