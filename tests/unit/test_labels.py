"""Names and labels: what they may hold."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.labels import labels_of, name_of, read_labels


def test_labels_without_a_value_are_left_out() -> None:
    assert labels_of({"campaign": " spring ", "team": "", "run": "None"}) == {"campaign": "spring"}
    assert labels_of(None) == labels_of({}) == {}


@pytest.mark.parametrize(
    "labels",
    [
        "campaign=spring",
        ["spring"],
        {"campaign": 7},
        {"campaign": None},
        {7: "x"},
        {"a b": "x"},
        {"é": "x"},
        {"": "x"},
        {"k" * 41: "x"},
        {"campaign": "x" * 101},
        {"campaign": "a\nb"},
        {"model": "x"},
        {"outcome": "x"},
        {f"k{number}": "x" for number in range(11)},
    ],
)
def test_other_labels_are_refused_and_read_as_none(labels: Any) -> None:
    with pytest.raises(InvalidRequestError, match="labels"):
        labels_of(labels)
    assert read_labels(labels) is None


def test_largest_labels_are_taken() -> None:
    labels = {f"{number}k".rjust(40, "k"): "x" * 100 for number in range(10)}
    assert labels_of(labels) == labels


@pytest.mark.parametrize(
    ("name", "expected"), [(" mug ", "mug"), (7, "7"), ("", None), ("None", None), (None, None)]
)
def test_name_is_text(name: Any, expected: str | None) -> None:
    assert name_of(name) == expected


@pytest.mark.parametrize("name", [True, 1.5, ["mug"], "x" * 201, "a\nb"])
def test_other_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidRequestError, match="name must be"):
        name_of(name)
