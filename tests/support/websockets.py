"""WebSockets in tests: a real server in front of a proxy, upstreams to hold, raw frames, a client at message level."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import httpx
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ConnectFailed, GatewayError, NoEndpoint
from gateway.exchange import SCOPE_KEY, Exchange
from gateway.http.fields import Fields
from gateway.http.websocket import accept_value
from gateway.proxy.websocket import LiveWebSockets, WebSocketProxy
from gateway.ticker import Ticker
from tests.support.upstream import PeerClosed, RecordedRequest, Script, ScriptedConnection, response

P = TypeVar("P", bound=asyncio.Protocol)

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class NetworkTransport:
    """Opens raw connections to one port."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open_connection(
        self, protocol_factory: Callable[[], P], timeout_s: float | None = None, patience: Any = None
    ) -> tuple[asyncio.Transport, P]:
        try:
            return await asyncio.get_running_loop().create_connection(protocol_factory, "127.0.0.1", self.port)
        except OSError as error:
            raise ConnectFailed(str(error)) from error


class Endpoint:
    """An endpoint with what a proxy asks of one."""

    def __init__(self, transport: Any, label: str = "one") -> None:
        self.transport = transport
        self.label = label
        self.authority = b"upstream.example"
        self.base_path = b""
        self.url = httpx.URL("http://upstream.example")


class Endpoints:
    """Endpoints that are tried in order, and what became of them."""

    def __init__(self, *transports: Any, sticky: bytes | None = None) -> None:
        self.settings = SimpleNamespace(name="chat", sticky=sticky)
        self.endpoints = [Endpoint(transport, f"endpoint-{number}") for number, transport in enumerate(transports)]
        self.has_choice = False
        self.held = 0
        self.records: list[tuple[str, bool]] = []

    def try_acquire(self, scope: Scope, tried: Sequence[Endpoint]) -> Endpoint | None:
        for endpoint in self.endpoints:
            if endpoint not in tried:
                self.held += 1
                return endpoint
        return None

    async def acquire(self, scope: Scope, tried: Sequence[Endpoint], timeout_s: float) -> Endpoint:
        raise NoEndpoint("none is left")

    def has_another(self, endpoint: Endpoint, tried: Sequence[Endpoint]) -> bool:
        return any(other is not endpoint and other not in tried for other in self.endpoints)

    def release(self, endpoint: Endpoint) -> None:
        self.held -= 1

    def release_after(self, endpoint: Endpoint, outcome: asyncio.Future[Any]) -> None:
        outcome.add_done_callback(lambda _: self.release(endpoint))

    def record(self, endpoint: Endpoint, *, ok: bool, error: str = "") -> None:
        self.records.append((endpoint.label, ok))

    def sticky_cookie(self, scope: Scope, endpoint: Endpoint, *, secure: bool) -> bytes | None:
        return cast("bytes | None", self.settings.sticky)


def plain_request(scope: Scope, endpoint: Endpoint) -> tuple[bytes, Fields]:
    """The client's request as it is."""
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    return target, [field for field in scope["headers"] if field[0] not in (b"connection", b"upgrade")]


_HIDDEN = frozenset([b"connection", b"server", b"transfer-encoding", b"upgrade"])


class ManualClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gateway:
    """A proxy with the outer layer that a real one has: one exchange for each request, errors answered."""

    def __init__(self, *transports: Any, sticky: bytes | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.ticker = Ticker(interval_s=3600.0, clock=self.clock)
        self.live = LiveWebSockets(self.ticker)
        self.upstream = Endpoints(*transports, sticky=sticky)
        self.exchanges: list[Exchange] = []
        self.ended: asyncio.Queue[Exchange] = asyncio.Queue()
        options.setdefault("build_request", plain_request)
        options.setdefault(
            "clean_fields", lambda scope, status, fields: [field for field in fields if field[0] not in _HIDDEN]
        )
        self.proxy = WebSocketProxy(self.upstream, live=self.live, **options)

    def pass_time(self, seconds: float) -> None:
        """Let the clock move and everything that depends on it run."""
        self.clock.now += seconds
        self.ticker.tick()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange("GET", scope["raw_path"])
        self.exchanges.append(exchange)
        try:
            await self.proxy({**scope, SCOPE_KEY: exchange}, receive, send)
        except GatewayError as error:
            exchange.error = error
            if error.status != 499:
                await send({"type": "websocket.http.response.start", "status": error.status, "headers": []})
                await send({"type": "websocket.http.response.body", "body": b""})
        finally:
            self.ended.put_nowait(exchange)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.over = asyncio.Event()

    async def main_loop(self) -> None:
        # uvicorn's own looks ten times a second whether it should end.
        await self.on_tick(0)
        await self.over.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, *, ws: Any = "websockets-sansio") -> AsyncIterator[str]:
    """Serve ``app`` with uvicorn and its WebSocket protocol ``ws`` on a free port; gives the ws:// address."""
    config = uvicorn.Config(
        app,
        ws=ws,
        lifespan="off",
        log_config=None,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    # asyncio switches Nagle's algorithm off only where the protocol is named; it holds pieces back for 40 ms each.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await server.ready.wait()
            yield f"ws://127.0.0.1:{port}"
        finally:
            server.over.set()
            await task


# Raw frames of an upstream.


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame as a server sends it, unmasked."""
    head = bytes([(0x80 if fin else 0) | opcode])
    length = len(payload)
    if length < 126:
        head += bytes([length])
    elif length < 65536:
        head += struct.pack("!BH", 126, length)
    else:
        head += struct.pack("!BQ", 127, length)
    return head + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A server's close frame."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


async def read_frame(connection: ScriptedConnection) -> tuple[int, bytes]:
    """Opcode and payload of the next frame from a client; its mask must be there."""
    head = await connection.read_exactly(2)
    assert head[1] & 0x80, "a client's frame must be masked"
    length = head[1] & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", await connection.read_exactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", await connection.read_exactly(8))
    mask = await connection.read_exactly(4)
    payload = await connection.read_exactly(length)
    pattern = (mask * (length // 4 + 1))[:length]
    unmasked = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return head[0] & 0x0F, unmasked.to_bytes(length, "big")


def switching(request: RecordedRequest, *more: tuple[bytes, bytes]) -> bytes:
    """The 101 that accepts a handshake."""
    (key,) = request.values(b"sec-websocket-key")
    fields = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", accept_value(key))]
    return response(101, [*fields, *more], reason=b"Switching Protocols", length=False)


def accepting(talk: Script, *fields: tuple[bytes, bytes], first: bytes = b"") -> Script:
    """Accept the handshake, with ``first`` in the same write, and go on with ``talk``."""

    async def script(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        await connection.send(switching(request, *fields) + first)
        await talk(connection)

    return script


def sending(*raw: bytes) -> Script:
    """Write these bytes and wait for the other side to go."""

    async def talk(connection: ScriptedConnection) -> None:
        with contextlib.suppress(PeerClosed):
            await connection.send(*raw)
        await connection.wait_eof()

    return talk


# A client at message level.


class MessageClient:
    """Calls an application as a server would, under the control of a test."""

    def __init__(self, app: ASGIApp, path: bytes = b"/", headers: Fields | None = None, **extra: Any) -> None:
        self.received: list[Message] = []
        """What the application sent."""
        self.open_gate = asyncio.Event()
        """While cleared, the client takes no message from the application."""
        self.open_gate.set()
        self.left = False
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue()
        raw_path, _, query = path.partition(b"?")
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": raw_path.decode(),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": [(b"host", b"example.com")] if headers is None else headers,
            "subprotocols": [],
            "client": ("192.0.2.1", 40000),
            "extensions": {"websocket.http.response": {}},
            **extra,
        }
        self.feed({"type": "websocket.connect"})
        self.task = asyncio.create_task(cast(Any, app(scope, self._incoming.get, self._send)))

    def feed(self, message: Message) -> None:
        """Have the application's receive() give ``message``."""
        self._incoming.put_nowait(message)

    def text(self, text: str) -> None:
        """Send a text message."""
        self.feed({"type": "websocket.receive", "text": text})

    @property
    def untaken(self) -> int:
        """Messages that the application has not asked for."""
        return self._incoming.qsize()

    def leave(self, code: int = 1006, **more: Any) -> None:
        """Be gone."""
        self.left = True
        self.feed({"type": "websocket.disconnect", "code": code, **more})
        self.open_gate.set()

    async def next(self) -> Message:
        """The next message from the application."""
        return await self._outgoing.get()

    async def _send(self, message: Message) -> None:
        await self.open_gate.wait()
        if self.left:
            raise OSError("the client is gone")
        self.received.append(message)
        self._outgoing.put_nowait(message)


async def other_tasks(wanted: Callable[[asyncio.Task[Any]], bool] = lambda task: True) -> list[asyncio.Task[Any]]:
    """Tasks beside the current one, after those that were cancelled had their turn."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and wanted(task)]


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until ``condition`` holds."""
    loop = asyncio.get_running_loop()
    while not condition():
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn
