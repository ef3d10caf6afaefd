"""Signs image files with C2PA content credentials, by the C2PA's own library of the extra ``c2pa``.

The private key stays in this process: it is in no message, and no ``repr`` shows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from airflow_provider_evoimage import __version__
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.xmp import CREATOR

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.+?)-----END \1-----", re.DOTALL)
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_LEAST_RSA_BITS = 2048
# No thumbnails: they would add 0.3 to 1.4 MB, more than many channels take. Nothing is read over the network: an
# image may name any address as the place of its credentials.
_SETTINGS = {
    "version": 1,
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_PARENT = "original"
_ERROR_CHARACTERS = 300


class UnusableIdentityError(ValueError):
    """A certificate or key that cannot sign; the message says why, and holds nothing of the key."""


@dataclass(frozen=True, kw_only=True)
class SigningIdentity:
    """A certificate chain and its private key.

    :param certificates: the chain as PEM, the signer's own first.
    :param algorithm: by C2PA's name.
    :param fingerprint: SHA-256 of the signer's own certificate, in hexadecimal.
    """

    certificates: bytes
    private_key: bytes = field(repr=False)
    algorithm: str
    fingerprint: str

    @classmethod
    def of(cls, certificate_chain: str, private_key: str, *, now: datetime | None = None) -> SigningIdentity:
        """Check a chain and a key, both PEM; line breaks may be lost, as a form's one-line field loses them.

        :param certificate_chain: the signer's own certificate first; a root need not be in it.
        :param private_key: not encrypted, as the connection already is.
        :raises UnusableIdentityError: when they cannot sign, or not together.
        """
        key = _key(private_key)
        chain = _certificates(certificate_chain)
        own = chain[0]
        if _public_bytes(own.public_key()) != _public_bytes(key.public_key()):
            raise UnusableIdentityError(
                "the private key is not that of the first certificate of the chain; the signer's own must be first"
            )
        now = now or datetime.now(UTC)
        if not own.not_valid_before_utc <= now <= own.not_valid_after_utc:
            raise UnusableIdentityError(
                f"the certificate is valid from {own.not_valid_before_utc:%Y-%m-%d} "
                f"to {own.not_valid_after_utc:%Y-%m-%d} only"
            )
        if own.issuer == own.subject:
            raise UnusableIdentityError(
                "the certificate is signed by itself, which C2PA does not take; use one that an authority signed"
            )
        return cls(
            certificates=b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain),
            private_key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            algorithm=_algorithm(key),
            fingerprint=own.fingerprint(hashes.SHA256()).hex(),
        )


def require_c2pa() -> None:
    """Check that C2PA's library is installed.

    :raises InvalidRequestError: when it is not, or cannot be loaded.
    """
    try:
        import c2pa  # noqa: F401 (an extra)
    except Exception as error:  # Its native part may be missing or too new for this machine.
        raise InvalidRequestError(
            "sign_conn_id needs C2PA's library, which cannot be imported: install "
            "airflow-provider-evoimage[c2pa] on the workers. On Linux it needs glibc 2.28 or later. "
            f"({type(error).__name__}: {error})"
        ) from error


def sign_image(
    identity: SigningIdentity,
    source: Path,
    target: Path,
    *,
    content_type: str,
    title: str,
    original: Path,
    original_type: str,
    original_title: str,
    digital_source_type: str | None,
    actions: Sequence[str],
) -> None:
    """Write a signed copy of an image; the file that it was made from is its parent ingredient.

    :param original: the parent; its content credentials, where it has some, go on in those of the copy.
    :param digital_source_type: the IPTC's word for the parent.
    :param actions: what was done to it, by C2PA's names without ``c2pa.``.
    :raises InvalidRequestError: when the library refuses the certificate or a file.
    """
    import c2pa

    opened: dict[str, Any] = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_PARENT]}}
    if digital_source_type:
        opened["digitalSourceType"] = f"{_SOURCE_TYPES}{digital_source_type}"
    manifest = {
        "claim_generator_info": [{"name": CREATOR, "version": __version__}],
        "title": title,
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {"actions": [opened, *({"action": f"c2pa.{each}"} for each in actions)]},
            }
        ],
    }
    parent = {"title": original_title, "relationship": "parentOf", "label": _PARENT}
    # Older releases take no None here, and would ask an empty address for the time.
    info = c2pa.C2paSignerInfo(identity.algorithm.encode(), identity.certificates, identity.private_key, b"")
    info.ta_url = None
    try:
        with (
            c2pa.Settings.from_dict(_SETTINGS) as settings,
            c2pa.Context(settings=settings) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest), context=context) as builder,
            source.open("rb") as unsigned,
            target.open("w+b") as signed,
        ):
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            with original.open("rb") as ingredient:
                builder.add_ingredient(json.dumps(parent), original_type, ingredient)
            builder.sign(signer, content_type, unsigned, signed)
    except c2pa.C2paError as error:
        raise InvalidRequestError(
            f"{title} cannot be signed with the certificate of sign_conn_id: {str(error)[:_ERROR_CHARACTERS]}"
        ) from error


def _blocks(text: str) -> dict[str, list[bytes]]:
    """Return the PEM blocks of a text by label, each with line breaks where they belong."""
    found: dict[str, list[bytes]] = {}
    for label, body in _PEM.findall(text.replace("\\n", "\n")):
        characters = "".join(body.split())
        lines = [characters[start : start + 64] for start in range(0, len(characters), 64)]
        block = "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])
        found.setdefault(label, []).append(block.encode())
    return found


def _certificates(text: str) -> list[x509.Certificate]:
    found = _blocks(text).get("CERTIFICATE", [])
    if not found:
        raise UnusableIdentityError("the certificate chain holds no '-----BEGIN CERTIFICATE-----'")
    try:
        return [x509.load_pem_x509_certificate(each) for each in found]
    except ValueError as error:
        raise UnusableIdentityError(f"a certificate of the chain cannot be read: {error}") from error


def _key(text: str) -> Any:
    blocks = [
        each for label, found in _blocks(text).items() if label.endswith("PRIVATE KEY") for each in found
    ]
    if len(blocks) != 1:
        raise UnusableIdentityError(
            f"the private key must be one PEM block '-----BEGIN PRIVATE KEY-----'; there are {len(blocks)}"
        )
    try:
        return serialization.load_pem_private_key(blocks[0], password=None)
    except TypeError:
        raise UnusableIdentityError("the private key is encrypted with a password of its own") from None
    except Exception:  # noqa: BLE001 (the error could quote the key)
        raise UnusableIdentityError("the private key cannot be read") from None


def _algorithm(key: Any) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA_BITS:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise UnusableIdentityError(
        "the private key must be of P-256, P-384 or P-521, of Ed25519, or of RSA with 2,048 bits or more"
    )


def _public_bytes(key: Any) -> bytes:
    content: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return content
