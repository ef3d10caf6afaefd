"""The references of a batch: reads and checks all before anything is paid, uploads them item by item.

Only hashes are kept in between, as local copies for two thousand items would fill a worker's disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_evoimage.batch.items import BatchItem
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import ReferenceUnreadableError
from airflow_provider_evoimage.references.files import References
from airflow_provider_evoimage.references.task import TaskReferences, has_references
from airflow_provider_evoimage.submission.fallback import other_models


class BatchReferences:
    """Reads the references of items, each set once, and prepares their uploads.

    :param task: what the task does with references; its record of a single request is not used here.
    :param fallback_models: the references must fit these models too.
    """

    def __init__(self, task: TaskReferences, *, fallback_models: object = None) -> None:
        self._task = task
        self._fallback_models = fallback_models
        self._read: dict[str, References] = {}

    def read(self, fields: Mapping[str, Any]) -> References | None:
        """Read and check the references that the fields of a request name; None where there are none.

        :raises InvalidRequestError: when one does not exist, or the model does not accept it.
        :raises ReferenceUnreadableError: when the storage cannot read one now.
        """
        image_urls, extra_body = fields.get("image_urls"), fields.get("extra_body")
        if not has_references(image_urls, extra_body):
            return None
        name = json.dumps([image_urls, extra_body, fields["model"]], sort_keys=True, default=str)
        if name not in self._read:
            with self._task.read(image_urls, extra_body, model=fields["model"], is_retry=False) as found:
                for other in other_models(self._fallback_models, str(fields["model"])):
                    found.require_fit(other)
                self._read[name] = found
        return self._read[name]

    def uploads_of(self, item: BatchItem) -> ItemUploads | None:
        """Return what uploads an item's references; None where nothing is uploaded."""
        if item.references is None or not item.references.stored:
            return None
        return ItemUploads(self._task, item)

    def remove(self) -> None:
        """Remove the batch's uploads from EvoLink, if ``cleanup`` is set."""
        self._task.remove()


class ItemUploads:
    """Uploads the references of one item, from copies that are removed right after."""

    def __init__(self, task: TaskReferences, item: BatchItem) -> None:
        self._task = task
        self._item = item

    def sendable(self, request: ImageRequest, key: str) -> ImageRequest:
        """Upload the references, and return the request with their URLs in it.

        :raises ReferenceUnreadableError: when a reference has changed since it was checked.
        """
        given, before = self._item.given, self._item.references
        with self._task.read(
            given["image_urls"], given["extra_body"], model=request.model, is_retry=False
        ) as found:
            uploads = self._task.uploads(found)
            if before is None or uploads is None or found.hashes != before.hashes:
                raise ReferenceUnreadableError(
                    f"A reference of request {self._item.position} changed while the batch was being submitted."
                )
            return uploads.sendable(request, key)

    def as_sent_before(self, request: ImageRequest) -> list[ImageRequest]:
        """Return nothing: a batch keeps no record of the URLs it sent; they follow from the content."""
        del request
        return []
