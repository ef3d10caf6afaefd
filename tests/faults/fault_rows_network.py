"""The network and the service fail: while asking, and while waiting."""

from __future__ import annotations

import time

from tests.faults.fault_bench import API_KEY, MATRIX, Bench, Row
from tools.local_airflow.processes import poll

#: Prompt word → what happens after EvoLink has accepted the request.
LOST_ANSWERS = {
    "cut:after": "connection cut after accept",
    "status-after:502": "502 after accept",
    "status-after:504": "504 after accept",
    "junk-after": "unreadable 2xx after accept",
    "silence:90": "90 s silence after accept",
}
BUSY_SECONDS = 60
BUSY_ITEMS = 30
DOWN_SECONDS = 120


def _lost_answer(word: str, name: str, *, keys_count: bool) -> None:
    def trusted(bench: Bench) -> Row:
        bench.start("fault_one", f"A poster [[{word}]] [[duration:2]]")
        return bench.row(name, paid=1, files=1, phase="accepted, answer lost")

    def ignored(bench: Bench) -> Row:
        bench.ignores_keys = True
        bench.configure(ignore_keys=True)
        bench.connect(idempotency="ignored")
        run = bench.start("fault_one", f"A poster [[{word}]] [[duration:2]]")
        run.end()
        bench.check("UnrepeatableSubmissionError" in run.all_logs(), "the log does not say: outcome unknown")
        return bench.row(
            f"{name}; keys ignored",
            paid=1,
            files=0,
            end="failed",
            submissions=1,
            phase="accepted, answer lost",
            remark="ends with the final “outcome unknown” error",
        )

    short = word.replace(":", "_").replace("-", "_")
    MATRIX.add(
        f"lost_answer_{short}" + ("" if keys_count else "_keys_ignored"), trusted if keys_count else ignored
    )


for _keys_count in (True, False):
    for _word, _name in LOST_ANSWERS.items():
        _lost_answer(_word, _name, keys_count=_keys_count)


@MATRIX.fault()
def keys_ignored_worker_lost_with_post_in_flight(bench: Bench) -> Row:
    bench.ignores_keys = True
    bench.configure(ignore_keys=True)
    bench.connect(idempotency="ignored")
    run = bench.start("fault_one", "A poster [[silence:30]] [[duration:2]]")
    bench.wait_for_count(lambda seen: seen["paid"] == 1, "the acceptance")
    bench.kill(run.instance())
    run.end()
    bench.check("UnrepeatableSubmissionError" in run.all_logs(), "the log does not say: outcome unknown")
    return bench.row(
        "worker and supervisor SIGKILL: POST in flight; keys ignored",
        paid=1,
        files=0,
        end="failed",
        submissions=1,
        phase="paid, record says submitting",
        remark="ends with the final “outcome unknown” error",
    )


@MATRIX.fault()
def keys_ignored_worker_lost_after_record(bench: Bench) -> Row:
    bench.ignores_keys = True
    bench.configure(ignore_keys=True)
    bench.connect(idempotency="ignored")
    hold = bench.folder / "hold"
    hold.touch()
    run = bench.start("fault_one", "A poster [[duration:2]]", hold=str(hold))
    instance = run.wait_for("running")
    poll(lambda: "Fault matrix: recorded" in run.log_text(instance), seconds=60, what="the record")
    bench.kill(instance)
    hold.unlink()
    return bench.row(
        "worker and supervisor SIGKILL: recorded, not deferred; keys ignored",
        paid=1,
        files=1,
        submissions=1,
        phase="record says submitted, not deferred",
        remark="goes on by the recorded id",
    )


# Alone: its waiting tries hold every worker.
@MATRIX.fault(alone=True)
def busy_429(bench: Bench) -> Row:
    return _busy(bench, 429)


@MATRIX.fault(alone=True)
def busy_503(bench: Bench) -> Row:
    return _busy(bench, 503)


def _busy(bench: Bench, status: int) -> Row:
    bench.fault("submit", "status", status=status, retry_after="3")
    bench.start("fault_many", [f"Poster {item} [[duration:2]]" for item in range(BUSY_ITEMS)])
    bench.wait_for_count(lambda seen: seen["submissions"] > 0, "a POST")
    time.sleep(BUSY_SECONDS)  # How long the fault lasts.
    bench.check(bench.counters()["paid"] == 0, "something was accepted meanwhile")
    bench.no_faults()
    return bench.row(
        f"{status} on submit for {BUSY_SECONDS} s; {BUSY_ITEMS} mapped items, retries=0",
        paid=BUSY_ITEMS,
        files=BUSY_ITEMS,
        phase="refused before acceptance",
    )


@MATRIX.fault(alone=True)
def refused_connections(bench: Bench) -> Row:
    bench.evolink.stop()
    run = bench.start("fault_many", [f"Poster {item} [[duration:2]]" for item in range(BUSY_ITEMS)])
    poll(lambda: any(each["state"] == "running" for each in run.draws()), seconds=60, what="a try")
    time.sleep(BUSY_SECONDS)  # How long the fault lasts.
    bench.evolink.start()
    return bench.row(
        f"connection refused on submit for {BUSY_SECONDS} s; {BUSY_ITEMS} mapped items, retries=0",
        paid=BUSY_ITEMS,
        files=BUSY_ITEMS,
        phase="nobody listens",
    )


# While waiting


@MATRIX.fault()
def down_while_waiting(bench: Bench) -> Row:
    run = bench.start("fault_one", "A poster [[duration:10]]", n=2)
    run.wait_for("deferred")
    bench.evolink.stop()
    time.sleep(DOWN_SECONDS)  # How long the fault lasts.
    bench.evolink.start()
    return bench.row(
        f"service down for {DOWN_SECONDS} s while waiting", paid=1, files=2, submissions=1, phase="waiting"
    )


@MATRIX.fault()
def down_at_the_resume(bench: Bench) -> Row:
    run = bench.start("fault_one", "A poster [[duration:2]]", n=2)
    run.wait_for("deferred")
    bench.wait_for_end_of_generations()
    poll(lambda: run.instance()["state"] in {"scheduled", "queued", "running"}, seconds=60, what="the event")
    bench.evolink.stop()
    time.sleep(DOWN_SECONDS)  # How long the fault lasts.
    bench.evolink.start()
    return bench.row(
        f"service down for {DOWN_SECONDS} s at the resume", paid=1, files=2, submissions=1, phase="resuming"
    )


def _bad_reads(name: str, words: str, kind: str, **options: object) -> None:
    def fault(bench: Bench) -> Row:
        run = bench.start("fault_one", "A poster [[duration:5]]", n=2)
        run.wait_for("deferred")
        bench.fault("task", kind, **options)
        time.sleep(DOWN_SECONDS)  # How long the fault lasts.
        bench.check(bench.counters()["reads"]["task"] > 0, "no read was hit")
        bench.no_faults()
        return bench.row(
            f"{words} for {DOWN_SECONDS} s while waiting", paid=1, files=2, submissions=1, phase="waiting"
        )

    MATRIX.add(name, fault)


_bad_reads("reads_429", "429 on every task read", "status", status=429, retry_after="2")
_bad_reads("reads_502", "502 with a proxy's page on every task read", "status", status=502, page=True)
_bad_reads("reads_junk", "unreadable bodies on every task read", "junk")
_bad_reads("reads_cut", "every task read cut", "cut")


@MATRIX.fault()
def key_rotated_while_waiting(bench: Bench) -> Row:
    bench.configure(api_keys={API_KEY: "the account", "key-that-follows": "the account"})
    run = bench.start("fault_one", "A poster [[duration:15]]", n=2)
    run.wait_for("deferred")
    bench.wait_for_count(lambda seen: seen["reads"]["task"] > 0, "a look with the old key")
    bench.connect(password="key-that-follows")
    bench.configure(revoked_keys=[API_KEY])
    return bench.row("key rotated while waiting", paid=1, files=2, submissions=1, phase="waiting")


@MATRIX.fault()
def key_revoked_while_waiting(bench: Bench) -> Row:
    bench.configure(api_keys={API_KEY: "the account", "key-that-follows": "the account"})
    run = bench.start("fault_one", "A poster [[duration:15]]", n=2)
    run.wait_for("deferred")
    bench.configure(revoked_keys=[API_KEY])
    end = run.end()
    text = run.all_logs()
    bench.check(end == "failed", f"the run ended as {end} with a dead key")
    bench.check("AuthenticationError" in text, "no AuthenticationError in the log")
    bench.check(bench.generations()[0]["id"] in text, "the log does not name the generation")
    bench.connect(password="key-that-follows")
    run.clear()
    return bench.row(
        "key revoked while waiting; repaired and cleared",
        paid=1,
        files=2,
        submissions=1,
        phase="waiting",
        remark="fails with the id; the cleared task delivers",
    )
