"""Answers of the files API: also a refusal that comes with HTTP 200, and answers that lack what they must have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_evoimage.evolink import files
from airflow_provider_evoimage.evolink.files import UploadedFile
from airflow_provider_evoimage.evolink.protocol import Answer, Call
from airflow_provider_evoimage.exceptions import EvoLinkApiError, InvalidRequestError, UnreadableAnswerError

UPLOAD_ID = "upload-0123456789"


def answer(content: Any) -> Answer:
    body = b"" if content is None else json.dumps(content).encode()
    return Answer(status=200, headers={}, body=body)


@pytest.mark.parametrize(
    ("call", "content", "words"),
    [
        (lambda: files.get_upload_receipt(UPLOAD_ID), {"data": {"file_id": "../x"}}, "no file id"),
        (lambda: files.get_upload_receipt(UPLOAD_ID), {"data": {"file_id": "abc"}}, "returned no URL"),
        (lambda: files.get_upload_receipt(UPLOAD_ID), {"data": [], "msg": "odd"}, "without data"),
        (files.get_file_quota, {"data": {"used_files": -1, "max_files": 5}}, "no file quota"),
        (files.get_file_quota, {"data": {"used_files": True, "max_files": 5}}, "no file quota"),
        (files.get_file_quota, {"success": True}, "no file quota"),
    ],
)
def test_answer_that_lacks_something_is_unreadable(
    call: Callable[[], Call[Any]], content: Any, words: str
) -> None:
    with pytest.raises(UnreadableAnswerError, match=words):
        call().read(answer(content))


def test_refusal_with_http_200_is_an_error() -> None:
    with pytest.raises(EvoLinkApiError):
        files.get_file_quota().read(answer({"success": False, "code": 40003, "msg": "File quota exceeded"}))


@pytest.mark.parametrize("content", [None, {"success": True}, {"data": {}}])
def test_deletion_needs_no_content(content: Any) -> None:
    assert files.delete_file("abc").read(answer(content)) is None


@pytest.mark.parametrize(("page", "page_size"), [(0, 20), (1, 0), (1, files.MAX_FILES_PER_PAGE + 1)])
def test_page_that_does_not_exist_is_never_asked_for(page: int, page_size: int) -> None:
    with pytest.raises(InvalidRequestError, match="page"):
        files.list_files(page, page_size)


@pytest.mark.parametrize("moment", [None, 5, "soon", "2026-01-02T03:04:05"])
def test_time_that_is_none_is_left_out(moment: object) -> None:
    assert UploadedFile.read({"file_id": "abc", "expires_at": moment}).expires_at is None
