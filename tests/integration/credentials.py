"""Content credentials for tests: a certificate chain of their own, signed pictures, and what C2PA's reader says."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.integration.hostile_host import picture

TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Identity:
    """A signer's certificate chain and private key, both PEM."""

    chain: str
    key: str


def certificate(
    name: str, key: Any, issuer: str, issuer_key: Any, *, is_authority: bool, days: int = 4000
) -> x509.Certificate:
    """Make a certificate as C2PA signers have one."""

    def named(text: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"),
                x509.NameAttribute(NameOID.COMMON_NAME, text),
            ]
        )

    now = datetime.now(UTC)
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    ) | ({"key_cert_sign": True} if is_authority else {"digital_signature": True})
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if not is_authority:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())


def identity(key: Any = None, *, days: int = 4000) -> Identity:
    """Make an authority, and a signer that it trusts for so many days from now."""
    authority_key, key = (
        ec.generate_private_key(ec.SECP256R1()),
        key or ec.generate_private_key(ec.SECP256R1()),
    )
    authority = certificate("CA", authority_key, "CA", authority_key, is_authority=True)
    leaf = certificate("Signer", key, "CA", authority_key, is_authority=False, days=days)
    return Identity(
        chain="".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in (leaf, authority)),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


@functools.cache
def _generator() -> Identity:
    return identity()


def signed_picture(kind: str, size: tuple[int, int] | None = None) -> bytes:
    """Return a picture with content credentials, as a generator of images would deliver it."""
    of = _generator()
    # Older releases take no None, and would ask an empty address for the time.
    info = c2pa.C2paSignerInfo(b"es256", of.chain.encode(), of.key.encode(), b"")
    info.ta_url = None
    action = {
        "action": "c2pa.created",
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    }
    manifest = {
        "claim_generator_info": [{"name": "test", "version": "1"}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }
    target = io.BytesIO()
    content = picture(kind) if size is None else picture(kind, size)
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest)) as builder:
        builder.sign(signer, TYPES[kind], io.BytesIO(content), target)
    return target.getvalue()


def credentials_of(content_type: str, content: bytes) -> dict[str, Any]:
    """Return what C2PA's reader says of a file."""
    with c2pa.Reader(content_type, io.BytesIO(content)) as reader:
        found: dict[str, Any] = json.loads(reader.json())
    return found


def problems(kind: str, content: bytes) -> list[str]:
    """Tell what C2PA's library finds wrong, without that nobody trusts the test's certificate."""
    found = credentials_of(TYPES.get(kind, kind), content)
    assert found["active_manifest"]
    codes = [each["code"] for each in found.get("validation_status", [])]
    return [code for code in codes if code != "signingCredential.untrusted"]
