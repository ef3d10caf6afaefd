"""A failure in four short lines, for Airflow's log page, which does not wrap."""

import inspect

import pytest

from airflow_provider_evoimage import exceptions
from airflow_provider_evoimage.exceptions import (
    LOG_LINE_CHARACTERS,
    EvoImageError,
    InsufficientCreditsError,
    RateLimitError,
)
from airflow_provider_evoimage.images_xcom import ImagesXCom

CLASSES = [
    kind
    for kind in vars(exceptions).values()
    if inspect.isclass(kind) and kind.__module__ == exceptions.__name__ and issubclass(kind, EvoImageError)
]
TASK = "task-unified-1757165031-uyujaw3d"


@pytest.mark.parametrize("kind", CLASSES, ids=[kind.__name__ for kind in CLASSES])
def test_every_failure_has_four_short_lines(kind):
    lines = kind("It failed for a reason. More of it follows.", evolink_task_id=TASK).log_lines()
    assert [len(line) <= LOG_LINE_CHARACTERS for line in lines] == [True] * 4
    what, billed, retry, change = lines
    assert what == "It failed for a reason."
    assert billed.startswith("Billed: ")
    assert billed.endswith(TASK)
    assert "retry" in retry.lower()
    assert change


def test_lines_tell_a_retry_apart_from_what_to_change():
    assert InsufficientCreditsError("Not enough credits.").log_lines() == [
        "Not enough credits.",
        "Billed: unknown.",
        "No retry follows.",
        "Top up the account, then clear the task.",
    ]
    assert RateLimitError("Too many requests.", billed=False).log_lines() == [
        "Too many requests.",
        "Billed: no.",
        "A retry sends the same request with the same idempotency key.",
        "Nothing to change. If no retry is left, clear the task.",
    ]


def test_long_message_ends_after_a_word():
    line = EvoImageError("word " * 60).log_lines()[0]
    assert len(line) <= LOG_LINE_CHARACTERS
    assert line.endswith("word …")


def test_long_url_leaves_room_for_the_reason():
    url = "s3://marketing_storage@shop-campaigns-of-europe/spring/2026"
    error = EvoImageError(f"save_to '{url}' cannot be opened: there is no bucket shop-campaigns.")
    assert error.log_lines()[0] == (
        "save_to 's3://marketing_s…pring/2026' cannot be opened: there is no bucket shop-campaigns."
    )


def test_lines_are_logged_before_the_error_leaves_the_task(mocker):
    log = mocker.Mock()
    error = RateLimitError("Too many requests.", evolink_task_id=TASK)
    with pytest.raises(RateLimitError), ImagesXCom(mocker.Mock(), log).telling_failures():
        raise error
    assert [call.args[1] for call in log.error.call_args_list] == error.log_lines()
