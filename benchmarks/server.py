"""A server that answers EvoLink and each peer in its own protocol, with the same life of a task for all.

Every id holds the moment at which its task ends, so the server keeps nothing but counts and costs little. It gives
no gift: ``estimated_time`` is always 100, progress 0 until the end.

    python -m benchmarks.server LATENCY_SECONDS        prints its URL
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import defaultdict
from functools import partial
from typing import Any

# The number in an id: milliseconds since 1970 of the task's end, then five digits that make it unique.
_ID = re.compile(r"(\d{13})\d{5}")
_REASONS = {200: "OK", 404: "Not Found"}

Reply = tuple[int, Any]

# Tasks whose end is set to this moment (the year 2200) end when the server is told, over half a minute.
WHEN_TOLD = 7_258_118_400.0
TOLD_SPREAD_SECONDS = 30.0
_told: list[tuple[float, int]] = []


def task_number(ends_at: float, counter: int) -> int:
    """Return the number of a task that ends at ``ends_at`` (Unix seconds)."""
    return int(ends_at * 1000) * 100_000 + counter


def ends_at(text: str) -> float:
    """Return when the task of an id ends (Unix seconds)."""
    found = _ID.search(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) / 1000


def has_ended(text: str) -> bool:
    """Tell whether the task of an id has ended."""
    end = ends_at(text)
    if end == WHEN_TOLD and _told:
        (told_at, tasks), counter = _told[0], int(text[-5:])
        end = told_at + TOLD_SPREAD_SECONDS * counter / tasks
    return time.time() >= end


def evolink_task(task_id: str) -> dict[str, Any]:
    """Describe a task as EvoLink does."""
    task = {
        "id": task_id,
        "object": "image.generation.task",
        "type": "image",
        "model": "gpt-image-1.5",
        "created": 1782914405,
        "progress": 0,
        "status": "processing",
        "task_info": {"can_cancel": False, "estimated_time": 100},
        "usage": {"billing_rule": "per_call", "credits_reserved": 1.6},
    }
    if has_ended(task_id):
        task |= {"progress": 100, "status": "completed", "results": ["https://files.invalid/a.png"]}
    return task


def openai_batch(batch_id: str) -> dict[str, Any]:
    """Describe a batch as OpenAI does."""
    return {
        "id": batch_id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "completion_window": "24h",
        "created_at": 1782914405,
        "status": "completed" if has_ended(batch_id) else "in_progress",
        "request_counts": {"total": 1, "completed": 0, "failed": 0},
    }


def dbt_run(run_id: str) -> dict[str, Any]:
    """Describe a job run as dbt Cloud does."""
    status = 10 if has_ended(run_id) else 3
    return {"status": {"code": 200, "is_success": True}, "data": {"id": int(run_id), "status": status}}


def airbyte_job(job_id: str) -> dict[str, Any]:
    """Describe a job as Airbyte does."""
    return {
        "jobId": int(job_id),
        "status": "succeeded" if has_ended(job_id) else "running",
        "jobType": "sync",
        "startTime": "2026-11-21T00:00:00Z",
        "connectionId": "c",
    }


class Service:
    """Answers requests, and counts them by the key or path that tells the subjects apart."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = defaultdict(int)
        self.ids: dict[str, int] = defaultdict(int)

    def reply(self, path: str, authorization: str, body: bytes) -> Reply:
        """Answer one request."""
        if path == "/counts":
            return 200, {"requests": self.requests, "ids": self.ids}
        if path.startswith("/end-all/"):
            _told.append((time.time(), int(path.rpartition("/")[2])))
            return 200, {}
        who = authorization.rpartition(" ")[2] or path.split("/")[1]
        ids = (
            json.loads(body)["task_ids"]
            if path == "/v1/tasks/batch"
            else [path.rstrip("/").rpartition("/")[2]]
        )
        self.requests[who] += 1
        if path == "/v1/tasks/batch":
            if "without-batch" in who:
                return 404, {"error": {"message": "no such endpoint"}}
            self.ids[who] += len(ids)
            return 200, {"data": [evolink_task(each) for each in ids]}
        self.ids[who] += 1
        return self._one(path, ids[0])

    def _one(self, path: str, task_id: str) -> Reply:
        if path.startswith("/v1/tasks/"):
            return 200, evolink_task(task_id)
        if "/batches/" in path:
            return 200, openai_batch(task_id)
        if path.startswith("/api/"):
            return 200, dbt_run(task_id)
        if path.startswith("/airbyte/"):
            return 200, airbyte_job(task_id)
        return (200 if has_ended(task_id) else 404), {}


class Connection(asyncio.Protocol):
    """HTTP/1.1 on one connection: just what clients of an API send, and little CPU."""

    def __init__(self, service: Service, latency: float) -> None:
        self._service = service
        self._latency = latency
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (for mypy)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received += data
        while True:
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            if not separator:
                return
            request, _, lines = head.decode("latin-1").partition("\r\n")
            headers = dict(re.findall(r"(?m)^([^:\r\n]+):\s*([^\r\n]*)", lines.lower()))
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            self._received = rest[length:]
            path = request.split(" ")[1].partition("?")[0]
            # Counting and the state of the task are of the moment of the answer.
            delay = 0.0 if path.startswith(("/counts", "/end-all")) else self._latency
            authorization = headers.get("authorization", "")
            asyncio.get_running_loop().call_later(
                delay, partial(self._answer, path, authorization, rest[:length])
            )

    def _answer(self, path: str, authorization: str, body: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        status, data = self._service.reply(path, authorization, body)
        content = json.dumps(data).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        self._transport.write(head.encode() + content)


async def serve(latency: float) -> None:
    """Serve until killed."""
    service = Service()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service, latency), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
