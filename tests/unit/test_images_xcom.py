"""The XCom `evoimage_images`: small, true, and never in the way of a paid image."""

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.exceptions import GenerationFailedError
from airflow_provider_evoimage.images_xcom import MAX_BYTES, XCOM_IMAGES, ImagesXCom, described, within_limit

LOG = logging.getLogger(__name__)


def manifest(
    images: int = 1, *, path: str | None = "file:///data/a.png", prompt: str = "a lamp"
) -> dict[str, Any]:
    saved = {} if path is None else {"path": path, "sha256": "ab" * 32, "width": 8, "height": 9}
    return {
        "evolink_task_id": "task-1",
        "model": "gpt-image-1.5",
        "expires_at": "2026-01-02T00:00:00+00:00",
        "request": {"prompt": prompt, "size": "1:1", "quality": "low", "n": images},
        "images": [
            {"index": index, "url": "https://secret.example/x?sig=1", **saved} for index in range(images)
        ],
        "usage": {"charged": 1.5},
    }


class TaskInstance:
    task_id, map_index = "hero", -1

    def __init__(self, fails: bool = False) -> None:
        self.pushed: dict[str, Any] = {}
        self.fails = fails

    def xcom_push(self, key: str, value: Any) -> None:
        if self.fails:
            raise RuntimeError("the backend is away")
        self.pushed[key] = json.loads(json.dumps(value))

    def xcom_pull(self, **_: Any) -> Any:
        return self.pushed.get(XCOM_IMAGES)


def test_made_images_are_named_with_place_hash_and_charge():
    ti = TaskInstance()
    ImagesXCom(ti, LOG).made([manifest(2)])
    value = ti.pushed[XCOM_IMAGES]
    assert value["state"] == "made"
    assert value["files"] == [["file:///data/a.png", "ab" * 6, 8, 9]] * 2
    assert (value["images"], value["saved"], value["credits"]) == (2, 2, 1.5)
    assert (value["prompt"], value["model"]) == ("a lamp", "gpt-image-1.5")


def test_result_links_stay_out():
    assert "secret.example" not in json.dumps(described([manifest(3), manifest(1, path=None)]))


def test_images_after_one_that_is_not_saved_are_not_listed():
    """The place in `files` is the place of the image."""
    mixed = manifest(3)
    del mixed["images"][1]["path"]
    assert len(described([mixed])["files"]) == 1


@given(
    st.lists(st.text(max_size=900), max_size=60),
    st.text(max_size=4000),
    st.integers(0, 60),
    st.text(max_size=3000),
)
def test_value_has_two_kilobytes_at_most(paths: list[str], prompt: str, ids: int, message: str):
    value = within_limit(
        {
            "v": 1,
            "state": "failed",
            "files": [[path, "ab", 1, 1] for path in paths],
            "evolink_task_ids": [f"task-unified-{number}" for number in range(ids)],
            "prompt": prompt,
            "error": {"message": message, "on_retry": message, "billed": None},
            "manifest": "s3://bucket/" + "m" * min(len(prompt), 1500),
            "at": "2026-01-01T00:00:00+00:00",
        }
    )
    assert len(json.dumps(value).encode()) <= MAX_BYTES
    assert (value["v"], value["state"]) == (1, "failed")


def test_failure_after_the_wait_still_names_the_prompt():
    ti = TaskInstance()
    ti.pushed[XCOM_IMAGES] = {
        "v": 1,
        "state": "waiting",
        "at": "then",
        "prompt": "a lamp",
        "evolink_task_ids": ["task-1"],
    }
    failure = GenerationFailedError("It failed.", evolink_task_id="task-1", billed=False)
    with pytest.raises(GenerationFailedError) as raised, ImagesXCom(ti, LOG).telling_failures():
        raise failure
    assert raised.value is failure
    value = ti.pushed[XCOM_IMAGES]
    assert (value["state"], value["prompt"], value["error"]["billed"]) == ("failed", "a lamp", False)


def test_push_that_fails_is_a_warning(caplog: pytest.LogCaptureFixture):
    ImagesXCom(TaskInstance(fails=True), LOG).made([manifest()])
    assert "cannot be written" in caplog.text


def test_push_that_fails_hides_no_error():
    with pytest.raises(GenerationFailedError), ImagesXCom(TaskInstance(fails=True), LOG).telling_failures():
        raise GenerationFailedError("It failed.")


def test_long_texts_are_halved_before_anything_is_left_out():
    error = {"message": "m" * 3000, "on_retry": "r" * 3000, "retryable": True}
    value = within_limit({"v": 1, "state": "failed", "prompt": "p" * 3000, "error": error})
    assert 40 >= len(value["prompt"]) > 0
    assert 0 < len(value["error"]["message"]) < 3000
    assert value["error"]["retryable"] is True
    assert len(json.dumps(value).encode()) <= MAX_BYTES


def test_value_that_cannot_be_shortened_keeps_its_counts():
    value = within_limit(
        {"v": 1, "state": "made", "images": 3, "saved": 2, "credits": 1.5, "model": "m" * 3000}
    )
    assert value == {"v": 1, "state": "made", "images": 3, "saved": 2, "credits": 1.5}
