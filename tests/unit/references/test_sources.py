"""What people, XComs and templates give as ``image_urls`` becomes a flat list of places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.references.sources import sources_of

NOW = 1_790_000_000.0
LINK = "https://files.evolink.ai/1/images/a.png"
SAVED = "s3://shop@campaign/run/make-0.png"


def manifest(*images: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "evolink_task_id": "task-unified-1",
        "status": "completed",
        "images": list(images),
    } | fields


MADE = manifest({"index": 0, "url": LINK, "path": SAVED})


def read(value: object) -> list[str]:
    return sources_of(value, field="image_urls", now=NOW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, [], id="None"),
        pytest.param("", [], id="empty"),
        pytest.param("[]", [], id="empty-list-text"),
        pytest.param(LINK, [LINK], id="url"),
        pytest.param(f" {SAVED}\n", [SAVED], id="blanks"),
        pytest.param([LINK, "/data/a.png"], [LINK, "/data/a.png"], id="list"),
        pytest.param(Path("/data/a.png"), ["/data/a.png"], id="path"),
        pytest.param(iter([LINK]), [LINK], id="iterator"),
        pytest.param(MADE, [SAVED], id="manifest"),
        pytest.param([MADE, LINK], [SAVED, LINK], id="mixed"),
        pytest.param([[MADE], [MADE]], [SAVED, SAVED], id="mapped"),
        pytest.param(str(MADE), [SAVED], id="python-text"),
        pytest.param(str([MADE, None][:1]), [SAVED], id="python-list-text"),
        pytest.param(json.dumps([MADE]), [SAVED], id="json-text"),
        pytest.param(str((LINK, LINK)), [LINK, LINK], id="tuple-text"),
        pytest.param(manifest({"url": LINK}), [LINK], id="link-only"),
        pytest.param(manifest({"url": LINK}, expires_at="2026-09-22T00:00:00+00:00"), [LINK], id="alive"),
    ],
)
def test_places_are_read_in_order(value: object, expected: list[str]) -> None:
    assert read(value) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param([None], "skipped or returned nothing", id="None-within"),
        pytest.param([""], "skipped or returned nothing", id="empty-within"),
        pytest.param("[None]", "skipped or returned nothing", id="None-within-text"),
        pytest.param("None", "is the text 'None', as a template renders None", id="template-None"),
        pytest.param(" null\n", "as a template renders None", id="template-null"),
        pytest.param({"a": 1}, "is no manifest", id="dict"),
        pytest.param(5, "image_urls: 5 is none of", id="number"),
        pytest.param(b"x", "is none of", id="bytes"),
        pytest.param('["https://a', "not valid JSON", id="cut-off"),
        pytest.param("[" * 9_999, "not valid JSON", id="deep"),
        pytest.param("[[[[[[['a']]]]]]]", "", id="too-deep"),
        pytest.param(f"[{'1,' * 600_000}]", "no list of reference images", id="long"),
        pytest.param(manifest(), "holds no images (status 'completed')", id="no-images"),
        pytest.param(manifest({"index": 0}), "neither path nor link", id="no-place"),
        pytest.param(manifest(5), "neither path nor link", id="no-object"),
        pytest.param(manifest({"url": "file:///etc/passwd"}), "neither path nor link", id="no-web-link"),
        pytest.param(
            manifest({"url": LINK}, expires_at="2026-01-01T00:00:00+00:00"), "set save_to", id="expired"
        ),
    ],
)
def test_what_is_no_reference_is_named(value: object, text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read(value)
    assert text in str(refused.value)
    assert refused.value.billed is False


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.just(MADE),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(str),
    )
)
def test_anything_is_read_or_refused(value: object) -> None:
    try:
        places = read(value)
    except InvalidRequestError:
        return
    assert all(isinstance(place, str) and place for place in places)


def test_set_is_no_list_as_the_next_process_would_read_it_in_another_order():
    with pytest.raises(InvalidRequestError, match="a list of them, whose order counts"):
        read({LINK, "/data/a.png"})


@pytest.mark.parametrize(
    "made", [manifest({"index": 0}), manifest({"url": LINK}, expires_at="2026-01-01T00:00:00+00:00")]
)
def test_manifest_that_leads_to_no_image_is_named(made: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="EvoLink task task-unified-1 "):
        read(made)
