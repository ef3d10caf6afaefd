"""Items of a batch: each is checked before anything is paid, and is the same request wherever it stands."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.batch.items import MAX_ITEMS, BatchItem, build_items, require_partitions
from airflow_provider_evoimage.batch.ledger import LedgerLine
from airflow_provider_evoimage.batch.source import Entry
from airflow_provider_evoimage.evolink.given_up import GivenUp
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.labels import MOST_NAME_CHARACTERS
from airflow_provider_evoimage.submission.fallback import Position
from airflow_provider_evoimage.submission.identity import RequestIdentity, fingerprint
from tests.unit.batch.test_submission import record

DEFAULTS = {"model": "gpt-image-1.5", "quality": "low"}
TRIED = (GivenUp(model="gpt-image-1.5", why="model_unavailable"),)


def built(*entries: Any, **arguments: Any) -> list[BatchItem]:
    arguments.setdefault("read_references", lambda _: None)
    listed = [each if isinstance(each, Entry) else Entry(fields=each) for each in entries]
    return build_items(listed, arguments.pop("defaults", DEFAULTS), **arguments)


def one(fields: dict[str, Any] | None = None, **arguments: Any) -> BatchItem:
    (found,) = built({"prompt": "a mug", **(fields or {})}, **arguments)
    return found


def test_own_fields_win_and_what_is_not_of_the_request_is_not_sent():
    item = one(
        {
            "quality": "high",
            "size": None,
            "name": " cup ",
            "alt_text": "a cup",
            "labels": {"team": "b"},
            "variant": 2,
        },
        labels={"team": "a", "campaign": "spring"},
    )
    assert item.request == ImageRequest.build(model="gpt-image-1.5", prompt="a mug", quality="high")
    assert (item.position, item.name, item.alt_text, item.variant) == (0, "cup", "a cup", "2")
    assert item.labels == {"team": "b", "campaign": "spring"}
    assert item.fingerprint == fingerprint(item.request, "2")
    assert item.requested.labels == item.labels
    plain = one()
    assert (plain.name, plain.alt_text, plain.variant, plain.labels) == ("", None, None, {})
    assert plain.fingerprint == fingerprint(plain.request)
    assert plain.requested.labels is None


def test_equal_requests_are_numbered_and_their_place_does_not_matter():
    mug, cup = {"prompt": "a mug"}, {"prompt": "a cup"}
    items = built(mug, cup, mug, {**mug, "variant": "b"}, mug, {**mug, "variant": "b"})
    assert [item.occurrence for item in items] == [0, 0, 1, 0, 2, 1]
    assert [item.position for item in items] == [0, 1, 2, 3, 4, 5]
    assert len({item.ledger_key for item in items}) == 6
    moved = built(cup, mug, mug, mug)
    assert {item.ledger_key for item in moved} == {items[place].ledger_key for place in (0, 1, 2, 4)}


def test_variant_of_the_batch_is_of_items_without_their_own():
    assert one(variant="b").fingerprint == one({"variant": "b"}).fingerprint
    assert one({"variant": "c"}, variant="b").variant == "c"


@pytest.mark.parametrize(
    ("arguments", "is_indexed"), [({}, False), ({"is_indexed": True}, True), ({"variant": 1}, True)]
)
def test_manifest_says_which_requests_the_images_are_for(arguments: dict[str, Any], is_indexed: bool):
    item = one(**arguments)
    assert item.is_indexed == is_indexed
    key = {"fingerprint": item.fingerprint, "occurrence": 0}
    assert item.requested.reusable_for == (key if is_indexed else None)


def test_each_fallback_model_gets_the_request_in_its_own_words():
    item = one({"size": "1024x1024"}, fallback_models="gpt-image-1, gpt-image-1.5", variant="b")
    assert item.models == ["gpt-image-1.5", "gpt-image-1"]
    assert [each.size for each in item.requests] == ["1024x1024", "1024x1024"]
    requested = item.requested_at(Position(1, TRIED))
    assert requested.request is not None
    assert requested.request["model"] == "gpt-image-1"
    assert requested.fell_back == [TRIED[0].to_json()]
    assert requested.reusable_for == {"fingerprint": fingerprint(item.others[0], "b"), "occurrence": 0}
    assert item.requested.fell_back is None


def test_size_for_a_channel_is_that_of_each_model():
    item = one({"size": "for:meta.story"}, fallback_models=["gpt-image-2"])
    assert item.request.size == "1024x1536"
    assert item.others[0].size not in {"for:meta.story", "1024x1536"}
    assert "meta.story" in item.size_note


def test_identity_with_another_model_names_what_it_fell_back_from():
    first = RequestIdentity(
        namespace="", dag_id="d", run_id="r", task_id="t", item="cup", epoch=0, fingerprint="a" * 64
    )
    item = one(fallback_models=["gpt-image-1"], variant="b")
    assert item.identities(first) == [
        first,
        replace(first, fingerprint=fingerprint(item.others[0], "b"), item=f"cup after {'a' * 16}"),
    ]


def test_line_describes_what_another_model_got_as_the_item_is_now():
    for variant in (None, "b"):
        item = one(
            {"name": "new", "labels": {"team": "new"}}, fallback_models=["gpt-image-1"], variant=variant
        )
        sent = record(fingerprint=fingerprint(item.others[0], variant), tried=TRIED)
        line = replace(LedgerLine.new(item, 3), record=sent, requested=item.requested)
        assert line.at(item).requested == item.requested_at(Position(1, TRIED))
        # A model that is no longer listed: as it was.
        gone = replace(line, record=replace(sent, fingerprint="x" * 64))
        assert gone.at(one(variant=variant)).requested == item.requested
        # Nothing fell back.
        assert replace(line, record=None).at(one()).requested == one().requested


def test_references_are_read_with_the_fields_and_take_their_place():
    asked: list[Any] = []

    def read(fields: Any) -> Any:
        asked.append(dict(fields))
        return SimpleNamespace(image_urls=["https://files.evolink.ai/a.png"], extra_body={"mask_url": "x"})

    item = one({"image_urls": ["s3://a.png"]}, read_references=read)
    assert asked == [{**DEFAULTS, "prompt": "a mug", "image_urls": ["s3://a.png"]}]
    assert item.given == {"image_urls": ["s3://a.png"], "extra_body": None}
    assert item.request.image_urls == ("https://files.evolink.ai/a.png",)
    assert item.request.extra_body == {"mask_url": "x"}


def test_every_wrong_item_is_named_and_none_is_sent():
    with pytest.raises(InvalidRequestError) as refused:
        built({"prompt": "a"}, {"promt": "b"}, Entry(fields={"prompt": ""}, line=7), {"prompt": "d"})
    words = refused.value.message
    assert words.startswith(
        "2 of 4 requests cannot be sent: request 1: promt: no such field; there are name, "
    )
    assert "request 2 (line 7): " in words
    assert "more." not in words


@pytest.mark.parametrize(("wrong", "words"), [(10, ""), (11, " And 1 more."), (30, " And 20 more.")])
def test_only_the_first_ten_are_described(wrong: int, words: str):
    with pytest.raises(InvalidRequestError) as refused:
        built(*[{"x": 1}] * wrong)
    assert refused.value.message.count("no such field") == min(wrong, 10)
    assert refused.value.message.endswith(words)
    assert ("more." in refused.value.message) == bool(words)


def test_batch_has_a_largest_size():
    assert len(built(*[{"prompt": "a mug"}] * MAX_ITEMS)) == MAX_ITEMS
    with pytest.raises(InvalidRequestError, match="2,001 items; one batch takes 2,000"):
        built(*[{"prompt": "a mug"}] * (MAX_ITEMS + 1))


def test_partitions_need_a_name_for_every_item():
    longest = replace(one(), name="x" * MOST_NAME_CHARACTERS)
    require_partitions([longest])
    with pytest.raises(InvalidRequestError, match="request 0 has none"):
        require_partitions([longest, one()])
    with pytest.raises(InvalidRequestError, match=f"request 0 has one of {MOST_NAME_CHARACTERS + 1}"):
        require_partitions([replace(longest, name=longest.name + "x")])
