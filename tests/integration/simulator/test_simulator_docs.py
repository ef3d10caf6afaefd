"""The shell scripts of docs/simulator.md, run as printed against a simulator on another port."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_evoimage.simulator import SimulatorServer

PAGE = Path(__file__).parents[3] / "docs" / "simulator.md"
PRINTED_URL = "http://127.0.0.1:8585"
SCRIPTS = [
    each
    for each in re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    if "curl " in each
]
# An answer that is an error must fail the script, and no proxy may stand in between.
SETTINGS = 'curl() { command curl --fail-with-body --noproxy "*" "$@"; }\n'

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def evolink() -> Iterator[SimulatorServer]:
    with SimulatorServer(speed=100) as server:
        yield server


def run(script: str, evolink: SimulatorServer, folder: Path) -> str:
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SETTINGS + script.replace(PRINTED_URL, evolink.url)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_script_of_the_page_runs_as_printed(script: str, evolink: SimulatorServer, tmp_path: Path):
    assert PRINTED_URL in script
    run(script, evolink, tmp_path)


def test_script_about_a_lost_answer_shows_that_it_is_paid_once(evolink: SimulatorServer, tmp_path: Path):
    (script,) = [each for each in SCRIPTS if "[[cut:after]]" in each]
    shown = run(script, evolink, tmp_path)
    assert "the answer was lost" in shown
    assert re.search(r"(?i)^idempotency-replayed: true", shown, flags=re.MULTILINE)
    assert evolink.state.counters.paid == 1
