"""Reads request bodies, never more than a limit."""

import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request

from airflow_provider_evoimage.simulator.service.errors import Refusal

MAX_JSON_BYTES = 10 * 1024 * 1024
# So much more of a body that is too large is read and thrown away, for a client which still sends reads no answer.
MAX_DISCARDED_BYTES = 200 * 1024 * 1024


class TooLargeError(Exception):
    """A body is larger than it may be."""


async def limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a body.

    :raises TooLargeError: after the end of a body which is too large.
    """
    received = 0
    async for piece in request.stream():
        received += len(piece)
        if received > max_bytes + MAX_DISCARDED_BYTES:
            raise TooLargeError
        if received <= max_bytes:
            yield piece
    if received > max_bytes:
        raise TooLargeError


async def read_json(request: Request, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON body.

    :raises Refusal: with status 400 when it is not JSON, 413 when it is too large.
    """
    body = bytearray()
    try:
        async for piece in limited(request, max_bytes):
            body += piece
        return json.loads(body)
    except TooLargeError:
        raise Refusal(413) from None
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not valid JSON.") from None
