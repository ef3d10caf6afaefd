"""What the README, its neighbours and the pages in docs/ show works as printed."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from airflow.models import Connection

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.defaults import CONNECTION_EXTRAS
from airflow_provider_evoimage.get_provider_info import get_provider_info
from airflow_provider_evoimage.hooks.connection import ConnectionSettings
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.version_compat import HAS_ASSET_PARTITIONS

PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
CONTRIBUTING = PROJECT / "CONTRIBUTING.md"
NEIGHBOURS = [PROJECT / "ARCHITECTURE.md", CONTRIBUTING, PROJECT / "CHANGELOG.md", PROJECT / "SECURITY.md"]
DOCS = PROJECT / "docs"
# "Extra, all optional: ..." in the hook's docstring; its only other word in such quotes is the value of one of them.
EXTRAS_OF_THE_HOOK = EvoImageHook.__doc__.partition("Extra, all")[2].replace(
    "(``trusted`` or ``ignored``)", ""
)
PAGES = [README, *NEIGHBOURS, *sorted(DOCS.rglob("*.md"))]
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")


def blocks(language: str) -> list[object]:
    return [
        pytest.param(textwrap.dedent(code), id=f"{page.name}-{number}")
        for page in PAGES
        for number, code in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        )
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs_as_printed(code: str):
    if "PartitionedAssetTimetable" in code and not HAS_ASSET_PARTITIONS:
        pytest.skip("Airflow < 3.3 has no asset partitions")
    exec(compile(code, "page.md", "exec"), {"__name__": "page"})


def test_make_targets_that_are_named_exist():
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
    assert [target for target in code if not re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE)] == []


def test_contributing_lists_the_targets_that_make_help_lists():
    listed = re.findall(
        r"^\| `make ([a-z-]+)` \|", CONTRIBUTING.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    helped = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, flags=re.MULTILINE)
    assert sorted(listed) == sorted(helped)


def test_contributing_names_files_that_exist():
    named = re.findall(r"`([\w./-]+/[\w.*-]*)`", CONTRIBUTING.read_text(encoding="utf-8"))
    folders = [PROJECT, PROJECT / "airflow_provider_evoimage", PROJECT / "tests" / "integration"]
    built = {"build/docs", "dist/"}
    assert len(named) > 30
    missing = [name for name in named if not any(any(each.glob(name)) for each in folders)]
    assert set(missing) <= built


def test_changelog_has_a_section_for_the_version_and_for_what_comes():
    sections = re.findall(
        r"^## \[(.+?)\]", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert sections[0] == "Unreleased"
    assert __version__ in sections


def test_readme_links_its_neighbours():
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in NEIGHBOURS if f"]({page.name})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path):
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_short_and_says_early_whether_to_map_or_to_batch():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 800
    (line,) = [number for number, line in enumerate(text.splitlines(), 1) if line == "## Map, or one batch?"]
    assert line < 60


def test_every_page_is_in_the_table_of_contents():
    pages = {
        path.relative_to(DOCS).with_suffix("") for each in ("*.md", "*.rst") for path in DOCS.rglob(each)
    }
    listed = {
        Path(page.parent.relative_to(DOCS), name)
        for page in DOCS.rglob("*.md")
        for block in re.findall(r"```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for name in re.findall(r"^([\w/-]+)$", block, flags=re.MULTILINE)
    }
    assert pages - listed == {Path("index")}, "add the page to docs/how-to.md, reference.md or explanation.md"
    assert listed <= pages


def test_connection_fields_and_their_defaults_are_those_of_the_one_table():
    fields = get_provider_info()["connection-types"][0]["conn-fields"]
    settings = ConnectionSettings.read(Connection(conn_id="evoimage_default", password="key"))

    assert set(fields) == set(CONNECTION_EXTRAS)
    assert set(CONNECTION_EXTRAS) == set(re.findall(r"``(\w+)``", EXTRAS_OF_THE_HOOK))
    for name, value in CONNECTION_EXTRAS.items():
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else value
            assert f"Empty: {shown}." in fields[name]["description"]
    assert settings.default_model == CONNECTION_EXTRAS["default_model"]
    assert settings.account.request_timeout == CONNECTION_EXTRAS["request_timeout"]
    assert settings.account.max_requests_per_second is CONNECTION_EXTRAS["max_requests_per_second"]
    assert settings.account.trust_idempotency is (CONNECTION_EXTRAS["idempotency"] == "trusted")
    assert settings.idempotency_namespace == (CONNECTION_EXTRAS["idempotency_namespace"] or "")
    assert settings.download_limits.bytes == CONNECTION_EXTRAS["max_image_megabytes"] * 1_000_000
    assert settings.download_limits.seconds == CONNECTION_EXTRAS["download_timeout"]
