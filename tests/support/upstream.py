"""An upstream that does exactly what a script says, byte by byte, and records exactly what it received.

    async with ScriptedUpstream(respond(response(200, body=b"hello"))) as upstream:
        ...  # talk to upstream.url, or upstream.host and upstream.port
        assert upstream.connections[0].requests[0].target == b"/"

A script is a coroutine function that gets one connection; when it returns, the connection is closed (FIN), when the
other side closes while it reads, it ends quietly. Whatever else it raises fails the test when the block is left.

    async def script(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\\r\\nContent-", b"Length: 5\\r\\n\\r\\nhel")   # in two writes
        await go_on.wait()                                                                  # the test says when
        connection.reset()                                                                  # or: return, to send FIN

Ready-made scripts: ``respond(raw)`` answers every request with these bytes, ``respond_in_turn(a, b, ...)`` the first
request of the whole upstream with ``a`` and so on, ``silent`` reads and never answers. ``ScriptedUpstream(...,
reading=False)`` takes no byte until ``connection.start_reading()``. Raw responses: ``response(...)``, ``chunked(...)``.
Ports for failures: ``refused_port()``, ``unanswering_port()``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

Fields = Sequence[tuple[bytes, bytes]]


class PeerClosed(Exception):
    """The other side closed the connection, or reset it, before what the script waited for had come."""


class RecordedRequest:
    """One request as it arrived. ``head`` is raw, up to and including the empty line; ``body`` is without chunking."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.body = b""
        self.trailers: list[tuple[bytes, bytes]] = []
        line, *field_lines = head[:-4].split(b"\r\n")
        self.method, self.target, self.version = line.split(b" ")
        self.fields: list[tuple[bytes, bytes]] = [_field(field_line) for field_line in field_lines]

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a field; ``name`` in lower case."""
        return [value for key, value in self.fields if key.lower() == name]


class ScriptedConnection(asyncio.Protocol):
    """One connection, seen from the script (and from the test: ``upstream.connections[i]``)."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._taken = 0
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._received = bytearray()
        self.requests: list[RecordedRequest] = []
        """Requests that ``read_request`` has read to their end."""
        self.eof = False
        """Whether the other side has closed its half."""
        self.closed = asyncio.Event()
        """Set once the connection is gone, whoever ended it."""
        self.error: Exception | None = None
        """The error that ended the connection, such as a reset by the other side."""

    @property
    def received(self) -> bytes:
        """Every byte that came on this connection."""
        return bytes(self._received)

    @property
    def index(self) -> int:
        """Number of this connection, from 0, in the order of their arrival."""
        return self._upstream.connections.index(self)

    @property
    def transport(self) -> asyncio.Transport:
        """For what this class does not offer."""
        return self._transport

    # Reading: each raises PeerClosed when the other side closes first.

    async def read_until(self, mark: bytes) -> bytes:
        """The bytes up to and including ``mark``."""
        while (found := self._received.find(mark, self._taken)) < 0:
            await self._more()
        return self._take(found + len(mark) - self._taken)

    async def read_exactly(self, length: int) -> bytes:
        """``length`` bytes."""
        while len(self._received) - self._taken < length:
            await self._more()
        return self._take(length)

    async def read_some(self) -> bytes:
        """Whatever has come, at least one byte."""
        while len(self._received) == self._taken:
            await self._more()
        return self._take(len(self._received) - self._taken)

    async def read_head(self) -> RecordedRequest:
        """A request's head; its body is left unread."""
        return RecordedRequest(await self.read_until(b"\r\n\r\n"))

    async def read_request(self) -> RecordedRequest:
        """A whole request with its body, also added to ``requests``."""
        request = await self.read_head()
        if lengths := request.values(b"content-length"):
            request.body = await self.read_exactly(int(lengths[0]))
        elif request.values(b"transfer-encoding"):
            pieces = []
            while size := int((await self.read_until(b"\r\n")).partition(b";")[0], 16):
                pieces.append((await self.read_exactly(size + 2))[:-2])
            request.body = b"".join(pieces)
            while (line := await self.read_until(b"\r\n")) != b"\r\n":
                request.trailers.append(_field(line[:-2]))
        self.requests.append(request)
        return request

    async def wait_eof(self) -> None:
        """Until the other side has closed; what it still sends is recorded."""
        with contextlib.suppress(PeerClosed):
            while True:
                await self._more()

    def stop_reading(self) -> None:
        """Take no more bytes from the socket: the other side's writes fill up."""
        self._transport.pause_reading()

    def start_reading(self) -> None:
        """Take bytes again."""
        self._transport.resume_reading()

    # Writing.

    async def send(self, *pieces: bytes) -> None:
        """Write the pieces one after the other, each on its own, as far as the other side takes them."""
        for piece in pieces:
            if self.closed.is_set():
                raise PeerClosed
            self._transport.write(piece)
            await self._writable.wait()
            # Two turns of the loop: the other side, when it runs on this loop, can see each piece for itself.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def send_eof(self) -> None:
        """Close the writing half, and go on reading."""
        self._transport.write_eof()

    def close(self) -> None:
        """Close after what was written has gone out."""
        self._transport.close()

    def reset(self) -> None:
        """End the connection with RST."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._upstream._begin(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.eof = True
        self._changed.set()
        # Plain connections stay half open, so that a script may answer after the other side's FIN.
        return self._upstream.ssl_context is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.eof = True
        self.closed.set()
        self._changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _take(self, length: int) -> bytes:
        self._taken += length
        return bytes(self._received[self._taken - length : self._taken])

    async def _more(self) -> None:
        if self.eof:
            raise PeerClosed
        self._changed.clear()
        await self._changed.wait()


Script = Callable[[ScriptedConnection], Awaitable[None]]


class ScriptedUpstream:
    """A server on a free port of 127.0.0.1, or on the UNIX socket ``uds``; see the module's docstring."""

    def __init__(
        self,
        script: Script,
        *,
        uds: Path | None = None,
        ssl_context: ssl.SSLContext | None = None,
        reading: bool = True,
    ) -> None:
        self.script = script
        """May be replaced at any time; holds for connections to come."""
        self.uds = uds
        self.ssl_context = ssl_context
        self.connections: list[ScriptedConnection] = []
        self.host = "127.0.0.1"
        self.port = 0
        self._reading = reading
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.AbstractServer | None = None

    @property
    def url(self) -> str:
        """Address of the upstream, without a path."""
        if self.uds is not None:
            return f"unix:{self.uds}"
        return f"{'https' if self.ssl_context else 'http'}://{self.host}:{self.port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request that was read to its end, connection by connection."""
        return [request for connection in self.connections for request in connection.requests]

    @property
    def open_connections(self) -> int:
        """Connections that are not gone yet."""
        return sum(not connection.closed.is_set() for connection in self.connections)

    async def connection(self, index: int = 0) -> ScriptedConnection:
        """The connection with this number, as soon as it has arrived."""
        while len(self.connections) <= index:
            self._arrived.clear()
            await self._arrived.wait()
        return self.connections[index]

    async def stop_listening(self) -> None:
        """Refuse connections from now on; those that exist go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def __aenter__(self) -> ScriptedUpstream:
        loop = asyncio.get_running_loop()
        if self.uds is not None:
            self._server = await loop.create_unix_server(
                lambda: ScriptedConnection(self), str(self.uds), ssl=self.ssl_context
            )
        else:
            server = await loop.create_server(
                lambda: ScriptedConnection(self), self.host, self.port, ssl=self.ssl_context
            )
            self.port = server.sockets[0].getsockname()[1]
            self._server = server
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop_listening()
        for task in self._tasks:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            connection.transport.abort()
        for connection in self.connections:
            await connection.closed.wait()
        if exc_info[0] is None:
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome

    def _begin(self, connection: ScriptedConnection) -> None:
        self.connections.append(connection)
        self._arrived.set()
        if not self._reading:
            connection.stop_reading()
            # uvloop starts reading after this call, whatever was said before.
            asyncio.get_running_loop().call_soon(connection.stop_reading)
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(self.script, connection)))

    async def _run(self, script: Script, connection: ScriptedConnection) -> None:
        try:
            await script(connection)
        except PeerClosed:
            pass
        finally:
            connection.close()


# Ready-made scripts.


def respond(raw: bytes, *, close: bool = False) -> Script:
    """Answer every request, once it was read to its end, with ``raw``; with ``close``, close after the first."""

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(raw)
            if close:
                return

    return script


def respond_in_turn(*raws: bytes) -> Script:
    """Answer the first request of all connections with the first of ``raws``, and so on; the last one stays."""
    waiting = list(raws)

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(waiting.pop(0) if len(waiting) > 1 else waiting[0])

    return script


async def silent(connection: ScriptedConnection) -> None:
    """Read everything and never answer."""
    await connection.wait_eof()


# Raw bytes.


def response(
    status: int = 200,
    fields: Fields = (),
    body: bytes = b"",
    *,
    reason: bytes = b"OK",
    version: bytes = b"HTTP/1.1",
    length: bool = True,
) -> bytes:
    """A response; Content-Length is added unless ``length`` is false."""
    lines = [b"%b %d %b" % (version, status, reason), *(b"%b: %b" % field for field in fields)]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def chunked(*pieces: bytes, last: bool = True, trailers: Fields = ()) -> bytes:
    """A chunked body; with ``last`` its end."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    if last:
        body += b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
    return body


# Ports that fail.


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections for as long as the block runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.contextmanager
def unanswering_port() -> Iterator[int]:
    """A port of 127.0.0.1 where connecting neither succeeds nor fails: its queue of new connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")
