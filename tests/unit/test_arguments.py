"""Checks that several operators share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage import arguments
from airflow_provider_evoimage.arguments import (
    MOST_VARIANT_CHARACTERS,
    absolute_url,
    moment,
    poll_seconds,
    require_memory_of_models,
    seconds,
    storable_argument,
    variant_of,
)
from airflow_provider_evoimage.exceptions import InvalidRequestError


@pytest.mark.parametrize("value", [0.99, 0.001, timedelta(milliseconds=500), 0, -1, float("nan"), True])
def test_polls_are_a_second_apart_at_least(value: float) -> None:
    with pytest.raises(InvalidRequestError, match="poll_interval must be"):
        poll_seconds(value)


@pytest.mark.parametrize("value", [1, 2.5, timedelta(seconds=30)])
def test_span_is_read_in_seconds(value: float) -> None:
    assert poll_seconds(value) == seconds("poll_interval", value) >= 1


@pytest.mark.parametrize(
    "url", ["file:////data/x", "LOCAL:////data/x", "data/x", "file://data/x", "file://", ""]
)
def test_path_below_the_current_folder_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="absolute path"):
        absolute_url("requests", url)


@pytest.mark.parametrize(
    "url", ["/data/x", " file:///data/x ", "file://conn@/data/x", "s3://bucket//x", "gs://b"]
)
def test_storage_url_is_let_through(url: str) -> None:
    assert absolute_url("save_to", url) == url.strip()


def test_fallback_models_need_a_place_to_remember_them(monkeypatch: pytest.MonkeyPatch) -> None:
    require_memory_of_models(["gpt-image-1"], None if arguments.HAS_TASK_STATE_STORE else "file:///images")
    monkeypatch.setattr(arguments, "HAS_TASK_STATE_STORE", False)
    require_memory_of_models(None, None)
    require_memory_of_models(["gpt-image-1"], "file:///images")
    with pytest.raises(InvalidRequestError, match="save_to below Airflow"):
        require_memory_of_models(["gpt-image-1"], None)


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("labels", {"a": "b"}, {"a": "b"}),
        ("max_credits", Decimal("1.5"), "1.5"),
        ("max_credits", 2, 2),
        ("save_to", Path("/images"), "/images"),
        ("name", "mug", "mug"),
    ],
)
def test_argument_of_a_function_is_stored_as_json(name: str, value: Any, stored: Any) -> None:
    assert storable_argument(name, value) == stored


@pytest.mark.parametrize(("value", "found"), [(None, None), ("", None), (3, "3"), ("b", "b")])
def test_variant_is_short_text_or_a_number(value: Any, found: str | None) -> None:
    assert variant_of(value) == found


@pytest.mark.parametrize("value", [True, 1.5, ["a"], "a" * (MOST_VARIANT_CHARACTERS + 1)])
def test_other_variant_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match="variant"):
        variant_of(value)


@pytest.mark.parametrize(
    ("value", "seconds_of_day"),
    [
        (None, None),
        (" ", None),
        ("2026-05-01T06:00:00", 6 * 3600),
        ("2026-05-01T06:00:00+02:00", 4 * 3600),
        (datetime.fromisoformat("2026-05-01T06:00:00"), 6 * 3600),
        (datetime(2026, 5, 1, 6, tzinfo=UTC), 6 * 3600),
    ],
)
def test_moment_without_a_zone_is_in_utc(value: datetime | str | None, seconds_of_day: int | None) -> None:
    day = datetime(2026, 5, 1, tzinfo=UTC).timestamp()
    found = moment("created_after", value)
    assert (None if found is None else found - day) == seconds_of_day


@pytest.mark.parametrize("value", ["yesterday", "{{ ds"])
def test_other_moment_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="created_after"):
        moment("created_after", value)
