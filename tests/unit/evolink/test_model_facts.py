"""What each model takes as references is what its page says, and no more than can be uploaded."""

from __future__ import annotations

import pytest

from airflow_provider_evoimage.evolink.files import MAX_UPLOAD_BYTES, UPLOAD_TYPES
from airflow_provider_evoimage.evolink.model_facts import (
    MEGABYTE,
    MODELS,
    REFERENCE_RULES,
    ReferenceRules,
    reference_rules_of,
)


def test_every_model_of_the_catalogue_has_rules_of_the_same_count() -> None:
    assert {model: facts.max_references for model, facts in MODELS.items()} == {
        model: REFERENCE_RULES[model].most for model in MODELS
    }


@pytest.mark.parametrize("rules", REFERENCE_RULES.values(), ids=REFERENCE_RULES)
def test_rules_can_be_kept(rules: ReferenceRules) -> None:
    assert rules.least <= rules.most
    assert set(rules.types) <= set(UPLOAD_TYPES)
    assert rules.max_bytes is None or rules.max_bytes <= MAX_UPLOAD_BYTES
    assert rules.edges is None or 0 < rules.edges[0] < rules.edges[1]
    assert rules.source


@pytest.mark.parametrize(
    ("model", "most", "megabytes", "mask"),
    [
        ("gpt-image-1", 16, 50, "none"),
        ("gpt-image-1.5", 16, 50, "none"),
        ("gpt-image-2", 16, 50, "alpha"),
        ("gpt-4o-image", 5, 10, "png"),
        ("gemini-3-pro-image-preview", 14, 20, "none"),
        ("doubao-seedream-4.0", 14, 10, "none"),
    ],
)
def test_limits_are_the_pages(model: str, most: int, megabytes: int, mask: str) -> None:
    rules = REFERENCE_RULES[model]
    assert (rules.most, rules.max_bytes, rules.mask) == (most, megabytes * MEGABYTE, mask)


def test_unknown_model_has_no_rules() -> None:
    assert reference_rules_of("gpt-image-9") is None
