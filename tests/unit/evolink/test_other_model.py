"""The words of one model for the size and quality of another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_evoimage.evolink import other_model
from airflow_provider_evoimage.evolink.model_facts import MODELS
from airflow_provider_evoimage.evolink.other_model import quality_for, size_for
from airflow_provider_evoimage.exceptions import InvalidRequestError


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ("gpt-image-1", None, None),
        ("gpt-image-1", "1024x1024", "1024x1024"),
        ("gpt-image-1", "1024×1536", "1024x1536"),
        ("gpt-image-1", "auto", "1024x1024"),
        ("gpt-image-2-beta", "1024x1536", "2:3"),
        ("gpt-image-1.5", "2048x2048", "1024x1024"),
        ("gpt-image-2", "1024x1536", "1024x1536"),
        ("model-of-tomorrow", "7:5", "7:5"),
    ],
)
def test_size_keeps_its_ratio(model: str, size: str | None, expected: str | None) -> None:
    assert size_for(model, size) == expected


@pytest.mark.parametrize("size", ["16:9", "1920x1080", "huge"])
def test_size_without_a_counterpart_is_refused(size: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"no counterpart in gpt-image-1\.5"):
        size_for("gpt-image-1.5", size)


@pytest.mark.parametrize(
    ("model", "quality", "expected"),
    [
        ("gpt-image-1", None, None),
        ("gpt-image-1", "low", "low"),
        ("gpt-image-1", "xhigh", "high"),
        ("gpt-image-2", "max", "high"),
        ("gpt-image-2.5-flare", "max", "max"),
        ("gpt-image-2-beta", "high", None),
        ("gpt-image-1.5", "auto", "auto"),
        ("model-of-tomorrow", "2K", "2K"),
    ],
)
def test_quality_is_the_nearest_that_is_not_above(
    model: str, quality: str | None, expected: str | None
) -> None:
    assert quality_for(model, quality) == expected


@pytest.mark.parametrize("quality", ["auto", "2K", "hd"])
def test_quality_without_a_counterpart_is_refused(quality: str) -> None:
    with pytest.raises(InvalidRequestError, match="no counterpart in gpt-image-1"):
        quality_for("gpt-image-1", quality)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("other", MODELS)
def test_every_size_that_is_found_is_one_of_the_model(model: str, other: str) -> None:
    for size in MODELS[model].sizes:
        try:
            found = size_for(other, size)
        except InvalidRequestError:
            continue
        assert found is not None
        assert MODELS[other].allows_size(found)


def test_quality_below_all_of_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(MODELS["gpt-image-1"], qualities=("high",), disputed_qualities=())
    monkeypatch.setattr(other_model, "facts_of", lambda model: facts)
    assert quality_for("gpt-image-1", "high") == "high"
    with pytest.raises(InvalidRequestError, match="no counterpart"):
        quality_for("gpt-image-1", "low")
