"""What an Airflow connection of type ``evoimage`` says, read once and checked."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from airflow_provider_evoimage.client import Account
from airflow_provider_evoimage.defaults import DEFAULT_MODEL, DEFAULT_REQUEST_TIMEOUT
from airflow_provider_evoimage.evolink.hosts import api_base_url, files_base_url
from airflow_provider_evoimage.evolink.model_facts import facts_of, like_known
from airflow_provider_evoimage.exceptions import ConnectionSettingsError
from airflow_provider_evoimage.result_links import DownloadLimits

#: The names in a connection's extra; a test compares them with the fields of the form.
EXTRAS = (
    "default_model",
    "request_timeout",
    "max_image_megabytes",
    "download_timeout",
    "max_requests_per_second",
    "files_base_url",
    "idempotency",
    "idempotency_namespace",
    "budget_credits_per_month",
)


class AirflowConnection(Protocol):
    """The parts of an Airflow connection that are read here."""

    conn_id: str
    conn_type: str | None
    host: str | None
    schema: str | None
    port: int | None
    password: str | None
    extra: str | None


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """The settings of one connection: the account, and how this Airflow uses it.

    :param default_model: model of requests that name none.
    :param idempotency_namespace: tells apart two Airflows that run the same DAGs on one account.
    :param download_limits: size and time of one image.
    :param budget_credits_per_month: credits that the API key may use in a month, held softly; None for no budget.
    :param unknown_extras: names in the extra that nothing reads.
    """

    account: Account
    default_model: str = DEFAULT_MODEL
    idempotency_namespace: str = ""
    download_limits: DownloadLimits = field(default_factory=DownloadLimits)
    budget_credits_per_month: float | None = None
    unknown_extras: tuple[str, ...] = ()

    def doubts(self) -> list[str]:
        """Describe in sentences what is probably a typing mistake; nothing fails because of it."""
        found = [
            f"The extra {name!r} is unknown and not used{_like(name, EXTRAS)}."
            for name in self.unknown_extras
        ]
        if facts_of(self.default_model) is None:
            found.append(
                f"The default model {self.default_model!r} is not in this provider's catalogue"
                f"{like_known(self.default_model)}."
            )
        return found

    @classmethod
    def read(cls, connection: AirflowConnection, *, called: str = "") -> ConnectionSettings:
        """Read a connection made in the UI form, or from a URI, JSON or an environment variable.

        Fields that are empty or null are unset: the UI writes every field of the form.

        :param called: what messages call the connection; default: ``connection`` and its id.

        :raises ConnectionSettingsError: naming the field that cannot be used.
        """
        called = called or f"connection {connection.conn_id!r}"
        if connection.conn_type not in {None, "", "evoimage"}:
            # Its password may be another service's key, which would go to EvoLink.
            raise ConnectionSettingsError(
                f"{_capitalized(called)} is of type {str(connection.conn_type)[:40]!r}: create one of "
                "type 'evoimage' with EvoLink's API key."
            )
        extra = _Extra(called, connection.extra)
        base_url = api_base_url(_address(connection, called))
        return cls(
            account=Account(
                base_url=base_url,
                files_base_url=extra.address("files_base_url") or files_base_url(base_url),
                api_key=_api_key(connection, called),
                request_timeout=extra.positive_number("request_timeout") or DEFAULT_REQUEST_TIMEOUT,
                max_requests_per_second=extra.positive_number("max_requests_per_second"),
                trust_idempotency=extra.one_of("idempotency", ("trusted", "ignored")) != "ignored",
            ),
            default_model=extra.text("default_model") or DEFAULT_MODEL,
            unknown_extras=extra.unknown,
            idempotency_namespace=extra.text("idempotency_namespace") or "",
            download_limits=DownloadLimits.of(
                megabytes=extra.positive_number("max_image_megabytes"),
                seconds=extra.positive_number("download_timeout"),
            ),
            budget_credits_per_month=extra.positive_number("budget_credits_per_month"),
        )


class _Extra:
    def __init__(self, called: str, extra: str | None) -> None:
        self._called = called
        # Not extra_dejson: nothing in our extra is secret, and that property asks the supervisor to mask it.
        try:
            fields = json.loads((extra or "").strip() or "{}")
        except (ValueError, RecursionError):
            fields = ()
        if fields is None:
            fields = {}
        if not isinstance(fields, Mapping):
            raise ConnectionSettingsError(f"The extra of {called} is not a JSON object.")
        self._fields: Mapping[str, Any] = fields

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names that nothing reads."""
        return tuple(str(name)[:40] for name in self._fields if name not in EXTRAS)

    def text(self, name: str) -> str | None:
        value = self._fields.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        if not isinstance(value, str):
            raise self._wrong(name, value, "text")
        return value.strip()

    def address(self, name: str) -> str | None:
        value = self.text(name)
        try:
            return api_base_url(value) if value else None
        except ConnectionSettingsError as error:
            raise ConnectionSettingsError(
                f"In the extra of {self._called}, {name} cannot be used. {error.message}"
            ) from None

    def positive_number(self, name: str) -> float | None:
        value = self._fields.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 < number < math.inf:
            raise self._wrong(name, value, "a number above 0")
        return number

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str | None:
        value = self.text(name)
        if value is not None and value not in allowed:
            raise self._wrong(name, value, " or ".join(repr(word) for word in allowed))
        return value

    def _wrong(self, name: str, value: object, expected: str) -> ConnectionSettingsError:
        return ConnectionSettingsError(
            f"In the extra of {self._called}, {name} must be {expected}, not {value!r}."
        )


def _text(connection: AirflowConnection, name: str, called: str) -> str:
    """Read a field that a connection in JSON may hold as anything."""
    value: object = getattr(connection, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        # Not shown: it may be the key.
        raise ConnectionSettingsError(f"The {name} of {called} must be text: put it in quotes.")
    return value.strip()


def _address(connection: AirflowConnection, called: str) -> str:
    """Join the address again: a URI or the form may split it into host, schema and port."""
    host = _text(connection, "host", called)
    if not host:
        return ""
    if "://" not in host and connection.schema in {"http", "https"}:
        host = f"{connection.schema}://{host}"
    scheme, separator, rest = host.rpartition("://")
    netloc, slash, path = rest.partition("/")
    if netloc.count(":") > 1 and "[" not in netloc:
        # Airflow takes the brackets off an IPv6 address in a URI.
        netloc = f"[{netloc}]"
    if connection.port and not netloc.rpartition(":")[2].isdigit():
        netloc = f"{netloc}:{connection.port}"
    return f"{scheme}{separator}{netloc}{slash}{path}"


def _api_key(connection: AirflowConnection, called: str) -> str:
    key = _text(connection, "password", called)
    if not key:
        raise ConnectionSettingsError(
            f"{_capitalized(called)} has no API key: put it into the password field. "
            "Keys are made at https://evolink.ai/dashboard/keys."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConnectionSettingsError(
            f"The API key of {called} holds a blank, a line break or a character "
            "outside ASCII, which no EvoLink key does: paste it again."
        )
    return key


def _like(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
