"""`make demo`: what somebody without an account runs first."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tools.local_airflow.processes import poll, session_processes

PROJECT = Path(__file__).parents[2]
DEMO = [sys.executable, "-u", "-m", "tools.local_airflow.demo"]


def test_demo_saves_the_images_it_shows_and_leaves_nothing_running(tmp_path: Path):
    options = f"--dags example_dags --out '{tmp_path}/my images'"
    done = subprocess.run(
        ["make", "demo", f"DEMO_OPTIONS={options}"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deferred: EvoLink is working, no worker held" in done.stdout
    assert "credits" in done.stdout
    images = [
        file for file in (tmp_path / "my images").rglob("*") if file.suffix in {".png", ".jpg", ".webp"}
    ]
    assert len(images) >= 4
    for file in images:
        with Image.open(file) as image:
            image.load()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_demo_leaves_no_process(tmp_path: Path, number: signal.Signals, exit_code: int):
    output = tmp_path / "output"
    with (
        output.open("w") as file,
        subprocess.Popen(
            [*DEMO, "--dags", str(PROJECT / "example_dags"), "--out", str(tmp_path / "out")],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            # A shell makes its commands in the background, and all they start, ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as demo,
    ):
        # The simulator and at least one process of Airflow.
        children = poll(
            lambda: len(found := psutil.Process(demo.pid).children()) > 1 and found,
            seconds=60,
            what="the demo's processes",
            interval=0.05,
        )
        sessions = {os.getsid(each.pid) for each in children}
        demo.send_signal(number)
        assert demo.wait(timeout=30) == exit_code, output.read_text()
    assert session_processes(sessions) == []
