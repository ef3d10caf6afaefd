"""The command ``evoimage`` as people run it: a process of its own, against the simulated EvoLink over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.simulator import SimulatorServer
from tests.integration.command_runs import as_json, evoimage, in_terminal, printed, refused
from tests.integration.task_driver import API_KEY, connection


@pytest.fixture
def account(evolink: SimulatorServer) -> dict[str, str]:
    """The environment of somebody who has an API key and no Airflow connection."""
    return {"EVOLINK_API_KEY": API_KEY, "EVOLINK_BASE_URL": evolink.url}


# Costs, without an account


def test_estimate_draws_every_quality_and_size():
    lines = printed("estimate", "--model", "gpt-image-1").splitlines()

    assert lines[0] == "gpt-image-1: 1 image"
    assert lines[2].split() == ["┃", "size", "┃", "low", "┃", "medium", "┃", "high", "┃"]
    text = "\n".join(lines)
    assert "│ 1:1  │  0.6659 │ 2.5851 │ 10.1837 │" in text
    assert "│      │ $0.0098 │ $0.038 │  $0.150 │" in text
    assert "│ 2:3  │  0.9988 │ 3.8777 │ 15.2756 │" in text
    assert "evolink.ai/gpt-image-1" in text


@pytest.mark.parametrize(
    ("columns", "arguments"),
    [
        (80, ["estimate", "--model", "gpt-image-2.5-flare", "--times", "1000"]),
        (80, ["save", "--help"]),
        (120, ["prices"]),
    ],
    ids=str,
)
def test_nothing_is_cut_off_in_a_terminal(columns: int, arguments: list[str]):
    output = in_terminal(arguments, columns)

    assert max(map(len, output.splitlines())) <= columns
    assert "…" not in output


def test_nothing_is_cut_off_in_a_pipe():
    lines = printed(
        "estimate", "-m", "gpt-image-2.5-flare", "-n", "10", "-r", "16", "--times", "1000"
    ).splitlines()

    assert not [line for line in lines if "…" in line]
    assert lines[4].split("│")[1:-1] == [
        " 1K   ",
        "     15,631.10 ",
        "     20,092.60 ",
        "     44,272.70 ",
        "     69,352.50 ",
        "    140,993.20 ",
    ]


def test_a_terminal_without_unicode_shows_the_table_all_the_same():
    text = printed("estimate", "-m", "gpt-image-1", env={"PYTHONIOENCODING": "ascii"})

    assert "| 1:1  |  0.6659 | 2.5851 | 10.1837 |" in text


def test_estimate_as_json_is_for_all_requests_together():
    found = as_json("estimate", "-m", "gpt-image-1.5-beta", "-n", "2", "--times", "100")

    assert (found["model"], found["n"], found["times"]) == ("gpt-image-1.5-beta", 2, 100)
    (estimate,) = found["estimates"]
    assert (estimate["credits_low"], estimate["credits_high"]) == (90.0, 180.0)
    assert estimate["quality"] is None


def test_estimate_of_one_request_counts_its_prompt():
    found = as_json("estimate", "--size", "1:1", "--quality", "low", "--prompt", "x" * 1000)

    (estimate,) = found["estimates"]
    assert (estimate["credits_low"], estimate["credits_high"]) == (0.5327, 0.8387)


def test_estimate_of_an_unknown_model_is_no_number():
    assert "No price is known for model 'gpt-image-9'" in refused("estimate", "-m", "gpt-image-9", code=1)


def test_wrong_option_is_wrong_use():
    assert "Invalid value for '--n'" in refused("estimate", "-n", "0", code=2)


def test_resolution_of_a_model_without_one_is_wrong_use():
    said = refused("estimate", "-m", "gpt-image-1.5", "--resolution", "4K", code=2)

    assert said == "Error: gpt-image-1.5 has no resolution: omit --resolution.\n"


def test_errors_are_json_where_the_answer_would_be():
    error = json.loads(refused("estimate", "-m", "gpt-image-9", "--json", code=1))["error"]

    assert error["kind"] == "PriceUnknownError"
    assert error["billed"] is False


def test_prices_are_those_of_the_pages():
    models = as_json("prices")["models"]
    assert models["gpt-image-1"]["credits"]["image cached input"] == 0.153
    assert models["gpt-image-1.5-beta"] == {
        "rule": "flat",
        "unit": "image",
        "credits": {"image": 0.9},
        "source": "evolink.ai/gpt-image-1-5, Pricing",
        "as_of": "undated",
    }


def test_version_is_the_provider_s():
    assert printed("--version") == f"evoimage {__version__}\n"


# The account


def test_credits_of_account_and_key(account: dict[str, str]):
    assert "│ account      │   1,000.0000 │    14.71 │" in printed("credits", env=account)
    assert as_json("credits", env=account)["usable"] == 1000.0


def test_connection_wins_over_the_environment(account: dict[str, str], evolink: SimulatorServer):
    env = {
        "EVOLINK_API_KEY": "sk-evo-of-somebody",
        "EVOLINK_BASE_URL": "http://127.0.0.1:9",
        "AIRFLOW_CONN_MY_EVOLINK": connection(evolink),
    }
    del account
    assert as_json("credits", "--conn-id", "my_evolink", env=env)["usable"] == 1000.0
    assert as_json("credits", env={**env, "EVOIMAGE_CONN_ID": "my_evolink"})["usable"] == 1000.0


def test_without_a_key_the_default_connection_is_taken(evolink: SimulatorServer):
    env = {"AIRFLOW_CONN_EVOIMAGE_DEFAULT": connection(evolink)}

    assert as_json("credits", env=env)["usable"] == 1000.0


def test_missing_account_says_what_to_set():
    said = refused("credits", code=2)

    assert "Airflow connection 'evoimage_default' cannot be read here" in said
    assert "--conn-id, or set EVOLINK_API_KEY" in said


def test_unreachable_service_is_told(account: dict[str, str]):
    said = refused(
        "show", "task-unified-1-a", code=1, env={**account, "EVOLINK_BASE_URL": "http://127.0.0.1:9"}
    )

    assert "http://127.0.0.1:9" in said


# Generations


@pytest.fixture
def finished(submitted: Callable[..., str]) -> str:
    """A generation of three images that is done."""
    return submitted("a red fox [[instant]]", n=3)


def test_show_tells_status_charge_and_whole_links(account: dict[str, str], finished: str):
    lines = printed("show", finished, env=account).splitlines()

    assert [line.split()[:2] for line in lines[1:3]] == [["status", "completed"], ["model", "gpt-image-1.5"]]
    assert any(re.fullmatch(r"charged       1\.60\d\d credits \(0\.024 USD\) *", line) for line in lines)
    links = as_json("show", finished, env=account)["images"]
    assert lines[-3:] == links
    assert len(links) == 3


def test_show_of_a_failed_one_tells_why(account: dict[str, str], submitted: Callable[..., str]):
    evolink_task_id = submitted("x [[instant]] [[fail:content_policy_violation]]")

    assert "content_policy_violation" in printed("show", evolink_task_id, env=account)
    found = as_json("show", evolink_task_id, env=account)
    assert (found["status"], found["billed"]) == ("failed", False)


def test_show_of_an_unknown_one_fails(account: dict[str, str]):
    assert "task_not_found" in refused("show", "task-unified-0-none", code=1, env=account)


def test_save_writes_files_and_manifest(account: dict[str, str], finished: str, tmp_path: Path):
    lines = printed("save", finished, str(tmp_path / "new"), env=account).splitlines()

    images = [tmp_path / "new" / f"{finished}-{index}.png" for index in range(3)]
    assert [line.rpartition("  ")[2] for line in lines] == [str(image) for image in images]
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)
    manifest = json.loads((tmp_path / "new" / f"{finished}-0.json").read_text())
    assert manifest["usage"]["charged"] > 1.5


def test_save_again_fetches_nothing_and_prints_the_manifest(
    account: dict[str, str], finished: str, tmp_path: Path
):
    printed("save", finished, str(tmp_path), env=account)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.png")}
    manifest = as_json("save", finished, str(tmp_path), env=account)

    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.png")} == before
    assert [image["index"] for image in manifest["images"]] == [0, 1, 2]


def test_save_writes_over_nobody_s_file(account: dict[str, str], finished: str, tmp_path: Path):
    (tmp_path / "picture-0.png").write_bytes(b"mine")
    arguments = ("save", finished, str(tmp_path), "--names", "picture-{index}.{ext}")

    assert "if_exists='error'" in refused(*arguments, code=1, env=account)
    assert (tmp_path / "picture-0.png").read_bytes() == b"mine"
    printed(*arguments, "--if-exists", "overwrite", env=account)
    assert (tmp_path / "picture-0.png").read_bytes() != b"mine"


@pytest.mark.parametrize("blank", ["", "  "], ids=["empty", "spaces"])
def test_save_to_a_blank_folder_is_wrong_use(account: dict[str, str], blank: str):
    said = refused("save", "task-unified-1-a", blank, code=2, env=account)

    assert "DEST is blank" in said


def test_save_of_what_still_runs_says_so_with_a_code_of_its_own(
    account: dict[str, str], submitted: Callable[..., str], tmp_path: Path
):
    running = submitted("x [[duration:100000]]")
    said = refused("save", running, str(tmp_path), code=3, env=account)

    assert "so there is nothing to save yet; use --wait to wait for it" in said
    assert list(tmp_path.iterdir()) == []


def test_save_waits_when_asked_to(account: dict[str, str], submitted: Callable[..., str], tmp_path: Path):
    evolink_task_id = submitted("x [[duration:3]]")
    printed("save", evolink_task_id, str(tmp_path), "--wait", env=account)

    assert (tmp_path / f"{evolink_task_id}-0.png").exists()


def test_save_waits_no_longer_than_asked(
    account: dict[str, str], submitted: Callable[..., str], tmp_path: Path
):
    evolink_task_id = submitted("x [[duration:600]]")
    said = refused("save", evolink_task_id, str(tmp_path), "--wait", "--timeout", "1", code=3, env=account)

    assert "was still" in said


def test_save_draws_progress_in_a_terminal(account: dict[str, str], finished: str, tmp_path: Path):
    shown = in_terminal(["save", finished, str(tmp_path), "--wait"], 80, {**account, "TERM": "xterm"})

    assert "Waiting" in shown
    assert "Saving" in shown
    assert "3 of 3" in shown


def test_save_of_a_failed_one_says_why(
    account: dict[str, str], submitted: Callable[..., str], tmp_path: Path
):
    evolink_task_id = submitted("x [[instant]] [[fail:content_policy_violation]]")

    assert "content_policy_violation" in refused("save", evolink_task_id, str(tmp_path), code=1, env=account)


@pytest.mark.parametrize(
    ("variable", "value", "fragment"),
    [
        ("SSL_CERT_FILE", "/nope.pem", "CA certificates cannot be read (SSL_CERT_FILE=/nope.pem"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", "pip install 'httpx[socks]'"),
        ("NO_PROXY", "fe80::/10", "correct NO_PROXY. There an IPv6 address has no brackets and no range"),
        ("HTTPS_PROXY", "foo://user:secret@bar", "cannot be used: correct HTTPS_PROXY"),
    ],
)
def test_network_settings_that_cannot_be_used_are_named(
    account: dict[str, str], variable: str, value: str, fragment: str
):
    said = refused("credits", code=1, env={**account, variable: value})

    assert fragment in said
    assert "Traceback" not in said
    assert "secret" not in said


def test_generate_asks_before_it_pays(evolink: SimulatorServer, account: dict[str, str], tmp_path: Path):
    said = refused("generate", "a mug", str(tmp_path), code=2, env=account)

    assert "confirm it with --yes" in said
    assert evolink.state.counters.submissions == 0


def test_same_generate_command_pays_once(evolink: SimulatorServer, account: dict[str, str], tmp_path: Path):
    command = ["generate", "a mug [[instant]]", str(tmp_path), "--yes", "--quality", "low", "--json"]
    first, second = (json.loads(evoimage(*command, env=account).stdout) for _ in range(2))

    assert first["evolink_task_id"] == second["evolink_task_id"]
    assert len(list(tmp_path.glob("*.png"))) == 1
    other = json.loads(evoimage(*command, "--again", env=account).stdout)
    assert other["evolink_task_id"] != first["evolink_task_id"]
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_generate_names_the_task_before_it_waits(account: dict[str, str], tmp_path: Path):
    done = evoimage("generate", "a [[duration:600]]", str(tmp_path), "--yes", "--timeout", "1", env=account)

    assert done.returncode == 3
    assert re.match(r"EvoLink task task-unified-\S+ is pending\.", done.stderr)


def test_generate_holds_a_limit(evolink: SimulatorServer, account: dict[str, str], tmp_path: Path):
    said = refused("generate", "a mug", str(tmp_path), "--yes", "--max-credits", "1", code=1, env=account)

    assert "max_credits" in said
    assert evolink.state.counters.submissions == 0


def test_list_shows_what_was_made(account: dict[str, str], finished: str, submitted: Callable[..., str]):
    failed = submitted("x [[instant]] [[fail:content_policy_violation]]")

    assert [each["evolink_task_id"] for each in as_json("list", env=account)] == [failed, finished]
    assert [each["status"] for each in as_json("list", "--status", "failed", env=account)] == ["failed"]
    assert len(as_json("list", "--limit", "1", env=account)) == 1
    assert as_json("list", "--model", "gpt-image-2", env=account) == []
    assert "2 generations" in printed("list", env=account)


def test_list_reads_every_page(account: dict[str, str], submitted: Callable[..., str]):
    made = [submitted(f"{number} [[instant]]") for number in range(53)]

    assert {each["evolink_task_id"] for each in as_json("list", env=account)} == set(made)


def test_show_tells_whether_it_was_billed(
    account: dict[str, str], finished: str, submitted: Callable[..., str]
):
    assert re.search(r"billed +yes", printed("show", finished, env=account))
    failed = submitted("x [[instant]] [[fail:content_policy_violation]]")
    assert re.search(r"billed +no", printed("show", failed, env=account))
