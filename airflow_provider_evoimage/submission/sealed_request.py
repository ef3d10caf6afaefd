"""The request exactly as it was sent, kept unreadable: a retry must repeat it, and it may hold signed URLs.

EvoLink answers a known key with another body by 409. Templates, clocks and signers give another body on each try, so
the first one is kept in the record, where everybody can look: encrypted under a key made of the API key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

#: Characters. Airflow's state store takes 64 KB, and the record needs some of them.
LONGEST_SEALED = 60_000
# Bytes. No request is longer; a sealed text that unpacks to more was not made here.
_LONGEST_CONTENT = 2_000_000


@dataclass(frozen=True, kw_only=True)
class SentRequest:
    """A request as it was sent.

    :param body: JSON body of the POST.
    :param described: in the form of a manifest; None in a batch, whose ledger describes it.
    """

    body: Mapping[str, Any]
    described: Mapping[str, Any] | None = None

    def sealed(self, api_key: str) -> str | None:
        """Encrypt it; None where it is too long to keep."""
        content = json.dumps({"body": self.body, "described": self.described})
        sealed = _cipher(api_key).encrypt(zlib.compress(content.encode())).decode()
        return sealed if len(sealed) <= LONGEST_SEALED else None


def unseal(sealed: str | None, api_key: str) -> SentRequest | None:
    """Return the request; None where nothing was kept, or where the API key or the text has changed since."""
    if not sealed:
        return None
    from cryptography.fernet import InvalidToken  # noqa: PLC0415 (heavy, and only some retries need it)

    try:
        packed = _cipher(api_key).decrypt(sealed.encode())
        content = json.loads(zlib.decompressobj().decompress(packed, _LONGEST_CONTENT))
    except (InvalidToken, zlib.error, ValueError):
        return None
    return SentRequest(body=content["body"], described=content["described"])


def _cipher(api_key: str) -> Fernet:
    from cryptography.fernet import Fernet  # noqa: PLC0415 (heavy, and only workers seal)

    digest = hashlib.sha256(b"airflow-evoimage: a request as it was sent\0" + api_key.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
