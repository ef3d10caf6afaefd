"""Models that were given up, as the manifest lists them: what people edited there is left out."""

from __future__ import annotations

import pytest

from airflow_provider_evoimage.evolink.given_up import GivenUp


@pytest.mark.parametrize("data", [None, 5, "gpt-image-1", b"gpt-image-1", {"model": "gpt-image-1"}])
def test_what_is_no_list_names_none(data: object) -> None:
    assert GivenUp.read(data) == ()


def test_entries_that_name_no_model_are_left_out() -> None:
    found = GivenUp.read(["gpt-image-1", {"why": "moderation"}, {"model": "gpt-image-2"}, {"model": 5}])
    assert found == (GivenUp(model="gpt-image-2", why="unknown"),)
    assert GivenUp.read([each.to_json() for each in found]) == found
