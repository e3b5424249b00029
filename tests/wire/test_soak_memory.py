"""A gigabyte in either direction past a slow reader, in less than 32 MiB."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.wire.processes import Process, gateway_process

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

TOTAL = 1024**3
LIMIT_BYTES = 32 * 1024**2
PIECE = bytes(1024 * 1024)

CONFIG = """
[server]
bind = "127.0.0.1:0"
access_log = "off"
[[routes]]
path = "/*"
upstream = "http://127.0.0.1:{port}"
max_body = "none"
compress = false
"""


@contextlib.contextmanager
def origin(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server whose connections are handled one after the other, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def read_slowly(sock: socket.socket, left: int) -> None:
    """Take ``left`` bytes, with a rest after every few MiB: always slower than the other side."""
    buffer = bytearray(256 * 1024)
    since_rest = 0
    while left:
        count = sock.recv_into(buffer, min(left, len(buffer)))
        if not count:
            raise AssertionError(f"{left} bytes are missing")
        left -= count
        since_rest += count
        if since_rest > 4 * 1024 * 1024:
            time.sleep(0.01)
            since_rest = 0


class Peak:
    """The largest resident size of a process while the block runs."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, self._process.rss_bytes())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()


def exchange(port: int, raw: bytes, talk: Callable[[socket.socket], None]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(raw)
        talk(client)


def small(port: int) -> None:
    """A request that warms everything up."""

    def talk(client: socket.socket) -> None:
        read_head(client)

    exchange(port, b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", talk)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_download_past_a_slow_reader(tmp_path: Path, framing: str) -> None:
    def serve(connection: socket.socket) -> None:
        head, _ = read_head(connection)
        if b"/small" in head:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        elif framing == "length":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % TOTAL)
            for _ in range(TOTAL // len(PIECE)):
                connection.sendall(PIECE)
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
            chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
            for _ in range(TOTAL // len(PIECE)):
                connection.sendall(chunk)
            connection.sendall(b"0\r\n\r\n")

    def talk(client: socket.socket) -> None:
        head, rest = read_head(client)
        assert head.startswith(b"HTTP/1.1 200")
        # Of a chunked body only the payload is certain: how it is cut is the gateway's business.
        read_slowly(client, TOTAL - len(rest))

    with origin(serve) as upstream, gateway_process(CONFIG.format(port=upstream), tmp_path) as (process, port):
        small(port)
        idle = process.rss_bytes()
        with Peak(process) as peak:
            exchange(port, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", talk)
        over = peak.bytes - idle
        print(f"\ndownload, {framing}: {over / 1024**2:.1f} MiB over {idle / 1024**2:.1f} MiB")
        assert over < LIMIT_BYTES


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_upload_past_a_slow_reader(tmp_path: Path, framing: str) -> None:
    def serve(connection: socket.socket) -> None:
        head, rest = read_head(connection)
        if b"/small" not in head:
            read_slowly(connection, TOTAL - len(rest))
            if framing == "chunked":
                connection.settimeout(30)
                tail = b""
                while not tail.endswith(b"0\r\n\r\n"):
                    tail = tail[-16:] + connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    def talk(client: socket.socket) -> None:
        chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if framing == "chunked" else PIECE
        for _ in range(TOTAL // len(PIECE)):
            client.sendall(chunk)
        if framing == "chunked":
            client.sendall(b"0\r\n\r\n")
        assert read_head(client)[0].startswith(b"HTTP/1.1 200")

    with origin(serve) as upstream, gateway_process(CONFIG.format(port=upstream), tmp_path) as (process, port):
        small(port)
        idle = process.rss_bytes()
        line = b"Content-Length: %d" % TOTAL if framing == "length" else b"Transfer-Encoding: chunked"
        with Peak(process) as peak:
            exchange(port, b"POST /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n\r\n" % line, talk)
        over = peak.bytes - idle
        print(f"\nupload, {framing}: {over / 1024**2:.1f} MiB over {idle / 1024**2:.1f} MiB")
        assert over < LIMIT_BYTES
