"""Client and upstream of a measured gateway, each in a thread of its own with blocking sockets: outside every count."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.dates import http_date
from gateway.http.websocket import accept_value

BODY = b'{"id": 1, "name": "Red Kettle", "price": 525, "description": "' + b"x" * 105 + b'"}'
LONG_BODY = b'{"items": [' + b", ".join([BODY] * 100) + b"]}"
MESSAGE = b"m" * 100
# The mask is of zeros: the payload stays as it is.
CLIENT_FRAME = bytes([0x82, 0x80 | len(MESSAGE)]) + bytes(4) + MESSAGE
SERVER_FRAME = bytes([0x82, len(MESSAGE)]) + MESSAGE


class MessageView:
    """Middleware that wants to see messages: a route with it relays them instead of bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, lambda: receive(), send)


def answer(connection: socket.socket) -> None:
    """Answer every request, each time with a trace and a validator of its own; the target says what may be cached.

    And what is long.
    """
    for number in itertools.count():
        head = read_answer(connection)
        body = LONG_BODY if b"/long " in head else BODY
        lasting = b"Cache-Control: max-age=3600\r\n" if head.startswith(b"GET /cached") else b""
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: %b\r\nContent-Type: application/json\r\n%b"
            % (http_date(time.time()), lasting)
            + b'X-Trace: %032x\r\nETag: "%d"\r\nContent-Length: %d\r\n\r\n%b' % (number, number, len(body), body)
        )


def echo(connection: socket.socket) -> None:
    """Shake hands, and answer every message with one."""
    head = read_head(connection)[0]
    key = head.lower().index(b"sec-websocket-key: ") + len(b"sec-websocket-key: ")
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_value(head[key : head.index(b"\r\n", key)])
    )
    while True:
        read_exactly(connection, len(CLIENT_FRAME))
        connection.sendall(SERVER_FRAME)


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of an upstream that runs ``serve`` for each connection, in a thread, until it is closed."""

    def run(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            serve(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            # Closing alone would not wake the thread.
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """The next ``count`` bytes; ConnectionError when they do not come."""
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """A head, and what came behind it; ConnectionError when it does not come."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n", rest


def read_answer(connection: socket.socket) -> bytes:
    """A head, after reading the body that its Content-Length announces; also of a request."""
    head, rest = read_head(connection)
    _, found, length = head.lower().partition(b"\r\ncontent-length: ")
    if found:
        read_exactly(connection, int(length.partition(b"\r\n")[0]) - len(rest))
    return head
