"""URLs with a signature or a secret: which parts change when signed again, and which parts to hide. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_plus, urlsplit, urlunsplit

# Parameters that change when a URL is signed again: of AWS and its like, Google, Azure, CloudFront, Alibaba,
# Tencent, Volcano.
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-tos-")
# Parameters with which the same stores process the image: they make another picture.
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
# CDNs: one parameter that proves, beside one that ends: Bunny, Fastly, Qiniu, Tencent, ImageKit, Discord and others.
_PROOFS = frozenset({"token", "signature", "sig", "sign", "hmac", "hm", "ik-s", "md5"})
_ENDS = frozenset(
    {
        "expires",
        "expire",
        "expiry",
        "expiration",
        "exp",
        "deadline",
        "e",
        "ex",
        "t",
        "ts",
        "ik-t",
        "valid_until",
    }
)
_BESIDE_AN_END = frozenset({"is"})
# Parameters that hold both, of Akamai, Cloudinary and Alibaba's CDN.
_PROOFS_WITH_END = frozenset({"hdnts", "hdnea", "hdntl", "__token__", "__cld_token__", "auth_key"})
# A token that says itself when it ends, for instance Supabase's, and Cloudflare's proof of a moment.
_JSON_WEB_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_PROOF = re.compile(r"[\w+/=.~-]{16,}")
# Unix seconds or milliseconds, decimal or hexadecimal, or a date.
_END = re.compile(r"1\d{9}|1\d{12}|[5-9a-f][0-9a-f]{7}|20\d\d-\d\d-\d\d.*|20\d{6}t?\d*z?")
_MOMENT_AND_PROOF = re.compile(r"\d{9,}-.{16,}")
# Parameters that grant access: ``access_token``, ``X-Api-Key``, ``client_secret``.
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


def unsigned(url: str) -> str:
    """Remove the parameters that change whenever an object store signs the URL, and user and password."""
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
    left_out |= _PROOFS_WITH_END | _of_a_cdn(query)
    kept = [each for each in query if (name := _parameter(each)) not in left_out and not _is_signature(name)]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query="&".join(kept), fragment=""))


def without_secrets(url: str) -> str:
    """Return a URL for people to read: without the signature and without the values of parameters that grant access.

    Such a value may tell which object is meant, so it counts in the fingerprint.
    """
    url, mark, query = unsigned(url).partition("?")
    shown = [f"{each.partition('=')[0]}=***" if _is_secret(each) else each for each in query.split("&")]
    return f"{url}{mark}{'&'.join(shown)}"


def _parameter(text: str) -> str:
    return unquote_plus(text.partition("=")[0]).lower()


def _of_a_cdn(query: Sequence[str]) -> set[str]:
    """Find the parameters with which a CDN signs; a name alone may mean anything, so the values count."""
    values = [(_parameter(each), unquote_plus(each.partition("=")[2])) for each in query]
    proofs = {name for name, value in values if name in _PROOFS and _PROOF.fullmatch(value)}
    ends = {name for name, value in values if name in _ENDS and _END.fullmatch(value.lower())}
    found = proofs | ends | _BESIDE_AN_END if proofs and ends else set()
    return found | {name for name, value in values if _proves_and_ends(name, value)}


def _proves_and_ends(name: str, value: str) -> bool:
    if name == "verify":
        return _MOMENT_AND_PROOF.fullmatch(value) is not None
    return name in {"token", "jwt", "access_token"} and _JSON_WEB_TOKEN.fullmatch(value) is not None


def _is_signature(name: str) -> bool:
    return name.startswith(_SIGNATURE_PREFIXES) and name not in _PROCESSING


def _is_secret(text: str) -> bool:
    return _parameter(text).replace("-", "_").endswith(_SECRET_ENDINGS)
