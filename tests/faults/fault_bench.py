"""What a fault is made with: a service of its own, runs in the shared Airflow, kills, and the numbers after it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from PIL import Image

from airflow_provider_evoimage.simulator import SimulatorServer
from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import LocalAirflowError, kill_processes, poll

DAGS = Path(__file__).parent / "dags"
API_KEY = "key-of-the-fault-matrix"
#: Seconds in which a run has to end after its fault, a lost worker's heartbeat time-out included.
END_SECONDS = 240.0

# What a task says in its log → the phase that it is in from there on.
PHASES = (
    ("Requesting", "POST in flight"),
    ("Resuming EvoLink task", "going on with the recorded id"),
    ("Fault matrix: recorded", "recorded, not deferred"),
    ("Fault matrix: resumed", "resuming"),
    (" completed", "saving"),
)

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one fault came to. A number that is not the expected one stands in `wrong`."""

    fault: str
    runs: int
    paid: int
    paid_expected: int
    files: int
    files_expected: int
    end: str
    end_expected: str
    seconds: float
    phase: str
    ids_read: int | None = None
    ids_read_limit: int | None = None
    remark: str = ""
    wrong: tuple[str, ...] = ()

    def mistakes(self) -> list[str]:
        found = list(self.wrong)
        if self.paid != self.paid_expected:
            found.append(f"{self.paid} generations were paid instead of {self.paid_expected}")
        if self.files != self.files_expected:
            found.append(f"{self.files} image files instead of {self.files_expected}")
        if self.end != self.end_expected:
            found.append(f"the run ended as {self.end} instead of {self.end_expected}")
        if None not in (self.ids_read, self.ids_read_limit) and self.ids_read > self.ids_read_limit:
            found.append(f"{self.ids_read} ids were read, more than {self.ids_read_limit}")
        return found


@dataclass(kw_only=True)
class Run:
    """A run of one of the fault DAGs."""

    airflow: LocalAirflow
    dag_id: str
    run_id: str

    def instance(self, map_index: int = -1, task_id: str = "draw") -> Json:
        return self.airflow.task_instance(self.dag_id, self.run_id, task_id, map_index)

    def draws(self) -> list[Json]:
        found = self.airflow.task_instances(self.dag_id, self.run_id)
        return [each for each in found if each["task_id"] == "draw" and each["map_index"] >= 0]

    def wait_for(
        self, state: str, *, seconds: float = 180, map_index: int = -1, more_tries_than: int = 0
    ) -> Json:
        def look() -> Json | None:
            try:
                found = self.instance(map_index)
            except LocalAirflowError:
                return None
            is_new = found["try_number"] > more_tries_than
            return found if found["state"] == state and is_new else None

        return poll(look, seconds=seconds, what=f"{self.dag_id} {self.run_id} [{map_index}] to be {state}")

    def end(self, seconds: float = END_SECONDS) -> str:
        return self.airflow.wait_for_run(self.dag_id, self.run_id, deadline=seconds)

    def clear(self, *task_ids: str) -> None:
        persistently(lambda: self.airflow.clear(self.dag_id, self.run_id, task_ids or ("draw",)))

    def record(self, map_index: int = -1) -> Json:
        """What the provider keeps in Airflow's task state store; empty where there is nothing."""
        try:
            kept = self.airflow.state_store(self.dag_id, self.run_id, "draw", map_index=map_index)
        except LocalAirflowError:
            return {}
        return kept.get("evoimage") or {}

    def log_text(self, instance: Json) -> str:
        """The worker's log of this try, as it is now, without asking Airflow."""
        folder = (
            self.airflow.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}" / "task_id=draw"
        )
        if instance["map_index"] >= 0:
            folder /= f"map_index={instance['map_index']}"
        file = folder / f"attempt={instance['try_number']}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def phase(self, instance: Json) -> str:
        """Where a running task is, by the last thing that it said."""
        text = self.log_text(instance)
        last = max(((text.rfind(words), phase) for words, phase in PHASES), default=(-1, ""))
        return last[1] if last[0] >= 0 else "before the POST"

    def all_logs(self) -> str:
        folder = self.airflow.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        return "\n".join(file.read_text(errors="replace") for file in sorted(folder.rglob("*.log*")))


class Bench:
    """One service, one connection and one folder for one row.

    :param number: makes the names of this row its own.
    """

    def __init__(self, airflow: LocalAirflow, folder: Path, number: int) -> None:
        self.airflow = airflow
        self.folder = folder
        self.conn_id = f"fault_{number}"
        self.images = folder / "images"
        self.evolink = SimulatorServer(speed=1, credits=100_000)
        self.runs: list[Run] = []
        self.wrong: list[str] = []
        self.ignores_keys = False
        self._extra: Json = {}
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self.images.mkdir(parents=True)
        self.evolink.start()
        fields = {"connection_id": self.conn_id, "conn_type": "evoimage", "host": self.evolink.url}
        fields |= {"password": API_KEY}
        persistently(lambda: self.airflow.request("POST", "/connections", json=fields))
        return self

    def __exit__(self, *exception: object) -> None:
        self.evolink.stop()

    # Airflow

    def connect(self, *, password: str = API_KEY, **extra: Any) -> None:
        """Change the connection, as a person does in the UI while tasks wait."""
        self._extra |= extra
        fields = {"connection_id": self.conn_id, "conn_type": "evoimage", "host": self.evolink.url}
        fields |= {"password": password, "extra": json.dumps(self._extra)}
        path = f"/connections/{self.conn_id}"
        persistently(lambda: self.airflow.request("PATCH", path, json=fields))

    def start(self, dag_id: str, prompt: str | Sequence[str], **conf: Any) -> Run:
        """Start a run; a list of prompts goes to the mapped DAGs."""
        run = Run(airflow=self.airflow, dag_id=dag_id, run_id=f"{self.conn_id}_{len(self.runs)}")
        conf |= {"conn_id": self.conn_id, "save_to": self.images.as_uri()}
        if isinstance(prompt, str):
            conf["prompt"] = prompt
        else:
            conf["list"] = str(self.list_of(prompt))
        persistently(lambda: self.airflow.trigger(dag_id, conf, run_id=run.run_id))
        self.runs.append(run)
        return run

    def list_of(self, prompts: Sequence[str]) -> Path:
        """Write the list that the mapped DAGs read."""
        file = self.folder / "prompts.json"
        file.write_text(json.dumps(list(prompts)))
        return file

    def kill(self, instance: Json, *, only_runner: bool = False) -> int:
        """End a task's processes with SIGKILL; returns how many there were.

        :param only_runner: leave the supervisor, which tells Airflow at once. Without it nothing is left to tell
            anybody, as when the machine is lost: Airflow misses the heartbeats after a while.
        """
        found = self.processes(instance)
        chosen = found[1:] if only_runner else found
        kill_processes(chosen)
        return len(chosen)

    def processes(self, instance: Json) -> list[psutil.Process]:
        """The supervisor of a task and then its runner; empty until both are there."""
        found = sorted(self.airflow.task_processes(instance), key=lambda each: (each.create_time(), each.pid))
        return found if len(found) > 1 else []

    # The service

    def ask(self, method: str, path: str, body: Json | None = None) -> Json:
        answer = httpx.request(
            method, f"{self.evolink.url}/_simulator/{path}", json=body or {}, trust_env=False, timeout=30
        )
        answer.raise_for_status()
        return dict(answer.json())

    def counters(self) -> Json:
        return self.ask("GET", "counters")

    def generations(self) -> list[Json]:
        return list(self.ask("GET", "generations")["data"])

    def configure(self, **settings: Any) -> None:
        self.ask("POST", "settings", settings)

    def fault(self, route: str, kind: str, **options: Any) -> None:
        self.ask("POST", "faults", {"route": route, "kind": kind, **options})

    def no_faults(self) -> None:
        self.ask("DELETE", "faults")

    def wait_for_count(self, what: Callable[[Json], bool], words: str, seconds: float = 180) -> Json:
        def look() -> Json | None:
            counters = self.counters()
            return counters if what(counters) else None

        return poll(look, seconds=seconds, what=words, interval=0.05)

    def wait_for_end_of_generations(self, count: int = 1, seconds: float = 180) -> None:
        def ended() -> bool:
            made = [each["status"] for each in self.generations()]
            return len(made) >= count and all(status not in {"pending", "processing"} for status in made)

        poll(ended, seconds=seconds, what="the generations to end")

    # What came of it

    def files(self) -> int:
        """Count the whole image files; anything else that is left there is wrong."""
        count = 0
        for file in sorted(self.images.rglob("*")):
            if file.is_dir() or (file.suffix in {".json", ".jsonl"} and not file.name.startswith(".")):
                continue
            try:
                with Image.open(file) as image:
                    image.load()
                count += 1
            except OSError as error:
                self.wrong.append(f"{file.name} is no whole image ({error})")
        return count

    def check(self, is_right: bool, words: str) -> None:
        if not is_right:
            self.wrong.append(words)

    def row(
        self,
        fault: str,
        *,
        paid: int,
        files: int,
        phase: str,
        end: str = "success",
        submissions: int | None = None,
        downloads: int | None = None,
        ids_read_limit: int | None = None,
        remark: str = "",
    ) -> Row:
        """Read the numbers once all runs have ended.

        :param submissions: the POSTs there may be, where that matters, or the downloads.
        """
        ends = {run.end() for run in self.runs}
        keys = Counter(each["idempotency_key"] for each in self.generations())
        if not self.ignores_keys:
            self.check(all(count == 1 for count in keys.values()), "two generations have one key")
        counters = self.counters()
        for what, expected in (("submissions", submissions), ("downloads", downloads)):
            if expected is not None:
                self.check(counters[what] == expected, f"{counters[what]} {what} instead of {expected}")
        return Row(
            fault=fault,
            runs=len(self.runs),
            paid=counters["paid"],
            paid_expected=paid,
            files=self.files(),
            files_expected=files,
            end=" and ".join(sorted(ends)),
            end_expected=end,
            seconds=time.monotonic() - self._started,
            phase=phase,
            ids_read=counters["ids_read"] if ids_read_limit is not None else None,
            ids_read_limit=ids_read_limit,
            remark=remark,
            wrong=tuple(self.wrong),
        )


def persistently(do: Callable[[], Any], attempts: int = 5) -> None:
    """Repeat what SQLite refused while it was locked."""
    for attempt in range(attempts):
        try:
            do()
        except (LocalAirflowError, httpx.TransportError) as error:
            # 409: an attempt that was answered with an error had worked.
            if "answered 409" in str(error) and attempt:
                return
            if attempt == attempts - 1:
                raise
            time.sleep(0.5 * (attempt + 1))
        else:
            return


Fault = Callable[[Bench], Row]


# The order of the table.
CHAPTERS = ("worker", "network", "triggerer", "tries", "clear", "ended", "refused", "fallback")


class Matrix:
    """The faults by name; each is written down in the module of its chapter."""

    def __init__(self) -> None:
        self._faults: dict[str, dict[str, Fault]] = {chapter: {} for chapter in CHAPTERS}
        self.alone: set[str] = set()

    @property
    def faults(self) -> dict[str, Fault]:
        """Every fault by its name, in the order of the table."""
        return {name: fault for chapter in self._faults.values() for name, fault in chapter.items()}

    def add(self, name: str, fault: Fault, *, alone: bool = False) -> None:
        """Take a fault in.

        :param alone: it touches what every run shares, the triggerer or the workers.
        """
        if name in self.faults:
            raise ValueError(f"{name} is there twice")
        self._faults[fault.__module__.rpartition("fault_rows_")[2]][name] = fault
        if alone:
            self.alone.add(name)

    def fault(self, *, alone: bool = False) -> Callable[[Fault], Fault]:
        """Take a function in under its name."""

        def add(fault: Fault) -> Fault:
            self.add(fault.__name__, fault, alone=alone)
            return fault

        return add


MATRIX = Matrix()
