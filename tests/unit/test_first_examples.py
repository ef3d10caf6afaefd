"""The short run of the tests on the older Airflows: `--first-examples`."""

from types import SimpleNamespace
from typing import Any

from tests.conftest import first_examples


def item(nodeid: str) -> Any:
    return SimpleNamespace(nodeid=nodeid, get_closest_marker=lambda name: name in nodeid)


def test_each_test_that_is_not_long_runs_once():
    items = [
        item(nodeid)
        for nodeid in (
            "tests/unit/test_a.py::test_b",
            "tests/unit/test_a.py::test_c[1]",
            "tests/unit/test_a.py::test_c[2]",
            "tests/unit/test_a.py::TestD::test_c[1]",
            "tests/unit/test_a.py::TestD::test_c[[x]]",
            "tests/unit/test_e.py::test_c[2]",
            "tests/unit/test_e.py::test_long",
            "tests/unit/test_e.py::test_at_any_line[1]",
        )
    ]
    assert [each.nodeid for each in first_examples(items)] == [
        "tests/unit/test_a.py::test_b",
        "tests/unit/test_a.py::test_c[1]",
        "tests/unit/test_a.py::TestD::test_c[1]",
        "tests/unit/test_e.py::test_c[2]",
    ]
