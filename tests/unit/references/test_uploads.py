"""Uploads of references on an account that is full of others', fails, or has forgotten some."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.evolink.files import FilePage, UploadedFile
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    EvoLinkUnavailableError,
    InvalidRequestError,
    RequestRefusedError,
)
from airflow_provider_evoimage.references import uploads
from airflow_provider_evoimage.references.files import KnownReferences, StoredReference, read_references
from airflow_provider_evoimage.references.uploads import ReferenceUploads, UploadNames, remove_uploads
from tests.unit.images.test_broken_files import drawn

NAMES = UploadNames(namespace="", dag_id="shop", run_id="r", owner=("draw", -1))
LOG: Any = logging.getLogger(__name__)


def uploaded(name: str, *, lives: float = 70) -> UploadedFile:
    ends = datetime.now(UTC) + timedelta(hours=lives)
    fields = {"file_id": name.replace(".", "-"), "file_name": name, "file_url": f"https://f.example/{name}"}
    return UploadedFile.read(fields | {"expires_at": ends.isoformat()})


class Hook:
    """The files of an account."""

    def __init__(self, files: list[UploadedFile], *, receipt: Any = None, refusal: Any = None) -> None:
        self.files, self.receipt, self.refusal = files, receipt, refusal
        self.deleted: list[str] = []
        self.sent: list[str] = []

    def list_files(self, page: int, page_size: int) -> FilePage:
        del page_size
        if isinstance(self.refusal, EvoLinkUnavailableError):
            raise self.refusal
        return FilePage(total=len(self.files), files=tuple(self.files[page - 1 : page]))

    def delete_file(self, file_id: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.deleted.append(file_id)

    def get_upload_receipt(self, upload_id: str) -> UploadedFile | None:
        del upload_id
        if isinstance(self.receipt, Exception):
            raise self.receipt
        return self.receipt

    def upload_reference(self, path: Path, *, folder: str, name: str) -> UploadedFile:
        assert path.is_file()
        assert folder == uploads.FOLDER
        self.sent.append(name)
        return uploaded(name)


def files_of(*others: str) -> list[UploadedFile]:
    return [uploaded(f"{NAMES.prefix}a.png"), *map(uploaded, others), uploaded(f"{NAMES.prefix}b.png")]


def test_own_uploads_are_found_on_every_page_and_no_others_removed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hook: Any = Hook(files_of("ref-of-another.png"))
    remove_uploads(hook, NAMES, LOG)
    assert hook.deleted == [f"{NAMES.prefix}a-png", f"{NAMES.prefix}b-png"]
    assert "Removed 2 uploaded references" in caplog.text


def test_list_that_never_ends_is_read_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_MAX_PAGES", 2)
    hook: Any = Hook(files_of("ref-of-another.png"))
    remove_uploads(hook, NAMES, LOG)
    assert hook.deleted == [f"{NAMES.prefix}a-png"]


@pytest.mark.parametrize(("status", "is_a_problem"), [(404, False), (400, True)])
def test_upload_that_is_gone_already_is_removed(
    caplog: pytest.LogCaptureFixture, status: int, is_a_problem: bool
) -> None:
    hook: Any = Hook(files_of(), refusal=RequestRefusedError("no", http_status=status))
    remove_uploads(hook, NAMES, LOG)
    assert ("could not be removed" in caplog.text) is is_a_problem


Stored = tuple[StoredReference, ImageRequest]


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    """A reference that was read, and a request with it."""
    path = tmp_path / "shoe.png"
    path.write_bytes(drawn("PNG"))
    api = "https://api.evolink.ai"
    with read_references(
        [str(path)], None, model="gpt-image-1.5", base_url=api, known=KnownReferences()
    ) as found:
        (reference,) = found.stored
        yield (
            reference,
            ImageRequest.build(
                model="gpt-image-1.5", prompt="a fox", quality="low", image_urls=list(found.image_urls)
            ),
        )


def uploads_of(hook: Any, reference: StoredReference) -> ReferenceUploads:
    return ReferenceUploads(
        hook=hook, stored=[reference], known=KnownReferences(), names=NAMES, store=None, log=LOG
    )


@pytest.mark.parametrize("lives", [70, 3])
def test_earlier_upload_is_used_while_it_lives_long_enough_and_is_listed(
    stored: Stored, lives: float
) -> None:
    reference, request = stored
    name = NAMES.name(reference)
    hook: Any = Hook([uploaded(name)], receipt=uploaded(name, lives=lives))
    sent = uploads_of(hook, reference).sendable(request, "key")
    assert hook.sent == ([] if lives == 70 else [name])
    assert f"https://f.example/{name}" in str(sent)


def test_list_that_cannot_be_read_means_that_it_is_uploaded_again(stored: Stored) -> None:
    reference, request = stored
    name = NAMES.name(reference)
    hook: Any = Hook([], receipt=uploaded(name), refusal=EvoLinkUnavailableError("down"))
    uploads_of(hook, reference).sendable(request, "key")
    assert hook.sent == [name]


def test_receipt_that_fails_is_no_reason_to_stop_and_a_wrong_key_is(stored: Stored) -> None:
    reference, request = stored
    hook: Any = Hook([], receipt=EvoLinkUnavailableError("down"))
    uploads_of(hook, reference).sendable(request, "key")
    assert hook.sent
    with pytest.raises(AuthenticationError):
        uploads_of(Hook([], receipt=AuthenticationError("no")), reference).sendable(request, "key")


def test_reference_that_is_gone_cannot_be_uploaded(stored: Stored) -> None:
    reference, request = stored
    gone = StoredReference(**{**vars(reference), "path": None})
    with pytest.raises(InvalidRequestError, match="There is no reference"):
        uploads_of(Hook([]), gone).sendable(request, "key")
