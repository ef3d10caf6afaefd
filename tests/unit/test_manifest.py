"""The manifest: plain JSON whatever EvoLink answered, and what may be read back out of one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.manifest import (
    Manifest,
    RequestSummary,
    build_manifest,
    cost_in_words,
    generations_given,
    generations_named_by,
    made_by,
    without_links,
)

TASK = "task-unified-1757156400-abcdefgh"
OTHER = "task-unified-1757156401-ijklmnop"
LINKS = ["https://files.evolink.ai/a_0.png", "https://files.evolink.ai/a_1.png"]
MADE_BY = {"dag_id": "campaign", "run_id": "run", "task_id": "draw", "map_index": -1}
ANSWER = {
    "id": TASK,
    "model": "gpt-image-1.5",
    "status": "completed",
    "progress": 100,
    "created": 1757156400,
    "duration": 12,
    "results": LINKS,
    "usage": {"credits_reserved": 8.5, "credits_used": 8.1474, "image_output_tokens": 4160},
}
SAVED = {
    "index": 1,
    "path": "file:///data/draw-1.png",
    "sha256": "0" * 64,
    "bytes": 10,
    "content_type": "image/png",
    "width": 1024,
    "height": 1024,
    "provenance": {
        "content_credentials": False,
        "digital_source_type": "trainedAlgorithmicMedia",
        "written_by": f"airflow-provider-evoimage {__version__}",
        "kept_because": None,
        "source_sha256": "1" * 64,
    },
    "renditions": [
        {
            "channel": "meta.square",
            "path": "file:///data/cut-1-meta-square.jpg",
            "sha256": "2" * 64,
            "width": 1080,
            "height": 1080,
            "bytes": 9,
            "content_type": "image/jpeg",
            "quality": 92,
            "cropped": 0.0,
            "scaled": 1.0547,
            "content_credentials": False,
        }
    ],
}


def a_manifest(**changes: Any) -> Manifest:
    request = ImageRequest.build(model="gpt-image-1.5", prompt="a red fox", n=2)
    return build_manifest(
        Generation.read(ANSWER | changes),
        requested=RequestSummary.by(request),
        made_by=MADE_BY,
        saved=[SAVED],
    )


def test_manifest_says_what_was_asked_made_saved_and_charged() -> None:
    manifest = a_manifest()
    assert {name: value for name, value in manifest.items() if name not in {"request", "images"}} == {
        "v": 1,
        "provider": f"airflow-provider-evoimage {__version__}",
        "evolink_task_id": TASK,
        "status": "completed",
        "model": "gpt-image-1.5",
        "created": "2025-09-06T11:00:00+00:00",
        "completed": "2025-09-06T11:00:12+00:00",
        "expires_at": "2025-09-07T11:00:00+00:00",
        "asked": 2,
        "made": 2,
        "usage": {
            "estimate": {
                "credits_low": 16.2939,
                "credits_high": 16.2995,
                "usd_low": 0.239617,
                "usd_high": 0.239699,
                "rule": "tokens",
                "source": manifest["usage"]["estimate"]["source"],
                "as_of": "2026-10-10",
            },
            "reserved": 8.5,
            "charged": 8.1474,
            "tokens": {"image_output_tokens": 4160},
        },
        "made_by": MADE_BY,
    }
    assert manifest["request"]["prompt"] == "a red fox"
    assert manifest["images"] == [{"index": 0, "url": LINKS[0]}, {**SAVED, "url": LINKS[1]}]


def test_cost_in_words_tells_charge_estimate_and_reservation() -> None:
    assert cost_in_words(a_manifest()) == (
        f"EvoLink task {TASK} cost 8.1474 credits (0.1198 USD); estimated 16.2939 to 16.2995, reserved 8.5000"
    )


def test_cost_in_words_without_any_of_them() -> None:
    manifest = build_manifest(Generation(evolink_task_id=TASK), requested=RequestSummary(), made_by=MADE_BY)
    assert cost_in_words(manifest) == f"EvoLink task {TASK} cost an unknown number of credits"


def test_reservation_of_the_submission_is_kept_where_a_later_answer_lacks_it() -> None:
    requested = RequestSummary(credits_reserved=9.5)
    manifest = build_manifest(Generation(evolink_task_id=TASK), requested=requested, made_by=MADE_BY)
    assert manifest["usage"]["reserved"] == 9.5
    assert RequestSummary.in_manifest(manifest).credits_reserved == 9.5


def test_manifest_survives_xcom() -> None:
    manifest = a_manifest()
    assert json.loads(json.dumps(manifest)) == manifest


def test_request_in_the_manifest_holds_no_callback_and_no_signature() -> None:
    request = ImageRequest.build(
        model="gpt-image-1.5",
        prompt="a fox",
        callback_url="https://hooks.example.com/done?token=secret",
        image_urls=["https://bucket.s3.amazonaws.com/a.png?versionId=3&X-Amz-Signature=secret&X-Amz-Date=1"],
    )
    requested = RequestSummary.by(request)
    assert "secret" not in json.dumps(requested.request)
    assert requested.request is not None
    assert requested.request["image_urls"] == ["https://bucket.s3.amazonaws.com/a.png?versionId=3"]


def test_request_in_the_manifest_holds_no_secret_of_any_url() -> None:
    url = "https://me:secret@bucket.s3.amazonaws.com/a.png?v=3&X-Amz-Signature=secret&token=secret"
    request = ImageRequest.build(
        model="gpt-image-2",
        prompt="a fox",
        image_urls=[url],
        extra_body={"mask_url": url, "layers": [{"image": url, "opacity": 0.5}], "seed": 7},
    )
    requested = RequestSummary.by(request)
    shown = "https://bucket.s3.amazonaws.com/a.png?v=3&token=***"
    assert requested.request is not None
    assert requested.request["image_urls"] == [shown]
    assert requested.request["mask_url"] == shown
    assert requested.request["layers"] == [{"image": shown, "opacity": 0.5}]
    assert requested.request["seed"] == 7
    assert request.extra_body["layers"][0]["image"] == url


def test_sidecar_holds_no_result_links_and_all_the_rest() -> None:
    manifest = a_manifest()
    sidecar = without_links(manifest)
    assert "https://files.evolink.ai" not in json.dumps(sidecar)
    assert sidecar["images"][1] == SAVED
    assert {**sidecar, "images": manifest["images"]} == manifest


def test_leaving_out_links_leaves_the_manifest_alone() -> None:
    manifest = a_manifest()
    without_links(manifest)
    assert manifest["images"][0]["url"] == LINKS[0]


def test_what_a_manifest_says_of_the_request_is_read_back() -> None:
    manifest = a_manifest()
    requested = RequestSummary.in_manifest(json.loads(json.dumps(manifest)))
    again = build_manifest(Generation.read(ANSWER), requested=requested, made_by=MADE_BY, saved=[SAVED])
    assert again == manifest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=15),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
answers = st.builds(
    lambda fields: {"id": TASK, **fields},
    st.dictionaries(
        st.sampled_from(
            ["status", "model", "created", "duration", "results", "result_data", "usage", "error"]
        ),
        json_values | st.sampled_from(["completed", LINKS, 1757156400, {"a_tokens": 1e300}]),
    ),
)


@given(
    answers,
    st.fixed_dictionaries(
        {"usage": st.fixed_dictionaries({}, optional={"estimate": json_values, "reserved": json_values})}
    )
    | st.just({"usage": {"estimate": {"credits_low": 1, "credits_high": 10**400}, "reserved": 10**400}})
    | st.just({"usage": {"estimate": {"credits_low": 1, "credits_high": 2.5, "x": [1]}, "reserved": True}}),
)
def test_what_people_edit_never_keeps_the_cost_from_being_told(
    answer: dict[str, Any], edited: dict[str, Any]
) -> None:
    manifest = build_manifest(
        Generation.read(answer), requested=RequestSummary.in_manifest(edited), made_by=MADE_BY
    )
    assert json.loads(json.dumps(manifest, allow_nan=False)) == manifest
    assert cost_in_words(manifest).startswith(f"EvoLink task {TASK} cost ")


@given(answers)
def test_any_answer_of_evolink_makes_a_manifest_of_plain_json(answer: dict[str, Any]) -> None:
    manifest = build_manifest(Generation.read(answer), requested=RequestSummary(), made_by=MADE_BY)
    assert json.loads(json.dumps(manifest, allow_nan=False)) == manifest


@pytest.mark.parametrize("created", [253_402_300_799, 253_402_214_400, 1, 1757156400.5, "1757156400"])
@pytest.mark.parametrize("duration", [None, 0, -1e300, 1e300, "12"])
def test_odd_times_do_not_keep_a_paid_image_from_its_manifest(created: Any, duration: Any) -> None:
    json.dumps(a_manifest(created=created, duration=duration))


def test_unfinished_generation_has_no_time_of_completion() -> None:
    assert a_manifest(status="processing")["completed"] is None


@given(json_values)
def test_any_json_reads_as_some_knowledge_of_the_request(value: Any) -> None:
    requested = RequestSummary.in_manifest(value)
    assert requested.images is None or isinstance(requested.images, int)


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (TASK, [TASK]),
        (f"  {TASK}\n", [TASK]),
        ({"evolink_task_id": TASK}, [TASK]),
        ([TASK, OTHER], [TASK, OTHER]),
        ((OTHER, TASK), [OTHER, TASK]),
        ([{"evolink_task_id": TASK}, OTHER], [TASK, OTHER]),
        ([[{"evolink_task_id": TASK}], [OTHER]], [TASK, OTHER]),
        ([TASK, TASK], [TASK]),
        (iter([TASK, OTHER]), [TASK, OTHER]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_generations_are_named_by_id_manifest_or_any_list_of_them(value: object, ids: list[str]) -> None:
    assert list(generations_named_by(value)) == ids


def test_each_entry_of_a_list_counts_also_where_it_names_a_generation_again() -> None:
    given = generations_given([TASK, [{"evolink_task_id": OTHER}], TASK])
    assert [evolink_task_id for evolink_task_id, _ in given] == [TASK, OTHER, TASK]


def test_manifest_tells_what_was_asked_of_the_generation_it_names() -> None:
    (requested,) = generations_named_by([a_manifest()]).values()
    assert requested.images == 2
    assert requested.request is not None


@pytest.mark.parametrize(
    "junk",
    [
        None,
        "None",
        "",
        "   ",
        0,
        7,
        3.5,
        True,
        b"task-unified-1",
        [],
        [[]],
        {},
        {"evolink_task_id": None},
        {"evolink_task_id": ["a"]},
        {"task_id": TASK},
        "../../v1/credits",
        "https://files.evolink.ai/a.png",
        [TASK, None],
        [TASK, {}],
        "x" * 200,
        object(),
    ],
    ids=lambda junk: "an object" if type(junk) is object else repr(junk)[:30],
)
def test_anything_else_is_refused_by_name(junk: object) -> None:
    with pytest.raises(InvalidRequestError, match="generation"):
        generations_named_by(junk)


@given(json_values)
def test_junk_never_raises_anything_but_our_error(junk: Any) -> None:
    try:
        named = generations_named_by(junk)
    except InvalidRequestError:
        return
    assert named


@pytest.mark.parametrize(("map_index", "told"), [(None, -1), (-1, -1), (0, 0), (7, 7)])
def test_maker_is_the_airflow_task(map_index: int | None, told: int) -> None:
    class TaskInstance:
        dag_id, run_id, task_id = "campaign", "run", "draw"

    TaskInstance.map_index = map_index  # type: ignore[attr-defined]
    assert made_by({"ti": TaskInstance()}) == {**MADE_BY, "map_index": told}
