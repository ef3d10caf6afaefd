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

from airflow_provider_evoimage.evolink.request import ImageRequest, billable_body
from airflow_provider_evoimage.evolink.signed_urls import unsigned

KEY_PREFIX = "airflow-evoimage-"
# Format of an idempotency key.
IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._-]{16,96}")


@dataclass(frozen=True, kw_only=True)
class RequestIdentity:
    """Identifies one logical request.

    :param namespace: of the connection; empty unless two Airflows share an account.
    :param item: digest of a mapped item's content, see :mod:`.mapped_item`; "" for a task that is not mapped.
    :param epoch: Airflow's ``ti.max_tries``: constant over automatic retries, grows when a task is cleared.
    :param fingerprint: of everything billable, see :func:`fingerprint`.
    :param occurrence: number among equal items of a list; not the position.
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


def fingerprint(request: ImageRequest, variant: str | None = None) -> str:
    """Hash everything that EvoLink bills for or draws from (hex, 64 characters).

    Uploaded references and masks count by content (``sha256:<hex>`` in the request), never by the URL of the
    upload. All other URLs count without the parameters that change when they are signed again.

    :param variant: tells equal requests apart that are to be different pictures; it is not sent. Without one
        the hash is that of earlier releases, on which keys in flight depend.
    """
    body = billable_body(request, unsigned)
    # No body has these two fields alone, as each has a model.
    hashed = body if variant is None else {"request": body, "variant": variant}
    return hashlib.sha256(_canonical(hashed).encode()).hexdigest()


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
