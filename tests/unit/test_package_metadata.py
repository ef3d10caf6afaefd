"""What pyproject.toml, README, registry file and workflows say of the package agrees."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_evoimage.get_provider_info import get_provider_info

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
URLS: dict[str, str] = PROJECT["urls"]
REGISTRY: dict[str, Any] = yaml.safe_load((ROOT / ".airflow-registry.yaml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = ("operators", "sensors", "hooks", "triggers")


def test_pythons_are_those_of_readme_classifiers_and_makefile():
    low, high = re.search(r"Python 3\.(\d+) to 3\.(\d+)\.", README).groups()
    assert PROJECT["requires-python"] == f">=3.{low},<3.{int(high) + 1}"
    assert [each for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)] == [
        f"Programming Language :: Python :: 3.{minor}" for minor in range(int(low), int(high) + 1)
    ]
    assert f"(3, {low}) <= sys.version_info[:2] < (3, {int(high) + 1})" in (ROOT / "Makefile").read_text()


def test_airflows_are_those_of_the_readme():
    (needed,) = [each for each in PROJECT["dependencies"] if each.startswith("apache-airflow>")]
    low, high = re.search(r"Airflow ≥ (\S+) and < (\d+) ", README).groups()
    assert needed == f"apache-airflow>={low},<{high}"


def test_policy_of_versions_names_what_is_supported():
    page = (ROOT / "docs" / "explanation" / "versioning.md").read_text(encoding="utf-8")
    supported = re.search(r"Airflow (≥ \S+ and < \d+)[^\n]*?, (Python 3\.\d+ to 3\.\d+)\.", README)
    assert supported is not None
    assert f"Supported today: Airflow {supported[1]}, {supported[2]}." in page
    # Each supported Python has a day on which it goes.
    minors = [each.rpartition(".")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert re.findall(r"3\.(\d+) in\s+October 20\d\d", page) == minors


def test_urls_lead_into_one_repository_and_to_files_that_exist():
    assert {"Homepage", "Documentation", "Source", "Changelog", "Issues"} <= set(URLS)
    source = URLS["Source"]
    assert [name for name, url in URLS.items() if not url.startswith(source)] == []
    files = [url.removeprefix(f"{source}/blob/main/") for url in URLS.values() if "/blob/" in url]
    assert "docs/index.md" in files
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_links_of_the_package_page_lead_into_the_same_repository():
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    in_repository = re.compile(r"https://[^/]+/[^/)]+/[^/)]+")
    found = [url for each in hook["substitutions"] for url in in_repository.findall(each["replacement"])]
    assert found == [URLS["Source"]] * 3


def test_a_release_is_refused_from_another_repository():
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert 'grep -Fx "Source = \\"$REPOSITORY\\"" pyproject.toml' in workflow
    # The line that it looks for.
    assert f'Source = "{URLS["Source"]}"' in (ROOT / "pyproject.toml").read_text().splitlines()


def test_registry_file_describes_this_package():
    info = get_provider_info()
    assert REGISTRY["package-name"] == PROJECT["name"] == info["package-name"]
    assert REGISTRY["display-name"] == info["name"]
    assert REGISTRY["description"] == info["description"]
    assert REGISTRY["docs-url"] == URLS["Documentation"]
    assert REGISTRY["source-url"] == URLS["Source"]


@pytest.mark.parametrize("section", SECTIONS)
def test_registry_file_lists_every_class_of_the_provider(section: str):
    modules = [name for each in get_provider_info()[section] for name in each["python-modules"]]
    suffix = section.removesuffix("s").capitalize()
    classes = {
        f"{module}.{name}"
        for module in modules
        for name, value in vars(import_module(module)).items()
        if isinstance(value, type)
        and value.__module__ == module
        and name.startswith("EvoImage")
        and name.endswith(suffix)
    }
    assert {each["module"] for each in REGISTRY[section]} == classes
    assert all(each["description"] for each in REGISTRY[section])


def test_registry_file_lists_the_decorator():
    (listed,) = REGISTRY["task-decorators"]
    (known,) = get_provider_info()["task-decorators"]
    assert listed["module"] == known["class-name"]
