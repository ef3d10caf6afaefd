"""References of a batch: each set is read once, and an item whose reference changed is not submitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_evoimage.batch.references import BatchReferences
from airflow_provider_evoimage.exceptions import InvalidRequestError, ReferenceUnreadableError
from tests.unit.batch.test_submission import item_of

LOGO = "s3://shop/logo.png"


class Task:
    """Reads references whose content has this hash."""

    def __init__(self, sha256: str = "a" * 64, *, uploads: bool = True) -> None:
        self.sha256, self.has_uploads, self.asked, self.removed = sha256, uploads, list[Any](), 0

    @contextmanager
    def read(self, image_urls: Any, extra_body: Any, *, model: str, is_retry: bool) -> Iterator[Any]:
        assert not is_retry
        self.asked.append((image_urls, extra_body, model))
        yield SimpleNamespace(hashes={LOGO: self.sha256}, stored=[LOGO], require_fit=self.require_fit)

    def require_fit(self, model: str) -> None:
        if model == "small":
            raise InvalidRequestError("small takes no such reference")

    def uploads(self, found: Any) -> Any:
        del found
        return SimpleNamespace(sendable=lambda request, key: (request, key)) if self.has_uploads else None

    def remove(self) -> None:
        self.removed += 1


def batch(task: Task, **arguments: Any) -> BatchReferences:
    return BatchReferences(task, **arguments)  # type: ignore[arg-type]


def fields(**changed: Any) -> dict[str, Any]:
    return {"model": "m", "image_urls": [LOGO], **changed}


def test_each_set_is_read_once_for_each_model():
    task = Task()
    references = batch(task)
    first = references.read(fields())
    assert references.read(fields(prompt="another")) is first
    for other in (fields(model="n"), fields(image_urls=[LOGO, LOGO]), fields(extra_body={"mask_url": LOGO})):
        assert references.read(other) is not first
    assert task.asked == [
        ([LOGO], None, "m"),
        ([LOGO], None, "n"),
        ([LOGO, LOGO], None, "m"),
        ([LOGO], {"mask_url": LOGO}, "m"),
    ]
    assert references.read({"model": "m"}) is None
    references.remove()
    assert task.removed == 1


def test_references_must_fit_the_fallback_models_too():
    assert batch(Task(), fallback_models=["other"]).read(fields()) is not None
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="small takes no such reference"):
            batch(Task(), fallback_models="other, small").read(fields())


def test_only_items_with_stored_references_upload():
    item = item_of("a mug")
    references = batch(Task())
    assert references.uploads_of(item) is None
    nothing_stored: Any = SimpleNamespace(stored=[])
    assert references.uploads_of(replace(item, references=nothing_stored)) is None


def uploads(task: Task, sha256: str | None = "a" * 64) -> Any:
    before: Any = SimpleNamespace(stored=[LOGO], hashes={LOGO: sha256})
    given = {"image_urls": [LOGO], "extra_body": {"x": 1}}
    return batch(task).uploads_of(replace(item_of("a mug"), references=before, given=given, position=7))


def test_item_is_sent_with_the_references_that_were_checked():
    task, request = Task(), item_of("a mug").request
    found = uploads(task)
    assert found.sendable(request, "key") == (request, "key")
    assert task.asked == [([LOGO], {"x": 1}, request.model)]
    assert found.as_sent_before(request) == []


@pytest.mark.parametrize("task", [Task("b" * 64), Task(uploads=False)], ids=["another content", "no upload"])
def test_item_whose_reference_changed_is_not_sent(task: Task):
    with pytest.raises(ReferenceUnreadableError, match="A reference of request 7 changed"):
        uploads(task).sendable(item_of("a mug").request, "key")
