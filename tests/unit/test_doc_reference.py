"""The reference is complete: what the package has is on its pages, and in the tables that people read unbuilt."""

from __future__ import annotations

import importlib.util
import inspect
import re
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_evoimage import exceptions, metrics
from airflow_provider_evoimage.command.app import app
from airflow_provider_evoimage.defaults import CONNECTION_EXTRAS
from airflow_provider_evoimage.exceptions import AirflowFailException, AirflowSensorTimeout, EvoImageError
from airflow_provider_evoimage.storage.file_names import NAME_FIELDS
from tests.unit.test_docs import DOCS

BILLED = {True: "yes", False: "no", None: "unknown"}
TROUBLESHOOTING = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")


def load_facts() -> ModuleType:
    """Import the tables of the site, which knows nothing of Sphinx."""
    spec = importlib.util.spec_from_file_location("facts", DOCS / "_extension" / "facts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


facts = load_facts()
ERRORS = [each for each in facts.errors() if each not in {EvoImageError, exceptions.EvoLinkApiError}]


@pytest.mark.parametrize("error", ERRORS, ids=lambda each: each.__name__)
def test_troubleshooting_says_what_to_do(error: type[EvoImageError]):
    section = TROUBLESHOOTING.partition(f"\n### {error.__name__}\n")[2].partition("\n#")[0]
    retried = "no" if issubclass(error, (AirflowFailException, AirflowSensorTimeout)) else "yes"
    assert f"Billed: {BILLED[error.default_billed]}. Retried: {retried}." in section
    assert "**Do:** " in section


def test_troubleshooting_names_no_error_that_is_gone():
    headings = re.findall(r"^### (\w+)$", TROUBLESHOOTING, flags=re.MULTILINE)
    assert sorted(headings) == sorted(each.__name__ for each in ERRORS)


def test_tree_in_the_reference_names_every_error():
    assert [each.__name__ for each in facts.errors() if each.__name__ not in facts.error_tree()] == []


@pytest.mark.parametrize("kind", ["operators", "sensors", "hooks", "triggers"])
def test_every_module_of_the_provider_has_a_documented_class(kind: str):
    found = facts.public_classes(kind)
    assert {each.__module__ for each in found} == set(facts.provider_modules(kind))
    assert [each.__name__ for each in found if not inspect.getdoc(each)] == []


@pytest.mark.parametrize("kind", ["operators", "sensors"])
def test_every_argument_is_described(kind: str):
    missing = [
        f"{each.__name__}.{name}"
        for each in facts.public_classes(kind)
        for name, argument in inspect.signature(each.__init__).parameters.items()
        if name != "self"
        and argument.kind is not inspect.Parameter.VAR_KEYWORD
        and f":param {name}:" not in (each.__doc__ or "")
        # Airflow's own arguments, where only the default is ours.
        and name != "poke_interval"
    ]
    assert missing == []


def test_tables_of_the_code_are_complete():
    commands: Any = __import__("typer").main.get_command(app)
    assert [name for name in commands.commands if f"## evoimage {name}\n" not in facts.command()] == []
    assert [name for name in CONNECTION_EXTRAS if f"| `{name}` |" not in facts.connection_extras()] == []
    assert "| `images[].path` | string |" in facts.manifest_fields()
    assert facts.environment().count("\n") == len(facts.ENVIRONMENT) + 1


def test_variable_that_nobody_described_fails_the_build(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(facts.ENVIRONMENT, "EVOLINK_BASE_URL")
    with pytest.raises(LookupError, match="EVOLINK_BASE_URL"):
        facts.environment()


def test_every_metric_that_is_sent_is_described():
    sent = re.findall(r'_(?:count\(|send\("timing", )"(\w+)"', inspect.getsource(metrics))
    assert len(set(sent)) >= 6
    assert [name for name in sent if f"``evoimage.{name}``" not in (metrics.__doc__ or "")] == []


def test_page_of_file_names_has_all_fields_and_the_defaults():
    page = (DOCS / "how-to" / "names.md").read_text(encoding="utf-8")
    assert f"<!-- name fields -->\n{facts.name_fields()}\n" in page
    assert len(NAME_FIELDS) > 8


def test_every_error_that_the_docs_name_exists():
    known = {each.__name__ for each in facts.errors()}
    named = {
        name
        for page in DOCS.rglob("*.md")
        if page.name != "changelog.md"
        for name in re.findall(r"`([A-Z]\w+Error)`", page.read_text(encoding="utf-8"))
    }
    assert named - known - {"ValueError"} == set()
