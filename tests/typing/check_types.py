"""What type checkers say of users' DAG files: `make types` runs this; a plain pytest run does not collect it.

Files in dags/ must have no error. In mistakes/ the lines marked `# error` must have one, no other line. Pyright runs
as basedpyright, a fork with the same checks: Pyright's own package downloads its JavaScript when it first runs.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
DAGS = sorted((HERE / "dags").glob("*.py"))
MISTAKES = sorted((HERE / "mistakes").glob("*.py"))

#: The file below this folder, the line and the message of an error.
Error = tuple[str, int, str]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # From this folder the package is found as it is installed, as in a user's project.
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH"}
    }
    return subprocess.run(
        [str(each) for each in command],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def by_mypy() -> list[Error]:
    done = run(
        *(sys.executable, "-P", "-m", "mypy", "--strict", "--config-file=", "--no-pretty"),
        *("--cache-dir", PROJECT / ".mypy_cache" / "users", "dags", "mistakes"),
    )
    assert "Found " in done.stdout, done.stdout + done.stderr
    return [
        (file, int(line), message)
        for file, line, message in re.findall(
            r"^(\S+\.py):(\d+): error: (.*)$", done.stdout, flags=re.MULTILINE
        )
    ]


def by_pyright() -> list[Error]:
    python = PROJECT / ".venv-types" / "bin" / "python"
    done = run(
        *(python, "-P", "-m", "basedpyright", "--project", "pyrightconfig.json"),
        *("--pythonpath", sys.executable, "--outputjson"),
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        pytest.fail(f"{done.stdout}\n{done.stderr}")
    assert report["summary"]["filesAnalyzed"] == len(DAGS) + len(MISTAKES)
    return [
        (
            str(Path(each["file"]).relative_to(HERE)),
            each["range"]["start"]["line"] + 1,
            each["message"],
        )
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    ]


@pytest.fixture(scope="module", params=[by_mypy, by_pyright])
def errors(request: pytest.FixtureRequest) -> list[Error]:
    checker: Callable[[], list[Error]] = request.param
    return checker()


def test_users_dag_files_have_no_error(errors: list[Error]):
    assert [error for error in errors if error[0].startswith("dags/")] == []


def test_each_mistake_is_found_at_its_line_and_nothing_else(errors: list[Error]):
    marked = {
        (str(file.relative_to(HERE)), number)
        for file in MISTAKES
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if line.endswith("  # error")
    }
    assert len(marked) > 40
    assert {(file, line) for file, line, _ in errors if file.startswith("mistakes/")} == marked


@pytest.mark.parametrize("file", DAGS, ids=lambda file: file.stem)
def test_users_dag_file_is_also_one_to_airflow(file: Path):
    runpy.run_path(str(file), run_name=file.stem)
