"""Reads the requests of a batch: from a list, or from a JSON, JSONL, CSV or TSV file on any storage."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError

# Two thousand prompts of the longest kind are 64 MB; a larger file is some other file.
MAX_FILE_BYTES = 100 * 1024 * 1024

_FORMATS = "a .json, .jsonl, .ndjson, .csv or .tsv file"

Entry = Mapping[str, Any]


def read_requests(requests: object) -> list[Entry]:
    """Return one mapping of fields for each item, in order.

    :param requests: a list (each item a prompt, or a mapping of request fields and ``name``), the text of a JSON
        list (what a template renders), or the path or storage URL of a file.
    :raises InvalidRequestError: when it is none of these, or empty.
    :raises EvoImageError: when the file cannot be read.
    """
    if isinstance(requests, str):
        text = requests.strip()
        found = _in_json(text, "requests") if text.startswith("[") else _in_file(text)
    elif isinstance(requests, Iterable) and not isinstance(requests, (bytes, Mapping)):
        found = list(requests)
    else:
        raise InvalidRequestError(
            f"requests must be a list or the path of {_FORMATS}, not {requests!r:.100}."
        )
    if not found:
        raise InvalidRequestError("requests is empty: there is nothing to ask for.")
    return [_entry(number, item) for number, item in enumerate(found)]


def _entry(number: int, item: object) -> Entry:
    if isinstance(item, str):
        return {"prompt": item}
    if not isinstance(item, Mapping):
        raise InvalidRequestError(
            f"Item {number} of requests must be a prompt or a mapping of request fields, not {item!r:.100}."
        )
    return item


def _in_file(path: str) -> list[Any]:
    # The name decides, without a query that a storage URL may carry.
    suffix = PurePosixPath(urlsplit(path).path if "://" in path else path).suffix.lower()
    if suffix == ".json":
        return _in_json(_text_of(path), path)
    if suffix in {".jsonl", ".ndjson"}:
        return _in_json_lines(_text_of(path), path)
    if suffix in {".csv", ".tsv"}:
        return _in_table(_text_of(path), path, "," if suffix == ".csv" else "\t")
    raise InvalidRequestError(f"requests {path!r:.200} is neither a list nor the path of {_FORMATS}.")


def _text_of(path: str) -> str:
    from airflow.sdk import ObjectStoragePath  # noqa: PLC0415 - opens storage only when a task runs

    try:
        file = ObjectStoragePath(path)
        size = file.stat().st_size
        content = file.read_bytes() if size <= MAX_FILE_BYTES else b""
    except Exception as error:
        raise EvoImageError(
            f"The requests in {path} cannot be read: {error}",
            billed=False,
            on_retry="Nothing was submitted; a retry reads them again.",
        ) from error
    if size > MAX_FILE_BYTES:
        raise InvalidRequestError(f"{path} has {size:,} bytes; {MAX_FILE_BYTES:,} are allowed.")
    try:
        # What spreadsheets write begins with a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path} is not UTF-8 text: {error}") from error


def _in_json(text: str, path: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, list):
        raise InvalidRequestError(f"{path} must hold a JSON list of requests, not a {type(found).__name__}.")
    return found


def _in_json_lines(text: str, path: str) -> list[Any]:
    found = []
    # Not splitlines: a prompt may hold a line separator that JSON need not escape.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"Line {number} of {path} is not valid JSON: {error}") from error
    return found


def _in_table(text: str, path: str, delimiter: str) -> list[Any]:
    """Read rows; an empty cell is a field not given, and references are separated by blanks."""
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InvalidRequestError(f"{path} cannot be read as a table: {error}") from error
    found: list[Any] = []
    for row in rows:
        if None in row or None in row.values():
            raise InvalidRequestError(
                f"Row {len(found) + 1} of {path} has more or fewer cells than its heading."
            )
        fields: dict[str, Any] = {
            name.strip(): cell for name, cell in row.items() if name.strip() and cell.strip()
        }
        references = fields.get("image_urls")
        if references and not references.strip().startswith("["):
            fields["image_urls"] = references.split()
        if fields:
            found.append(fields)
    return found
