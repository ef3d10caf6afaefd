"""Which request saved images were made for: what is hidden or odd is unknown, never guessed."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.reuse.sidecar import MadeFor, key_in
from airflow_provider_evoimage.storage.index import ImagesKey
from airflow_provider_evoimage.submission.identity import fingerprint

REQUEST = ImageRequest.build(model="gpt-image-1.5", prompt="a red fox", quality="low")
BODY = REQUEST.body()
KEY = ImagesKey(fingerprint=fingerprint(REQUEST))
UPLOADS = [{"source": "s3://shop/logo.png", "sha256": "a" * 64}]


def made_for(body: Any = BODY, **fields: Any) -> MadeFor | None:
    return key_in({"request": body, **fields})


def test_key_follows_from_the_request_where_the_sidecar_does_not_say_it():
    assert made_for() == MadeFor(key=KEY, provenance="keep")


def test_uploads_are_described_beside_the_request_and_are_no_part_of_it():
    assert made_for({**BODY, "references": UPLOADS}) == made_for()
    for field in ([{"source": "a"}], [{"sha256": "a"}], ["a"], [*UPLOADS, "a"], "a"):
        found = made_for({**BODY, "references": field})
        assert found is not None
        assert found.key != KEY
    # A field of another name is a part of it, whatever it holds.
    found = made_for({**BODY, "extras": UPLOADS})
    assert found is not None
    assert found.key != KEY


def test_request_with_a_hidden_value_is_unknown():
    assert made_for({**BODY, "image_urls": ["https://shop/a.png?token=***"]}) is None
    # A prompt may hold the same characters.
    found = made_for({**BODY, "prompt": "x=***"})
    assert found is not None
    assert found.key.fingerprint == fingerprint(REQUEST.model_copy(update={"prompt": "x=***"}))


@pytest.mark.parametrize(
    "request_", [None, [], "text", {}, {"model": 5}, {"prompt": "a"}, {"model": "m", "x": {1}}]
)
def test_odd_request_is_unknown(request_: Any):
    assert made_for(request_) is None


@pytest.mark.parametrize(
    ("images", "provenance"),
    [
        (None, "keep"),
        ([], "keep"),
        (["edited"], "keep"),
        ([{"provenance": "edited"}], "keep"),
        ([{"provenance": {"kept_because": "provenance='keep'"}}], "keep"),
        ([{"provenance": {}}], "mark"),
        ([{"provenance": {"kept_because": "it says so already"}}], "mark"),
        ([{"provenance": {}}, {"provenance": {"kept_because": "provenance='keep'"}}], "keep"),
    ],
)
def test_setting_of_marks_is_read_from_the_images(images: Any, provenance: str):
    found = made_for(images=images)
    assert found is not None
    assert found.provenance == provenance


def test_what_a_sidecar_says_itself_counts():
    stated: dict[str, Any] = {"fingerprint": "b" * 64, "occurrence": 3, "provenance": "mark"}
    key = ImagesKey(fingerprint="b" * 64, occurrence=3)
    assert made_for(reusable_for=stated) == MadeFor(key=key, provenance="mark")
    found = made_for(reusable_for={**stated, "alt_text_sha256": "c" * 64})
    assert found == MadeFor(key=key, provenance="mark", alt_text_sha256="c" * 64)
    found = made_for(reusable_for={**stated, "alt_text_sha256": 5})
    assert found == MadeFor(key=key, provenance="mark")


@pytest.mark.parametrize(
    "stated",
    [
        {"fingerprint": "b" * 64, "occurrence": 3},
        {"fingerprint": "b" * 64, "occurrence": 3, "provenance": "sign"},
        {"fingerprint": "b", "occurrence": 3, "provenance": "mark"},
        {},
        "edited",
    ],
)
def test_what_was_edited_there_is_unknown_and_not_derived(stated: Any):
    assert made_for(reusable_for=stated) is None
