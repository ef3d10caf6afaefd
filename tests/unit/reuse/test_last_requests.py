"""What the log says about a request that is drawn again."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_evoimage.reuse.last_requests import in_words

BEFORE: dict[str, Any] = {
    "model": "m",
    "prompt": "a red fox of 2026-05-01 in the snow, no text, please",
    "n": 1,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"prompt": BEFORE["prompt"].replace("05-01", "05-02")},
            "prompt differs from X at character 22: '…of 2026-05-01 in the snow, no text, plea…' became "
            "'…of 2026-05-02 in the snow, no text, plea…'",
        ),
        ({"prompt": "b"}, "prompt differs from X at character 0: 'a red fox of 2026-05-01 in t…' became 'b'"),
        ({"n": 2, "size": "1:1"}, "n differs from X; size differs from X"),
        ({"image_urls": ["sha256:1"], "references": [1]}, "image_urls differs from X"),
        ({}, "only variant or occurrence differs from X"),
    ],
    ids=["date", "other words", "two fields", "references", "nothing"],
)
def test_difference_names_fields_and_place(change: dict[str, Any], words: str) -> None:
    assert in_words(BEFORE, BEFORE | change, of="X") == words


def test_unknown_request_has_no_difference() -> None:
    assert in_words(None, BEFORE, of="X") == in_words(BEFORE, None, of="X") == ""
