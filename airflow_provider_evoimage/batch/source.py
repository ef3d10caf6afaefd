"""Reads the requests of a batch: from a list, or from a JSON, JSONL, CSV or TSV file on any storage."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_provider_evoimage.arguments import absolute_url
from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError
from airflow_provider_evoimage.storage.opening import storage_path

# Two thousand prompts of maximum length are 64 MB; a larger file is not a list of requests.
MAX_FILE_BYTES = 100 * 1024 * 1024

_FORMATS = "a .json, .jsonl, .ndjson, .csv or .tsv file"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One item as given, unchecked.

    :param fields: of a request, and ``name``.
    :param line: its first line, in a file that has lines.
    """

    fields: Mapping[str, Any]
    line: int | None = None


# Each with its line, if there are lines, and a description of its place for messages.
_Found = Iterator[tuple[int | None, str, object]]


def read_requests(requests: object) -> list[Entry]:
    """Return each item as given, in order.

    :param requests: a list (each item a prompt, or a mapping of request fields and ``name``), the text of a
        list (what a template renders), or the absolute path or storage URL of a file.
    :raises InvalidRequestError: when it is none of these, or empty; it names the item or the line.
    :raises EvoImageError: when the file cannot be read.
    """
    place = "requests"
    if isinstance(requests, str | os.PathLike | ObjectStoragePath):
        text = str(requests).strip()
        if text.startswith("["):
            found = _in_list(_rendered(text), place)
        else:
            place = text
            found = _in_file(text)
    elif isinstance(requests, Iterable) and not isinstance(requests, bytes | bytearray | Mapping):
        found = _in_list(requests, place)
    else:
        raise InvalidRequestError(
            f"requests must be a list or the path of {_FORMATS}, not {requests!r:.100}."
        )
    entries = [Entry(fields=_fields(where, item), line=line) for line, where, item in found]
    if not entries:
        raise InvalidRequestError(f"{place} is empty: there is nothing to submit.")
    return entries


def _fields(where: str, item: object) -> Mapping[str, Any]:
    if isinstance(item, str):
        return {"prompt": item}
    if not isinstance(item, Mapping):
        raise InvalidRequestError(
            f"{where} must be a prompt or a mapping of request fields, not {item!r:.100}."
        )
    return item


def _in_file(path: str) -> _Found:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in {".json", ".jsonl", ".ndjson", ".csv", ".tsv"}:
        raise InvalidRequestError(f"requests {path!r:.200} is neither a list nor the path of {_FORMATS}.")
    if "://" not in path and not path.startswith("/"):
        raise InvalidRequestError(
            f"requests {path!r:.200} is a relative path, and a worker runs anywhere: give an absolute one, or a URL "
            "such as s3://conn@bucket/requests.csv."
        )
    text = _text_of(absolute_url("requests", path))
    if suffix == ".json":
        return _in_json(text, path)
    if suffix in {".jsonl", ".ndjson"}:
        return _in_json_lines(text, path)
    return _in_table(text, path, "," if suffix == ".csv" else "\t")


def _text_of(path: str) -> str:
    try:
        with storage_path(path).open("rb") as file:
            # Not by the size that the storage reports, as some report none.
            content = bytes(file.read(MAX_FILE_BYTES + 1))
    except Exception as error:
        raise EvoImageError(
            f"The requests in {path} cannot be read: {_in_words(error)}.",
            billed=False,
            on_retry="Nothing was submitted by this try; a retry reads them again.",
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise InvalidRequestError(f"{path} is larger than the {MAX_FILE_BYTES:,} bytes that are allowed.")
    try:
        # Files of spreadsheets begin with a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidRequestError(f"Line {line} of {path} is not UTF-8 text: {error.reason}.") from error


def _in_words(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "there is no such file"
        case IsADirectoryError():
            return "it is a folder"
        case _:
            # Some exceptions have no text.
            return str(error).rstrip(".") or type(error).__name__


def _in_list(items: Iterable[object], place: str) -> _Found:
    for number, item in enumerate(items):
        yield None, f"Item {number} of {place}", item


def _rendered(text: str) -> list[object]:
    """Read a list as JSON, or as Python prints it, which a template without ``| tojson`` renders."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise InvalidRequestError(f"requests is not valid JSON: {error}.") from error
    return found if isinstance(found, list) else [found]


def _in_json(text: str, place: str) -> _Found:
    if not text.strip():
        return iter(())
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{place} is not valid JSON: {error}.") from error
    if not isinstance(found, list):
        raise InvalidRequestError(f"{place} must hold a JSON list of requests, not a {type(found).__name__}.")
    return _in_list(found, place)


def _in_json_lines(text: str, path: str) -> _Found:
    # Not splitlines: a prompt may hold a line separator that JSON need not escape.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, f"Line {number} of {path}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"Line {number} of {path} is not valid JSON: {error}.") from error


def _in_table(text: str, path: str, delimiter: str) -> _Found:
    """Read rows; an empty cell leaves the field unset, and references are separated by blanks.

    A column without a name is left out: the row numbers of some writers.
    """
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    heading: list[str] = []
    begins = 1
    try:
        for row in rows:
            line, begins = begins, rows.line_num + 1
            where = f"Line {line} of {path}"
            if not any(cell.strip() for cell in row):
                continue
            if not heading:
                heading = _heading(row, where, delimiter)
                continue
            if len(row) != len(heading):
                raise InvalidRequestError(
                    f"{where} has {len(row)} cells, and the heading has {len(heading)}: quote a cell that holds "
                    f"{delimiter!r} or a line break."
                )
            if fields := _cells(zip(heading, row, strict=True)):
                yield line, where, fields
    except csv.Error as error:
        raise InvalidRequestError(f"Line {rows.line_num} of {path} cannot be read: {error}.") from error


def _heading(row: list[str], where: str, delimiter: str) -> list[str]:
    names = [name.strip() for name in row]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InvalidRequestError(f"{where} names a column twice: {', '.join(twice)}.")
    if len(names) == 1 and any(other in names[0] for other in ",;\t"):
        raise InvalidRequestError(f"{where} is not separated by {delimiter!r}: {names[0]:.100}")
    return names


def _cells(cells: Iterable[tuple[str, str]]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: cell for name, cell in cells if name and cell.strip()}
    references = fields.get("image_urls")
    if references and not references.strip().startswith("["):
        fields["image_urls"] = references.split()
    return fields
