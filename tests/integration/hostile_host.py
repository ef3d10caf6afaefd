"""A result host that misbehaves on the wire, byte by byte, beside an EvoLink whose links lead to it."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import socketserver
import struct
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

from PIL import Image

TASK = "task-unified-1757156400-hostile0"
MEGABYTE = b"\x00" * 1_000_000


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    """A real image."""
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes with a right structure that unpacks to any number of pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(MEGABYTE, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@functools.cache
def gzip_bomb() -> bytes:
    """100 kB that unpack to 100 MB; made once, as that takes a while."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    return b"".join(
        [packer.compress(picture()), *(packer.compress(MEGABYTE) for _ in range(100)), packer.flush()]
    )


class Exchange:
    """One request for a result link, and the bare socket to answer it on."""

    def __init__(
        self, handler: socketserver.StreamRequestHandler, path: str, headers: dict[str, str]
    ) -> None:
        self.server: HostileHost = handler.server  # type: ignore[assignment]
        self.path = path
        self.headers = headers
        self._file = handler.wfile
        self._socket = handler.connection

    def send(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()

    def head(self, status: str = "200 OK", **headers: object) -> None:
        lines = [
            f"HTTP/1.1 {status}",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        self.send("\r\n".join([*lines, "Connection: close", "", ""]).encode())

    def answer(self, body: bytes, status: str = "200 OK", **headers: object) -> None:
        self.head(status, **{"Content_Type": "image/png", "Content_Length": len(body), **headers})
        self.send(body)

    def redirect(self, to: str, status: str = "302 Found") -> None:
        self.answer(b"", status, Location=to)

    def drip(self, data: bytes) -> None:
        """Send a byte now and then, for as long as anybody listens."""
        for byte in data:
            self.send(bytes([byte]))
            if self.server.closing.wait(0.05):
                return

    def stay_silent(self) -> None:
        """Until the client goes away or the server closes."""
        self._socket.settimeout(0.05)
        while not self.server.closing.is_set():
            with contextlib.suppress(TimeoutError):
                if not self._socket.recv(1):
                    return


class HostileHost(socketserver.ThreadingTCPServer):
    """The host, on loopback. What it answers to a result link is ``behave``; the API beside it is well."""

    allow_reuse_address = True
    daemon_threads = True
    behave: Callable[[Exchange], None]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.closing = threading.Event()
        self.requested: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what is tested here."""

    def task(self) -> dict[str, Any]:
        return {
            "id": TASK,
            "model": "gpt-image-1.5",
            "status": "completed",
            "progress": 100,
            "created": int(time.time()),
            "results": [
                f"{self.url}/result/{self.link}?signature=secret-of-the-link&image={index}"
                for index in range(self.images)
            ],
            "usage": {"credits_used": 1.5},
        }

    #: Last part of the link's path, and how many images the generation has.
    link: ClassVar[str] = "0.png"
    images: ClassVar[int] = 1


class _Handler(socketserver.StreamRequestHandler):
    server: HostileHost

    def handle(self) -> None:
        method, path, _ = self.rfile.readline().decode().split()
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.rfile.read(int(headers.get("content-length", 0)))
        exchange = Exchange(self, path, headers)
        if path.startswith("/v1/"):
            task = self.server.task()
            body = json.dumps({"data": [task]} if method == "POST" else task)
            exchange.answer(body.encode(), Content_Type="application/json")
            return
        self.server.requested.append(path)
        self.server.behave(exchange)


# What it can do to a result link. Each function's name says what is wrong.


def redirects_to_cloud_metadata(exchange: Exchange) -> None:
    exchange.redirect("http://169.254.169.254/latest/meta-data/iam/security-credentials/")


def redirects_to_cloud_metadata_by_ipv6(exchange: Exchange) -> None:
    exchange.redirect("http://[fd00:ec2::254]/latest/meta-data/")


def redirects_to_cloud_metadata_in_decimal(exchange: Exchange) -> None:
    exchange.redirect("http://2852039166/latest/meta-data/")


def redirects_to_a_private_address(exchange: Exchange) -> None:
    exchange.redirect("http://10.0.0.5:8080/admin")


def redirects_to_an_internal_name(exchange: Exchange) -> None:
    exchange.redirect("http://metadata.google.internal/computeMetadata/v1/")


def redirects_to_a_file(exchange: Exchange) -> None:
    exchange.redirect("file:///etc/passwd")


def redirects_to_a_data_url(exchange: Exchange) -> None:
    exchange.redirect("data:image/png;base64,iVBORw0KGgo=")


def redirects_to_itself(exchange: Exchange) -> None:
    exchange.redirect(exchange.path)


def redirects_six_times(exchange: Exchange) -> None:
    hop = int(exchange.path.partition("hop=")[2] or 0)
    if hop == 6:
        exchange.answer(picture())
    else:
        exchange.redirect(f"/result/0.png?hop={hop + 1}", "307 Temporary Redirect")


def redirects_to_nonsense(exchange: Exchange) -> None:
    exchange.redirect("http://[::1/0.png")


def redirects_inwards_after_two_good_hops(exchange: Exchange) -> None:
    hop = int(exchange.path.partition("hop=")[2] or 0)
    exchange.redirect("http://192.168.0.1/" if hop == 2 else f"/result/0.png?hop={hop + 1}")


def claims_five_gigabytes(exchange: Exchange) -> None:
    exchange.head(Content_Type="image/png", Content_Length=5 * 1024**3)
    exchange.send(picture())


def never_ends_without_a_length(exchange: Exchange) -> None:
    exchange.head(Content_Type="image/png")
    exchange.send(picture())
    while not exchange.server.closing.is_set():
        exchange.send(MEGABYTE)


def never_ends_in_chunks(exchange: Exchange) -> None:
    exchange.head(Content_Type="image/png", Transfer_Encoding="chunked")
    while not exchange.server.closing.is_set():
        exchange.send(b"F4240\r\n" + MEGABYTE + b"\r\n")


def sends_less_than_it_claims(exchange: Exchange) -> None:
    image = picture()
    exchange.answer(image[:-100], Content_Length=len(image))


def sends_nothing(exchange: Exchange) -> None:
    exchange.answer(b"")


def sends_a_web_page(exchange: Exchange) -> None:
    exchange.answer(b"<!doctype html><title>Log in</title>", Content_Type="text/html")


def sends_a_web_page_as_png(exchange: Exchange) -> None:
    exchange.answer(b"\xef\xbb\xbf\n <html><script>alert(1)</script></html>")


def sends_json(exchange: Exchange) -> None:
    exchange.answer(b'{"error": "expired"}', Content_Type="application/json")


def sends_a_vector_drawing(exchange: Exchange) -> None:
    exchange.answer(
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', Content_Type="image/svg+xml"
    )


def sends_a_postscript_program(exchange: Exchange) -> None:
    exchange.answer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n")


def drips_its_body(exchange: Exchange) -> None:
    exchange.head(Content_Type="image/png", Content_Length=100_000)
    exchange.drip(picture().ljust(100_000, b"\x00"))


def drips_its_body_without_a_length(exchange: Exchange) -> None:
    exchange.head(Content_Type="image/png")
    exchange.drip(picture())


def drips_its_headers(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    exchange.drip(b"X-Wait: a\r\n" * 10_000)


def drips_the_length_of_a_chunk(exchange: Exchange) -> None:
    exchange.head(Content_Type="image/png", Transfer_Encoding="chunked")
    exchange.drip(b"5;" + b"x" * 10_000)


def says_nothing(exchange: Exchange) -> None:
    exchange.stay_silent()


def falls_silent_within_the_body(exchange: Exchange) -> None:
    image = picture()
    exchange.head(Content_Type="image/png", Content_Length=len(image))
    exchange.send(image[:500])
    exchange.stay_silent()


def cuts_in_the_middle(exchange: Exchange) -> None:
    image = picture(size=(300, 200))
    exchange.head(Content_Type="image/png", Content_Length=len(image))
    exchange.send(image[: len(image) // 2])


def cuts_a_body_without_a_length(exchange: Exchange) -> None:
    exchange.head(Content_Type="image/png")
    exchange.send(picture(size=(300, 200))[:-20])


def cuts_before_a_word(exchange: Exchange) -> None:
    del exchange


def is_no_http_server(exchange: Exchange) -> None:
    exchange.send(b"220 mail.example.com ESMTP\r\n")


def sends_huge_headers(exchange: Exchange) -> None:
    exchange.head(**{f"X_Junk_{number}": "j" * 4000 for number in range(2000)})


def bombs_with_pixels(exchange: Exchange) -> None:
    exchange.answer(bomb_png(50_000, 50_000))


def bombs_with_gzip(exchange: Exchange) -> None:
    exchange.answer(gzip_bomb(), Content_Encoding="gzip")


def bombs_with_gzip_in_gzip(exchange: Exchange) -> None:
    exchange.answer(gzip.compress(gzip_bomb()), Content_Encoding="gzip, gzip")


def says_gzip_and_sends_none(exchange: Exchange) -> None:
    exchange.answer(picture(), Content_Encoding="gzip")


def cuts_its_gzip_short(exchange: Exchange) -> None:
    exchange.answer(gzip.compress(picture(size=(300, 200)))[:-200], Content_Encoding="gzip")


def packs_with_brotli_unasked(exchange: Exchange) -> None:
    exchange.answer(b"\x0b\x02\x80abc\x03", Content_Encoding="br")


def packs_nothing_for_ever(exchange: Exchange) -> None:
    """Empty blocks of deflate: bytes without end that unpack to nothing."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    begin = packer.compress(picture()) + packer.flush(zlib.Z_FULL_FLUSH)
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + begin)
    while not exchange.server.closing.is_set():
        exchange.send(b"\x00\x00\x00\xff\xff" * 10_000)


def packs_in_two_members(exchange: Exchange) -> None:
    content = picture()
    exchange.answer(gzip.compress(content[:500]) + gzip.compress(content[500:]), Content_Encoding="gzip")


def truncates_the_png_with_a_matching_length(exchange: Exchange) -> None:
    exchange.answer(picture(size=(300, 200))[:-5000])


def truncates_the_jpeg_with_a_matching_length(exchange: Exchange) -> None:
    exchange.answer(picture("JPEG", (300, 200))[:-500])


def turns_a_bit_of_the_png(exchange: Exchange) -> None:
    image = bytearray(picture())
    image[len(image) // 2] ^= 1
    exchange.answer(bytes(image))


def appends_a_program_to_the_png(exchange: Exchange) -> None:
    exchange.answer(picture() + b"PK\x03\x04" + b"payload")


def appends_a_page_to_the_gif(exchange: Exchange) -> None:
    exchange.answer(picture("GIF") + b"<script>alert(1)</script>", Content_Type="text/html")


def sends_a_part_unasked(exchange: Exchange) -> None:
    image = picture()
    exchange.answer(image[:500], "206 Partial Content", Content_Range=f"bytes 0-499/{len(image)}")


def has_moved_to_nowhere(exchange: Exchange) -> None:
    exchange.answer(b"", "301 Moved Permanently")


def is_out_of_order(exchange: Exchange) -> None:
    exchange.answer(b"<html>bad gateway</html>", "502 Bad Gateway", Content_Type="text/html")


def does_not_find_it(exchange: Exchange) -> None:
    exchange.answer(b"<Error><Code>NoSuchKey</Code></Error>", "404 Not Found")


def says_it_is_gone(exchange: Exchange) -> None:
    exchange.answer(b"", "410 Gone")


def refuses_everybody(exchange: Exchange) -> None:
    exchange.answer(b"<Error><Code>AccessDenied</Code></Error>", "403 Forbidden")
