"""``evoimage provenance``: what image files on any storage say of their origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from airflow_provider_evoimage.exceptions import DestinationError
from airflow_provider_evoimage.images.provenance import Statement, read_statement
from airflow_provider_evoimage.storage.opening import storage_path


def statements(paths: Sequence[str]) -> list[tuple[str, Statement]]:
    """Read what each file says of its origin.

    :param paths: local paths, or URLs such as ``s3://conn@bucket/mug.png``.
    :raises DestinationError: when one cannot be read.
    """
    return [(path, _statement(path)) for path in paths]


def _statement(path: str) -> Statement:
    local = path if "://" in path else str(Path(path).expanduser().absolute())
    try:
        with storage_path(local).open("rb") as file:
            return read_statement(file)
    except Exception as error:
        raise DestinationError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error


def statements_lines(found: Sequence[tuple[str, Statement]]) -> Iterator[str]:
    """Write each file, and below it what it says."""
    for path, statement in found:
        yield path
        for name, value in (
            ("kind", statement.kind or "no image"),
            ("content credentials", _yes_or_no(statement.content_credentials)),
            ("source type", statement.digital_source_type),
            ("tool", statement.creator_tool),
            ("alt text", statement.alt_text),
        ):
            yield f"  {name:<21}{_on_one_line(value or 'none')}"


def statements_json(found: Sequence[tuple[str, Statement]]) -> list[dict[str, Any]]:
    """Return each file and what it says as plain JSON."""
    return [{"path": path, **statement.to_json()} for path, statement in found]


def _yes_or_no(value: bool | None) -> str:
    if value is None:
        return "unknown"
    return "yes" if value else "no"


def _on_one_line(text: str) -> str:
    """Leave out control characters: other programs write these texts, and a terminal would obey them."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
