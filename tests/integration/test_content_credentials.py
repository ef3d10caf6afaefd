"""Real content credentials, signed and read by the C2PA's own library: valid before, valid after."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from airflow_provider_evoimage.images.provenance import KeptImage, mark_image, mark_of, read_statement
from airflow_provider_evoimage.images.result_file import describe_image
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage import saver
from tests.integration.hostile_host import picture
from tests.integration.task_driver import TaskRun, batch, generate, save

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed", exc_type=ImportError)

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def certificate(name: str, key: Any, issuer: str, issuer_key: Any, *, is_authority: bool) -> x509.Certificate:
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
        .not_valid_after(now + timedelta(days=4000))
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


@pytest.fixture(scope="module")
def sign() -> Callable[[str], bytes]:
    """Sign a picture of this kind."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = certificate("CA", authority_key, "CA", authority_key, is_authority=True)
    leaf = certificate("Signer", key, "CA", authority_key, is_authority=False)
    chain = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (leaf, authority))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    def signed(kind: str) -> bytes:
        # Older releases take no None, and would ask an empty address for the time.
        info = c2pa.C2paSignerInfo(b"es256", chain, pem, b"")
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
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest)) as builder:
            builder.sign(signer, TYPES[kind], io.BytesIO(picture(kind)), target)
        return target.getvalue()

    return signed


def problems(kind: str, content: bytes) -> list[str]:
    """Tell what C2PA's library finds wrong, without that nobody trusts the test's certificate."""
    with c2pa.Reader(TYPES[kind], io.BytesIO(content)) as reader:
        found = json.loads(reader.json())
    assert found["active_manifest"]
    codes = [each["code"] for each in found.get("validation_status", [])]
    return [code for code in codes if code != "signingCredential.untrusted"]


@pytest.mark.parametrize("kind", TYPES)
def test_signed_file_is_recognised_and_kept(tmp_path: Path, sign: Callable[[str], bytes], kind: str):
    content = sign(kind)
    assert problems(kind, content) == []
    path = tmp_path / "image"
    path.write_bytes(content)
    outcome = mark_image(describe_image(path), tmp_path / "marked", mark_of(model=None, has_references=False))
    assert isinstance(outcome, KeptImage)
    assert outcome.statement.content_credentials is True
    assert read_statement(io.BytesIO(content)).content_credentials is True


def test_changed_signed_file_is_invalid(sign: Callable[[str], bytes]):
    content = sign("PNG")
    assert problems("PNG", content[:-12] + b"\0\0\0\0teSt\0\0\0\0" + content[-12:]) != []


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("way", ["generate", "save", "batch"])
def test_signed_file_stays_valid_through_a_save(
    tmp_path: Path,
    sign: Callable[[str], bytes],
    monkeypatch: pytest.MonkeyPatch,
    submitted: Callable[..., str],
    evolink: SimulatorServer,
    kind: str,
    way: str,
):
    content = sign(kind)
    download = saver.download_image

    def instead(client: Any, url: str, path: Path, limits: Any) -> Any:
        download(client, url, path, limits)
        path.write_bytes(content)
        return describe_image(path)

    monkeypatch.setattr(saver, "download_image", instead)
    if way == "generate":
        TaskRun(generate(save_to=str(tmp_path))).run()
    elif way == "batch":
        TaskRun(batch(["a mug"], tmp_path)).run()
    else:
        task = submitted("a mug")
        evolink.state.clock.advance(600)
        evolink.state.settle()
        TaskRun(save(task, tmp_path), task_id="save").run()
    (saved,) = [each for each in tmp_path.rglob("*.*") if each.suffix in {".png", ".jpg", ".webp"}]
    assert saved.read_bytes() == content
    assert problems(kind, saved.read_bytes()) == []
