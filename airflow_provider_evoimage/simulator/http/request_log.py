"""A line of JSON for each request: its path, its answer and its key; no contents."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from airflow_provider_evoimage.simulator.service.accounts import key_hash, read_bearer


class RequestLog:
    """Appends to one file.

    :param path: the file; it is made if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        # Line by line, so that a reader sees each request at once.
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, scope: Scope, status: int | None, seconds: float) -> None:
        """Note an answered request; without a status, when its connection was cut."""
        api_key = read_bearer(Headers(scope=scope).get("authorization"))
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(seconds * 1000, 1),
            "key": key_hash(api_key) if api_key else None,
        }
        # A full disk must not change an answer.
        with suppress(OSError, ValueError):
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
