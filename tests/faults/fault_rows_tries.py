"""Failed generations and their tries, and DAGs that change between two tries."""

from __future__ import annotations

from collections import Counter
from textwrap import dedent

from airflow_provider_evoimage.simulator.service.errors import FAILURES
from tests.faults.fault_bench import MATRIX, Bench, Row, Run, persistently
from tools.local_airflow.airflow import LocalAirflowError
from tools.local_airflow.processes import poll

#: Codes of failed generations after which another may succeed, as EvoLink's pages say.
RETRYABLE = {
    "service_error",
    "generation_timeout",
    "service_unavailable",
    "resource_exhausted",
    "quota_exceeded",
}
TRIES = 4

ONE_TASK = dedent(
    '''
    """A DAG that is edited between two tries."""

    from datetime import timedelta

    from airflow.sdk import DAG

    from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

    with DAG("fault_edited", schedule=None, catchup=False):
        EvoImageGenerateOperator(
            task_id="draw",
            prompt="{{ dag_run.conf['prompt'] }}",
            model="gpt-image-1",
            quality="low",
            save_to="{{ dag_run.conf['save_to'] }}",
            evoimage_conn_id="{{ dag_run.conf['conn_id'] }}",
            retry_policy=None,
            retries=RETRIES,
            retry_delay=timedelta(seconds=45),
        )
    '''
).lstrip()


@MATRIX.fault()
def every_failure_code(bench: Bench) -> Row:
    codes = sorted(FAILURES)
    bench.check(len(codes) == 13, f"there are {len(codes)} codes")
    prompts = {code: f"A poster [[fail:{code}]] [[duration:1]]" for code in codes}
    run = bench.start("fault_failing", list(prompts.values()))
    run.end(600)
    requested = Counter(each["prompt"] for each in bench.generations())
    for code, prompt in prompts.items():
        expected = TRIES if code in RETRYABLE else 1
        bench.check(
            requested[prompt] == expected, f"{code}: {requested[prompt]} generations instead of {expected}"
        )
    final = len(codes) - len(RETRYABLE)
    return bench.row(
        f"retries=3 × each of the {len(codes)} failure codes",
        paid=final + TRIES * len(RETRYABLE),
        files=0,
        end="failed",
        phase="failed generation",
        remark=f"{final} final codes: 1 generation each; {len(RETRYABLE)} retryable: 4, each under a key of its own",
    )


@MATRIX.fault()
def retries_edited(bench: Bench) -> Row:
    file = bench.airflow.dag_folders[1] / "fault_edited.py"

    def is_known(retries: int) -> bool:
        try:
            found = bench.airflow.request("GET", "/dags/fault_edited/tasks/draw").json()
        except LocalAirflowError:
            return False
        return bool(found["retries"] == retries)

    def write(retries: int) -> None:
        file.write_text(ONE_TASK.replace("RETRIES", str(retries)))

    def wait_until_known(retries: int) -> None:
        poll(lambda: is_known(retries), seconds=180, what=f"retries={retries} to be known")

    write(3)
    wait_until_known(3)
    bench.airflow.unpause("fault_edited")
    run = bench.start("fault_edited", "A poster [[silence:30]] [[duration:2]]")
    bench.wait_for_count(lambda seen: seen["paid"] == 1, "the acceptance")
    bench.kill(run.instance(), only_runner=True)
    run.wait_for("up_for_retry")
    write(5)
    wait_until_known(5)
    bench.check(run.instance()["try_number"] == 1, "the second try had begun")
    return bench.row(
        "task process SIGKILL with POST in flight; retries 3 → 5 before the next try",
        paid=1,
        files=1,
        phase="paid, record says submitting",
    )


# A mapped list that changes. Airflow knows its tasks by their place in the list (map_index).

ITEMS = ["a mug", "a shoe", "a lamp", "a chair"]


def _prompts(items: list[str], seconds: int) -> list[str]:
    return [f"{item} [[duration:{seconds}]]" for item in items]


def _check_places(bench: Bench, run: Run, prompts: list[str]) -> None:
    """Nobody has another's image: what each mapped task delivered was asked for with its own prompt."""
    by_id = {each["id"]: each["prompt"] for each in bench.generations()}
    for place, prompt in enumerate(prompts):
        manifest = bench.airflow.xcom(run.dag_id, run.run_id, "draw", map_index=place)
        got = by_id[manifest["evolink_task_id"]]
        bench.check(got == prompt, f"place {place} asked for {prompt!r} and got {got!r}")


def _re_expand(bench: Bench, run: Run, prompts: list[str]) -> None:
    bench.list_of(prompts)
    run.clear("prompts")
    poll(
        lambda: len(run.draws()) == len(prompts) and all(each["state"] == "success" for each in run.draws()),
        seconds=180,
        what="the new list to be drawn",
    )
    _check_places(bench, run, prompts)


def _changed_list(name: str, words: str, changed: list[str], *, paid: int) -> None:
    def fault(bench: Bench) -> Row:
        run = bench.start("fault_many", _prompts(ITEMS, 25))
        bench.wait_for_count(lambda seen: seen["paid"] == len(ITEMS), "all to be accepted")
        poll(
            lambda: [each["state"] for each in run.draws()] == ["deferred"] * len(ITEMS),
            seconds=60,
            what="all to wait",
        )
        _re_expand(bench, run, _prompts(changed, 25))
        return bench.row(words, paid=paid, files=len(changed), phase="waiting, nothing delivered")

    MATRIX.add(name, fault)


_changed_list("list_appended", "list re-expanded, one item appended", [*ITEMS, "a vase"], paid=len(ITEMS) + 1)
_changed_list("list_reversed", "list re-expanded in another order", ITEMS[::-1], paid=len(ITEMS))
_changed_list(
    "list_inserted", "list re-expanded, one item inserted in front", ["a vase", *ITEMS], paid=len(ITEMS) + 1
)
_changed_list(
    "list_equal_inserted",
    "list re-expanded, an equal item inserted in front",
    [ITEMS[-1], *ITEMS],
    paid=len(ITEMS) + 1,
)


@MATRIX.fault()
def list_reversed_between_tries(bench: Bench) -> Row:
    """Airflow expands once: a list that changes later does not reach the tries of the run."""
    prompts = _prompts(ITEMS, 5)
    run = bench.start("fault_failing", prompts)
    bench.fault("submit", "delay", seconds=3)
    bench.wait_for_count(lambda seen: seen["submissions"] > 0, "a POST")
    bench.list_of(prompts[::-1])
    instance = next(each for each in run.draws() if each["state"] == "running" and bench.processes(each))
    bench.kill(instance, only_runner=True)
    run.end()
    _check_places(bench, run, prompts)
    persistently(bench.no_faults)
    return bench.row(
        "list changed while tries go on", paid=len(ITEMS), files=len(ITEMS), phase="POST in flight"
    )
