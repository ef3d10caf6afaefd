"""Real servers of each store on loopback, each with a connection, a bucket and a way to look into it.

What is read back comes through the store's own protocol and another client than the provider's.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.integration.stores.relay import Relay
from tools.local_airflow.processes import free_ports, poll

HERE = Path(__file__).parent
PROJECT = HERE.parents[2]
AZURITE = PROJECT / ".azurite" / "node_modules" / ".bin" / "azurite-blob"
BUCKET = "pictures"


@dataclass(frozen=True)
class Found:
    """What lies in a store under a name, as the store itself tells."""

    content: bytes
    content_type: str | None


@dataclass(frozen=True, kw_only=True)
class RunningStore:
    """A store and how to reach it.

    :param root: URL of the bucket or folder, with the connection.
    :param connections: what Airflow's environment variables hold.
    :param read: what lies under a name below the root.
    :param names: the names of all files below the root, hidden ones among them.
    :param relay: what stands in front of the server; None for local files.
    :param refused: the same root, by a connection with wrong credentials.
    :param missing: a bucket that is not there.
    """

    kind: str
    root: str
    connections: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[str], Found]
    names: Callable[[], list[str]]
    relay: Relay | None = None
    refused: str | None = None
    missing: str | None = None

    @property
    def is_object_store(self) -> bool:
        return self.kind in {"s3", "gcs", "azure"}


@contextmanager
def _server(command: Sequence[str | Path], port: int, log: Path, **environment: str) -> Iterator[None]:
    """Run a server until its port answers; end it by its id."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )
    try:
        poll(lambda: _answers(process, port, log), seconds=60, what=f"{command[0]} on port {port}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"The server ended by itself:\n{log.read_text(errors='replace')[-2000:]}")
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def local_files(folder: Path) -> Iterator[RunningStore]:
    root = folder / "pictures"
    root.mkdir()
    yield RunningStore(kind="file", root=f"file://{root}", read=_reader(root), names=_lister(root))


def _reader(root: Path) -> Callable[[str], Found]:
    return lambda name: Found((root / name).read_bytes(), None)


def _lister(root: Path) -> Callable[[], list[str]]:
    return lambda: sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@contextmanager
def s3(folder: Path) -> Iterator[RunningStore]:
    boto3 = pytest.importorskip("boto3", reason="needs the packages of `make test-stores`")
    pytest.importorskip("moto.server", reason="needs the packages of `make test-stores`")
    pytest.importorskip("s3fs", reason="needs the packages of `make test-stores`")
    (port,) = free_ports(1)
    moto = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # Four calls to make a user with a key; from then on credentials and rights are checked.
    with (
        _server(moto, port, folder / "moto.log", INITIAL_NO_AUTH_ACTION_COUNT="3"),
        Relay(port) as relay,
    ):

        def client(service: str, **credentials: str) -> Any:
            return boto3.client(
                service,
                endpoint_url=f"http://127.0.0.1:{port}",
                region_name="us-east-1",
                **({"aws_access_key_id": "nobody", "aws_secret_access_key": "yet"} | credentials),
            )

        iam = client("iam")
        iam.create_user(UserName="airflow")
        key = iam.create_access_key(UserName="airflow")["AccessKey"]
        rights = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
        iam.put_user_policy(UserName="airflow", PolicyName="all", PolicyDocument=json.dumps(rights))
        own = {
            "aws_access_key_id": key["AccessKeyId"],
            "aws_secret_access_key": key["SecretAccessKey"],
        }
        bucket = client("s3", **own)
        bucket.create_bucket(Bucket=BUCKET)

        def connection(secret: str) -> str:
            extra = {"endpoint_url": f"http://127.0.0.1:{relay.port}", "region_name": "us-east-1"}
            login = own["aws_access_key_id"]
            return json.dumps({"conn_type": "aws", "login": login, "password": secret, "extra": extra})

        def read(name: str) -> Found:
            answer = bucket.get_object(Bucket=BUCKET, Key=name)
            return Found(answer["Body"].read(), answer["ContentType"])

        def names() -> list[str]:
            pages = bucket.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

        yield RunningStore(
            kind="s3",
            root=f"s3://store_s3@{BUCKET}",
            connections={
                "AIRFLOW_CONN_STORE_S3": connection(own["aws_secret_access_key"]),
                "AIRFLOW_CONN_STORE_S3_REFUSED": connection("not-the-secret-of-this-key"),
            },
            read=read,
            names=names,
            relay=relay,
            refused=f"s3://store_s3_refused@{BUCKET}",
            missing="s3://store_s3@nobody-made-this",
        )


class _RefusingTokens(http.server.BaseHTTPRequestHandler):
    """Google's answer to a service account whose key is no longer one."""

    def do_POST(self) -> None:
        body = b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}'
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _token_endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _RefusingTokens) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/token"
        server.shutdown()


@contextmanager
def google(folder: Path) -> Iterator[RunningStore]:
    pytest.importorskip("gcsfs", reason="needs the packages of `make test-stores`")
    pytest.importorskip("gcp_storage_emulator", reason="needs the packages of `make test-stores`")
    (port,) = free_ports(1)
    emulator = [sys.executable, "-P", "-m", "gcp_storage_emulator", "start", "-H", "127.0.0.1"]
    emulator += ["--port", str(port), "--in-memory", "--quiet", f"--default-bucket={BUCKET}"]
    with (
        _server(emulator, port, folder / "gcp.log"),
        Relay(port) as relay,
        _token_endpoint() as tokens,
    ):
        extra = {"project": "evoimage", "gcs.endpoint": f"http://127.0.0.1:{relay.port}"}
        anonymous = {"conn_type": "google_cloud_platform", "extra": extra | {"is_anonymous": True}}
        account = {"conn_type": "google_cloud_platform", "extra": extra | {"keyfile_dict": _account(tokens)}}
        objects = f"http://127.0.0.1:{port}/storage/v1/b/{BUCKET}/o"

        def read(name: str) -> Found:
            about = httpx.get(f"{objects}/{quote(name, safe='')}").raise_for_status().json()
            content = httpx.get(f"{objects}/{quote(name, safe='')}?alt=media").raise_for_status().content
            return Found(content, about["contentType"])

        def names() -> list[str]:
            return sorted(
                each["name"] for each in httpx.get(objects).raise_for_status().json().get("items", [])
            )

        yield RunningStore(
            kind="gcs",
            root=f"gs://store_gcs@{BUCKET}",
            connections={
                "AIRFLOW_CONN_STORE_GCS": json.dumps(anonymous),
                "AIRFLOW_CONN_STORE_GCS_REFUSED": json.dumps(account),
            },
            read=read,
            names=names,
            relay=relay,
            refused=f"gs://store_gcs_refused@{BUCKET}",
            missing="gs://store_gcs@nobody-made-this",
        )


def _account(token_uri: str) -> str:
    """Make a service account's key file that nobody knows."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "evoimage",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "airflow@evoimage.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": token_uri,
        }
    )


# The account that every Azurite has; its key is in Microsoft's documentation.
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextmanager
def azure(folder: Path) -> Iterator[RunningStore]:
    pytest.importorskip("adlfs", reason="needs the packages of `make test-stores`")
    blob = pytest.importorskip("azure.storage.blob", reason="needs the packages of `make test-stores`")
    if not AZURITE.exists() or shutil.which("node") is None:
        pytest.skip("needs Azurite, which `make test-stores` installs where there is npm")
    (port,) = free_ports(1)
    azurite = [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    azurite += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with _server(azurite, port, folder / "azurite.log"), Relay(port) as relay:

        def address(port: int, key: str = _AZURITE_KEY) -> str:
            return (
                f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};"
                f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
            )

        container = blob.ContainerClient.from_connection_string(address(port), BUCKET)
        container.create_container()

        def connection(key: str = _AZURITE_KEY) -> str:
            return json.dumps({"conn_type": "wasb", "extra": {"connection_string": address(relay.port, key)}})

        def read(name: str) -> Found:
            found = container.download_blob(name)
            return Found(found.readall(), found.properties.content_settings.content_type)

        yield RunningStore(
            kind="azure",
            root=f"abfs://store_azure@{BUCKET}",
            connections={
                "AIRFLOW_CONN_STORE_AZURE": connection(),
                "AIRFLOW_CONN_STORE_AZURE_REFUSED": connection("bm90IHRoZSBrZXk="),
            },
            read=read,
            names=lambda: sorted(container.list_blob_names()),
            relay=relay,
            refused=f"abfs://store_azure_refused@{BUCKET}",
            missing="abfs://store_azure@nobody-made-this",
        )


@contextmanager
def sftp(folder: Path, *options: str) -> Iterator[RunningStore]:
    pytest.importorskip("sshfs", reason="needs the packages of `make test-stores`")
    (port,) = free_ports(1)
    root = folder / "files"
    (root / BUCKET).mkdir(parents=True)
    server = [sys.executable, "-P", HERE / "sftp_server.py", str(port), root, "airflow", "secret", *options]
    with _server(server, port, folder / "sftp.log"), Relay(port) as relay:

        def connection(password: str) -> str:
            return json.dumps(
                {
                    "conn_type": "sftp",
                    "host": "127.0.0.1",
                    "port": relay.port,
                    "login": "airflow",
                    "password": password,
                    "extra": {"no_host_key_check": "true"},
                }
            )

        # Airflow keeps a file system a connection id as long as the process lives.
        name = f"store_sftp_{port}"
        yield RunningStore(
            kind="sftp",
            root=f"sftp://{name}@/{BUCKET}",
            connections={
                f"AIRFLOW_CONN_{name.upper()}": connection("secret"),
                f"AIRFLOW_CONN_{name.upper()}_REFUSED": connection("not the secret"),
            },
            read=_reader(root / BUCKET),
            names=_lister(root / BUCKET),
            relay=relay,
            refused=f"sftp://{name}_refused@/{BUCKET}",
        )
