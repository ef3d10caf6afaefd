"""Which logical request this is: its fingerprint and its idempotency key. Pure.

The same request of the same DAG run has the same key on every try, whatever crashes in between, so EvoLink
answers a repeated POST with the generation it already has. Any billable change makes another key.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from airflow_provider_evoimage.evolink.request import ImageRequest

KEY_PREFIX = "airflow-evoimage-"
# What EvoLink accepts as an idempotency key.
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._-]{16,96}")

# Fields that cost nothing: a change of theirs is no other request.
_NOT_BILLABLE = frozenset({"callback_url"})

# What signing a URL anew changes, by store: AWS and its like, Google, Azure, CloudFront, Alibaba.
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-", "x-oss-")
_SIGNATURE_PARAMETERS = frozenset(
    {"awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "signature", "expires", "key-pair-id", "policy"}
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

    References and the mask count by content where they are uploaded (``sha256:<hex>`` in the request), else by
    their URL without the parameters that signing it again would change. Never by the URL of an upload.
    """
    body = {name: value for name, value in request.body().items() if name not in _NOT_BILLABLE}
    if request.image_urls:
        body["image_urls"] = [unsigned(url) for url in request.image_urls]
    if isinstance(mask := body.get("mask_url"), str):
        body["mask_url"] = unsigned(mask)
    return hashlib.sha256(_canonical(body).encode()).hexdigest()


def unsigned(url: str) -> str:
    """Leave out the query parameters that change each time a URL of an object store is signed."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    names = {name.lower() for name, _ in query}
    left_out = set(_SIGNATURE_PARAMETERS) if "signature" in names else set()
    if "sig" in names and "sv" in names:
        left_out |= _AZURE_SIGNATURE
    kept = [
        (name, value)
        for name, value in query
        if name.lower() not in left_out and not name.lower().startswith(_SIGNATURE_PREFIXES)
    ]
    return urlunsplit(parts._replace(query=urlencode(kept), fragment=""))


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
