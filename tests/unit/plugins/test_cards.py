"""What the pages say: each kind of nothing has its own sentence, and foreign values do no harm."""

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.plugins import cards
from airflow_provider_evoimage.plugins.records import Task
from airflow_provider_evoimage.plugins.roots import ImageRoots
from airflow_provider_evoimage.plugins.web import Json

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
ROOTS = ImageRoots.read('["file:///data/images"]')
FILE = ["file:///data/images/a.png", "abc", 8, 9]


def task(images: dict[str, Any] | None = None, **fields: Any) -> Task:
    named = {"dag_id": "shop", "run_id": "r", "task_id": "hero", "map_index": -1}
    return Task(**{**named, "operator": "EvoImageGenerateOperator", "images": images or {}, **fields})


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (task(operator="BashOperator", state="success"), "none", "not one of EvoLink's operators"),
        (task(state=None), "idle", "Not started yet"),
        (task(state="queued"), "idle", "Not started yet"),
        (task(state="running"), "idle", "has not accepted"),
        (task({"state": "waiting"}, state="deferred"), "waiting", ""),
        (task(state="failed"), "failed", "its log has the reason"),
        (task(state="upstream_failed"), "failed", "task before it failed"),
        (task({"state": "failed", "error": {"message": "no"}}, state="failed"), "failed", ""),
        (task({"state": "failed", "error": {"message": "no"}}, state="up_for_retry"), "retrying", ""),
        (task(state="skipped"), "skipped", "skipped or removed"),
        (task(state="success"), "none", "ended without images"),
        (task({"state": "made", "images": 0}, state="success"), "made", "ended without images"),
        (
            task({"state": "made", "images": 1, "expires_at": "2026-11-27T14:05:00+00:00"}, state="success"),
            "made",
            "until 2026-11-27 14:05 UTC",
        ),
        (
            task({"state": "made", "images": 1, "expires_at": "2026-11-27T11:05:00+00:00"}, state="success"),
            "made",
            "died at 2026-11-27 11:05 UTC",
        ),
        (
            task({"state": "made", "images": 1, "files": [["s3://x@b/c/a.png", "", 1, 1]]}, state="success"),
            "made",
            '["s3://x@b/c"]',
        ),
        (task({"state": "made", "images": 1, "files": [FILE]}, state="success"), "made", ""),
    ],
)
def test_each_state_has_its_own_sentence(found: Task, state: str, words: str):
    shown = cards.card(found, ROOTS, now=NOW)
    assert shown["state"] == state
    assert words in shown["note"]
    assert bool(shown["note"]) == bool(words)


def test_failure_says_whether_it_was_billed():
    error = {
        "kind": "GenerationFailedError",
        "message": "It failed.",
        "billed": False,
        "on_retry": "A retry pays.",
    }
    shown = cards.card(task({"state": "failed", "error": error}, state="failed"), ROOTS, now=NOW)
    assert shown["error"] == error


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_NAMES = [
    "state",
    "files",
    "images",
    "saved",
    "credits",
    "credits_reserved",
    "expected_seconds",
    "prompt",
    "model",
    "size",
    "quality",
    "expires_at",
    "manifest",
    "evolink_task_ids",
    "items",
    "error",
]


@given(
    st.dictionaries(st.sampled_from(_NAMES), _JSON), st.sampled_from([None, "success", "failed", "deferred"])
)
def test_edited_xcom_makes_a_card_all_the_same(value: dict[str, Any], state: str | None):
    json.dumps(cards.card(task(value, state=state), ROOTS, now=NOW))
    cards.totals({"success": 1}, [value])


@given(_JSON)
def test_edited_return_value_makes_details_all_the_same(value: Any):
    manifests = cards.manifests_of(
        [value, {"evolink_task_id": value, "images": [value], "request": value, "usage": value}]
    )
    json.dumps([cards.details(manifests, ROOTS), cards.images_of(manifests)])


def test_links_and_signatures_stay_on_the_server():
    manifest = {
        "evolink_task_id": "task-1",
        "images": [
            {"index": 0, "url": "https://cdn.example/a.png?sig=hush", "path": "file:///data/images/a.png"}
        ],
        "request": {"prompt": "p", "image_urls": ["https://x.example/a.png?X-Amz-Signature=hush"]},
        "usage": {"charged": 68},
    }
    text = json.dumps([cards.details([manifest], ROOTS), cards.images_of([manifest])])
    assert "hush" not in text
    assert "cdn.example" not in text


def test_snippet_is_python_that_makes_the_operator():
    request = {"prompt": 'say "hi"\n{{ ds }}', "model": "gpt-image-1.5", "n": 2}
    code = cards.snippet(request)
    compile(code, "snippet", "eval")
    assert "n=2" in code


def test_totals_count_a_generation_once_whoever_tells_of_it():
    waiting = {"state": "waiting", "evolink_task_ids": ["a"], "images": 0, "credits_reserved": 9}
    waited = {"state": "made", "evolink_task_ids": ["a"], "images": 2, "credits": 8}
    other = {"state": "made", "evolink_task_ids": ["b"], "images": 1, "credits": 4}
    cut = {"state": "made", "evolink_task_ids": ["a", "b"], "images": 3, "credits": 12}
    batch = {"state": "made", "evolink_task_ids": ["c", "d"], "items": 40, "images": 40, "credits": 160}
    first_of_it = {"state": "made", "evolink_task_ids": ["c"], "images": 1, "credits": 4}
    for said in itertools.permutations([waiting, waited, other, cut, batch, first_of_it]):
        told = cards.totals({"success": 6}, said)
        assert (told["images"], told["credits"], told["waiting"]) == (43, 172, 1)


@pytest.mark.parametrize("ids", [None, "a", 3, [None, 1], {"a": 1}])
def test_totals_take_any_ids(ids):
    said = [{"state": "made", "evolink_task_ids": ids, "images": 1, "credits": 4}] * 2
    assert cards.totals({"success": 2}, said)["images"] == 2


def test_totals_count_tasks_images_and_charges():
    said = [
        {"state": "made", "images": 3, "credits": 34},
        {"state": "waiting"},
        {"state": "made", "images": 1, "credits": 34},
    ]
    assert cards.totals({"success": 2, "deferred": 1, "failed": 4}, said) == {
        "tasks": 7,
        "failed": 4,
        "waiting": 1,
        "images": 4,
        "credits": 68,
        "usd": 1.0,
    }


def test_half_a_character_is_no_error():
    shown = cards.card(task({"state": "made", "prompt": "half \ud83d"}, state="success"), ROOTS, now=NOW)
    assert json.loads(Json(shown).body)["prompt"] == "half \ud83d"


ASKED = {"state": "waiting", "images": 2, "files": [FILE, FILE], "approval": {"of": 2}}
ANSWERED = ASKED | {
    "state": "made",
    "approval": {"of": 2, "chosen": [2], "by": "Ada", "at": "2026-11-27T10:00:00+00:00", "comment": "calm"},
}


def test_approval_shows_who_chose_what():
    waiting = cards.card(task(ASKED, operator="EvoImageApprovalOperator", state="deferred"), ROOTS, now=NOW)
    assert (waiting["state"], waiting["approval"]["chosen"]) == ("waiting", None)
    assert [(each["number"], each["chosen"]) for each in waiting["files"]] == [(1, None), (2, None)]
    made = cards.card(task(ANSWERED, state="success"), ROOTS, now=NOW)
    assert made["approval"] == {
        "of": 2,
        "chosen": [2],
        "by": "Ada",
        "at": "2026-11-27T10:00:00+00:00",
        "comment": "calm",
    }
    assert [each["chosen"] for each in made["files"]] == [False, True]


def test_rejected_images_are_shown_and_counted_once():
    rejected = ANSWERED | {"approval": {"of": 2, "chosen": []}}
    shown = cards.card(task(rejected, state="skipped"), ROOTS, now=NOW)
    assert (shown["state"], shown["note"], [each["chosen"] for each in shown["files"]]) == (
        "skipped",
        "",
        [False, False],
    )
    assert (
        cards.card(task({"approval": {}}, state="skipped"), ROOTS, now=NOW)["note"] == "Nothing was chosen."
    )
    made = {"state": "made", "images": 2, "credits": 3.0}
    assert cards.totals({"success": 2}, [made, ANSWERED])["images"] == 2


def test_renditions_have_their_places():
    renditions = [
        {"channel": "meta.story", "path": "file:///data/images/b.jpg", "sha256": "b" * 64, "width": 5},
        7,
    ]
    (image,) = cards.images_of([{"images": [{"path": "a", "renditions": renditions}]}])
    assert [(each["place"], each["channel"], each["path"], each["v"]) for each in image["renditions"]] == [
        (0, "meta.story", "file:///data/images/b.jpg", "b" * 12),
        (1, "", "", ""),
    ]


def test_card_and_details_say_what_was_reused():
    images = {
        "state": "made",
        "credits": 0,
        "reused": 1,
        "images": 1,
        "files": [],
        "items": 3,
        "items_reused": 2,
    }
    shown = cards.card(task(images=images, state="success"), ROOTS, now=NOW)
    assert (shown["reused"], shown["credits"], shown["batch"]["items_reused"]) == (1, 0, 2)
    made_by = {"dag_id": "d", "run_id": "monday", "task_id": "t", "map_index": -1}
    reused = {"evolink_task_id": "x", "made_by": made_by, "saved_at": "2026-05-01T10:00:00+00:00"}
    manifest = {"evolink_task_id": "x", "images": [], "reused": reused}
    (detail,) = cards.details([manifest], ROOTS)
    assert detail["reused_from"] == "run monday, saved 2026-05-01T10:00:00+00:00"
    for odd in (None, 1, {}, {"made_by": 3}):
        assert cards.details([manifest | {"reused": odd}], ROOTS)[0]["reused_from"] == ""


def test_uploaded_reference_is_the_file_it_came_from():
    manifest = {
        "evolink_task_id": "t",
        "images": [],
        "request": {
            "prompt": "x",
            "image_urls": ["sha256:ab", "https://shop.example/a.png", "sha256:unknown", 5],
            "references": [{"source": "file:///data/images/b.png", "sha256": "ab"}, "odd", {"sha256": []}],
        },
    }
    found = ["file:///data/images/b.png", "https://shop.example/a.png", "sha256:unknown"]
    assert cards.references_of(manifest) == found
    (detail,) = cards.details([manifest], ROOTS)
    assert [each["visible"] for each in detail["references"]] == [True, False, False]
    assert "file:///data/images/b.png" in detail["code"]
