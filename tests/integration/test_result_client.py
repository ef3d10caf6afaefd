"""Result links over real connections: bodies arrive as they were sent, and each download ends in its own time."""

from __future__ import annotations

import datetime
import ipaddress
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_evoimage import transport
from airflow_provider_evoimage.exceptions import DownloadError
from airflow_provider_evoimage.result_links import Deadline, ResultClient

# Far above what any of it may take: a hang is a failure, and nothing is measured by the clock.
pytestmark = pytest.mark.timeout(60)

# More than the network, httpcore and the client itself take at a time.
BODY = random.Random(0).randbytes(3_000_001)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


def of_known_length(body: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(body: bytes) -> bytes:
    pieces = [body[place : place + 70_000] for place in range(0, len(body), 70_000)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks


def in_chunks_with_a_length(body: bytes) -> bytes:
    return in_chunks(body).replace(b"Transfer", b"Content-Length: 7\r\nTransfer", 1)


def until_it_closes(body: bytes) -> bytes:
    return OK + b"\r\n" + body


def longer_than_it_says(body: bytes) -> bytes:
    return of_known_length(body) + b"HTTP/1.1 200 OK\r\n" * 10_000


@contextmanager
def answering(answer: bytes, secured: ssl.SSLContext | None = None) -> Iterator[str]:
    """Answer one request with these bytes; yield the link."""

    def serve() -> None:
        connection, _ = server.accept()
        if secured is not None:
            connection = secured.wrap_socket(connection, server_side=True)
        with connection:
            while not connection.recv(64 * 1024).endswith(b"\r\n\r\n"):
                """Until the request is there."""
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        kind = "http" if secured is None else "https"
        yield f"{kind}://127.0.0.1:{server.getsockname()[1]}/0.png"
        # A client that has all it wants may be gone before the rest is sent.
        assert isinstance(served.exception(), OSError | None)


def fetched(url: str) -> bytes:
    with (
        ResultClient(evolink_host="127.0.0.1") as client,
        client.stream(url, Deadline.after(50)) as stream,
    ):
        return b"".join(stream.chunks)


@pytest.mark.parametrize(
    "sent",
    [of_known_length, in_chunks, in_chunks_with_a_length, until_it_closes, longer_than_it_says],
    ids=lambda sent: sent.__name__,
)
@pytest.mark.parametrize("length", [0, 1, 65_536, len(BODY)])
def test_body_arrives_as_it_was_sent(sent: Callable[[bytes], bytes], length: int) -> None:
    with answering(sent(BODY[:length])) as url:
        assert fetched(url) == BODY[:length]


@pytest.mark.parametrize("missing", [1, 1_000_000, len(BODY)])
def test_body_shorter_than_it_says_is_an_error(missing: int) -> None:
    with (
        answering(of_known_length(BODY)[:-missing]) as url,
        pytest.raises(DownloadError, match=r"cut.*received \d+ bytes, expected 3000001"),
    ):
        fetched(url)


@pytest.fixture
def secured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """TLS of a server at 127.0.0.1, which the client trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    trusted = ssl.create_default_context(cafile=file)
    monkeypatch.setattr(transport, "shared_ssl_context", lambda: trusted)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server


def test_body_arrives_through_tls(secured: ssl.SSLContext) -> None:
    with answering(of_known_length(BODY), secured) as url:
        assert fetched(url) == BODY


def test_each_download_ends_in_its_own_time_and_one_thread_sees_to_it() -> None:
    # One more watches all exchanges with the API, once there were any.
    others = [thread.name for thread in threading.enumerate()].count("evoimage-deadlines")

    def watches() -> int:
        return [thread.name for thread in threading.enumerate()].count("evoimage-deadlines") - others

    def fetch(client: ResultClient, seconds: float) -> None:
        with client.stream(url, Deadline.after(seconds)):
            """It is never answered."""

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        ResultClient(evolink_host="127.0.0.1") as client,
        ThreadPoolExecutor(3) as pool,
    ):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/0.png"
        longest = pool.submit(fetch, client, 50)
        connection, _ = silent.accept()
        # Each is nearer than what is waited for, and comes when that wait has begun.
        for seconds in (0.4, 0.2):
            with pytest.raises(DownloadError, match=f"not done within {seconds} s"):
                pool.submit(fetch, client, seconds).result()
        assert not longest.done()
        assert watches() == 1
        connection.close()
        with pytest.raises(DownloadError, match="cut"):
            longest.result()
    assert watches() == 0
