"""The matrix as people read it: on the terminal, and in docs/reliability.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.faults.fault_bench import Row

HEADINGS = ("fault", "runs", "paid / expected", "files / expected", "end", "ids read", "s", "phase hit")


def cells(row: Row) -> tuple[str, ...]:
    fault = f"{row.fault} ({row.remark})" if row.remark else row.fault
    return (
        fault,
        str(row.runs),
        f"{row.paid} / {row.paid_expected}",
        f"{row.files} / {row.files_expected}",
        row.end,
        "" if row.ids_read is None else f"{row.ids_read} ≤ {row.ids_read_limit}",
        f"{row.seconds:.0f}",
        row.phase,
    )


def as_text(rows: Sequence[Row]) -> str:
    table = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def as_markdown(rows: Sequence[Row]) -> str:
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


INTRODUCTION = """\
# What was broken on purpose

The promise is: never pay twice, never lose a paid image. Here is what became of it when things died at the worst
moments. Each row ran in a real Airflow (scheduler, LocalExecutor, triggerer, SQLite) against the simulated EvoLink,
which counts what was paid; every file was opened and decoded. A kill is SIGKILL; “worker and supervisor” are all
processes of the task, as when a machine is lost: Airflow then learns of it by the missing heartbeats, here after
15 s. Each phase is held open by the simulator, or by a subclass of the operator that waits at that point, so that
the kill cannot miss it. *Paid* counts accepted generations.
"""

KNOWN_LIMITS = """\
## Known limits

- **A mapped list that comes back changed after a clear.** Each item is found again by what it says, wherever it
  stands then: nothing undelivered is paid twice. An item that has moved is found also when it had been delivered, so
  that its images are delivered again, where one that kept its place is drawn anew; `on_clear="regenerate"` draws all
  anew. One exception: when items were cleared one by one before, and the whole list is cleared in another order after
  that, an item that moved to the place of such a one is not found again. Where keys are ignored, moved items end with
  “outcome unknown”.
- **A service that ignores keys** (`idempotency: ignored`): when the answer to a POST is lost, the task ends with
  “outcome unknown” instead of submitting again, and a person has to look whether it paid once. A process that was
  frozen and wakes up after its successor stops before its next submission; only requests that it had already
  prepared may still be sent. Below
  Airflow 3.3, where nothing but the number of tries tells a retry from a clear, this holds as long as nobody lowers
  `retries` between two tries.
- **A request that differs between tries** is repeated as it was sent on Airflow 3.3, from an encrypted copy beside the
  record. Below 3.3, or when the API key was changed meanwhile, the copy cannot be read: below 3.3 a changed request is
  a new one and is paid for; after a change of the key it ends with a conflict, and nothing is paid twice.
- **A task or DAG that is renamed between tries** is another task to Airflow and to EvoLink: it is paid for again.
- **Airflow 3.4** discards the task state store when a task is cleared, unless the request to clear it says
  `keep_task_state`. With `save_to` a copy of the record lies beside the images until they are delivered
  (`…/{task_id}.submission.json`), and the cleared task resumes from it; a waiting task of 3.4.0b2 that was cleared
  did. Without `save_to` a cleared task that waits submits a new request; retries stay safe through the idempotency
  key. Uploads of references that EvoLink has already are made again.
- **`execution_timeout`** is not enforced by Airflow while a task is deferred; `timeout` of the operator is.
"""


#: Seeded kills of a whole run.
ALL_KILLS = 60


def is_whole(found: Iterable[str], faults: Iterable[str], kills: int = ALL_KILLS) -> bool:
    """Tell whether every fault and all seeded kills have a row: only then is the page written."""
    return set(found) == {*faults, "seeded"} and kills >= ALL_KILLS


def write_report(rows: Sequence[Row], file: Path, command: str, seconds: float) -> None:
    """Write the page that docs/reliability.md is."""
    wrong = [f"- {row.fault}: {mistake}" for row in rows for mistake in row.mistakes()]
    versions = ", ".join(
        f"{name} {version(name)}"
        for name in ("apache-airflow", "apache-airflow-task-sdk", "httpx", "pydantic")
    )
    facts = (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}: {len(rows)} rows, {sum(row.runs for row in rows)} runs in "
        f"{seconds / 60:.0f} minutes on {os.cpu_count()} cores. airflow-provider-evoimage "
        f"{version('airflow-provider-evoimage')}, {versions}, Python {platform.python_version()}."
    )
    outcome = (
        "Every row gave the figures it names as expected."
        if not wrong
        else "Not as expected:\n\n" + "\n".join(wrong)
    )
    parts = [INTRODUCTION, facts, outcome, as_markdown(rows), KNOWN_LIMITS]
    file.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")
