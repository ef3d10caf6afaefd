"""What the README and the pages in docs/ show works as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_evoimage.get_provider_info import get_provider_info

PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
CONTRIBUTING = PROJECT / "CONTRIBUTING.md"
PAGES = [
    README,
    PROJECT / "ARCHITECTURE.md",
    PROJECT / "CHANGELOG.md",
    CONTRIBUTING,
    *sorted((PROJECT / "docs").glob("*.md")),
]


def blocks(language: str) -> list[object]:
    return [
        pytest.param(code, id=f"{page.name}-{number}")
        for page in PAGES
        for number, code in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        )
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs_as_printed(code: str):
    exec(compile(code, "page.md", "exec"), {"__name__": "page"})


def test_make_targets_that_are_named_exist():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    named = {
        target
        for page in PAGES
        for target in re.findall(r"\bmake ([a-z-]+)", page.read_text(encoding="utf-8"))
    }
    code = {
        target
        for page in PAGES
        for target in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))
    }
    assert {"demo", "test", "ui"} <= named
    assert [target for target in code if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)] == []


def test_every_make_target_is_explained_to_contributors():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE)) - {"help"}
    explained = set(
        re.findall(r"^\| `make ([a-z-]+)` \|", CONTRIBUTING.read_text("utf-8"), flags=re.MULTILINE)
    )
    assert explained == targets


def test_test_folders_that_contributors_are_sent_to_exist():
    folders = re.findall(r"^\| `(tests/[a-z/]+)/` \|", CONTRIBUTING.read_text("utf-8"), flags=re.MULTILINE)
    assert len(folders) >= 8
    assert [folder for folder in folders if not (PROJECT / folder).is_dir()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path):
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_named_connection_fields_are_those_of_the_form():
    fields = get_provider_info()["connection-types"][0]["conn-fields"]
    assert set(re.findall(r"\| extra `(\w+)` \|", README.read_text(encoding="utf-8"))) == set(fields)
