"""Airflow or the storage does not take or give what the task needs; a process wakes up after its successor."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from tests.faults.fault_bench import API_KEY, MATRIX, Bench, Row, persistently
from tools.local_airflow.processes import poll


@MATRIX.fault()
def result_refused(bench: Bench) -> Row:
    refusal = bench.folder / "refuse-results"
    refusal.touch()
    run = bench.start("fault_clear_auto", "A poster [[duration:2]]", n=2, refuse_result=str(refusal))
    bench.check(run.end() == "failed", "the result was not refused")
    bench.check(run.record()["phase"] == "submitted", f"the record says {run.record()['phase']}")
    refusal.unlink()
    tries = run.instance()["try_number"]
    run.clear()
    run.wait_for("success", seconds=180, more_tries_than=tries)
    bench.check(run.record()["phase"] == "delivered", f"the record says {run.record()['phase']}")
    return bench.row(
        "Airflow refuses the result after delivery, no try left",
        paid=1,
        files=2,
        submissions=1,
        phase="delivered, result not stored",
        remark="then cleared",
    )


@MATRIX.fault()
def xcom_refused_after_the_post(bench: Bench) -> Row:
    refusal = bench.folder / "refuse-xcoms"
    refusal.touch()
    run = bench.start("fault_one", "A poster [[duration:2]]", n=2, refuse_xcom=str(refusal))
    bench.check(run.end() == "success", "it did not succeed")
    (generation,) = bench.generations()
    lines = run.all_logs().splitlines()
    refused = next((n for n, line in enumerate(lines) if "cannot be written" in line), len(lines))
    bench.check(refused < len(lines), "no XCom was refused")
    bench.check(any(generation["id"] in line for line in lines[:refused]), "the id was not logged first")
    return bench.row(
        "the XCom with the id cannot be written after the POST",
        paid=1,
        files=2,
        submissions=1,
        phase="recorded, not deferred",
    )


@MATRIX.fault()
def connection_not_found_at_the_resume(bench: Bench) -> Row:
    hold = bench.folder / "hold"
    hold.touch()
    run = bench.start("fault_one", "A poster [[duration:2]]", n=2, hold_resume=str(hold))
    poll(lambda: "Fault matrix: resumed" in run.all_logs(), seconds=180, what="the task to resume")
    persistently(lambda: bench.airflow.request("DELETE", f"/connections/{bench.conn_id}"))
    hold.unlink()

    def raised() -> str | None:
        """The line of the log with the whole exception; those before it tell it in short lines."""
        lines = run.all_logs().splitlines()
        return next((each for each in lines if "exc_value" in each and "finds no connection" in each), None)

    error = poll(raised, seconds=180, what="the error")
    fields = {"connection_id": bench.conn_id, "conn_type": "evoimage", "host": bench.evolink.url}
    persistently(lambda: bench.airflow.request("POST", "/connections", json=fields | {"password": API_KEY}))
    (generation,) = bench.generations()
    bench.check(generation["id"] in error, "the error does not name what was paid")
    return bench.row(
        "Airflow finds no connection when the task resumes", paid=1, files=2, submissions=1, phase="resuming"
    )


BATCH = [f"Poster {number} [[duration:6]]" for number in range(6)]


def _ledger(bench: Bench) -> Path:
    """The batch manifest, once it is there."""
    return poll(
        lambda: next(iter(bench.images.rglob("*.batch.jsonl")), None), seconds=180, what="the batch manifest"
    )


def _states(file: Path) -> list[str]:
    return [json.loads(line)["state"] for line in file.read_text().splitlines()]


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@MATRIX.fault()
def storage_refuses_the_ledger(bench: Bench) -> Row:
    run = bench.start("fault_batch", BATCH)
    run.wait_for("deferred")
    ledger = _ledger(bench)
    kept = ledger.rename(bench.folder / "kept.jsonl")
    # Neither to be read nor to be replaced.
    ledger.mkdir()
    bench.check(run.end() == "failed", "it did not fail")
    posts = bench.counters()["submissions"]
    bench.check(posts == len(BATCH), f"{posts} submissions while the storage refused the ledger")
    ledger.rmdir()
    kept.rename(ledger)
    tries = run.instance()["try_number"]
    run.clear()
    run.wait_for("success", seconds=180, more_tries_than=tries)
    return bench.row(
        "the storage refuses a batch's manifest while it waits",
        paid=len(BATCH),
        files=len(BATCH),
        submissions=len(BATCH),
        phase="waiting",
        remark="repaired and cleared",
    )


@MATRIX.fault()
def batch_frozen_until_its_successor_is_done(bench: Bench) -> Row:
    run = bench.start("fault_batch_on_worker", BATCH)
    bench.wait_for_count(lambda seen: seen["paid"] == len(BATCH), "the submissions")
    frozen = poll(lambda: bench.processes(run.instance()), seconds=30, what="the task's processes")
    for process in frozen:
        process.suspend()
    bench.check(run.end() == "success", "the successor did not succeed")
    ledger = _ledger(bench)
    before = ledger.read_text()
    for process in frozen:
        process.resume()
    # The supervisor serves further tasks.
    poll(lambda: not any(map(_is_alive, frozen[1:])), seconds=180, what="the frozen process to end")
    bench.check(ledger.read_text() == before, "the frozen process wrote over its successor's manifest")
    bench.check(set(_states(ledger)) == {"saved"}, f"the manifest says {_states(ledger)}")
    return bench.row(
        "worker and supervisor frozen until the successor is done, then awake; a batch",
        paid=len(BATCH),
        files=len(BATCH),
        phase="waiting on the worker",
    )
