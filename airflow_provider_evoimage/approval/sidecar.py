"""Writes the record of an approval beside the images that it is about."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.manifest import without_links
from airflow_provider_evoimage.shapes import Manifest
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.progress import write_temporary

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


def write_sidecars(
    before: Sequence[Manifest], approved: Sequence[Manifest], made_by: Mapping[str, Any], log: Logger
) -> None:
    """Write one file for each manifest beside its first image: ``<image>.<task id>.approval.json``.

    A failure only logs a warning: the return value has the same, and a retry would ask the person again.

    :param before: the manifests as they were asked about.
    :param approved: the same with ``approval``, narrowed to what was chosen.
    """
    for given, narrowed in zip(before, approved, strict=True):
        folder, _, file = str(given["images"][0]["path"]).rpartition("/")
        name = f"{file.rpartition('.')[0] or file}.{made_by['task_id']}.approval.json"
        try:
            _write({**without_links(narrowed), "made_by": dict(made_by)}, Destination(folder), name)
        except (EvoImageError, OSError) as error:
            log.warning("The approval is not written to %s/%s: %s", folder, name, error)


def _write(described: Mapping[str, Any], destination: Destination, name: str) -> None:
    destination.check_length(name, is_paid=True)
    with tempfile.TemporaryDirectory(prefix="evoimage-", ignore_cleanup_errors=True) as temporary:
        local = Path(temporary) / "approval.json"
        write_temporary(local, json.dumps(described, indent=2, ensure_ascii=False))
        destination.publish(local, name, "application/json")
