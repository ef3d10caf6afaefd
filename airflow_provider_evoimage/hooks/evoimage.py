"""The hook: an Airflow connection turned into EvoLink clients."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from airflow.sdk import BaseHook

from airflow_provider_evoimage.client import (
    READ_ATTEMPTS,
    AsyncEvoLinkClient,
    EvoLinkClient,
)
from airflow_provider_evoimage.defaults import (
    DEFAULT_CONN_ID,
    DEFAULT_SUBMIT_TIMEOUT,
    Kind,
    ListedStatus,
    Model,
)
from airflow_provider_evoimage.evolink.answers import Credits, Generation, GenerationPage
from airflow_provider_evoimage.evolink.files import UPLOAD_ID, FilePage, FileQuota, UploadedFile
from airflow_provider_evoimage.evolink.protocol import Answer, Submitted
from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.evolink.usage import CreditsLeft
from airflow_provider_evoimage.exceptions import (
    AccessDeniedError,
    AuthenticationError,
    ConnectionNotFoundError,
    ConnectionSettingsError,
    EvoImageError,
    EvoLinkUnreachableError,
    FileQuotaError,
    InsufficientCreditsError,
    RequestRefusedError,
    UnreadableAnswerError,
)
from airflow_provider_evoimage.hooks.connection import ConnectionSettings
from airflow_provider_evoimage.images.reference_file import reference_type, unique_name
from airflow_provider_evoimage.transport import prepare_for_asyncio
from airflow_provider_evoimage.version_compat import AirflowNotFoundException

# 68 credits are 1 USD; EvoLink's own clients warn below that.
LOW_BALANCE_CREDITS = 68

# A batch submits from several threads, which share one client. Not in the hook: a lock cannot be copied.
_MAKING_CLIENT = threading.Lock()


class EvoImageHook(BaseHook):
    """EvoLink's image API through an Airflow connection of type ``evoimage``.

    Connection: API key in *password*, base URL in *host* (default ``https://api.evolink.ai``). Extra, all
    optional: ``default_model``, ``request_timeout`` (seconds, 60), ``max_requests_per_second`` (per process),
    ``max_image_megabytes`` (200), ``download_timeout`` (seconds for one image in all, 600),
    ``files_base_url``, ``idempotency`` (``trusted`` or ``ignored``), ``idempotency_namespace``,
    ``budget_credits_per_month`` (held by operators, not by :meth:`submit`).

    :param evoimage_conn_id: id of the connection.
    """

    conn_name_attr = "evoimage_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "evoimage"
    hook_name = "EvoLink Images"

    def __init__(self, evoimage_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.evoimage_conn_id = evoimage_conn_id
        self._made_client: EvoLinkClient | None = None
        # What messages call the connection; empty: by its id.
        self._called = ""

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Describe the extras' fields to Airflow < 3.2; later ones read the provider's description."""
        # Airflow replaces both modules where they are not installed.
        from wtforms import StringField  # noqa: PLC0415 (only older Airflow asks)

        from airflow_provider_evoimage.get_provider_info import get_provider_info  # noqa: PLC0415

        info: Any = get_provider_info()
        fields = info["connection-types"][0]["conn-fields"]
        # Numbers too are texts: a field for whole numbers takes no half.
        return {
            name: StringField(field["label"], description=field["description"])
            for name, field in fields.items()
        }

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Describe the connection form to Airflow < 3.2; later ones read the provider's description."""
        from airflow_provider_evoimage.get_provider_info import get_provider_info  # noqa: PLC0415 (only older Airflow asks)

        info: Any = get_provider_info()
        described = info["connection-types"][0]["ui-field-behaviour"]
        return {
            "hidden_fields": described["hidden-fields"],
            "relabeling": described["relabeling"],
            "placeholders": described["placeholders"],
        }

    @functools.cached_property
    def settings(self) -> ConnectionSettings:
        """The connection, read once.

        :raises ConnectionNotFoundError: when Airflow does not find it.
        :raises ConnectionSettingsError: when it cannot be used.
        """
        try:
            connection = self.get_connection(self.evoimage_conn_id)
        except AirflowNotFoundException as error:
            raise self._no_connection() from error
        return ConnectionSettings.read(connection, called=self._called)

    async def aget_settings(self) -> ConnectionSettings:
        """Read the connection again, from a trigger."""
        try:
            connection = await self.aget_connection(self.evoimage_conn_id)
        except AirflowNotFoundException as error:
            raise self._no_connection() from error
        return ConnectionSettings.read(connection)

    def get_conn(self) -> EvoLinkClient:
        """Return the hook's client for workers; the same one each time."""
        return self._client

    async def aget_conn(self, *, read_attempts: int = READ_ATTEMPTS) -> AsyncEvoLinkClient:
        """Return a new client for a trigger of your own; the caller closes it.

        It reads how far generations have come (``get_state``, ``get_states``), their list and the balance: submit,
        upload and read results on a worker.

        :param read_attempts: how often the client itself tries one read; 1 leaves that to the caller.
        """
        settings = await self.aget_settings()
        await prepare_for_asyncio()
        return AsyncEvoLinkClient(settings.account, read_attempts=read_attempts)

    def now(self) -> float:
        """Return the Unix seconds by EvoLink's clock, as its last answer told it; before one, by this machine's."""
        return self._client.now()

    def submit(
        self,
        request: ImageRequest,
        idempotency_key: str,
        *,
        submit_timeout: float = DEFAULT_SUBMIT_TIMEOUT,
        stops_at: Callable[[EvoImageError], bool] | None = None,
    ) -> Submitted:
        """Ask for images. This is the call that costs money; the same key is never charged twice.

        :param idempotency_key: 16 to 96 characters of ``A-Za-z0-9._-``.
        :param submit_timeout: seconds to wait in all while EvoLink certainly accepts nothing (429, 503).
        :param stops_at: tells which certain refusals are raised at once instead; None for none.
        :raises OutcomeUnknownError: when the request may have been accepted and the answer is lost.
        """
        return self._client.submit(request, idempotency_key, submit_timeout=submit_timeout, stops_at=stops_at)

    def reading_within(self, seconds: float) -> AbstractContextManager[None]:
        """Let the reads of this block take no longer in all, with their repetitions; for one thread."""
        return self._client.reading_within(seconds)

    def get_generation(self, evolink_task_id: str) -> Generation:
        """Read one generation."""
        return self._client.get_generation(evolink_task_id)

    def get_generations(self, evolink_task_ids: Sequence[str]) -> dict[str, Generation]:
        """Read many generations by id, 50 in one request; unknown ids are missing from the answer."""
        return self._client.get_generations(evolink_task_ids)

    def list_generations(
        self,
        *,
        status: ListedStatus | None = None,
        model: Model | str | None = None,
        kind: Kind | None = "image",
        page: int = 1,
        page_size: int = 20,
    ) -> GenerationPage:
        """Read the account's latest generations, newest first, 1 to 50 on a page: to find a lost one.

        :param status: ``processing`` (with those still pending), ``completed``, ``failed`` or ``cancelled``.
        :param kind: ``image``, ``video``, ``audio``, or None for all of them.
        """
        return self._client.list_generations(
            status=status, model=model, kind=kind, page=page, page_size=page_size
        )

    def get_credits(self) -> Credits:
        """Read the balance; free of charge."""
        return self._client.get_credits()

    def get_credits_left(self, *, with_pace: bool = True) -> CreditsLeft:
        """Read the balance and how many days it lasts at the mean of the last seven days; free of charge.

        :param with_pace: read the account's list of tasks for that: a request for each fifty of them.
        """
        return self._client.get_credits_left(with_pace=with_pace)

    def verify(self, generation: Generation) -> Generation:
        """Read the generation of a callback from EvoLink: callbacks are unsigned, so anybody can send one."""
        return self.get_generation(generation.evolink_task_id)

    def upload_reference(
        self, path: str | Path, *, folder: str | None = None, name: str | None = None
    ) -> UploadedFile:
        """Upload a local image; its ``file_url`` goes into ``image_urls``.

        It lives for 72 hours and counts towards the account's quota until then, or until :meth:`delete_file`.
        Costs nothing.

        :param name: EvoLink overwrites files of the same name; default: a name that nothing else uses. A name
            of 16 to 128 characters of ``A-Za-z0-9._-`` is also the upload's id for
            :meth:`get_upload_receipt`.
        :raises InvalidRequestError: when it is not there, is no JPEG, PNG, GIF or WebP by its bytes, or is
            larger than 100 MB.
        :raises FileQuotaError: when the account holds as many files as it may.
        """
        source = Path(path)
        content_type = reference_type(source)
        upload_id = name if name is not None and UPLOAD_ID.fullmatch(name) else None
        name = name or unique_name(source.name, content_type)
        try:
            return self._client.upload_file(
                source, name=name, content_type=content_type, folder=folder, upload_id=upload_id
            )
        except FileQuotaError as error:
            error.restate(message=f"{error.message} {self._quota_in_words()}".strip())
            raise

    def upload_file(
        self, path: str | Path, *, name: str, content_type: str, folder: str | None = None
    ) -> UploadedFile:
        """Send a local file under a name of your own; a file of that name is overwritten."""
        return self._client.upload_file(Path(path), name=name, content_type=content_type, folder=folder)

    def upload_base64(self, data: bytes, *, name: str, folder: str | None = None) -> UploadedFile:
        """Send bytes; for small files."""
        return self._client.upload_base64(data, name=name, folder=folder)

    def upload_url(self, url: str, *, name: str | None = None, folder: str | None = None) -> UploadedFile:
        """Have EvoLink fetch a file from a public https URL into its files."""
        return self._client.upload_url(url, name=name, folder=folder)

    def get_upload_receipt(self, upload_id: str) -> UploadedFile | None:
        """Read the answer to an earlier upload again; None if EvoLink has none. The file may be deleted by now."""
        return self._client.get_upload_receipt(upload_id)

    def list_files(self, page: int = 1, page_size: int = 20) -> FilePage:
        """Read one page of the uploaded files, 1 to 100 of them."""
        return self._client.list_files(page, page_size)

    def get_file_quota(self) -> FileQuota:
        """Read how many files the account holds and may hold."""
        return self._client.get_file_quota()

    def delete_file(self, file_id: str) -> None:
        """Delete an uploaded file."""
        self._client.delete_file(file_id)

    def reconnect(self) -> None:
        """Drop the connection and the client, so that the next call reads a key that was changed meanwhile."""
        self.close()
        self.__dict__.pop("settings", None)

    def close(self) -> None:
        """Close the connections of the client, if one was made."""
        client, self._made_client = self._made_client, None
        if client is not None:
            client.close()

    def test_connection(self) -> tuple[bool, str]:
        """Describe in a sentence whether the connection works, for Airflow's Test button; costs nothing."""
        # Airflow tests a copy under an id of its own, which would tell nobody anything.
        self._called = "this connection"
        try:
            works, words = _balance_in_words(self.get_credits())
            return works, " ".join(
                [f"{words}." if self.settings.doubts() else words, *self.settings.doubts()]
            )
        except EvoImageError as error:
            return False, self._failure_in_words(error)
        finally:
            self.close()

    @property
    def _client(self) -> EvoLinkClient:
        with _MAKING_CLIENT:
            client = self._made_client = self._made_client or EvoLinkClient(self.settings.account)
        return client

    def _no_connection(self) -> ConnectionNotFoundError:
        variable = f"AIRFLOW_CONN_{str(self.evoimage_conn_id).upper()}"
        if os.environ.get(variable):
            return ConnectionNotFoundError(
                f"The environment variable {variable} is set, but Airflow cannot parse it: write JSON, or a URI in "
                "which the characters / and # of a key are %2F and %23."
            )
        return ConnectionNotFoundError(
            f"Airflow finds no connection {self.evoimage_conn_id!r}. If there is none, create one of type 'evoimage' "
            "with the API key in the password field. If there is one, a secrets backend may have failed, or the "
            "connection cannot be parsed: in a URI the characters / and # of a key are written %2F and %23."
        )

    def _quota_in_words(self) -> str:
        try:
            return f"{self.get_file_quota()}."
        except EvoImageError:
            return ""

    def _failure_in_words(self, error: EvoImageError) -> str:
        if isinstance(error, (ConnectionNotFoundError, ConnectionSettingsError)):
            return error.message
        host = self.settings.account.base_url
        if isinstance(error, AuthenticationError):
            return (
                f"{host} does not accept the API key: copy it again from https://evolink.ai/dashboard/keys."
            )
        if isinstance(error, InsufficientCreditsError):
            return f"No credit: {error.message}"
        if isinstance(error, AccessDeniedError):
            return f"The API key is valid, but not allowed to do this: {error.message}"
        if isinstance(error, EvoLinkUnreachableError):
            return f"{host} cannot be reached. {error.message}"
        if isinstance(error, (RequestRefusedError, UnreadableAnswerError)):
            return f"{host} answers, but not like EvoLink's API; check the base URL. {error.message}"
        return error.message


def parse_callback(body: bytes | str | Mapping[str, Any]) -> Generation:
    """Read what EvoLink posts to a ``callback_url``: the same JSON as a task's detail.

    A callback is a hint, not a proof: it is unsigned, comes at most four times within about 40 s, and may be
    lost. Confirm it with :meth:`EvoImageHook.verify` before acting on it.

    :raises UnreadableAnswerError: when it is no task of EvoLink's.
    """
    if not isinstance(body, Mapping):
        content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
        body = Answer(status=200, headers={}, body=content).json()
    return Generation.read(body)


def _balance_in_words(balance: Credits) -> tuple[bool, str]:
    account, key = balance.account_remaining, balance.key_remaining
    left = f"{account:,.2f} credits left on the account"
    if account <= 0:
        return False, f"The API key works, but there is no credit: {left}. Top up before running a DAG."
    if key is not None and key <= 0:
        return False, (
            f"The API key works, but its own limit is used up: {left}, none of them for this API key. "
            "Raise the key's limit before running a DAG."
        )
    if key is not None and key < account:
        left += f", {key:,.2f} of them for this API key"
    if balance.usable < LOW_BALANCE_CREDITS:
        left += " (less than 1 USD)"
    return True, f"Connected: {left}"
