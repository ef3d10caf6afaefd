"""Blocks of the docs that are not Python: each command is one that its program takes, each setting can be read.

`test_docs.py` runs the Python blocks; here their functions run, too.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from airflow.cli.cli_parser import get_parser
from airflow.models import Connection
from PIL import Image

from airflow_provider_evoimage.command.app import app
from airflow_provider_evoimage.hooks.connection import ConnectionSettings
from airflow_provider_evoimage.plugins.roots import ImageRoots
from airflow_provider_evoimage.simulator.__main__ import build_parser
from tests.unit.test_docs import DOCS, MAKEFILE, PAGES, PROJECT, blocks

COMMANDS: Any = typer.main.get_command(app)
EXTRAS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
# Programs of the system: that they are called rightly is not ours to check, beyond the shell's grammar.
OF_THE_SYSTEM = {"apt-get", "base64", "cd", "curl", "echo", "git", "grep", "mkdir", "printf", "python3", "."}
CHECKED = {"bash", "console", "ini", "json", "python", "text"}
# Directives of the site: building it checks them.
DIRECTIVES = {"{from-package}", "{include}", "{literalinclude}", "{toctree}"}


def commands(script: str) -> Iterator[list[str]]:
    """Split a script into commands, at line ends and at ``&&``, ``||``, ``|`` and ``;``."""
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set(";|&"):
            if command:
                yield command
            command = []
        else:
            command.append(word)


def check(command: list[str]) -> None:
    program, *arguments = command
    if program == "evoimage":
        with contextlib.suppress(typer.Exit):  # --version
            name, *rest = arguments
            (
                COMMANDS.commands[name].make_context(name, rest)
                if name in COMMANDS.commands
                else COMMANDS.make_context("evoimage", arguments)
            )
    elif program == "evoimage-simulator":
        build_parser().parse_args(arguments)
    elif program == "airflow":
        get_parser().parse_args(arguments)
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", MAKEFILE, flags=re.MULTILINE), command
    elif program == "pip":
        (package,) = [each for each in arguments[1:] if not each.startswith("-")]
        name, _, extra = package.rstrip("]").partition("[")
        assert name == "airflow-provider-evoimage"
        assert not extra or extra in EXTRAS
    elif program == "export":
        for setting in arguments:
            check_setting(*setting.split("=", 1))
    elif program.startswith(".venv/bin/"):
        assert all((PROJECT / each).exists() for each in arguments if each.startswith("tests/")), command
    else:
        assert program in OF_THE_SYSTEM, command


def check_setting(name: str, value: str) -> None:
    if name.startswith("AIRFLOW_CONN_"):
        connection = Connection.from_json(value, conn_id=name.removeprefix("AIRFLOW_CONN_").lower())
        assert ConnectionSettings.read(connection).account.api_key
    else:
        assert name.startswith(("AIRFLOW_HOME", "AIRFLOW__", "EVOLINK_")), name


def test_every_block_is_of_a_kind_that_is_checked():
    kinds = {
        (kind, page.name)
        for page in PAGES
        for kind in re.findall(r"^[ ]*```([^\s`]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert [each for each in sorted(kinds) if each[0] not in CHECKED | DIRECTIVES] == []


@pytest.mark.parametrize("script", blocks("bash"))
def test_shell_script_calls_programs_rightly(script: str):
    subprocess.run(["bash", "-n", "-c", script], check=True)
    for command in commands(re.sub(r"^#.*$", "", script, flags=re.MULTILINE)):
        check(command)


@pytest.mark.parametrize("shown", blocks("console"))
def test_command_that_is_shown_is_one(shown: str):
    lines = [line.removeprefix("$ ") for line in shown.splitlines() if line.startswith("$ ")]
    assert lines
    for line in lines:
        for command in commands(re.sub(r"<this repository>", "URL", line.partition("   #")[0])):
            check(command)


@pytest.mark.parametrize("text", blocks("ini"))
def test_setting_of_the_configuration_is_read(text: str):
    parser = configparser.ConfigParser()
    parser.read_string(text)
    roots = ImageRoots.read(parser["evoimage"]["image_roots"])
    assert roots.roots
    assert not roots.problems


@pytest.mark.parametrize("text", blocks("json"))
def test_json_is_a_connection(text: str):
    assert ConnectionSettings.read(Connection.from_json(text, conn_id="evoimage_default"))


def names_of(page: str, number: int) -> dict[str, Any]:
    """Run a Python block of a page, and return the names that it makes."""
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(found[number], page, "exec"), names)
    return names


def test_crop_makes_a_square_of_a_saved_image(tmp_path: Path):
    source = tmp_path / "draw-0.png"
    Image.new("RGBA", (36, 24), "red").save(source)
    (made,) = names_of("how-to/crop.md", 0)["crop"].function({"images": [{"path": source.as_uri()}]})
    with Image.open(tmp_path / "draw-0-square.jpg") as square:
        assert (square.size, square.format) == ((24, 24), "JPEG")
    assert made.endswith("/draw-0-square.jpg")


def test_rows_of_a_database_become_requests_of_a_batch():
    made = names_of("how-to/database.md", 0)["requests"].function([["A-1", "an enamel mug"]])
    assert made == [{"name": "A-1", "prompt": "Product photo of an enamel mug on a white table, no text"}]


def test_dag_that_follows_reads_the_files_of_an_event():
    event = SimpleNamespace(extra={"paths": ["file:///tmp/shop/a.png"]})
    publish = names_of("how-to/assets.md", 1)["publish"].function
    assert publish({"shop_images": [event]}) == ["file:///tmp/shop/a.png"]
    assert publish() == []


def test_pictures_are_read_from_a_batch_manifest(tmp_path: Path):
    manifest = tmp_path / "draw.batch.jsonl"
    lines = [
        {"name": "mug", "state": "saved", "images": [{"path": "file:///a.png"}]},
        {"name": "shoe", "state": "failed"},
    ]
    manifest.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    pictures = names_of("batch.md", 1)["pictures"]
    assert pictures({"manifest": manifest.as_uri()}) == {"mug": ["file:///a.png"]}
