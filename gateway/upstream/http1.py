"""The HTTP/1.1 transport: one endpoint, its connections, idle and in use."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import httpx

from gateway.errors import ConnectFailed, ConnectionBroken, ConnectPending
from gateway.ticker import Ticker
from gateway.upstream.http1_connect import Dialer, Patience
from gateway.upstream.http1_connection import Http1Connection
from gateway.upstream.http1_head import HeadParser
from gateway.upstream.http1_request import from_httpx, request_head, target_of
from gateway.upstream.messages import InboundResponse, OutboundRequest, RequestStream

# RFC 9110 section 9.2.2
_IDEMPOTENT = frozenset([b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])

# Up to here a body at hand goes out with the head in one write; a larger one at the upstream's pace.
_MAX_ONE_WRITE_BYTES = 64 * 1024
_SLICE_BYTES = 256 * 1024

P = TypeVar("P", bound=asyncio.Protocol)
T = TypeVar("T")


class Http1Transport(httpx.AsyncBaseTransport):
    """Sends requests to one origin, ``host`` and ``port`` or the UNIX socket ``uds``, with TLS if there is a context.

    How many requests run at a time is the caller's business: a request that finds no idle connection opens one. At
    most ``max_idle`` connections are kept, each for ``keep_alive_s`` unless the upstream says how long it keeps them.
    ``max_response_header`` bounds a response head and a trailer section, in bytes. Deadlines are checked by the
    ticker: they are met no earlier than set and at most one tick late.

    A request on a reused connection that turns out to be closed, before a byte of the answer came, is sent once more on
    a new connection if that is safe: an idempotent method, and a body that can be sent again.
    """

    def __init__(
        self,
        *,
        ticker: Ticker,
        host: str = "",
        port: int = 0,
        uds: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        connect_timeout_s: float | None = 5.0,
        keep_alive_s: float = 4.0,
        max_response_header: int = 64 * 1024,
        max_idle: int = 64,
    ) -> None:
        self.clock: Callable[[], float] = ticker.clock
        self.head_parser = HeadParser()
        self.max_response_header = max_response_header
        self._dialer = Dialer(host=host, port=port, uds=uds, ssl_context=ssl_context, server_hostname=server_hostname)
        self._ticker = ticker
        self._stop_sweep: Callable[[], None] | None = None
        self._connect_timeout_s = connect_timeout_s
        self._keep_alive_s = keep_alive_s
        self._max_idle = max_idle
        self._connections: set[Http1Connection] = set()
        self._idle: deque[Http1Connection] = deque()
        self._late: set[asyncio.Task[Any]] = set()
        """Those that are still connecting, when nobody waits for it any more."""
        self._closed = False
        self._lost: asyncio.Event | None = None
        """Made by those who wait for connections to be gone."""

    @property
    def connections(self) -> int:
        """Connections that exist: idle, in use, or closing."""
        return len(self._connections)

    @property
    def idle_count(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    @property
    def active_count(self) -> int:
        """Connections with a request on them."""
        return sum(connection.is_active for connection in self._connections)

    async def handle_async_request(self, request: httpx.Request) -> InboundResponse:
        """Send a request and wait for the response head; see OutboundRequest for its extensions.

        Raises ConnectFailed, ConnectTimeout, ConnectPending, ConnectionBroken, BadUpstreamResponse, UpstreamTimeout;
        BadRequest for what cannot be written as HTTP; and whatever iterating the request body raises.
        """
        if not isinstance(request, OutboundRequest):
            request = from_httpx(request)
        method, body = request.raw_method, request.body
        head = request_head(method, target_of(request), request.raw_fields, body)
        stream: RequestStream | None = None
        if isinstance(body, bytes):
            if len(body) <= _MAX_ONE_WRITE_BYTES:
                head += body
            else:
                stream = _Slices(body)
        elif body is not None:
            stream = body
        started = self.clock()
        connection = None if request.extensions.get("fresh") else self.take_idle(started)
        if connection is not None:
            try:
                return await connection.exchange(request, head, stream, started)
            except ConnectionBroken:
                if not connection.is_stale or method not in _IDEMPOTENT or not _rewind(stream):
                    raise
        connection = await self._connect(request)
        return await connection.exchange(request, head, stream, started)

    async def open_connection(
        self, protocol_factory: Callable[[], P], timeout_s: float | None = None, patience: Patience | None = None
    ) -> tuple[asyncio.Transport, P]:
        """A raw connection to the endpoint, TLS included, that is the caller's own.

        Raises ConnectFailed, and ConnectPending when it takes longer than there is ``patience``.
        """
        opening = self._dialer.open(protocol_factory, self._connect_timeout_s if timeout_s is None else timeout_s)
        return await (opening if patience is None else self._patiently(opening, patience, _drop))

    async def aclose(self) -> None:
        """Close the idle connections and wait until they are gone; those in use end with their exchanges."""
        self._closed = True
        for dial in self._late:
            dial.cancel()
        if self._late:
            await asyncio.wait([*self._late])
        while self._idle:
            self._idle[-1].close()
        await self._wait_lost(lambda: all(connection.is_active for connection in self._connections))

    async def drain(self) -> None:
        """Close as ``aclose`` does, and wait for the exchanges that still run."""
        await self.aclose()
        await self._wait_lost(lambda: not self._connections)

    def abort(self) -> None:
        """Cut every connection; running exchanges end as broken."""
        self._closed = True
        for connection in list(self._connections):
            connection.cut()

    async def _connect(self, request: OutboundRequest) -> Http1Connection:
        timeouts = request.extensions.get("timeout") or {}
        dialing, patience = self._dial(timeouts.get("connect")), timeouts.get("patience")
        return await (dialing if patience is None else self._patiently(dialing, patience, self._keep))

    async def _patiently(self, opening: Coroutine[Any, Any, T], patience: Patience, late: Callable[[T], None]) -> T:
        """What ``opening`` gives while there is ``patience``; after that ConnectPending, and ``late`` gets it."""
        dial = asyncio.create_task(opening)

        def end(dial: asyncio.Task[T]) -> None:
            self._late.discard(dial)
            if not dial.cancelled() and dial.exception() is None:
                late(dial.result())

        try:
            await asyncio.wait([dial], timeout=patience.seconds)
            while not (dial.done() or patience.has_other()):
                await asyncio.wait([dial], timeout=patience.seconds)
        except asyncio.CancelledError:
            dial.cancel()
            # It may have come to its end in this very moment.
            dial.add_done_callback(end)
            raise
        if dial.done():
            return dial.result()
        self._late.add(dial)
        dial.add_done_callback(end)
        raise ConnectPending(f"not connected to {self._dialer.label} within {patience.seconds:g} s", dial)

    async def _dial(self, connect_s: float | None) -> Http1Connection:
        started = self.clock()
        _, connection = await self.open_connection(lambda: Http1Connection(self), connect_s)
        if not connection.is_usable:
            raise ConnectFailed("the upstream closed the connection before it was used")
        connection.connect_s = self.clock() - started
        # Not when the connection is made: uvloop never tells the end of one that was cancelled while it was made.
        self._connections.add(connection)
        if self._stop_sweep is None:
            self._stop_sweep = self._ticker.add(self._sweep)
        return connection

    def _keep(self, connection: Http1Connection) -> None:
        """Let a connection that its request did not wait for serve the next one."""
        if connection.is_usable:
            connection.connect_s = None
            connection.is_stale = True
            self.on_free(connection, None)

    def take_idle(self, now: float) -> Http1Connection | None:
        """The idle connection that was used last: the others can grow old and be closed. None when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.deadline > now and connection.is_usable:
                return connection
            connection.close()
        return None

    def _sweep(self, now: float) -> None:
        for connection in list(self._connections):
            if connection.deadline <= now or connection.write_deadline <= now:
                connection.expire()

    async def _wait_lost(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            if self._lost is None:
                self._lost = asyncio.Event()
            await self._lost.wait()

    # What connections tell.

    def on_free(self, connection: Http1Connection, idle_s: float | None) -> None:
        """Keep the connection for the next request, if there is room."""
        if self._closed or len(self._idle) >= self._max_idle:
            connection.close()
            return
        # The ticker's coarse clock will do: nothing depends on when exactly an idle connection is closed.
        connection.deadline = self._ticker.now + (self._keep_alive_s if idle_s is None else idle_s)
        self._idle.append(connection)

    def on_closing(self, connection: Http1Connection) -> None:
        """Give the connection to nobody any more."""
        if connection in self._idle:
            self._idle.remove(connection)

    def on_lost(self, connection: Http1Connection) -> None:
        """Forget the connection."""
        self._connections.discard(connection)
        if not self._connections and self._stop_sweep is not None:
            self._stop_sweep()
            self._stop_sweep = None
        if self._lost is not None:
            self._lost.set()
            self._lost = None


class _Slices:
    """A large body that is at hand, as a stream."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, self.length, _SLICE_BYTES):
            yield self._data[start : start + _SLICE_BYTES]

    def rewind(self) -> bool:
        """Every iteration starts from the first byte."""
        return True


def _drop(opened: tuple[asyncio.Transport, object]) -> None:
    """Close a connection that nobody waited for."""
    opened[0].abort()


def _rewind(stream: RequestStream | None) -> bool:
    """Whether a body can be sent again; from here on it is."""
    if stream is None:
        return True
    rewind: Callable[[], bool] | None = getattr(stream, "rewind", None)
    return rewind is not None and rewind()
