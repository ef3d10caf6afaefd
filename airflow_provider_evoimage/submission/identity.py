"""Which logical request this is: its fingerprint and its idempotency key. Pure.

The same request of the same DAG run has the same key on every try, whatever crashes in between, so EvoLink
answers a repeated POST with the generation it already has. Any billable change makes another key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from airflow_provider_evoimage.evolink.request import ImageRequest

KEY_PREFIX = "airflow-evoimage-"
# What EvoLink accepts as an idempotency key.
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._-]{16,96}")

# Fields that cost nothing: a change of theirs is no other request.
_NOT_BILLABLE = frozenset({"callback_url"})

# What signing a URL anew changes, by store: AWS and its like, Google, Azure, CloudFront, Alibaba, Tencent, Volcano.
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-tos-")
# What the same stores draw from the object on the way: another picture.
_PROCESSING = frozenset({"x-oss-process", "x-tos-process"})
_SIGNATURE_PARAMETERS = frozenset(
    {
        "awsaccesskeyid",
        "googleaccessid",
        "ossaccesskeyid",
        "security-token",
        "signature",
        "expires",
        "key-pair-id",
        "policy",
    }
)
_AZURE_SIGNATURE = frozenset(
    {
        "sv",
        "se",
        "st",
        "sr",
        "sp",
        "sig",
        "sip",
        "spr",
        "ss",
        "srt",
        "skoid",
        "sktid",
        "skt",
        "ske",
        "sks",
        "skv",
    }
)
_TENCENT_SIGNATURE = frozenset(
    {
        "q-sign-algorithm",
        "q-ak",
        "q-sign-time",
        "q-key-time",
        "q-header-list",
        "q-url-param-list",
        "q-signature",
    }
)
# What lets somebody in, whoever asks for it: ``access_token``, ``X-Api-Key``, ``client_secret``.
_SECRET_ENDINGS = (
    "token",
    "sig",
    "signature",
    "secret",
    "password",
    "passwd",
    "api_key",
    "apikey",
    "auth_key",
    "authorization",
    "jwt",
)


@dataclass(frozen=True, kw_only=True)
class RequestIdentity:
    """What tells one logical request from every other.

    :param namespace: of the connection; empty unless two Airflows share an account.
    :param item: of a mapped list, by what it says, see :mod:`.mapped_item`; "" for a task that is not mapped.
    :param epoch: Airflow's ``ti.max_tries``: constant over automatic retries, grows when a task is cleared.
    :param fingerprint: of everything billable, see :func:`fingerprint`.
    :param occurrence: which one among equal items of a list; never the position.
    :param sequence: grows only after a failed generation, or a deliberate regeneration.
    """

    namespace: str
    dag_id: str
    run_id: str
    task_id: str
    item: str = ""
    epoch: int
    fingerprint: str
    occurrence: int = 0
    sequence: int = 0

    @property
    def idempotency_key(self) -> str:
        """The key for EvoLink: 16 to 96 characters of ``A-Za-z0-9._-``."""
        digest = hashlib.sha256(_canonical(asdict(self)).encode()).hexdigest()
        return f"{KEY_PREFIX}{digest}"


def fingerprint(request: ImageRequest) -> str:
    """Hash everything that EvoLink bills for or draws from (hex, 64 characters).

    References and the mask count by content where they are uploaded (``sha256:<hex>`` in the request), else they
    count as all URLs of the request do: without what signing them again would change. Never by the URL of an upload.
    """
    return hashlib.sha256(_canonical(billable_body(request, unsigned)).encode()).hexdigest()


def billable_body(request: ImageRequest, url_as: Callable[[str], str]) -> dict[str, Any]:
    """Return a request's body without what costs nothing, each http(s) URL in it in another form.

    :param url_as: gives that form. URLs are the references, and what begins like one in ``extra_body``, however
        deep; a prompt goes unchanged.
    """
    body = {name: value for name, value in request.body().items() if name not in _NOT_BILLABLE}
    given = {name: body[name] for name in body if name == "image_urls" or name in request.extra_body}
    # A copy, and no recursion: it may be nested as deep as JSON can be.
    changed: dict[str, Any] = json.loads(json.dumps(given))
    containers: list[Any] = [changed]
    while containers:
        container = containers.pop()
        for place, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if isinstance(value, (dict, list)):
                containers.append(value)
            elif isinstance(value, str) and value.lower().startswith(("http://", "https://")):
                container[place] = url_as(value)
    return body | changed


def unsigned(url: str) -> str:
    """Leave out what changes each time a URL of an object store is signed, and user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url  # As odd as it is: EvoLink will refuse it.
    query = parts.query.split("&")
    names = {_parameter(each) for each in query}
    left_out = set(_SIGNATURE_PARAMETERS) if "signature" in names else set()
    if "sig" in names and "sv" in names:
        left_out |= _AZURE_SIGNATURE
    if "q-signature" in names:
        left_out |= _TENCENT_SIGNATURE
    kept = [each for each in query if (name := _parameter(each)) not in left_out and not _is_signature(name)]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query="&".join(kept), fragment=""))


def without_secrets(url: str) -> str:
    """Return a URL for people to read: unsigned, and with no value of a parameter that lets somebody in.

    Such a value may tell which object is meant, so it counts in the fingerprint.
    """
    url, mark, query = unsigned(url).partition("?")
    shown = [f"{each.partition('=')[0]}=***" if _is_secret(each) else each for each in query.split("&")]
    return f"{url}{mark}{'&'.join(shown)}"


def _parameter(text: str) -> str:
    return unquote_plus(text.partition("=")[0]).lower()


def _is_signature(name: str) -> bool:
    return name.startswith(_SIGNATURE_PREFIXES) and name not in _PROCESSING


def _is_secret(text: str) -> bool:
    return _parameter(text).replace("-", "_").endswith(_SECRET_ENDINGS)


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
