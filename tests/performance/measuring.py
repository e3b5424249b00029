"""The cost of one request: a whole gateway over real loopback sockets, asked by a client one request at a time.

The gateway alone runs in the measured thread: the real GatewayProtocol and the real Http1Transport. Functions are
counted on uvloop, which ``gateway run`` uses; system calls on asyncio's own loop, where the interpreter sees them (the
transport of either makes one for each write).
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import uvloop

from tests.performance.counting import Count, Counting
from tests.performance.peers import BODY, CLIENT_FRAME, SERVER_FRAME, answer, echo, read_answer, read_exactly, serving
from tests.support.gateway import GATEWAY, UVICORN, proxying
from tests.support.gateway import serving as serving_gateway

BATCH = 10
BATCHES = 8
WARM_UP = 20

_BROWSER = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en\r\n"
)
_HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Ask = Callable[[socket.socket, int], None]


def same(connection: socket.socket, number: int) -> None:
    """Ask for the same thing again, in the same words."""
    connection.sendall(b"GET /items/1 HTTP/1.1\r\nHost: example.com\r\n%bCookie: a=1; b=2\r\n\r\n" % _BROWSER)
    assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def again(connection: socket.socket, number: int) -> None:
    """Ask for the same thing, with nothing in the words that must not be remembered."""
    connection.sendall(b"GET /items/1 HTTP/1.1\r\nHost: example.com\r\n%b\r\n" % _BROWSER)
    assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def stored(connection: socket.socket, number: int) -> None:
    """Ask for what is in the cache after the first time."""
    connection.sendall(b"GET /cached HTTP/1.1\r\nHost: example.com\r\n%b\r\n" % _BROWSER)
    head = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 200 ") and (b"; hit;" in head or number == 0), head


def held(connection: socket.socket, number: int) -> None:
    """Ask whether it is still what the client has."""
    connection.sendall(b"GET /cached HTTP/1.1\r\nHost: example.com\r\n%bIf-None-Match: *\r\n\r\n" % _BROWSER)
    head = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 304 "), head


def long(connection: socket.socket, number: int) -> None:
    """Ask for what is worth coding."""
    connection.sendall(b"GET /long HTTP/1.1\r\nHost: example.com\r\n%b\r\n" % _BROWSER)
    assert b"\r\ncontent-encoding: " in read_answer(connection)


def stored_long(connection: socket.socket, number: int) -> None:
    """The same, from the cache after the first time."""
    connection.sendall(b"GET /cached/long HTTP/1.1\r\nHost: example.com\r\n%b\r\n" % _BROWSER)
    head = read_answer(connection)
    assert b"\r\ncontent-encoding: " in head and (b"; hit;" in head or number == 0), head


def missed(connection: socket.socket, number: int) -> None:
    """Ask for something else each time, which is stored then."""
    connection.sendall(b"GET /cached/%d HTTP/1.1\r\nHost: example.com\r\n%b\r\n" % (number, _BROWSER))
    head = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 200 ") and b"; stored" in head, head


def another(connection: socket.socket, number: int) -> None:
    """Ask for something else each time, with its own trace and cookie: nothing is gained by remembering bytes."""
    connection.sendall(
        b"GET /items/%d?page=%d HTTP/1.1\r\nHost: example.com\r\n%bCookie: session=%08x\r\n"
        b"traceparent: 00-%032x-%016x-01\r\n\r\n" % (number, number % 97, _BROWSER, number * 7919, number, number * 17)
    )
    assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def known(connection: socket.socket, number: int) -> None:
    """Ask for the same thing again, from a script and with a key."""
    connection.sendall(
        b"GET /items/1 HTTP/1.1\r\nHost: example.com\r\n%bX-API-Key: secret\r\n"
        b"Origin: https://a.example\r\nCookie: a=1; b=2\r\n\r\n" % _BROWSER
    )
    head = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 200 ") and b"\r\nratelimit: " in head, head


def upload(connection: socket.socket, number: int) -> None:
    """Send a small body along."""
    head = b"POST /items HTTP/1.1\r\nHost: example.com\r\n%bContent-Length: %d\r\n\r\n" % (_BROWSER, len(BODY))
    connection.sendall(head + BODY)
    assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def message(connection: socket.socket, number: int) -> None:
    """A message there, and its echo."""
    connection.sendall(CLIENT_FRAME)
    assert read_exactly(connection, len(SERVER_FRAME)) == SERVER_FRAME


@dataclass(frozen=True)
class Path:
    """One way through the gateway: what is asked, of which route, in front of which upstream."""

    ask: Ask
    route: dict[str, Any] = field(default_factory=dict)
    upstream: Callable[[socket.socket], None] = answer
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the upstream in the gateway's configuration."""
    is_cold: bool = False
    """Whether each request has a connection of its own."""
    server: str = GATEWAY


_GUARDED = {
    "allow": ["127.0.0.0/8"],
    "auth": {"api_key": {"keys": {"ada": "secret"}}},
    "cors": {"origins": ["https://a.example"]},
    "max_concurrent": 100,
    "rate_limit": {"rate": "1000000/s", "burst": 1000000},
}
_VIEWED = {"middleware": ["tests.performance.peers:MessageView"]}

PATHS = {
    "request": Path(same),
    "request that differs": Path(another),
    "guarded request": Path(known, _GUARDED),
    "request to a sticky upstream": Path(same, settings={"sticky": {"cookie": "at"}}),
    "request with a body": Path(upload),
    "request whose answer is coded": Path(long),
    "request on a connection of its own": Path(same, is_cold=True),
    "the same of a client that comes again": Path(again, is_cold=True),
    "cache hit": Path(stored, {"cache": True}),
    "cache hit that the client has": Path(held, {"cache": True}),
    "cache hit, coded": Path(stored_long, {"cache": True}),
    "cache miss": Path(missed, {"cache": True}),
    "request past the cache": Path(same, {"cache": True}),
    "WebSocket message through the tunnel": Path(message, upstream=echo),
    "WebSocket message that is relayed": Path(message, _VIEWED, upstream=echo),
    "request under uvicorn": Path(same, server=UVICORN),
    "cache hit under uvicorn": Path(stored, {"cache": True}, server=UVICORN),
}


def cost(path: Path) -> Count:
    """What one request costs: functions called on uvloop, system calls on asyncio's loop."""
    functions = _run(path, uvloop.new_event_loop)
    return _run(path, asyncio.SelectorEventLoop)._replace(calls=functions.calls)


def _run(path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Count:
    with ExitStack() as stack:
        url = stack.enter_context(serving(path.upstream))
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_loop))
        return runner.run(_measure(path, url))


async def _measure(path: Path, url: str) -> Count:
    # What users switch on: header rules, request id, metrics, balancing, compression that has nothing to do.
    rules = {"response_headers": {"set": {"X-Served-By": "gateway"}}, "compress": True}
    config = proxying(url, upstream=path.settings, **{**rules, **path.route})
    async with serving_gateway(config, server=path.server) as served:
        client = Client(served.port, path)
        try:
            await asyncio.to_thread(client.ask, WARM_UP)
            counting = Counting()
            with counting.running():
                batches = [await _batch(client, counting, BATCH) for _ in range(BATCHES)]
                empty = [await _batch(client, counting, 0) for _ in range(BATCHES)]
        finally:
            client.close()
    # The least is what is there every time: a tick of the process's clock comes on top of some batches.
    return (_least(batches) - _least(empty)).per(BATCH)


async def _batch(client: Client, counting: Counting, requests: int) -> Count:
    before = counting.read()
    await asyncio.to_thread(client.ask, requests)
    for _ in range(5):
        # What follows the last byte of an answer belongs to it.
        await asyncio.sleep(0)
    return counting.read() - before


def _least(counts: list[Count]) -> Count:
    return Count._make(map(min, zip(*counts, strict=True)))


class Client:
    """Asks in a thread of its own, one request after the other."""

    def __init__(self, port: int, path: Path) -> None:
        self._port = port
        self._path = path
        self._numbers: Iterator[int] = itertools.count()
        self._connection: socket.socket | None = None

    def ask(self, count: int) -> None:
        """Ask ``count`` times."""
        for _ in range(count):
            if self._connection is None:
                self._connection = self._connect()
            self._path.ask(self._connection, next(self._numbers))
            if self._path.is_cold:
                self.close()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        if self._path.ask is message:
            connection.sendall(_HANDSHAKE)
            assert read_answer(connection).startswith(b"HTTP/1.1 101 ")
        return connection

    def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
