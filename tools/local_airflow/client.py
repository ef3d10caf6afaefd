"""Airflow's REST API, as far as the demo and the system tests need it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tools.local_airflow.processes import LocalAirflowError, poll

if TYPE_CHECKING:
    import httpx

CONFLICT = 409
TERMINAL_RUN_STATES = frozenset({"success", "failed"})
# On SQLite a request may meet a locked database, and wait for it in vain; one of the next does not.
SECONDS_OF_RETRIES = 60.0
LOG_LINES_OF_A_FAILURE = 20

Json = dict[str, Any]


class AirflowClient:
    """The parts of Airflow's REST API that a demo and tests need. `map_index` -1 means: not mapped.

    :param user: name and password; None where everybody is an administrator.
    """

    def __init__(self, url: str, user: tuple[str, str] | None = None) -> None:
        self.url = url
        self._user = user
        self._http: httpx.Client | None = None

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = False,
        seconds: float = SECONDS_OF_RETRIES,
        **options: Any,
    ) -> httpx.Response:
        """Send a request to `/api/v2` + path; anything but 2xx raises with Airflow's own words.

        :param repeatable: also where it is no GET or PATCH, a repetition after an error of the server does no harm:
            Airflow answers it with 409 where the first one has worked.
        :param seconds: how long to repeat a GET, a PATCH, or what is `repeatable`, after an error of the server.
        """
        import httpx  # noqa: PLC0415 - only who asks Airflow needs it

        repeated = 0
        end = time.monotonic() + (seconds if method in {"GET", "PATCH"} or repeatable else 0)
        while True:
            if self._http is None:
                self._http = self._log_in()
            try:
                response = self._http.request(method, f"/api/v2{path}", **options)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # A busy server may drop a connection.
                self.close()
                if time.monotonic() >= end:
                    raise
            else:
                if not response.is_server_error or time.monotonic() >= end:
                    break
            time.sleep(min(0.3 * repeated, 2.0))
            repeated += 1
        if not (response.is_success or (repeatable and repeated and response.status_code == CONFLICT)):
            raise LocalAirflowError(
                f"Airflow answered {response.status_code} to {method} {path}: {response.text[:500]}"
            )
        return response

    def _log_in(self) -> httpx.Client:
        import httpx  # noqa: PLC0415 - only who asks Airflow needs it

        # trust_env: no proxy stands between us and the loopback.
        http = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        if self._user is None:
            answer = http.get("/auth/token")
        else:
            answer = http.post(
                "/auth/token", json=dict(zip(("username", "password"), self._user, strict=True))
            )
        token = answer.json().get("access_token")
        http.headers["Authorization"] = f"Bearer {token}"
        return http

    def health(self) -> Json:
        """Return what Airflow says about its components; empty while it does not answer."""
        import httpx  # noqa: PLC0415 - only who asks Airflow needs it

        try:
            answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=10, trust_env=False)
        except httpx.TransportError:
            return {}
        return dict(answer.json()) if answer.is_success else {}

    def import_errors(self) -> dict[str, str]:
        """Return the stack trace of each DAG file that does not import."""
        found = self.request("GET", "/importErrors").json()["import_errors"]
        return {each["filename"]: each["stack_trace"] for each in found}

    def has_dag(self, dag_id: str) -> bool:
        """Tell whether the DAG processor has found this DAG."""
        listed = self.request("GET", "/dags", params={"dag_id_pattern": dag_id, "limit": 1000}).json()
        return any(each["dag_id"] == dag_id for each in listed["dags"])

    def unpause(self, dag_id: str, *, seconds: float = 180) -> None:
        """Wait until the DAG is there, and let it run."""
        try:
            poll(lambda: self.has_dag(dag_id), seconds=seconds, what=f"the DAG {dag_id} to be found")
        except TimeoutError as not_found:
            errors = "".join(f"\n{file}:\n{trace}" for file, trace in self.import_errors().items())
            raise LocalAirflowError(
                f"{not_found} Files that do not import: {errors or 'none'}"
            ) from not_found
        self.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any] | None = None, *, run_id: str | None = None
    ) -> str:
        """Start a run without a logical date, as the UI does; returns its run id."""
        run_id = run_id or f"manual__{datetime.now(tz=UTC).isoformat()}"
        body: Json = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}
        self.request("POST", f"/dags/{dag_id}/dagRuns", repeatable=True, json=body)
        return run_id

    def run(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Unpause the DAG and start a run of it; returns its run id."""
        self.unpause(dag_id)
        return self.trigger(dag_id, conf)

    def keep_connection(self, conn_id: str, fields: Mapping[str, Any]) -> None:
        """Store a connection in Airflow's database, also where there is an earlier one of this id."""
        body = {"connection_id": conn_id, **fields}
        if isinstance(body.get("extra"), Mapping):
            body["extra"] = json.dumps(body["extra"])
        try:
            self.request("POST", "/connections", json=body)
        except LocalAirflowError:
            self.request("PATCH", f"/connections/{conn_id}", json=body)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return queued, running, success or failed."""
        return str(self.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}").json()["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """Return the run's task instances with their `task_id`, `map_index`, `state`, `id` and more."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self.request("GET", path, params={"limit": 1000}).json()["task_instances"])

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Json:
        """Return one task instance; LocalAirflowError if there is none yet."""
        for each in self.task_instances(dag_id, run_id):
            if (each["task_id"], each["map_index"]) == (task_id, map_index):
                return each
        raise LocalAirflowError(f"{dag_id} {run_id} has no task instance {task_id} [{map_index}].")

    def wait_for_state(
        self, dag_id: str, run_id: str, task_id: str, state: str, *, seconds: float = 180, map_index: int = -1
    ) -> Json:
        """Wait until a task instance is in `state`, and return it."""
        seen: Json = {}

        def look() -> Json | None:
            nonlocal seen
            seen = self.task_instance(dag_id, run_id, task_id, map_index)
            return seen if seen["state"] == state else None

        try:
            return poll(look, seconds=seconds, what=f"{dag_id}.{task_id} [{map_index}] to be {state}")
        except TimeoutError as error:
            error.add_note(f"It is {seen['state']} in try {seen['try_number']}.")
            raise

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        *,
        deadline: float = 300,
        on_change: Callable[[Json], None] | None = None,
    ) -> str:
        """Wait until the run has ended; returns success or failed.

        :param deadline: seconds from now until TimeoutError.
        :param on_change: is given each task instance when its state or try is a new one.
        """
        seen: dict[tuple[str, int], tuple[Any, Any]] = {}

        def look() -> str | None:
            state = self.run_state(dag_id, run_id)
            for each in self.task_instances(dag_id, run_id) if on_change else []:
                key, now = (each["task_id"], each["map_index"]), (each["state"], each["try_number"])
                if seen.get(key) != now and on_change is not None:
                    seen[key] = now
                    on_change(each)
            return state if state in TERMINAL_RUN_STATES else None

        return poll(look, seconds=deadline, what=f"{dag_id} {run_id} to end")

    def wait_for_success(self, dag_id: str, run_id: str, *, deadline: float = 300) -> None:
        """Wait until the run has ended well; else LocalAirflowError with what the failed tasks logged last."""
        state = self.wait_for_run(dag_id, run_id, deadline=deadline)
        if state != "success":
            told = "\n".join(self._ends_of_failed(dag_id, run_id))
            raise LocalAirflowError(f"{dag_id} {run_id} ended as {state}.\n{told}")

    def _ends_of_failed(self, dag_id: str, run_id: str) -> Iterator[str]:
        for each in self.task_instances(dag_id, run_id):
            task_id, map_index, tries = each["task_id"], each["map_index"], each["try_number"]
            yield f"{task_id} [{map_index}]: {each['state']} after {tries} tries"
            for number in range(1, tries + 1) if each["state"] == "failed" else []:
                log = self.task_log(dag_id, run_id, task_id, try_number=number, map_index=map_index)
                yield from (f"  try {number}: {line}" for line in log[-LOG_LINES_OF_A_FAILURE:])

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> list[str]:
        """Return the text of a task's log line by line: the triggerer's lines and each error among them."""
        records = self.task_log_records(dag_id, run_id, task_id, try_number=try_number, map_index=map_index)
        return [line for record in records for line in _log_lines(record)]

    def task_log_records(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> list[Json]:
        """Return a task's log as Airflow keeps it, one dict a line with all its fields."""
        answer = self.request(
            "GET",
            f"{_instance_path(dag_id, run_id, task_id)}/logs/{try_number}",
            params={"map_index": map_index, "full_content": True},
            headers={"Accept": "application/x-ndjson"},
        )
        return [json.loads(line) for line in answer.text.splitlines() if line.strip()]

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return an XCom's value."""
        path = f"{_instance_path(dag_id, run_id, task_id)}/xcomEntries/{key}"
        value = self.request("GET", path, params={"map_index": map_index}).json()["value"]
        return _from_json(value)

    def state_store(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> Json:
        """Return what the task keeps in its state store, by key. Airflow 3.3 and later."""
        path = f"{_instance_path(dag_id, run_id, task_id)}/state-store"
        answer = self.request("GET", path, params={"map_index": map_index}).json()
        return {each["key"]: _from_json(each["value"]) for each in answer["task_state_store"]}

    def asset_events(self, *, seconds: float = 120, **filters: Any) -> list[Json]:
        """Return the events that match `asset_id`, `source_run_id` or another filter of Airflow's.

        Airflow 3.3 answers with 500 while a run that one of these events has started is queued: its answer wants a
        start date, which a queued run does not have.

        :param seconds: how long to wait for the scheduler to start such runs.
        """
        params = {**filters, "limit": 1000}
        return list(
            self.request("GET", "/assets/events", seconds=seconds, params=params).json()["asset_events"]
        )

    def clear(
        self, dag_id: str, run_id: str, task_ids: Sequence[str | tuple[str, int]], *, downstream: bool = True
    ) -> None:
        """Clear these tasks (or `(task, map_index)` pairs) as the UI's button does."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [each if isinstance(each, str) else list(each) for each in task_ids],
            "only_failed": False,
            "reset_dag_runs": True,
            "include_downstream": downstream,
        }
        self.request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str, *, map_index: int = -1) -> None:
        """Mark a task instance as success, failed or skipped, as a user can."""
        path = _instance_path(dag_id, run_id, task_id)
        suffix = "" if map_index < 0 else f"/{map_index}"
        self.request("PATCH", f"{path}{suffix}", json={"new_state": state})


def _instance_path(dag_id: str, run_id: str, task_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"


def _log_lines(record: Json) -> list[str]:
    errors = record.get("error_detail") or []
    return [str(record.get("event", "")), *(f"{each['exc_type']}: {each['exc_value']}" for each in errors)]


def _from_json(value: Any) -> Any:
    # Airflow 3.1 hands a dict out as a JSON string.
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value
