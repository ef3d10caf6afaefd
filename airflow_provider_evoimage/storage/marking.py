"""Marks a downloaded image before it is saved, and describes in the manifest what the file says of its origin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.defaults import Provenance
from airflow_provider_evoimage.images.provenance import (
    MarkedImage,
    Statement,
    mark_image,
    mark_of,
    read_statement,
)
from airflow_provider_evoimage.images.result_file import ImageFile
from airflow_provider_evoimage.manifest import RequestSummary
from airflow_provider_evoimage.storage.image_names import GenerationToSave

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

_MARKED = ".marked"
# Fields of a request that hold other images.
_REFERENCE_FIELDS = ("image_urls", "mask_url", "references")


def mark_download(
    image: ImageFile, of: GenerationToSave, *, provenance: Provenance, alt_text: str | None, log: Logger
) -> tuple[ImageFile, dict[str, Any]]:
    """Mark a downloaded image; one that cannot be marked is saved as it is.

    :returns: the file to save, and its ``provenance`` in the manifest.
    """
    if provenance == "keep":
        with image.path.open("rb") as file:
            statement = read_statement(file)
        return image, _described(statement, image.sha256, because="provenance='keep'")
    mark = mark_of(
        model=of.generation.model,
        has_references=made_from_references(of.requested),
        alt_text=of.alt_text or alt_text,
    )
    outcome = mark_image(image, _marked_beside(image.path), mark)
    if isinstance(outcome, MarkedImage):
        return outcome.file, _described(outcome.statement, image.sha256, written_by=True)
    if outcome.is_odd:
        log.warning(
            "Saving an image without a mark that an AI made it: %s (EvoLink task %s).",
            outcome.because,
            of.generation.evolink_task_id,
        )
    return image, _described(outcome.statement, image.sha256, because=outcome.because)


def remove_download(local: Path) -> None:
    """Remove a download and its marked copy."""
    local.unlink(missing_ok=True)
    _marked_beside(local).unlink(missing_ok=True)


def existing_provenance(statement: Statement) -> dict[str, Any]:
    """Describe a file that existed before the save."""
    return _described(statement, None, because="the file existed before")


def made_from_references(requested: RequestSummary) -> bool:
    """Tell whether a request holds other images; False where the request is unknown."""
    request = requested.request or {}
    return any(request.get(name) for name in _REFERENCE_FIELDS)


def _marked_beside(path: Path) -> Path:
    return path.with_name(path.name + _MARKED)


def _described(
    statement: Statement, source_sha256: str | None, *, written_by: bool = False, because: str | None = None
) -> dict[str, Any]:
    return {
        "content_credentials": statement.content_credentials,
        "digital_source_type": statement.digital_source_type,
        "written_by": f"airflow-provider-evoimage {__version__}" if written_by else None,
        "kept_because": because,
        "source_sha256": source_sha256,
    }
