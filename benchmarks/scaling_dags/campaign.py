"""The same campaign in three ways: one batch task, mapped tasks, and a loop in a Python function.

The run's conf says how much (`items`) and where to (`save_to`). What the operators spend on downloading and saving is
written to a file, so that it can be taken off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_evoimage.operators.batch import EvoImageBatchOperator
from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator
from airflow_provider_evoimage.storage.saver import ImageSaver

REQUEST = {"model": "gpt-image-1.5", "size": "1024x1024", "quality": "low"}
POLL_SECONDS = 1.0


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Note the seconds, and CPU seconds of the process, that each call takes."""

    def measured(*arguments: Any, **named: Any) -> Any:
        wall, cpu = time.monotonic(), time.process_time()
        try:
            return method(*arguments, **named)
        finally:
            with Path(os.environ["BENCH_SAVING_LOG"]).open("a") as log:
                log.write(f"{time.monotonic() - wall:.6f} {time.process_time() - cpu:.6f}\n")

    return measured


if "BENCH_SAVING_LOG" in os.environ:
    ImageSaver.save_each = timed(ImageSaver.save_each)  # type: ignore[method-assign]


def prompt(number: int) -> str:
    """Return the prompt of an item."""
    return f"A poster of the sea, number {number}"


@task
def prompts(**context: Any) -> list[str]:
    """Return the prompts of this run."""
    return [prompt(number) for number in range(int(context["dag_run"].conf["items"]))]


@task
def draw_in_a_loop(requested: list[str], save_to: str) -> list[str]:
    """Ask, look until it is done, fetch; then the next: what one writes without a provider."""
    import httpx

    folder = Path(save_to.removeprefix("file://"))
    folder.mkdir(parents=True)
    headers = {"Authorization": "Bearer benchmark-key"}
    files = []
    with httpx.Client(base_url=os.environ["BENCH_EVOLINK"], headers=headers, trust_env=False) as http:

        def fetch(url: str, file: Path) -> None:
            # The file host takes no API key, and refuses the names of common clients.
            answer = httpx.get(url, headers={"User-Agent": "campaign"}, trust_env=False)
            file.write_bytes(answer.raise_for_status().content)

        for number, each in enumerate(requested):
            body = REQUEST | {"prompt": each, "n": 1}
            submitted = http.post("/v1/images/generations", json=body).raise_for_status().json()
            while True:
                time.sleep(POLL_SECONDS)
                found = http.get(f"/v1/tasks/{submitted['id']}").raise_for_status().json()
                if found["status"] == "completed":
                    break
                if found["status"] == "failed":
                    raise RuntimeError(found)
            file = folder / f"{number}.png"
            timed(fetch)(found["results"][0], file)
            files.append(str(file))
    return files


SAVE_TO = "{{ dag_run.conf['save_to'] }}"
CONNECTION = "{{ dag_run.conf.get('conn_id', 'evoimage_default') }}"

with DAG("batch", schedule=None, max_active_runs=8):
    EvoImageBatchOperator(
        task_id="draw", requests=prompts(), save_to=SAVE_TO, evoimage_conn_id=CONNECTION, retries=2, **REQUEST
    )

with DAG("mapped", schedule=None):
    EvoImageGenerateOperator.partial(
        task_id="draw", save_to=SAVE_TO, evoimage_conn_id=CONNECTION, retries=2, **REQUEST
    ).expand(prompt=prompts())

# Three ways to bound how many of a run's items are out at a time.
for name, bound in {
    "slots": {"pool": "running_only"},
    "pool": {"pool": "with_waiting"},
    "per_run": {"max_active_tis_per_dagrun": 4},
}.items():
    with DAG(f"bounded_by_{name}", schedule=None) as dag:
        EvoImageGenerateOperator.partial(
            task_id="draw", save_to=SAVE_TO, retries=2, **REQUEST, **bound
        ).expand(prompt=prompts())
    globals()[dag.dag_id] = dag

with DAG("loop", schedule=None):
    draw_in_a_loop(prompts(), SAVE_TO)
