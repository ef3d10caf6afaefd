"""Checks that several operators share."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_evoimage.arguments import absolute_url, poll_seconds, seconds
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
