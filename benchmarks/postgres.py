"""A PostgreSQL server for a real Airflow: it listens on the loopback only and keeps everything in a temporary folder.

The server is the system's (Debian: `apt-get install postgresql`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.local_airflow.processes import free_ports


def program(name: str) -> str | None:
    """Return the path of a program of the server, None when there is none; Debian keeps them outside the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


def version() -> str | None:
    """Return what the server calls itself (`PostgreSQL 15.14`); None when there is none."""
    server = program("postgres")
    if server is None:
        return None
    told = subprocess.run([server, "--version"], check=True, capture_output=True, text=True).stdout
    return f"PostgreSQL {told.split()[2]}"


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run a server with an empty database; gives the part of its URLs after `://`."""
    create, control = program("initdb"), program("pg_ctl")
    if create is None or control is None:
        raise SystemExit("There is no PostgreSQL server here: apt-get install postgresql")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="evoimage-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        as_user: list[str] = []
        if os.getuid() == 0:
            # The server refuses to run as root.
            shutil.chown(folder, "postgres")
            as_user = ["runuser", "-u", "postgres", "--"]
        quiet: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL}
        data = ["-D", str(folder / "data")]
        subprocess.run(
            [*as_user, create, *data, "-U", "airflow", "--auth=trust", "-E", "UTF8"], check=True, **quiet
        )
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c max_connections=300"
        command = [*as_user, control, *data, "-w"]
        subprocess.run([*command, "-o", options, "-l", str(folder / "log"), "start"], check=True, **quiet)
        try:
            yield f"airflow@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*command, "-m", "fast", "stop"], check=True, **quiet)
