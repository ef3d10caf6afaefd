"""The command line: what it prints, what it refuses, and how it ends."""

import os
import signal
import subprocess
import sys

import httpx
import pytest

from airflow_provider_evoimage.simulator.__main__ import build_parser, main

COMMAND = [sys.executable, "-m", "airflow_provider_evoimage.simulator"]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_runs_until_told_to_stop(signal_number):
    with subprocess.Popen(
        [*COMMAND, "--port", "0", "--api-key", "sk-secret"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        first = process.stdout.readline()
        url = first.removeprefix("EvoLink simulator on ").strip()
        answer = httpx.post(
            f"{url}/v1/images/generations",
            json={"model": "gpt-image-1", "prompt": "a red fox"},
            headers={"authorization": "Bearer sk-secret"},
            trust_env=False,
        )
        process.send_signal(signal_number)
        rest, errors = process.communicate(timeout=20)
    assert answer.status_code == 200
    assert url.startswith("http://127.0.0.1:")
    assert answer.json()["id"] in rest
    assert len(rest.splitlines()) == 1
    assert "sk-secret" not in rest
    assert errors == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    "arguments", [["--host", "0.0.0.0"], ["--port", "70000"], ["--speed", "0"], ["--credits", "-1"]]
)
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert arguments[0].strip("-") in capsys.readouterr().err


def test_help_names_every_word():
    text = build_parser().format_help()
    words = (
        "http cut status-after junk-after silence delay fail cancelled results duration instant never expired"
    )
    assert all(f"[[{word}" in text for word in [*words.split(), "download"])


def test_neither_airflow_nor_the_rest_of_the_provider_is_loaded():
    code = (
        "import sys, airflow_provider_evoimage.simulator.__main__\n"
        "names = [n for n in sys.modules if n.split('.')[0] in ('airflow', 'airflow_provider_evoimage')]\n"
        "print([n for n in names if not n.startswith('airflow_provider_evoimage.simulator')])"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"}
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, env=env)
    assert printed.strip() == "['airflow_provider_evoimage']"
