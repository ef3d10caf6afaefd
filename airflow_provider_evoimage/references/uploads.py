"""Uploads references just before a submission, in such a way that a retry sends the same request.

A repeated POST must carry the body of the first one, else EvoLink answers ``idempotency_conflict``. So the
name of an upload depends only on the DAG run and the content, and its URL only on its name. The URLs that
were sent are also kept in Airflow's task state store (3.3 and later), in case EvoLink builds URLs in another
way.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_evoimage.evolink.files import MAX_FILES_PER_PAGE, UploadedFile
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import (
    AuthenticationError,
    EvoImageError,
    InvalidRequestError,
    RequestRefusedError,
)
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.references.files import KnownReferences, StoredReference

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_evoimage.submission.record import StateStore

STATE_KEY = "evoimage_references"
#: Folder of all uploads at EvoLink: a folder by date would change the URL of a retry.
FOLDER = "airflow-evoimage"
# A request may be repeated while EvoLink remembers its key, about a day; uploads live 72 hours.
MIN_LIFE_SECONDS = 24 * 3600
# VIP accounts hold 500 files.
_MAX_PAGES = 6
_V = 1


@dataclass(frozen=True)
class UploadNames:
    """Names of uploads: the same for the same content within one DAG run.

    With ``owner`` they belong to one task instance, which may then remove them.

    :param namespace: of the connection; tells apart two Airflows on one account.
    :param owner: ``task_id`` and ``map_index``; None shares uploads between the tasks of the run.
    """

    namespace: str
    dag_id: str
    run_id: str
    owner: tuple[str, int] | None = None

    @property
    def prefix(self) -> str:
        """The prefix of all names in this scope."""
        scope = json.dumps([self.namespace, self.dag_id, self.run_id, self.owner])
        return f"ref-{hashlib.sha256(scope.encode()).hexdigest()[:20]}-"

    def name(self, reference: StoredReference) -> str:
        """Return the name for one content; no other content has it."""
        return f"{self.stem(reference)}.{reference.extension}"

    def stem(self, reference: StoredReference) -> str:
        """Return the name without the extension, which is unknown if the file is gone."""
        return f"{self.prefix}{reference.sha256[:40]}"


@dataclass(frozen=True, kw_only=True)
class ReferenceRecord:
    """What an earlier try of this task instance recorded about its references.

    :param known: what that try had read.
    :param key: the idempotency key of the request that they were uploaded for.
    :param sent: URL by content hash, for each set of uploads that may have been sent under it; newest last.
    :param expires_at: Unix seconds at which EvoLink deletes the first of the newest uploads.
    """

    known: KnownReferences = field(default_factory=KnownReferences)
    key: str = ""
    sent: tuple[Mapping[str, str], ...] = ()
    expires_at: float = 0.0

    @classmethod
    def read(cls, store: StateStore | None, log: Logger) -> ReferenceRecord:
        """Read the record; return an empty one if there is none or it is damaged."""
        if store is None:
            return cls()
        try:
            data = store.get(STATE_KEY)
        except Exception as error:  # noqa: BLE001 (the names of the uploads protect)
            log.warning("The record of uploaded references cannot be read (%s).", error)
            return cls()
        if not isinstance(data, Mapping) or data.get("v") != _V:
            return cls()
        sent, expires_at = data.get("sent"), data.get("expires_at")
        return cls(
            known=KnownReferences(
                hashes=_texts(data.get("hashes")), sidecars=_lists_of_texts(data.get("sidecars"))
            ),
            key=str(data.get("key")),
            sent=tuple(map(_texts, sent)) if isinstance(sent, list) else (),
            expires_at=float(expires_at) if isinstance(expires_at, (int, float)) else 0.0,
        )

    def keep(self, store: StateStore | None, log: Logger) -> None:
        """Write the record; a failing store only logs a warning, as names of uploads depend on the run alone."""
        if store is None:
            return
        try:
            store.set(
                STATE_KEY,
                {
                    "v": _V,
                    "hashes": dict(self.known.hashes),
                    "sidecars": {name: list(images) for name, images in self.known.sidecars.items()},
                    "key": self.key,
                    "sent": [dict(urls) for urls in self.sent],
                    "expires_at": self.expires_at,
                },
            )
        except Exception as error:  # noqa: BLE001 (as above)
            log.warning("The record of uploaded references cannot be written (%s); continuing.", error)


class ReferenceUploads:
    """The uploads of one request.

    :param stored: the references to upload.
    :param known: hashes for a later try that cannot read the references.
    :param store: Airflow's task state store; None below 3.3.
    """

    def __init__(
        self,
        *,
        hook: EvoImageHook,
        stored: Sequence[StoredReference],
        known: KnownReferences,
        names: UploadNames,
        store: StateStore | None,
        log: Logger,
    ) -> None:
        self._hook = hook
        self._stored = stored
        self._known = known
        self._names = names
        self._store = store
        self._log = log
        self._sent_before: tuple[Mapping[str, str], ...] = ()
        self._listed: frozenset[str] | None = None

    def sendable(self, request: ImageRequest, key: str) -> ImageRequest:
        """Upload the missing references, and put their URLs into the request.

        If an earlier try may have sent the request under the same key, the same body is sent again if
        possible, even when an upload fails: the generation may be paid for.

        :raises EvoImageError: when EvoLink does not take a file; nothing was submitted by this try.
        """
        if not self._stored:
            return request
        record = ReferenceRecord.read(self._store, self._log)
        wanted = {each.sha256 for each in self._stored}
        before = tuple(urls for urls in record.sent if wanted <= set(urls)) if record.key == key else ()
        newest = before[-1] if before else {}
        lives = record.expires_at - time.time() > MIN_LIFE_SECONDS
        urls: dict[str, str] = {}
        ends: list[float] = []
        try:
            for each in self._stored:
                if each.sha256 in newest and lives and self._is_listed(each):
                    urls[each.sha256] = newest[each.sha256]
                    ends.append(record.expires_at)
                else:
                    uploaded = self._earlier(each) or self._upload(each)
                    urls[each.sha256] = uploaded.file_url or ""
                    ends.append(uploaded.expires_at.timestamp() if uploaded.expires_at else 0.0)
        except EvoImageError as error:
            if not newest:
                raise
            self._log.warning(
                "The references cannot be uploaded again (%s); sending the earlier request unchanged.",
                error.message,
            )
            urls, ends = {sha256: newest[sha256] for sha256 in wanted}, [record.expires_at]
        self._sent_before = tuple(earlier for earlier in reversed(before) if _differs(earlier, urls))
        # Before the POST, so that the next try sends the same body if this process dies during it.
        ReferenceRecord(
            known=self._known,
            key=key,
            sent=(*(earlier for earlier in before if _differs(earlier, urls)), urls),
            expires_at=min(ends, default=0.0),
        ).keep(self._store, self._log)
        return self._addressed(request, urls)

    def as_sent_before(self, request: ImageRequest) -> list[ImageRequest]:
        """Return the request as earlier tries may have sent it under this key with other URLs, newest first."""
        return [self._addressed(request, urls) for urls in self._sent_before]

    def _addressed(self, request: ImageRequest, urls: Mapping[str, str]) -> ImageRequest:
        return request.with_uploads({each.address: urls[each.sha256] for each in self._stored})

    def _earlier(self, reference: StoredReference) -> UploadedFile | None:
        """Find an upload that a task of this run has already made."""
        try:
            uploaded = self._hook.get_upload_receipt(self._names.name(reference))
        except AuthenticationError:
            raise
        except EvoImageError:
            # Receipts only save time, and not every server has them; a real problem shows in the upload.
            return None
        if uploaded is None or uploaded.file_url is None or uploaded.expires_at is None:
            return None
        if uploaded.expires_at.timestamp() - time.time() < MIN_LIFE_SECONDS or not self._is_listed(reference):
            return None
        self._log.info("The reference %s is at EvoLink already.", reference.source)
        return uploaded

    def _upload(self, reference: StoredReference) -> UploadedFile:
        if reference.path is None:
            raise reference.missing or InvalidRequestError(f"There is no reference {reference.source}.")
        uploaded = self._hook.upload_reference(
            reference.path, folder=FOLDER, name=self._names.name(reference)
        )
        self._log.info(
            "Uploaded the reference %s (%s bytes) to EvoLink.", reference.source, f"{reference.bytes:,}"
        )
        return uploaded

    def _is_listed(self, reference: StoredReference) -> bool:
        if self._listed is None:
            try:
                self._listed = frozenset(
                    uploaded.file_name.rpartition(".")[0] for uploaded in _all_files(self._hook)
                )
            except EvoImageError:
                # Uploading again under the same name is always right.
                self._listed = frozenset()
        return self._names.stem(reference) in self._listed


def remove_uploads(hook: EvoImageHook, names: UploadNames, log: Logger) -> None:
    """Remove the uploads of one task instance from EvoLink; a failure only logs a warning, as uploads expire."""
    removed = 0
    try:
        for uploaded in _all_files(hook):
            if uploaded.file_name.startswith(names.prefix):
                _remove(hook, uploaded)
                removed += 1
    except EvoImageError as error:
        log.warning(
            "The uploaded references could not be removed (%s); EvoLink does it after 72 hours.",
            error.message,
        )
    if removed:
        log.info("Removed %d uploaded reference%s from EvoLink.", removed, "" if removed == 1 else "s")


def _remove(hook: EvoImageHook, uploaded: UploadedFile) -> None:
    try:
        hook.delete_file(uploaded.file_id)
    except RequestRefusedError as error:
        if error.http_status != 404:
            raise


def _all_files(hook: EvoImageHook) -> list[UploadedFile]:
    found: list[UploadedFile] = []
    for page in range(1, _MAX_PAGES + 1):
        listed = hook.list_files(page, MAX_FILES_PER_PAGE)
        found += listed.files
        if len(found) >= listed.total or not listed.files:
            break
    return found


def _differs(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return any(one.get(sha256) != url for sha256, url in other.items())


def _texts(value: object) -> dict[str, str]:
    items = value.items() if isinstance(value, Mapping) else ()
    return {key: text for key, text in items if isinstance(key, str) and isinstance(text, str)}


def _lists_of_texts(value: object) -> dict[str, list[str]]:
    items = value.items() if isinstance(value, Mapping) else ()
    return {
        key: texts
        for key, texts in items
        if isinstance(key, str) and isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    }
