"""The threads of a save: what they wait for, and what they drop when the task is ended."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from airflow_provider_evoimage.storage import save_threads
from airflow_provider_evoimage.storage.save_threads import SaveThreads

TASK: ContextVar[str] = ContextVar("TASK", default="")


class EndedError(BaseException):
    """Airflow's end of a task."""


def threads(images: int = 1, abandoned: list[str] | None = None) -> SaveThreads:
    return SaveThreads(images, abandon=lambda: (abandoned if abandoned is not None else []).append("yes"))


def test_work_knows_its_task_and_is_waited_for() -> None:
    TASK.set("draw")
    abandoned: list[str] = []
    with threads(abandoned=abandoned) as given:
        image, small = given.for_image(TASK.get), given.for_small_file(TASK.get)
    assert (image.done(), small.done()) == (True, True)
    assert (image.result(), small.result()) == ("draw", "draw")
    assert abandoned == []


def test_error_in_the_block_waits_for_work_that_was_given() -> None:
    ready = threading.Event()
    given = threads()
    first, second = given.for_image(ready.wait, 30), given.for_image(int)
    threading.Timer(0.05, ready.set).start()
    given.__exit__(ValueError, ValueError("broken"), None)
    assert (first.done(), second.done()) == (True, True)


def test_sidecar_is_written_while_images_are_on_their_way() -> None:
    written = threading.Event()
    with threads() as given:
        image = given.for_image(written.wait, 30)
        given.for_small_file(written.set)
    assert image.result()


def test_end_of_the_task_drops_what_has_not_begun_and_waits_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(save_threads, "LAST_UPLOADS_SECONDS", 30)
    begun, abandoned = threading.Event(), threading.Event()

    def upload() -> bool:
        begun.set()
        return abandoned.wait(30)

    given = SaveThreads(1, abandon=abandoned.set)
    first, second = given.for_image(upload), given.for_image(int)
    assert begun.wait(30)
    given.__exit__(EndedError, EndedError(), None)
    assert first.result(timeout=0)
    assert second.cancelled()
