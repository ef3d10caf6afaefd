"""The references of one task instance: reads, uploads and removes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.manifest import RequestSummary, made_by
from airflow_provider_evoimage.references.files import MASK, References, read_references
from airflow_provider_evoimage.references.uploads import (
    ReferenceRecord,
    ReferenceUploads,
    UploadNames,
    remove_uploads,
)
from airflow_provider_evoimage.submission.submit import mention_earlier_try

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import Logger


def has_references(image_urls: object, extra_body: object) -> bool:
    """Tell whether anything was given as reference or mask."""
    return bool(image_urls) or (isinstance(extra_body, (str, Mapping)) and MASK in extra_body)


def with_sources(requested: RequestSummary, references: References) -> RequestSummary:
    """Add to a request's description the files that its content addresses stand for."""
    if not references.stored:
        return requested
    request = {**(requested.request or {}), "references": references.described()}
    return replace(requested, request=request)


class TaskReferences:
    """Reads, uploads and removes the references of one task over its tries.

    :param cleanup: whether the uploads belong to this task alone and :meth:`remove` deletes them.
    """

    def __init__(self, *, hook: EvoImageHook, context: Context, cleanup: bool, log: Logger) -> None:
        self._hook = hook
        self._store = context.get("task_state_store")  # Airflow 3.3 and later.
        self._by = made_by(context)
        self._cleanup = cleanup
        self._log = log

    def read(self, image_urls: object, extra_body: object, *, model: str, is_retry: bool) -> References:
        """Read and check the references; see ``references.files.read_references``.

        :param is_retry: whether an earlier try may have submitted the request already.
        """
        store = self._store if has_references(image_urls, extra_body) else None
        record = ReferenceRecord.read(store, self._log)
        try:
            return read_references(
                image_urls,
                extra_body,
                model=model,
                base_url=self._hook.settings.account.base_url,
                known=record.known,
            )
        except EvoImageError as error:
            if is_retry and (self._store is None or record.sent):
                # An earlier try reached the submission, or that is unknown (Airflow < 3.3).
                mention_earlier_try(error)
            raise

    def uploads(self, references: References) -> ReferenceUploads | None:
        """Return the object that uploads them just before the submission; None if there is nothing to upload."""
        if not references.stored:
            return None
        return ReferenceUploads(
            hook=self._hook,
            stored=references.stored,
            known=references.known,
            names=self._names,
            store=self._store,
            log=self._log,
        )

    def remove(self) -> None:
        """Remove this task's uploads from EvoLink, if ``cleanup`` is set."""
        if self._cleanup:
            remove_uploads(self._hook, self._names, self._log)

    @property
    def _names(self) -> UploadNames:
        return UploadNames(
            namespace=self._hook.settings.idempotency_namespace,
            dag_id=self._by["dag_id"],
            run_id=self._by["run_id"],
            owner=(self._by["task_id"], self._by["map_index"]) if self._cleanup else None,
        )
