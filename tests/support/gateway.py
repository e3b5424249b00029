"""A whole gateway on a free loopback port, and a client that speaks raw bytes.

    async with serving({"routes": [{"path": "/*", "upstream": upstream.url}]}, server=server) as served:
        answer = await served.ask(request("GET", b"/a%2Fb"))
        assert answer.status == 200 and answer.body == b"hello"

``server`` is ``GATEWAY``, the protocol class of ``gateway run``, or ``UVICORN``, uvicorn's own. Leaving the block fails
when an exchange, a connection in use or a request in flight is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.app import Gateway
from gateway.exchange import Exchange, Recorder
from gateway.express.table import Express
from gateway.runtime import Runtime
from gateway.server.limits import Connections, Limits
from gateway.server.protocol import GatewayProtocol
from gateway.ticker import Ticker
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.pool import Upstream

Fields = Sequence[tuple[bytes, bytes]]

GATEWAY = "gateway"
UVICORN = "uvicorn"


class RecordingRuntime(Runtime):
    """A runtime whose ended exchanges can be read."""

    @property
    def exchanges(self) -> list[Exchange]:
        """Every exchange that has ended, in that order."""
        found: list[Exchange] = self.__dict__.setdefault("_exchanges", [])
        return found

    @property
    def recorders(self) -> tuple[Recorder, ...]:
        return (*super().recorders, self.exchanges.append)


def make_gateway(config: Mapping[str, Any] | str | Path, **options: Any) -> Gateway:
    """A gateway that logs no accesses and keeps its exchanges in ``gateway.runtime.exchanges``."""
    if isinstance(config, Mapping):
        server = {"access_log": "off", **config.get("server", {})}
        gateway = Gateway.from_config({**config, "server": server}, **options)
    else:
        gateway = Gateway(config, **options)
    gateway.runtime = RecordingRuntime(gateway.config)
    return gateway


def proxying(
    *urls: str, upstream: Mapping[str, Any] | None = None, server: Mapping[str, Any] | None = None, **route: Any
) -> dict[str, Any]:
    """A table whose one route, ``/*`` unless ``path`` says otherwise, goes to an upstream called ``origin``."""
    return {
        "server": dict(server or {}),
        "upstreams": {"origin": {"endpoints": list(urls), **(upstream or {})}},
        "routes": [{"name": "all", "path": "/*", "upstream": "origin", "compress": False, **route}],
    }


class Served:
    """A running server and the gateway in it."""

    def __init__(self, gateway: Gateway, state: ServerState, connections: Connections | None) -> None:
        self.gateway = gateway
        self.state = state
        self.connections = connections
        self.port = 0

    @property
    def exchanges(self) -> list[Exchange]:
        """Every exchange that has ended."""
        runtime = self.gateway.runtime
        assert isinstance(runtime, RecordingRuntime)
        return runtime.exchanges

    @property
    def upstream(self) -> Upstream:
        """The upstream called ``origin``, or the only one."""
        upstreams = self.gateway.generation.upstreams
        return upstreams["origin"] if "origin" in upstreams else next(iter(upstreams.values()))

    @property
    def authority(self) -> bytes:
        """Where it listens, as in Host."""
        return b"127.0.0.1:%d" % self.port

    async def connect(self) -> Client:
        """Another connection."""
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1024 * 1024))

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A connection that is closed with the block."""
        client = await self.connect()
        try:
            yield client
        finally:
            await client.close()

    async def ask(self, data: bytes, *, method: str = "") -> Answer:
        """The answer to one request on a connection of its own."""
        async with self.client() as client:
            client.write(data)
            return await client.answer(method or data.split(b" ", 1)[0].decode("latin-1"))

    async def ended(self, count: int) -> list[Exchange]:
        """The exchanges, once ``count`` of them have ended."""
        await until(lambda: len(self.exchanges) >= count)
        return self.exchanges

    def in_use(self) -> dict[str, int]:
        """Whatever is busy at the moment: empty when nothing is."""
        live, runtime = self.gateway.live, self.gateway.runtime
        found = {
            "exchanges": live.in_flight if live.is_up else 0,
            "watched": 0 if runtime.client_watch is None else len(runtime.client_watch),
        }
        for name, upstream in (live.current.upstreams if live.is_up else {}).items():
            found[f"{name}: in flight"] = upstream.in_flight
            found[f"{name}: pending"] = upstream.pending
            found[f"{name}: retries"] = upstream.retry_budget.spent
            for endpoint in upstream.endpoints:
                if isinstance(endpoint.transport, Http1Transport):
                    found[f"{endpoint.label}: active"] = endpoint.transport.active_count
        return {name: count for name, count in found.items() if count}

    async def at_rest(self) -> None:
        """Until nothing is in use any more; fails when that does not come."""
        try:
            await until(lambda: not self.in_use())
        except AssertionError:
            raise AssertionError(f"still in use: {self.in_use()}") from None


@contextlib.asynccontextmanager
async def serving(
    config: Mapping[str, Any] | str | Path | Gateway,
    *,
    server: str = GATEWAY,
    mounted: Callable[[Gateway], ASGIApp] | None = None,
    limits: Limits | None = None,
    lifespan: bool = True,
    options: Mapping[str, Any] | None = None,
) -> AsyncIterator[Served]:
    """Serve a gateway until the block ends; with ``mounted`` the application that this makes around it.

    ``limits`` are those of the protocol class of ``gateway run``, ``options`` are of uvicorn's ``Config``. Without
    ``lifespan`` the gateway starts by itself.
    """
    gateway = config if isinstance(config, Gateway) else make_gateway(config)
    app: ASGIApp = gateway if mounted is None else mounted(gateway)
    loop, state = asyncio.get_running_loop(), ServerState()
    connections = Connections(limits or Limits(), express=_short_ways(app)) if server == GATEWAY else None
    usual: dict[str, Any] = {
        "http": GatewayProtocol if connections is not None else "auto",
        "ws": "websockets-sansio",
        "ws_per_message_deflate": False,
        "lifespan": "off",
        "interface": "asgi3",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
    }
    uvicorn_config = Config(app, **{**usual, **(options or {})})
    uvicorn_config.load()
    # What the server itself would do once a second.
    state.default_headers = [*uvicorn_config.encoded_headers]
    make: Any = uvicorn_config.http_protocol_class
    factory = functools.partial(make, uvicorn_config, state, {}, loop)
    if connections is not None:
        factory = functools.partial(factory, connections=connections)
    served = Served(gateway, state, connections)
    ticker = Ticker()
    async with contextlib.AsyncExitStack() as stack:
        if lifespan:
            await stack.enter_async_context(_lifespan(app))
        if connections is not None:
            stack.callback(ticker.add(connections.sweep))
        listener = await loop.create_server(factory, "127.0.0.1", 0)
        served.port = listener.sockets[0].getsockname()[1]
        try:
            yield served
            await served.at_rest()
        finally:
            listener.close()
            await _end(state)
            if not lifespan:
                await gateway.aclose()


@contextlib.asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """The lifespan of an application, in a task of its own as a server runs it."""
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()

    async def send(message: Any) -> None:
        outgoing.put_nowait(message)

    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task: asyncio.Future[None] = asyncio.ensure_future(app(scope, incoming.get, send))
    for phase in ("startup", "shutdown"):
        incoming.put_nowait({"type": f"lifespan.{phase}"})
        message = await outgoing.get()
        assert message["type"] == f"lifespan.{phase}.complete", message
        if phase == "startup":
            try:
                yield
            except BaseException:
                incoming.put_nowait({"type": "lifespan.shutdown"})
                await task
                raise
    await task


def _short_ways(app: ASGIApp) -> Callable[[], Express | None] | None:
    return (lambda: app.live.express) if isinstance(app, Gateway) and app.is_plain else None


async def _end(state: ServerState) -> None:
    """Close the connections of a server and wait for what they ran."""
    for connection in list(state.connections):
        transport = getattr(connection, "transport", None) or getattr(connection, "_transport", None)
        if transport is not None:
            transport.abort()
    with contextlib.suppress(AssertionError):
        await until(lambda: not state.tasks, turns=1000)
    for task in list(state.tasks):
        task.cancel()
    await until(lambda: not state.tasks and not state.connections)


# The client's side.


class Answer:
    """A response: its head, and its body as it came."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        status_line, *lines = head[:-4].split(b"\r\n")
        version, _, rest = status_line.partition(b" ")
        self.version = version
        self.status = int(rest[:3])
        self.reason = rest[4:]
        self.fields = [(name.lower(), value.strip(b" \t")) for name, _, value in (x.partition(b":") for x in lines)]
        self.body = b""
        self.complete = False
        """Whether the body came to the end that its framing gives it."""

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a field; ``name`` in lower case."""
        return [value for key, value in self.fields if key == name]

    def value(self, name: bytes) -> bytes | None:
        """The value of a field that comes at most once."""
        values = self.values(name)
        assert len(values) < 2, values
        return values[0] if values else None

    @property
    def is_chunked(self) -> bool:
        return self.values(b"transfer-encoding") == [b"chunked"]

    @property
    def keeps_alive(self) -> bool:
        """Whether the head leaves the connection open."""
        options = b",".join(self.values(b"connection")).lower()
        return b"close" not in options and (self.version == b"HTTP/1.1" or b"keep-alive" in options)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def write(self, data: bytes) -> None:
        """Send, or queue what the other side does not take."""
        self.writer.write(data)

    async def send(self, data: bytes) -> None:
        """Send at the pace of the other side."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> Answer:
        """The next response head, informational ones included."""
        return Answer(await self.reader.readuntil(b"\r\n\r\n"))

    async def final_head(self) -> Answer:
        """The next head that is not informational."""
        while (answer := await self.head()).status < 200:
            pass
        return answer

    async def answer(self, method: str = "GET") -> Answer:
        """The next final response with what there is of its body; ``complete`` says whether that is all."""
        answer = await self.final_head()
        await self.finish(answer, method)
        return answer

    async def finish(self, answer: Answer, method: str = "GET") -> None:
        """Read the rest of the body of ``answer``."""
        lengths = answer.values(b"content-length")
        assert not (lengths and answer.is_chunked), "two framings"
        if method == "HEAD" or answer.status in (204, 304):
            answer.complete = True
        elif answer.is_chunked:
            while (piece := await self.chunk()) is not None:
                answer.body += piece
                if not piece:
                    answer.complete = True
                    return
        elif lengths:
            left = int(lengths[0]) - len(answer.body)
            try:
                answer.body += await self.reader.readexactly(left)
                answer.complete = True
            except asyncio.IncompleteReadError as error:
                answer.body += error.partial
            except ConnectionError:
                pass
        else:
            answer.body += await self.rest()
            answer.complete = True

    async def chunk(self) -> bytes | None:
        """The next chunk, empty for the last one; None when the connection ends before it does."""
        try:
            size = int((await self.reader.readuntil(b"\r\n"))[:-2].partition(b";")[0], 16)
            data = await self.reader.readexactly(size + 2)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def rest(self) -> bytes:
        """What comes until the server closes; a reset ends it too."""
        pieces: list[bytes] = []
        with contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                pieces.append(piece)
        return b"".join(pieces)

    def leave(self) -> None:
        """Be gone, with a reset when anything is unread."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close and wait until it is done."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def request(
    method: str = "GET",
    target: bytes = b"/",
    fields: Fields = (),
    body: bytes | None = None,
    *,
    host: bytes | None = b"example.com",
    version: bytes = b"1.1",
) -> bytes:
    """A request as bytes; Content-Length is added for a ``body``."""
    lines = [b"%b %b HTTP/%b" % (method.encode("ascii"), target, version)]
    if host is not None:
        lines.append(b"Host: " + host)
    lines += [b"%b: %b" % field for field in fields]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


async def until(condition: Callable[[], bool], *, turns: int = 10_000) -> None:
    """Let the event loop turn until ``condition`` holds; AssertionError when it never does."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to pass")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started
