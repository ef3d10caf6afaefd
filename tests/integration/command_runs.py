"""The command ``evoimage`` as tests run it: in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.integration.task_driver import API_KEY

FORKS = Path(__file__).with_name("command_forks.py")
COMMAND = [sys.executable, "-P", "-m", "airflow_provider_evoimage.command"]


@cache
def _forks() -> tuple[IO[str], IO[str]]:
    """Start the process whose forks share what takes the longest, the import of Airflow; it ends with this one."""
    process = subprocess.Popen(
        [sys.executable, "-P", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


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
            [*COMMAND, *arguments], capture_output=True, text=True, env=environment, timeout=180, check=False
        )
    asks, answers = _forks()
    with tempfile.TemporaryDirectory() as folder:
        files = {name: f"{folder}/{name}" for name in ("stdout", "stderr")}
        asked = {"arguments": arguments, "env": environment, **files}
        asks.write(json.dumps(asked) + "\n")
        code = int(answers.readline())
        texts = {name: Path(file).read_text() for name, file in files.items()}
    return subprocess.CompletedProcess(arguments, code, **texts)


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
    parent, child = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=child,
        stderr=child,
        stdin=child,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "dumb", "NO_COLOR": "1", **(env or {})},
    ) as process:
        os.close(child)
        output = b""
        while True:
            try:
                chunk = os.read(parent, 65_536)
            except OSError:  # The terminal is closed.
                break
            if not chunk:
                break
            output += chunk
        os.close(parent)
        process.wait(60)
    assert process.returncode == 0, output.decode()
    return output.decode().replace("\r\n", "\n")
