"""What the README shows works as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from airflow.sdk import DAG

from airflow_provider_evoimage.get_provider_info import get_provider_info

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_is_a_dag_that_builds(code: str):
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    # `with DAG(...)` without a name: the DAG's tasks know it.
    assert "DAG" in code
    assert names["DAG"] is DAG


def test_make_targets_that_are_named_exist():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert {"demo", "test"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)] == []


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert [link for link in links if not (PROJECT / link).exists()] == []


def test_named_connection_fields_are_those_of_the_form():
    fields = get_provider_info()["connection-types"][0]["conn-fields"]
    assert set(re.findall(r"\| extra `(\w+)` \|", README)) == set(fields)
