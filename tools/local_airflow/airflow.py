"""A real Airflow on this machine's loopback, for the demo, for trying out DAGs and for the system tests.

`LocalAirflow` drives Airflow from outside: each component is a process of its own, so that one of them can be
stopped, killed and started again, and everything is read and changed through Airflow's REST API. This module
never imports Airflow.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]

from tools.local_airflow.client import AirflowClient
from tools.local_airflow.processes import (
    LocalAirflowError,
    ManagedProcess,
    free_ports,
    kill_processes,
    poll,
    session_processes,
    signals_deferred,
    stop_processes,
    stop_signals_unwind,
)

# A task that runs when everything is stopped is ended after this time.
STOP_SECONDS = 6.0
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")

_LOOPBACK_NAMES = "127.0.0.1,localhost"


class LocalAirflow(AirflowClient):
    """A whole Airflow in a folder: SQLite, LocalExecutor, and no log-in, reachable from this machine only.

    Use it as a context manager: it is healthy inside the block, and no process of it is left afterwards,
    whether the block ends, fails, or is ended by Ctrl-C or SIGTERM.

    :param home: becomes AIRFLOW_HOME; made if missing. An earlier one is used again with its history.
    :param dags: one folder of DAG files, or several.
    :param connections: connection id → its fields (`conn_type`, `host`, `password`, …) or a URI.
    :param env: further environment variables; they win over ours.
    :param start_timeout: seconds until a start that is not healthy fails.
    :param port: the api-server's port; 0 chooses a free one.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        dags: Path | str | Sequence[Path | str],
        connections: Mapping[str, Mapping[str, Any] | str] | None = None,
        env: Mapping[str, str] | None = None,
        start_timeout: float = 180,
        port: int = 0,
    ) -> None:
        self.home = Path(home).resolve()
        folders = [dags] if isinstance(dags, str | Path) else list(dags)
        self.dag_folders = [Path(each).resolve() for each in folders]
        self.start_timeout = start_timeout
        port = port or free_ports(1)[0]
        super().__init__(f"http://127.0.0.1:{port}")
        self.environment = {
            **_airflow_environment(self.home, self.url, self.dag_folders),
            "AIRFLOW__API__PORT": str(port),
            **{f"AIRFLOW_CONN_{each.upper()}": _as_text(conn) for each, conn in (connections or {}).items()},
            **(env or {}),
        }
        self.components: dict[str, ManagedProcess] = {}
        self._finished: list[ManagedProcess] = []
        self._signals = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start, and return when all components are healthy."""
        self._signals.enter_context(stop_signals_unwind())
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def start(self) -> None:
        """Migrate the database, start the components, and wait until they are healthy."""
        atexit.register(self.stop)
        self.home.mkdir(parents=True, exist_ok=True)
        plugins = self.home / "plugins"
        plugins.mkdir(exist_ok=True)
        (plugins / "trusted_hosts.py").write_text(_TRUSTED_HOSTS, encoding="utf-8")
        (plugins / "spares_the_processor.py").write_text(_SPARES_THE_PROCESSOR, encoding="utf-8")
        self.migrate()
        for name in COMPONENTS:
            self._launch(name)
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop everything this object started; safe to call twice."""
        try:
            self.close()
            # The api-server last: a worker that has just ended its task goes on asking for it.
            api_server = [each for name, each in self.components.items() if name == "api-server"]
            others = [each for name, each in self.components.items() if name != "api-server"]
            with signals_deferred():
                stop_processes([*others, *self._finished], grace=STOP_SECONDS)
                stop_processes(api_server, grace=STOP_SECONDS)
            self.components.clear()
            self._finished.clear()
        finally:
            atexit.unregister(self.stop)
            self._signals.close()

    def migrate(self) -> None:
        """Bring the database to this Airflow's schema."""
        self._launch("db-migrate", ["db", "migrate"])
        migration = self.components["db-migrate"]
        poll(
            lambda: migration.exit_code is not None,
            seconds=self.start_timeout,
            what="`airflow db migrate`",
        )
        if migration.exit_code != 0:
            raise LocalAirflowError(
                f"`airflow db migrate` ended with {migration.exit_code}:\n{migration.log_tail()}"
            )
        self._finished.append(self.components.pop("db-migrate"))

    def start_component(self, name: str, *, wait: bool = True) -> None:
        """Start a component again after `stop_component` or `kill_component`, or a further one.

        :param name: one of `COMPONENTS`; `triggerer-2` and so on start further triggerers.
        :param wait: return when it is healthy.
        """
        self._launch(name)
        if wait:
            self.wait_until_healthy()

    def stop_component(self, name: str) -> None:
        """Stop one component as its service manager would: SIGTERM, and time to finish."""
        stop_processes([self.components[name]], grace=30)
        del self.components[name]

    def kill_component(self, name: str) -> None:
        """End a component and all its processes with SIGKILL, as a lost machine would."""
        component = self.components.pop(name)
        self._finished.append(component)
        kill_processes(component.processes())
        component.reap()

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this Airflow, workers and log servers among them."""
        started = [*self.components.values(), *self._finished]
        return session_processes({each.pid for each in started})

    def task_processes(self, task_instance: Mapping[str, Any]) -> list[psutil.Process]:
        """Return the processes that work for a task instance now: the executor's worker and the task itself.

        :param task_instance: as `task_instances` returns it. A retry has another `id`.
        """
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                # Titles: `airflow worker -- LocalExecutor: ID` and, its child, `airflow worker -- ID`.
                if str(task_instance["id"]) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_until_healthy(self) -> None:
        """Wait until each started component runs and has sent a heartbeat since its start."""
        try:
            poll(self._is_healthy, seconds=self.start_timeout, what="Airflow to be healthy", interval=0.5)
        except TimeoutError as late:
            logs = "\n".join(f"--- {each.name}\n{each.log_tail()}" for each in self.components.values())
            raise LocalAirflowError(f"{late} Last answer: {self.health()}\n{logs}") from late

    def _is_healthy(self) -> bool:
        for each in self.components.values():
            if each.exit_code is not None:
                raise LocalAirflowError(
                    f"{each.name} ended with {each.exit_code} while Airflow started:\n{each.log_tail()}"
                )
        health = self.health()
        return bool(health) and all(
            _beats_since(health.get(key) or {}, key, each.started_at)
            for each in self.components.values()
            if (key := _kind(each.name).replace("-", "_")) != "api_server"
        )

    def _launch(self, name: str, arguments: Sequence[str] | None = None) -> None:
        if name in self.components:
            raise LocalAirflowError(f"{name} is running already.")
        component = ManagedProcess(
            name=name,
            # -P: the working directory is no place to import from.
            command=[sys.executable, "-P", "-m", "airflow", *(arguments or _command(name))],
            environment=self.environment,
            log=self.home / f"{name}.log",
            folder=self.home,
        )
        self.components[name] = component
        component.start()


# Everybody who reaches this Airflow is its administrator. A name of another site that leads to 127.0.0.1 would make a
# browser take it for that site itself.
_TRUSTED_HOSTS = '''"""Answers to the names of this machine only."""

from airflow.plugins_manager import AirflowPlugin
from starlette.middleware.trustedhost import TrustedHostMiddleware


class TrustedHosts(AirflowPlugin):
    name = "trusted_hosts"
    fastapi_root_middlewares = [
        {
            "name": "trusted hosts",
            "middleware": TrustedHostMiddleware,
            "kwargs": {"allowed_hosts": ["127.0.0.1", "localhost"]},
            "args": [],
        }
    ]
'''


# What the processor does for nothing on a machine of two cores. Processes of tasks and of DAG files are forked from
# two components: they do not import again what those have imported. Collecting garbage among the objects
# that importing Airflow leaves took a fifth of the api-server's time.
_SPARES_THE_PROCESSOR = '''"""Imports early what tasks and DAG files need, and collects garbage less often."""

import gc
import sys
from importlib import import_module
from pkgutil import walk_packages

OURS = "airflow_provider_evoimage"

# Each task reads the plugins again.
if {"scheduler", "dag-processor"} & set(sys.argv) and f"{OURS}.generation.run" not in sys.modules:
    for module in walk_packages(import_module(OURS).__path__, f"{OURS}."):
        if not {"__main__", "command", "plugins", "simulator"} & set(module.name.split(".")):
            import_module(module.name)
    for name in (
        "airflow.providers.standard.operators.empty",
        "airflow.sdk.definitions.decorators",
        "airflow.sdk.execution_time.cache",
        "jinja2.ext",
        "upath.implementations.local",
    ):
        import_module(name)
    import_module("PIL.Image").preinit()
gc.freeze()
gc.set_threshold(20_000, 20, 50)
'''


def _airflow_environment(home: Path, url: str, dag_folders: Sequence[Path]) -> dict[str, str]:
    """Return an environment for Airflow that owes nothing to the caller's own Airflow settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW_", "_AIRFLOW_", "PYTEST_"))
    }
    bundles = [
        {
            "name": f"{number}-{folder.name}",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(folder)},
        }
        for number, folder in enumerate(dag_folders)
    ]
    no_proxy = ",".join(
        filter(None, [os.environ.get("no_proxy"), os.environ.get("NO_PROXY"), _LOOPBACK_NAMES])
    )
    return {
        **inherited,
        "HOME": inherited["HOME"] if Path(inherited.get("HOME") or home / "none").is_dir() else str(home),
        # Beside this Python, for DAGs that call the `airflow` script.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "no_proxy": no_proxy,
        "NO_PROXY": no_proxy,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(home / "airflow.cfg"),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # Seconds to wait for SQLite's write lock; its own default is 5.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
        # Each idle LocalExecutor worker costs some 60 MB.
        "AIRFLOW__CORE__PARALLELISM": "4",
        # Seconds that a worker waits for an answer of the api-server; with its own 5 a busy machine fails tasks.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dag_folders[0]),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        # New and changed files are seen this often; unchanged ones are parsed every 30 s as ever.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        # With Airflow's 1 s a task may be resumed before the scheduler has noticed the end of its first worker process,
        # and the scheduler then fails it.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    }


def _as_text(connection: Mapping[str, Any] | str) -> str:
    return connection if isinstance(connection, str) else json.dumps(dict(connection))


def _beats_since(component: Mapping[str, Any], name: str, start: datetime) -> bool:
    beat = component.get(f"latest_{name}_heartbeat")
    return component.get("status") == "healthy" and bool(beat) and datetime.fromisoformat(str(beat)) >= start


def _command(name: str) -> list[str]:
    kind = _kind(name)
    # The log servers would listen on every interface; all logs are files of this machine anyway.
    return [kind, "--skip-serve-logs"] if kind in {"scheduler", "triggerer"} else [kind]


def _kind(name: str) -> str:
    return re.sub(r"-\d+$", "", name)
