"""Describes each endpoint: its path, its body, how to read its answer. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlencode

from airflow_provider_evoimage.evolink.answers import (
    EVOLINK_TASK_ID,
    Credits,
    Generation,
    GenerationPage,
    GenerationState,
)
from airflow_provider_evoimage.evolink.errors import ErrorBody, http_error
from airflow_provider_evoimage.evolink.json_values import storable, words
from airflow_provider_evoimage.evolink.outcome import SubmissionOutcome, after_answer
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError, UnreadableAnswerError

# EvoLink's batch endpoint reads this many generations in one request.
MAX_IDS_PER_BATCH = 50

Result = TypeVar("Result")
Task = TypeVar("Task", Generation, GenerationState)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One HTTP answer: status, headers with lower-case names, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def sent_at(self) -> float | None:
        """Unix seconds of the answer's ``Date``, by the service's clock; None where it has none."""
        try:
            moment = parsedate_to_datetime(self.headers.get("date", ""))
        except (ValueError, TypeError, OverflowError):
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def json(self) -> Any:
        """Return the body as JSON.

        :raises UnreadableAnswerError: when it is not JSON.
        """
        try:
            return json.loads(storable(self.body))
        except (ValueError, RecursionError):
            raise UnreadableAnswerError(
                f"EvoLink's answer (HTTP {self.status}) is not JSON: {ErrorBody.read(self.body).message}.",
                http_status=self.status,
                request_id=words(self.headers.get("x-request-id")),
            ) from None


def redacted(answer: Answer, secret: str) -> Answer:
    """Return an answer with ``***`` wherever it quotes a secret, in a header too, and also where JSON escapes it."""
    headers = answer.headers
    if any(secret in value for value in headers.values()):
        headers = {name: value.replace(secret, "***") for name, value in headers.items()}
    body = answer.body.replace(secret.encode(), b"***")
    if b"\\" in body and (_ESCAPED_LETTER.search(body) or not _NEEDS_NO_ESCAPE.fullmatch(secret)):
        body = _redacted_json(body, secret)
    return (
        answer
        if headers is answer.headers and body == answer.body
        else replace(answer, headers=headers, body=body)
    )


# JSON may write any character as an escape. EvoLink writes &, < and > so, which no key holds.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:2[dDbBfF]|3[0-9dD]|[4-7])")
_NEEDS_NO_ESCAPE = re.compile(r"[A-Za-z0-9._~+=-]*")


def _redacted_json(body: bytes, secret: str) -> bytes:
    try:
        data = json.loads(body)
    except ValueError:
        return body
    except RecursionError:
        return b""
    try:
        return json.dumps(_without(data, secret)).encode() if _holds(data, secret) else body
    except RecursionError:
        return b""


def _holds(value: Any, secret: str) -> bool:
    if isinstance(value, str):
        return secret in value
    if isinstance(value, dict):
        return any(_holds(each, secret) for item in value.items() for each in item)
    return isinstance(value, list) and any(_holds(each, secret) for each in value)


def _without(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(secret, "***")
    if isinstance(value, dict):
        return {_without(name, secret): _without(each, secret) for name, each in value.items()}
    return [_without(each, secret) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class FileToUpload:
    """A local file to send as multipart form data; each attempt opens it again.

    :param fields: the form's other fields.
    """

    path: Path
    name: str
    content_type: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Call(Generic[Result]):
    """Describes one exchange with EvoLink; a client carries it out.

    :param asking: the purpose in words, for messages: "EvoLink answered … when asked *to read the task*".
    :param read: turns a 2xx answer into the result.
    :param service: which of EvoLink's hosts to call.
    :param pays: whether EvoLink may charge for it.
    :param reads_paid: whether it asks for generations that may be paid for.
    """

    method: str
    path: str
    asking: str
    read: Callable[[Answer], Result]
    service: Literal["api", "files"] = "api"
    json: dict[str, Any] | None = None
    upload: FileToUpload | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    evolink_task_id: str | None = None
    pays: bool = False
    reads_paid: bool = False

    def result(self, answer: Answer) -> Result:
        """Read an answer of any status.

        :raises EvoImageError: for an error answer, and for an answer that cannot be read.
        """
        if not answer.is_success:
            raise self._error(answer)
        try:
            return self.read(answer)
        except UnreadableAnswerError as error:
            error.restate(evolink_task_id=self.evolink_task_id)
            if self.pays:
                error.restate(billed=self.billed_after(after_answer(answer.status, is_readable=False)))
            raise

    def billed_after(self, outcome: SubmissionOutcome) -> bool | None:
        """Tell what a failed exchange proves about money. False: nothing was charged. None: it proves nothing."""
        if self.service == "files":
            return False
        return False if self.pays and outcome is SubmissionOutcome.REFUSED else None

    def _error(self, answer: Answer) -> EvoImageError:
        said = ErrorBody.read(answer.body)
        return http_error(
            status=answer.status,
            headers=answer.headers,
            said=said,
            asking=self.asking,
            evolink_task_id=self.evolink_task_id,
            billed=self.billed_after(after_answer(answer.status, said.code)),
            reads_paid=self.reads_paid,
        )


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A generation that EvoLink accepted. ``replayed``: it had accepted it before, under the same key."""

    generation: Generation
    replayed: bool


def submit_generation(request: ImageRequest, idempotency_key: str) -> Call[Submitted]:
    """``POST /v1/images/generations``: the call that costs money."""

    def read(answer: Answer) -> Submitted:
        return Submitted(
            generation=Generation.read(answer.json()),
            replayed=answer.headers.get("idempotency-replayed", "").lower() == "true",
        )

    return Call(
        method="POST",
        path="/v1/images/generations",
        asking="to generate images",
        json=request.body(),
        headers={"Idempotency-Key": idempotency_key, "X-Evo-Run-Id": idempotency_key},
        read=read,
        pays=True,
    )


def get_generation(evolink_task_id: str) -> Call[Generation]:
    """``GET /v1/tasks/{id}``."""
    return _one(evolink_task_id, Generation.read)


def get_state(evolink_task_id: str) -> Call[GenerationState]:
    """``GET /v1/tasks/{id}``; reads only the state from the answer."""
    return _one(evolink_task_id, GenerationState.read)


def get_generations(evolink_task_ids: Sequence[str]) -> Call[dict[str, Generation]]:
    """``POST /v1/tasks/batch``: up to 50 generations by id; unknown ones are missing from the answer."""
    return _many(evolink_task_ids, Generation.read)


def get_states(evolink_task_ids: Sequence[str]) -> Call[dict[str, GenerationState]]:
    """``POST /v1/tasks/batch``; reads only the states from the answer."""
    return _many(evolink_task_ids, GenerationState.read)


def _one(evolink_task_id: str, read_task: Callable[[object], Task]) -> Call[Task]:
    def read(answer: Answer) -> Task:
        task = read_task(answer.json())
        if task.evolink_task_id != evolink_task_id:
            raise UnreadableAnswerError(f"EvoLink answered with another task, {task.evolink_task_id}.")
        return task

    return Call(
        method="GET",
        path=f"/v1/tasks/{checked_id(evolink_task_id)}",
        asking="for the state of a generation",
        read=read,
        evolink_task_id=evolink_task_id,
        reads_paid=True,
    )


def _many(evolink_task_ids: Sequence[str], read_task: Callable[[object], Task]) -> Call[dict[str, Task]]:
    wanted = set(evolink_task_ids)

    def read(answer: Answer) -> dict[str, Task]:
        data = answer.json()
        items = data.get("data") if isinstance(data, dict) else None
        if not isinstance(items, list):
            raise UnreadableAnswerError("EvoLink's answer to a batch read holds no list of tasks.")
        # What nobody asked for is not read.
        tasks = [read_task(item) for item in items if isinstance(item, dict) and _id_of(item) in wanted]
        return {task.evolink_task_id: task for task in tasks}

    return Call(
        method="POST",
        path="/v1/tasks/batch",
        asking="for the states of several generations",
        json={"task_ids": [checked_id(evolink_task_id) for evolink_task_id in evolink_task_ids]},
        read=read,
        reads_paid=True,
    )


def _id_of(item: Mapping[str, Any]) -> str | None:
    evolink_task_id = item.get("id") or item.get("task_id")
    return evolink_task_id if isinstance(evolink_task_id, str) else None


def list_generations(
    *,
    status: str | None = None,
    model: str | None = None,
    kind: str | None = "image",
    page: int = 1,
    page_size: int = 20,
) -> Call[GenerationPage]:
    """``GET /v1/tasks``: the account's recent generations, newest first."""
    if page < 1 or not 1 <= page_size <= MAX_IDS_PER_BATCH:
        raise InvalidRequestError(f"page must be at least 1, page_size 1 to {MAX_IDS_PER_BATCH}.")
    query = {"status": status, "type": kind, "model": model, "page": page, "page_size": page_size}
    given = urlencode({name: value for name, value in query.items() if value is not None})
    return Call(
        method="GET",
        path=f"/v1/tasks?{given}",
        asking="for the list of generations",
        read=lambda answer: GenerationPage.read(answer.json()),
    )


def get_credits() -> Call[Credits]:
    """``GET /v1/credits``: free of charge."""

    def read(answer: Answer) -> Credits:
        data = answer.json()
        if isinstance(data, dict) and data.get("success") is False:
            said = ErrorBody.read(answer.body)
            raise UnreadableAnswerError(
                f"EvoLink did not report the credits: {said.message or 'no reason given'}."
            )
        return Credits.read(data)

    return Call(method="GET", path="/v1/credits", asking="for the credits of the account", read=read)


def checked_id(evolink_task_id: str) -> str:
    """Return the id if it can be one, so that no other text becomes part of a path.

    :raises InvalidRequestError: otherwise.
    """
    if not isinstance(evolink_task_id, str) or not EVOLINK_TASK_ID.fullmatch(evolink_task_id):
        raise InvalidRequestError(
            f"{evolink_task_id!r} is not the id of an EvoLink task: 1 to 128 of letters, digits, '.', '_', ':', '-'."
        )
    return evolink_task_id
