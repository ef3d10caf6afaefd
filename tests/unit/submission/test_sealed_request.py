"""The request as it was sent: sealed where it fits into the record, and unreadable with another key or text."""

from __future__ import annotations

import pytest

from airflow_provider_evoimage.submission import sealed_request
from airflow_provider_evoimage.submission.sealed_request import SentRequest, unseal

KEY = "sk-evo-one"
SENT = SentRequest(body={"prompt": "a red fox"}, described={"model": "gpt-image-1.5"})


def sealed(request: SentRequest = SENT) -> str:
    text = request.sealed(KEY)
    assert text is not None
    return text


def test_request_comes_back_as_it_was_sent() -> None:
    assert unseal(sealed(), KEY) == SENT
    assert unseal(sealed(SentRequest(body={"n": 1})), KEY) == SentRequest(body={"n": 1}, described=None)


@pytest.mark.parametrize("text", [None, "", "junk", "gAAAAA==", "no ASCII: ü"])
def test_text_that_is_not_sealed_is_none(text: str | None) -> None:
    assert unseal(text, KEY) is None


def test_sealed_request_is_none_under_another_api_key() -> None:
    assert unseal(sealed(), "sk-evo-two") is None


def test_request_is_kept_up_to_the_longest_that_the_record_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    length = len(sealed())
    monkeypatch.setattr(sealed_request, "LONGEST_SEALED", length)
    assert SENT.sealed(KEY) is not None
    monkeypatch.setattr(sealed_request, "LONGEST_SEALED", length - 1)
    assert SENT.sealed(KEY) is None


def test_text_that_unpacks_to_more_than_any_request_is_none() -> None:
    assert unseal(sealed(SentRequest(body={"prompt": "a" * 2_100_000})), KEY) is None
