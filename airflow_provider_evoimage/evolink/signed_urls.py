"""URLs with a signature or a secret: which parts change when signed again, and which parts to hide. Pure."""

from __future__ import annotations

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


def _is_signature(name: str) -> bool:
    return name.startswith(_SIGNATURE_PREFIXES) and name not in _PROCESSING


def _is_secret(text: str) -> bool:
    return _parameter(text).replace("-", "_").endswith(_SECRET_ENDINGS)
