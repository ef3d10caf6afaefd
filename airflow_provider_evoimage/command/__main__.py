"""``evoimage``, also as ``python -m airflow_provider_evoimage.command``."""

from __future__ import annotations

import io
import json
import os
import sys

# Airflow logs to the standard output, which carries the command's result.
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "CRITICAL")

from airflow_provider_evoimage.command.app import app
from airflow_provider_evoimage.exceptions import (
    ConnectionSettingsError,
    EvoImageError,
    GenerationTimeoutError,
    GenerationUnfinishedError,
    InvalidRequestError,
)

FAILED = 1
WRONG_USE = 2
UNFINISHED = 3


def main() -> None:
    """Run the command; end with 0, 1 (EvoLink or a storage refused), 2 (wrong use) or 3 (not finished yet)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without the character × must not cause an error.
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="evoimage")
    except EvoImageError as error:
        print(_described(error, as_json="--json" in sys.argv), file=sys.stderr)  # noqa: T201 (this is a command)
        sys.exit(_exit_code(error))


def _exit_code(error: EvoImageError) -> int:
    if isinstance(error, (InvalidRequestError, ConnectionSettingsError)):
        return WRONG_USE
    return UNFINISHED if isinstance(error, (GenerationUnfinishedError, GenerationTimeoutError)) else FAILED


def _described(error: EvoImageError, *, as_json: bool) -> str:
    # Leave out what a retry of an Airflow task would do.
    message = error.message
    if error.request_id:
        message = f"{message} EvoLink's request id: {error.request_id}."
    if not as_json:
        return f"Error: {message}"
    described = {
        "kind": type(error).__name__,
        "message": message,
        "evolink_task_id": error.evolink_task_id,
        "billed": error.billed,
        "code": error.code,
        "http_status": error.http_status,
    }
    return json.dumps({"error": described}, ensure_ascii=False)


if __name__ == "__main__":
    main()
