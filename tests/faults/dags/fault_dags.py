"""The DAGs of the fault matrix. What a run draws, and through which connection, stands in its conf."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

LONGEST_HOLD = 60.0


def stay(hold: str) -> None:
    if hold.startswith("/"):
        deadline = time.monotonic() + LONGEST_HOLD
        while Path(hold).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    elif hold:
        time.sleep(float(hold))


def is_there(file: str) -> bool:
    return bool(file) and Path(file).exists()


def refuse_xcoms(kind: type, *, but: str) -> None:
    """Let every XCom of this process fail but one, as a broken backend does."""
    push = kind.xcom_push

    def pushes(ti: Any, key: str, value: Any) -> None:
        if key != but:
            raise ConnectionError("the XCom backend is away")
        push(ti, key, value)

    kind.xcom_push = pushes


class MarkedGenerateOperator(EvoImageGenerateOperator):
    """Says in its log where it is, and can be held where EvoLink has no part in what happens.

    :param hold_first: before anything; a file: stay there as long as it exists; or seconds to stay there.
    :param hold: the same, between the record and the deferral.
    :param hold_resume: a file: after the wait, stay there as long as it exists.
    :param refuse_result: a file: as long as it exists, Airflow cannot store the result.
    :param refuse_xcom: a file: as long as it exists, Airflow stores no XCom after the POST.
    :param deferral_seconds: after which Airflow ends the deferral itself, before the trigger does.
    """

    template_fields = (
        *EvoImageGenerateOperator.template_fields,
        "hold_first",
        "hold",
        "hold_resume",
        "refuse_result",
        "refuse_xcom",
    )

    def __init__(
        self,
        *,
        hold_first: str = "",
        hold: str = "",
        hold_resume: str = "",
        refuse_result: str = "",
        refuse_xcom: str = "",
        deferral_seconds: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hold_resume = hold_resume
        self.refuse_result = refuse_result
        self.refuse_xcom = refuse_xcom
        self.deferral_seconds = deferral_seconds
        self.hold_first = hold_first
        self.hold = hold

    def execute(self, context: Any) -> Any:
        self.log.info("Fault matrix: taken.")
        stay(self.hold_first)
        if is_there(self.refuse_xcom):
            refuse_xcoms(type(context["ti"]), but="evoimage_asked")
        return super().execute(context)

    def defer(self, **kwargs: Any) -> None:
        self.log.info("Fault matrix: recorded, not deferred.")
        stay(self.hold)
        if self.deferral_seconds is not None:
            kwargs["timeout"] = timedelta(seconds=self.deferral_seconds)
        super().defer(**kwargs)

    def execute_complete(self, context: Any, event: Any = None, **kwargs: Any) -> Any:
        self.log.info("Fault matrix: resumed.")
        stay(self.hold_resume)
        result = super().execute_complete(context, event, **kwargs)
        # Nothing that an XCom could hold.
        return object() if is_there(self.refuse_result) else result


ASKED = {
    "model": "gpt-image-1",
    "size": "1024x1024",
    "quality": "low",
    "n": "{{ dag_run.conf.get('n', 1) }}",
    "save_to": "{{ dag_run.conf['save_to'] }}",
    "evoimage_conn_id": "{{ dag_run.conf['conn_id'] }}",
    # Waits as long as EvoLink asks otherwise, which would only make the matrix longer.
    "retry_policy": None,
    "retry_delay": timedelta(seconds=1),
}


def one(dag_id: str, dagrun_timeout: timedelta | None = None, **arguments: Any) -> None:
    with DAG(dag_id, schedule=None, catchup=False, dagrun_timeout=dagrun_timeout):
        MarkedGenerateOperator(
            task_id="draw",
            **{
                "prompt": "{{ dag_run.conf['prompt'] }}",
                "hold_first": "{{ dag_run.conf.get('hold_first', '') }}",
                "hold": "{{ dag_run.conf.get('hold', '') }}",
                "hold_resume": "{{ dag_run.conf.get('hold_resume', '') }}",
                "refuse_result": "{{ dag_run.conf.get('refuse_result', '') }}",
                "refuse_xcom": "{{ dag_run.conf.get('refuse_xcom', '') }}",
            }
            | ASKED
            | {"retries": 3}
            | arguments,
        )


def many(dag_id: str, **arguments: Any) -> None:
    """Map over the lines of a file that can be changed between two clears."""
    with DAG(dag_id, schedule=None, catchup=False):

        @task
        def prompts(dag_run: Any = None) -> list[str]:
            return list(json.loads(Path(dag_run.conf["list"]).read_text()))

        MarkedGenerateOperator.partial(
            task_id="draw", **ASKED | {"retries": 0, "hold": "{{ dag_run.conf.get('hold', '') }}"} | arguments
        ).expand(prompt=prompts())


def batch(dag_id: str, **arguments: Any) -> None:
    with DAG(dag_id, schedule=None, catchup=False):
        EvoImageBatchOperator(
            task_id="draw",
            requests="{{ dag_run.conf['list'] }}",
            **{name: value for name, value in ASKED.items() if name != "n"} | {"retries": 3} | arguments,
        )


one("fault_one")
batch("fault_batch", retries=0, save_every=1)
batch("fault_batch_on_worker", deferrable=False, save_every=1, save_after=1)
one("fault_on_worker", deferrable=False)
one("fault_fallback", model="gpt-image-2", fallback_models=["gpt-image-1.5"], fallback_after=1)
one("fault_steady", poll_interval=3)
one("fault_short_run", dagrun_timeout=timedelta(seconds=20), retries=0)
one("fault_short_deferral", deferral_seconds=12, retries=0)
for mode in ("auto", "regenerate", "reuse"):
    one(f"fault_clear_{mode}", on_clear=mode, retries=0)
    one(f"fault_late_{mode}", on_clear=mode, retries=0, timeout=4, poll_interval=1)
many("fault_many")
many("fault_failing", retries=3)
many("fault_seeded", retries=80, max_active_tis_per_dagrun=6)
