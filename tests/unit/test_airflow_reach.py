"""What another Airflow is tested with: all that meets Airflow, and the first example of every other test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.airflow_reach import PROJECT, meets_airflow, way_to_airflow
from tests.conftest import on_other_airflow

TESTS = PROJECT / "tests"
FREE, MEETING = TESTS / "unit/evolink/test_answers.py", TESTS / "unit/submission/test_decision.py"


@pytest.mark.parametrize(
    "module",
    [
        "unit/test_exceptions.py",
        "unit/test_docs.py",
        "unit/hooks/test_connection_settings.py",
        "unit/storage/test_stores.py",
        "unit/submission/test_record.py",
        "unit/triggers/test_one_event.py",
        "integration/test_trigger.py",
        "integration/money/test_money_crashes.py",
    ],
)
def test_what_uses_airflow_meets_it(module: str):
    assert meets_airflow(TESTS / module)


@pytest.mark.parametrize("folder", ["unit/evolink", "integration/simulator"])
def test_the_service_as_plain_data_and_the_simulator_do_not_meet_airflow(folder: str):
    modules = list((TESTS / folder).glob("test_*.py"))
    assert len(modules) > 10
    assert [module for module in modules if meets_airflow(module)] == []


@pytest.mark.parametrize(
    "line",
    [
        "import airflow",
        "from airflow.sdk import DAG",
        "def f():\n    from airflow import settings",
        "from airflow_provider_evoimage import operators\nfrom airflow_provider_evoimage.hooks.evoimage import x",
        "from tests.integration import task_driver",
    ],
)
def test_import_is_seen_wherever_it_stands(line: str, tmp_path: Path):
    module = tmp_path / "test_something.py"
    module.write_text(f"{line}\n")
    way = way_to_airflow(module)
    assert way is not None
    assert way[0] == module


@pytest.mark.parametrize(
    "line",
    ["import httpx", "from airflow_provider_evoimage.exceptions import EvoImageError", "import airflows"],
)
def test_errors_and_other_packages_do_not_count(line: str, tmp_path: Path):
    module = tmp_path / "test_something.py"
    module.write_text(f"{line}\n")
    assert way_to_airflow(module) is None


def item(path: Path, function: str, example: str) -> Any:
    return SimpleNamespace(
        path=path,
        originalname=function,
        name=f"{function}[{example}]",
        get_closest_marker=lambda name: name if name in function else None,
    )


def test_each_test_runs_and_examples_are_left_out_only_where_nothing_meets_airflow():
    items = [
        item(path, function, example)
        for path in (FREE, MEETING)
        for function in ("test_a", "test_b", "test_at_any_line")
        for example in ("1", "2")
    ]
    kept = [(each.path, each.name) for each in on_other_airflow(items)]
    assert kept == [
        (FREE, "test_a[1]"),
        (FREE, "test_b[1]"),
        (FREE, "test_at_any_line[1]"),
        *((MEETING, f"{function}[{example}]") for function in ("test_a", "test_b") for example in "12"),
        (MEETING, "test_at_any_line[1]"),
    ]
