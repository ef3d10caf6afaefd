"""For all tests: how many examples hypothesis makes, and what a short run leaves out."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.worker_watch import watched

PROJECT = Path(__file__).parents[1]

# The usual run makes the same examples everywhere, however slow the machine; `make test-thorough` makes new ones.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("thorough", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    # pytest-xdist 3.8 finds no groups with pytest 9.2.
    return SharingTests(config, log) if config.getvalue("dist") == "loadgroup" else None


class SharingTests(LoadScopeScheduling):
    """Tests that share a fixture run in one worker; all others go to whichever worker is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return shared_fixture(PROJECT / file) or nodeid


@cache
def shared_fixture(module: Path) -> str:
    """Return the same word for all modules whose tests belong in one worker; empty if they may run anywhere."""
    text = module.read_text(encoding="utf-8")
    if "private_airflow" in text:
        return "private_airflow"
    # All faults that are selected happen side by side in one process.
    return str(module) if module.parent.name == "faults" or 'scope="module"' in text else ""


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stop each real Airflow also where pytest-xdist kills the worker that started it."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    starts_airflow = any(each.get_closest_marker("system") for each in request.session.items)
    with watched() if is_worker and starts_airflow else contextlib.nullcontext():
        yield


def pytest_collection_finish() -> None:
    # Airflow and the tests are some 200,000 objects that stay: looking through them took 6 % of a run's time.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--first-examples",
        action="store_true",
        help="run each parametrized test with its first parameters only, and no long ones",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--first-examples"):
        kept = first_examples(items)
        config.hook.pytest_deselected(items=list(set(items) - set(kept)))
        items[:] = kept


def first_examples(items: list[pytest.Item]) -> list[pytest.Item]:
    """Choose of each test function the first example: enough to see that it also runs on another Airflow or Python."""
    found: dict[str, pytest.Item] = {}
    for item in items:
        if item.get_closest_marker("any_line") or item.get_closest_marker("long"):
            continue
        found.setdefault(item.nodeid.partition("[")[0], item)
    return list(found.values())
