"""The command line: what it prints, what it refuses, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from airflow_provider_evoimage.simulator.__main__ import build_parser, main
from airflow_provider_evoimage.simulator.service.accounts import key_hash

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


@pytest.mark.parametrize(
    "arguments", [["--rps", "-1"], ["--concurrency", "x"], ["--n-behaviour", "two"], ["--seed", "x"]]
)
def test_wrong_limits_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert arguments[0].strip("-") in capsys.readouterr().err


def test_options_become_settings_and_requests_are_logged(tmp_path):
    log = tmp_path / "requests.jsonl"
    options = "--port 0 --quiet --rps 1 --concurrency 3 --n-behaviour single --seed 5 --loopback-callbacks"
    with subprocess.Popen(
        [*COMMAND, *options.split(), "--files-quota", "7", "--request-log", str(log)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().removeprefix("EvoLink simulator on ").strip()
        headers = {"authorization": "Bearer sk-secret"}
        settings = httpx.get(f"{url}/_simulator/settings", trust_env=False).json()
        body = {"model": "gpt-image-1", "prompt": "a secret fox"}
        answer = httpx.post(f"{url}/v1/images/generations?x=y", json=body, headers=headers, trust_env=False)
        limited = httpx.get(f"{url}/v1/credits", headers=headers, trust_env=False)
        httpx.get(f"{url}/v1/catalog/health", trust_env=False)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    expected = {
        "rps": 1,
        "concurrency": 3,
        "n_behaviour": "single",
        "loopback_callbacks": True,
        "files_quota": 7,
    }
    assert expected.items() <= settings.items()
    assert answer.json()["id"].startswith("task-unified-1757156493-")
    assert limited.status_code == 429
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/v1/images/generations", 200),
        ("GET", "/v1/credits", 429),
        ("GET", "/v1/catalog/health", 200),
    ]
    assert set(lines[0]) == {"time", "method", "path", "status", "ms", "key"}
    assert (lines[0]["key"], lines[2]["key"]) == (key_hash("sk-secret"), None)
    assert "secret" not in log.read_text()


def test_log_that_cannot_be_written_is_said_so(tmp_path, capsys):
    assert main(["--port", "0", "--request-log", str(tmp_path / "nowhere" / "log")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_starts_in_less_than_two_seconds():
    began = time.monotonic()
    with subprocess.Popen([*COMMAND, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        seconds = time.monotonic() - began
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    # A busy machine may need longer.
    assert seconds < 6


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
