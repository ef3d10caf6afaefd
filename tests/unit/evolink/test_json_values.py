"""Odd JSON reads as None, and nothing raises."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink.json_values import (
    holds_nul,
    mapping,
    number,
    number_or_numeral,
    storable,
    text,
    words,
)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("value", "plain", "quoted"),
    [
        (5, 5.0, 5.0),
        (0.5, 0.5, 0.5),
        (-3, -3.0, -3.0),
        ("5", None, 5.0),
        (" 1e1 ", None, 10.0),
        ("five", None, None),
        ("", None, None),
        (True, None, None),
        (False, None, None),
        (None, None, None),
        (math.nan, None, None),
        (math.inf, None, None),
        ("inf", None, None),
        (10**400, None, None),
        ([5], None, None),
        ({"value": 5}, None, None),
    ],
)
def test_number_is_finite_and_no_truth_value(value: Any, plain: float | None, quoted: float | None) -> None:
    assert number(value) == plain
    assert number_or_numeral(value) == quoted


@pytest.mark.parametrize(("value", "found"), [("a", "a"), (" ", " "), ("", None), (5, None), (None, None)])
def test_text_is_not_empty(value: Any, found: str | None) -> None:
    assert text(value) == found


@pytest.mark.parametrize(("value", "found"), [({"a": 1}, {"a": 1}), ([], {}), ("a", {}), (None, {})])
def test_what_is_no_object_is_an_empty_one(value: Any, found: dict[str, Any]) -> None:
    assert mapping(value) == found


@given(ANY_JSON)
def test_anything_reads_without_an_error(value: Any) -> None:
    for read in (number, number_or_numeral):
        found = read(value)
        assert found is None or math.isfinite(found)
    assert text(value) is None or isinstance(value, str)
    assert mapping(value) == (value if isinstance(value, dict) else {})


def is_storable(value: Any) -> bool:
    """Whether PostgreSQL would store it as JSON."""
    try:
        written = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return b"\\u0000" not in written.replace(b"\\\\", b"")


@given(
    st.recursive(st.text(st.characters()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_storable_answer_differs_only_where_the_database_would_refuse_it(value: Any) -> None:
    read = json.loads(storable(json.dumps(value).encode()))
    assert is_storable(read)
    assert not is_storable(value) or read == value
    assert holds_nul(value) or not holds_nul(read)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (rb'"a\u0000b"', "a\ufffdb"),
        (rb'"a\\u0000b"', r"a\u0000b"),
        (rb'"a\\\u0000b"', "a\\\ufffdb"),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (rb'"\uD83D"', "\ufffd"),
        (rb'"\ud83d\\ude00"', "\ufffd\\ude00"),
        (b'"\xed\xa0\xbd"', "\ufffd"),
        ('"Füchse, 狐"'.encode(), "Füchse, 狐"),
    ],
)
def test_nul_and_halves_of_characters_are_replaced(written: bytes, expected: str) -> None:
    assert json.loads(storable(written)) == expected


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a" * 10, "a" * 10),
        ("a" * 11, "a" * 9 + "…"),
        ("a" + " " * 50, "a…"),
        ("a\nb\x1b[31m", "a b [31m"),
        ("\n", None),
        (5, None),
    ],
)
def test_words_are_one_short_line(value: object, found: str | None) -> None:
    assert words(value, 10) == found
