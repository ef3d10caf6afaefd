"""Renditions signed with a certificate of a connection: valid for C2PA's own reader, small enough, and no key leaks."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from airflow_provider_evoimage.exceptions import (
    ConnectionNotFoundError,
    ConnectionSettingsError,
    EvoImageError,
    InvalidRequestError,
)
from airflow_provider_evoimage.hooks.signing import signing_identity
from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.images.provenance import read_statement
from airflow_provider_evoimage.operators.renditions import EvoImageRenditionsOperator
from airflow_provider_evoimage.storage.stores import LocalFiles
from airflow_provider_evoimage.version_compat import HAS_TASK_STATE_STORE
from tests.integration.task_driver import Killed, TaskRun, generate

pytest.importorskip("c2pa", reason="c2pa-python is not installed", exc_type=ImportError)

from tests.integration.credentials import Identity, credentials_of, identity, problems, signed_picture

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

CONNECTION = "AIRFLOW_CONN_SIGNER"
KINDS = [
    Rendition("photo", width=300, height=300),
    Rendition("logo", width=300, height=300, format="png"),
    Rendition("hero", width=300, height=300, format="webp"),
]


@pytest.fixture(scope="module")
def signer() -> Identity:
    return identity()


def connect(monkeypatch: pytest.MonkeyPatch, of: Identity, **fields: Any) -> None:
    connection = {
        "conn_type": "generic",
        "password": of.key,
        "extra": {"certificate_chain": of.chain},
    } | fields
    monkeypatch.setenv(CONNECTION, json.dumps(connection))


@pytest.fixture
def connected(signer: Identity, monkeypatch: pytest.MonkeyPatch) -> Identity:
    connect(monkeypatch, signer)
    return signer


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, Any]:
    return TaskRun(
        generate(model="gpt-image-1.5", size="1024x1024", save_to=str(tmp_path / "drawn"), alt_text="A fox")
    ).run()


def signing(images: Any, folder: Path, tries: int = 0, **arguments: Any) -> TaskRun:
    fields: dict[str, Any] = {"renditions": KINDS, "sign_conn_id": "signer", "parallel": 1} | arguments

    def operator() -> EvoImageRenditionsOperator:
        return EvoImageRenditionsOperator(task_id="cut", images=images, save_to=str(folder), **fields)

    return TaskRun(operator, task_id="cut", try_number=tries)


def path_of(entry: dict[str, Any]) -> Path:
    return Path(entry["path"].removeprefix("file://"))


def made_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return manifest["images"][0]["renditions"]


def with_original(manifest: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Put another file in the place of the image."""
    (image,) = manifest["images"]
    path = path_of(image).with_suffix(".png")
    path.write_bytes(content)
    with Image.open(path) as opened:
        image |= {"width": opened.width, "height": opened.height}
    image |= {"sha256": hashlib.sha256(content).hexdigest(), "path": f"file://{path}"}
    return manifest


@pytest.mark.usefixtures("connected")
def test_every_format_is_marked_signed_and_valid(drawn: dict[str, Any], tmp_path: Path):
    plain = made_of(signing(drawn, tmp_path / "plain", sign_conn_id=None).run())
    assert [each["content_credentials"] for each in plain] == [False] * 3
    for without, each in zip(plain, made_of(signing(drawn, tmp_path / "cut").run()), strict=True):
        content = path_of(each).read_bytes()
        assert problems(each["content_type"], content) == []
        found = credentials_of(each["content_type"], content)
        active = found["manifests"][found["active_manifest"]]
        assert active["claim_generator_info"][0]["name"] == "airflow-provider-evoimage"
        (parent,) = active["ingredients"]
        assert (parent["relationship"], parent["title"]) == (
            "parentOf",
            path_of(drawn["images"][0]).name,
        )
        (actions,) = [
            assertion["data"]["actions"]
            for assertion in active["assertions"]
            if assertion["label"].startswith("c2pa.actions")
        ]
        assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.resized", "c2pa.converted"]
        assert actions[0]["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
        with path_of(each).open("rb") as file:
            says = read_statement(file)
        # The mark came first, so the signature covers it.
        assert (says.content_credentials, says.digital_source_type) == (True, "trainedAlgorithmicMedia")
        assert says.alt_text == "A fox"
        assert each["content_credentials"] is True
        assert each["sha256"] == hashlib.sha256(content).hexdigest()
        assert 2_000 < each["bytes"] - without["bytes"] < 20_000
        with Image.open(path_of(each)) as one, Image.open(path_of(without)) as other:
            assert one.convert("RGB").tobytes() == other.convert("RGB").tobytes()


@pytest.mark.usefixtures("connected")
def test_credentials_of_the_original_go_on_as_those_of_the_parent(drawn: dict[str, Any], tmp_path: Path):
    manifest = with_original(drawn, signed_picture("PNG", (600, 600)))
    (made,) = made_of(signing(manifest, tmp_path / "cut", renditions=KINDS[:1]).run())
    content = path_of(made).read_bytes()
    assert problems("JPEG", content) == []
    found = credentials_of("image/jpeg", content)
    (parent,) = found["manifests"][found["active_manifest"]]["ingredients"]
    assert parent["active_manifest"] in found["manifests"]
    assert len(found["manifests"]) == 2


@pytest.mark.usefixtures("connected")
def test_file_and_credentials_together_keep_the_limit_of_bytes(drawn: dict[str, Any], tmp_path: Path):
    noise = tmp_path / "noise.png"
    Image.effect_noise((600, 600), 90).convert("RGB").save(noise)
    manifest = with_original(drawn, noise.read_bytes())
    small = Rendition("small", width=500, height=500, max_kb=120)
    (plain,) = made_of(signing(manifest, tmp_path / "plain", renditions=[small], sign_conn_id=None).run())
    (made,) = made_of(signing(manifest, tmp_path / "cut", renditions=[small]).run())
    assert 110_000 < made["bytes"] <= 120_000
    assert made["quality"] < plain["quality"]
    with pytest.raises(InvalidRequestError, match="its content credentials alone have about"):
        signing(drawn, tmp_path / "no", renditions=[Rendition("tiny", width=8, height=8, max_kb=3)]).run()


@pytest.mark.usefixtures("connected")
def test_retry_after_a_kill_keeps_what_was_signed(
    drawn: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish, images = LocalFiles.publish, 0

    def until(self: Any, local: Path, path: str, content_type: str) -> None:
        nonlocal images
        images += content_type.startswith("image/")
        if images == 3:
            raise Killed
        publish(self, local, path, content_type)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "publish", until)
        with pytest.raises(Killed):
            signing(drawn, tmp_path / "cut").run()
    there = {path.name: path.read_bytes() for path in (tmp_path / "cut").rglob("cut-*.*")}
    assert len(there) == 2
    made = made_of(signing(drawn, tmp_path / "cut", tries=1).run())
    assert {path_of(each).name: path_of(each).read_bytes() for each in made}.items() >= there.items()
    assert all(problems(each["content_type"], path_of(each).read_bytes()) == [] for each in made)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "P-521", "RSA", "Ed25519"],
)
def test_every_kind_of_key_signs(
    drawn: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Any
):
    connect(monkeypatch, identity(key))
    (made,) = made_of(signing(drawn, tmp_path / "cut", renditions=KINDS[:1]).run())
    assert problems("JPEG", path_of(made).read_bytes()) == []


def test_lost_line_breaks_do_no_harm(
    drawn: dict[str, Any], tmp_path: Path, signer: Identity, monkeypatch: pytest.MonkeyPatch
):
    connect(
        monkeypatch,
        signer,
        password=signer.key.replace("\n", " "),
        extra={"certificate_chain": signer.chain.replace("\n", "\\n")},
    )
    (made,) = made_of(signing(drawn, tmp_path / "cut", renditions=KINDS[:1]).run())
    assert problems("JPEG", path_of(made).read_bytes()) == []


def test_unusable_certificate_is_refused_before_any_work_and_the_key_is_not_told(
    drawn: dict[str, Any], tmp_path: Path, signer: Identity, monkeypatch: pytest.MonkeyPatch
):
    body = "".join(signer.key.splitlines()[1:-1])
    encrypted = (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        .decode()
    )
    weak = ec.generate_private_key(ec.SECP256K1())
    (own, authority) = signer.chain.split("-----END CERTIFICATE-----\n")[:2]
    swapped = f"{authority}-----END CERTIFICATE-----\n{own}-----END CERTIFICATE-----\n"
    other, expired = identity(), identity(days=-1)
    cases: dict[str, tuple[dict[str, Any], type[EvoImageError]]] = {
        "has no certificate": ({"extra": {}}, ConnectionSettingsError),
        "not a JSON object": ({"extra": "[1]"}, ConnectionSettingsError),
        "holds no '-----BEGIN CERTIFICATE": (
            {"extra": {"certificate_chain": "yes"}},
            ConnectionSettingsError,
        ),
        "a certificate of the chain cannot be read": (
            {"extra": {"certificate_chain": own[:200] + "-----END CERTIFICATE-----"}},
            ConnectionSettingsError,
        ),
        "has no private key": ({"password": ""}, ConnectionSettingsError),
        "there are 0": ({"password": body}, ConnectionSettingsError),
        "private key cannot be read": (
            {"password": signer.key.replace(body[20:40], "A" * 20)},
            ConnectionSettingsError,
        ),
        "is encrypted": ({"password": encrypted}, ConnectionSettingsError),
        "is not that of the first certificate": ({"password": other.key}, ConnectionSettingsError),
        "the signer's own must be first": (
            {"extra": {"certificate_chain": swapped}},
            ConnectionSettingsError,
        ),
        "is valid from": (
            {"password": expired.key, "extra": {"certificate_chain": expired.chain}},
            ConnectionSettingsError,
        ),
        "must be of P-256": (
            {"password": identity(weak).key, "extra": {"certificate_chain": identity(weak).chain}},
            ConnectionSettingsError,
        ),
    }
    if not HAS_TASK_STATE_STORE:
        # Airflow before 3.3 may not read such a connection at all.
        del cases["not a JSON object"]
    for message, (fields, kind) in cases.items():
        connect(monkeypatch, signer, **fields)
        with pytest.raises(kind, match=message) as failed:
            signing(drawn, tmp_path / "cut").run()
        assert body[50:70] not in str(failed.value)
        assert not isinstance(failed.value.__context__, ValueError) or body[50:70] not in str(
            failed.value.__context__
        )
    monkeypatch.delenv(CONNECTION)
    with pytest.raises(ConnectionNotFoundError, match="'signer'"):
        signing(drawn, tmp_path / "cut").run()
    assert not (tmp_path / "cut").exists()


def test_missing_extra_is_told_before_any_work(
    drawn: dict[str, Any], tmp_path: Path, connected: Identity, monkeypatch: pytest.MonkeyPatch
):
    del connected
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(InvalidRequestError, match=r"airflow-provider-evoimage\[c2pa\].*glibc 2\.28"):
        signing(drawn, tmp_path / "cut").run()
    assert not (tmp_path / "cut").exists()


def test_library_is_loaded_only_to_sign():
    code = (
        "import sys; import airflow_provider_evoimage.operators.renditions as o; "
        "import airflow_provider_evoimage.renditions.run; print('c2pa' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_private_key_is_nowhere_but_in_the_connection(
    drawn: dict[str, Any], tmp_path: Path, connected: Identity, capsys: pytest.CaptureFixture[str]
):
    run = signing(drawn, tmp_path / "cut", contact_sheet=True)
    manifest = run.run()
    body = "".join(connected.key.splitlines()[1:-1])
    # Of the secret number; the rest of the key is the same in all, or public.
    pieces = [body[50:70], body[70:90]]
    written = [path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()]
    operator = EvoImageRenditionsOperator(
        task_id="cut", images=[], save_to="file:///tmp/x", renditions=KINDS, sign_conn_id="signer"
    )
    told = [json.dumps(manifest), repr(run.ti.xcoms), capsys.readouterr().out, repr(vars(operator))]
    for piece in pieces:
        assert not any(piece in text for text in told)
        assert not any(piece.encode() in content for content in written)
    found = signing_identity("signer")
    assert not any(piece in repr(found) for piece in pieces)
