"""The page of the fault matrix is written from a whole run only."""

from __future__ import annotations

import pytest

from tests.faults.fault_table import ALL_KILLS, is_whole


@pytest.mark.parametrize(
    ("found", "whole"),
    [
        (["a", "b", "seeded"], True),
        (["b", "seeded", "a"], True),
        (["a", "seeded"], False),
        (["a", "b"], False),
        ([], False),
    ],
)
def test_part_of_the_matrix_is_no_whole(found: list[str], whole: bool) -> None:
    assert is_whole(found, ["a", "b"]) is whole


def test_run_with_fewer_kills_is_no_whole() -> None:
    assert is_whole(["a", "seeded"], ["a"], ALL_KILLS)
    assert not is_whole(["a", "seeded"], ["a"], ALL_KILLS - 1)
