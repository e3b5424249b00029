"""A real server on port 0 around ``GatewayProtocol``, and a client that speaks raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.server.limits import Connections, Limits
from gateway.server.protocol import GatewayProtocol
from gateway.server.refusal import Refusal


class Clock:
    """Real time that can be moved forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Served:
    """A running server: where it is, what it refused, and its clock."""

    def __init__(self, connections: Connections, clock: Clock, refusals: list[Refusal], state: ServerState) -> None:
        self.connections = connections
        self.clock = clock
        self.refusals = refusals
        self.state = state
        self.port = 0
        self.tls: ssl.SSLContext | None = None

    def pass_time(self, seconds: float) -> None:
        """Move the clock and let the sweep look at every connection."""
        self.clock.ahead_s += seconds
        self.connections.sweep(self.clock())

    async def connect(self) -> Client:
        hostname = "localhost" if self.tls is not None else None
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname=hostname))

    async def ask(self, data: bytes) -> bytes:
        """Everything that comes back for ``data`` until the server closes."""
        client = await self.connect()
        client.write(data)
        try:
            return await client.rest()
        finally:
            await client.close()


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        """The next response head, with its empty line."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[bytes, bytes]:
        """The next response that has a Content-Length: head and body."""
        head = await self.head()
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """What comes until the server closes; a reset ends it too."""
        pieces: list[bytes] = []
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while piece := await self.reader.read(65536):
                pieces.append(piece)
        return b"".join(pieces)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, limits: Limits | None = None, *, tls: ssl.SSLContext | None = None, **config: Any
) -> AsyncIterator[Served]:
    """Serve ``app`` until the context ends."""
    clock, refusals, state = Clock(), list[Refusal](), ServerState()
    connections = Connections(limits or Limits(), on_refused=refusals.append, request_id_header="X-Rid", clock=clock)
    served = Served(connections, clock, refusals, state)
    uvicorn_config = Config(app, log_config=None, lifespan="off", proxy_headers=False, ws="websockets-sansio", **config)
    uvicorn_config.load()
    factory: Callable[[], GatewayProtocol] = functools.partial(
        GatewayProtocol, uvicorn_config, state, {}, connections=connections
    )
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        connections.cut_all()
        for task in list(state.tasks):
            task.cancel()
        await until(lambda: not state.tasks and not len(connections))


class Echo:
    """Answers with the request body; remembers the scopes it was called with."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body = await read_body(receive)
        fields = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})


async def read_body(receive: Receive) -> bytes:
    """The whole request body; what came of it when the client leaves."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


def status_of(answer: bytes) -> int:
    """The status of a raw response; 0 when there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until ``condition`` holds."""
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to pass")
