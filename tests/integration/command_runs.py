"""The command ``evoimage`` as tests run it: in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.integration.forked import forked
from tests.integration.task_driver import API_KEY

COMMAND = [sys.executable, "-P", "-m", "airflow_provider_evoimage.command"]
# Longer than any command needs.
SECONDS = 180


def command(*arguments: str) -> None:
    """Run the command as the whole work of this process."""
    # Its import sets Airflow's log level, which is for the command alone.
    from airflow_provider_evoimage.command.__main__ import main  # noqa: PLC0415

    sys.argv = ["evoimage", *arguments]
    main()


def evoimage(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command without a terminal.

    Python reads some variables as it starts: such a command starts from nothing.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EVOLINK_", "EVOIMAGE_")) and name != "COLUMNS"
    }
    environment = {**own, **(env or {})}
    if any(name.startswith(("PYTHON", "LC_", "LANG", "AIRFLOW__")) for name in env or {}):
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        files = {number: f"{folder}/{number}" for number in (1, 2)}
        process = forked(command, *arguments, env=environment, files=files)
        process.join(SECONDS)
        assert process.exitcode is not None
        stdout, stderr = (Path(file).read_text() for file in files.values())
    return subprocess.CompletedProcess(arguments, process.exitcode, stdout, stderr)


def printed(*arguments: str, env: dict[str, str] | None = None) -> str:
    """What the command prints when all goes well, and nothing beside it."""
    done = evoimage(*arguments, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def as_json(*arguments: str, env: dict[str, str] | None = None) -> Any:
    return json.loads(printed(*arguments, "--json", env=env))


def refused(*arguments: str, code: int, env: dict[str, str] | None = None) -> str:
    """What the command says on the standard error when it ends with this code."""
    done = evoimage(*arguments, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert API_KEY not in done.stderr
    return done.stderr


def in_terminal(arguments: list[str], columns: int, env: dict[str, str] | None = None) -> str:
    """Run the command in a terminal of its own; return what it shows, without colours."""
    ours, its = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                shown.extend(os.read(ours, 65_536))
            except OSError:  # The terminal is closed.
                return

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "dumb", "NO_COLOR": "1", **(env or {})}
    process = forked(command, *arguments, env=environment, files=dict.fromkeys((0, 1, 2), os.ttyname(its)))
    process.join(SECONDS)
    os.close(its)
    reader.join()
    os.close(ours)
    assert process.exitcode == 0, shown.decode()
    return shown.decode().replace("\r\n", "\n")
