"""Airflow does not take or give what the task needs: its result, an XCom, its connection."""

from __future__ import annotations

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
    poll(lambda: "Fault matrix: resumed" in run.all_logs(), seconds=90, what="the task to resume")
    persistently(lambda: bench.airflow.request("DELETE", f"/connections/{bench.conn_id}"))
    hold.unlink()
    poll(lambda: "finds no connection" in run.all_logs(), seconds=60, what="the error")
    fields = {"connection_id": bench.conn_id, "conn_type": "evoimage", "host": bench.evolink.url}
    persistently(lambda: bench.airflow.request("POST", "/connections", json=fields | {"password": API_KEY}))
    (generation,) = bench.generations()
    error = next(line for line in run.all_logs().splitlines() if "finds no connection" in line)
    bench.check(generation["id"] in error, "the error does not name what was paid")
    return bench.row(
        "Airflow finds no connection when the task resumes", paid=1, files=2, submissions=1, phase="resuming"
    )
