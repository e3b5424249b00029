"""The transports that reach upstreams over the network, and the way in for any other httpx transport."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator

import httpx

from gateway.errors import (
    BadRequest,
    BadUpstreamResponse,
    ConnectFailed,
    ConnectionBroken,
    ConnectTimeout,
    GatewayError,
    QueueFull,
    ResponseBroken,
    UpstreamTimeout,
)
from gateway.http.fields import Fields
from gateway.ticker import Ticker
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.messages import InboundResponse, OutboundRequest, RequestStream
from gateway.upstream.tls import client_context

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def transport_for(
    scheme: str,
    *,
    ticker: Ticker,
    host: str = "",
    port: int | None = None,
    uds: str = "",
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    connect_timeout_s: float = 5.0,
    keep_alive_s: float = 4.0,
    max_response_header: int = 64 * 1024,
    max_idle: int = 64,
) -> Http1Transport:
    """The transport of an endpoint: ``http`` and ``https`` by ``host`` and ``port``, ``unix`` by its path ``uds``.

    ``https`` without ``ssl_context`` trusts the system's certificates; ``unix`` speaks TLS when it is given one. Raises
    ValueError for any other scheme.
    """
    if scheme not in ("http", "https", "unix"):
        raise ValueError(f"no transport for {scheme}: addresses")
    if scheme == "https" and ssl_context is None:
        ssl_context = client_context()
    return Http1Transport(
        ticker=ticker,
        host=host if scheme != "unix" else "",
        port=(443 if scheme == "https" else 80) if port is None else port,
        uds=uds if scheme == "unix" else None,
        ssl_context=None if scheme == "http" else ssl_context,
        server_hostname=server_hostname,
        connect_timeout_s=connect_timeout_s,
        keep_alive_s=keep_alive_s,
        max_response_header=max_response_header,
        max_idle=max_idle,
    )


class ForeignTransport(httpx.AsyncBaseTransport):
    """Any httpx transport, with this project's requests, responses, timeouts and errors.

    What the inner transport does not do itself is done here: the time to the response head, the check that a request
    body has the length it announces, and the check of the response's fields.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self._closing: set[asyncio.Task[None]] = set()
        """Responses that were given up and are being closed: httpx can only do that asynchronously."""

    async def handle_async_request(self, request: httpx.Request) -> InboundResponse:
        """Send a request and wait for the response head. Raises the errors of ``gateway.errors``."""
        timeouts = request.extensions.get("timeout") or {}
        head_s = timeouts.get("head", timeouts.get("read"))
        body: _PacedBody | None = None
        try:
            async with asyncio.timeout(head_s) as head_timeout:
                if isinstance(request, OutboundRequest) and not isinstance(request.body, bytes | None):
                    request.stream = body = _PacedBody(request.body, head_timeout, head_s)
                response = await self.inner.handle_async_request(request)
        except TimeoutError as error:
            raise UpstreamTimeout("no response head in time") from error
        except httpx.HTTPError as error:
            raise _before_head(error) from error
        if body is not None:
            body.release()
        stream = ForeignBody(response, self._closing)
        try:
            fields = _checked_fields(response)
        except BadUpstreamResponse:
            stream.close()
            raise
        return InboundResponse(
            response.status_code,
            fields,
            stream,
            request_complete=body is None or body.done,
            reason=response.extensions.get("reason_phrase", b""),
            raw_http_version=response.extensions.get("http_version", b"HTTP/1.1"),
        )

    async def aclose(self) -> None:
        """Close the inner transport, once what was given up is closed."""
        if self._closing:
            await asyncio.wait(self._closing)
        await self.inner.aclose()


class ForeignBody(httpx.AsyncByteStream):
    """The body of another transport's response. Iterating raises ResponseBroken."""

    def __init__(self, response: httpx.Response, closing: set[asyncio.Task[None]]) -> None:
        self._response = response
        self._closing = closing
        self._is_closed = False
        self._is_complete = False
        self._pieces = aiter(response.stream) if isinstance(response.stream, httpx.AsyncByteStream) else None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces is None or (self._is_closed and not self._is_complete):
            raise ResponseBroken("the response is closed or cannot be read")
        try:
            while not (piece := await anext(self._pieces)):
                pass
        except StopAsyncIteration:
            self._is_complete = True
            await self.aclose()
            raise
        except httpx.HTTPError as error:
            raise ResponseBroken(f"{type(error).__name__} inside the response: {error}") from error
        return piece

    def close(self) -> None:
        """Take no more."""
        if not self._is_closed:
            self._is_closed = True
            task = asyncio.get_running_loop().create_task(self._response.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Take no more, and wait until the connection is released or closed."""
        if not self._is_closed:
            self._is_closed = True
            await self._response.aclose()


class _PacedBody(httpx.AsyncByteStream):
    """A request body whose length is checked, and for whose pieces the response's timeout does not run."""

    def __init__(self, stream: RequestStream, timeout: asyncio.Timeout, head_s: float | None) -> None:
        self._stream = stream
        self._timeout: asyncio.Timeout | None = timeout
        self._head_s = head_s
        self.done = False

    def release(self) -> None:
        """The response head is here: its time is not to be kept any more."""
        self._timeout = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        outstanding = self._stream.length
        self._set_timeout(runs=False)
        async for piece in self._stream:
            if outstanding is not None:
                outstanding -= len(piece)
                if outstanding < 0:
                    raise BadRequest("the request body is longer than announced")
            self._set_timeout(runs=True)
            yield piece
            self._set_timeout(runs=False)
        if outstanding:
            raise BadRequest("the request body is shorter than announced")
        self.done = True
        self._set_timeout(runs=True)

    def _set_timeout(self, *, runs: bool) -> None:
        if self._timeout is not None and not self._timeout.expired() and self._head_s is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._head_s if runs else None)


def _checked_fields(response: httpx.Response) -> Fields:
    """Fields that may go on to a client, names in lower case. Raises BadUpstreamResponse."""
    if not 200 <= response.status_code <= 599:
        raise BadUpstreamResponse(f"the status {response.status_code} is no answer")
    fields = [(name.lower(), value) for name, value in response.headers.raw]
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in fields):
        raise BadUpstreamResponse("a field with bytes that no field may have")
    return fields


def _before_head(error: httpx.HTTPError) -> GatewayError:
    """What an error of httpx is called here, as long as there is no response head."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, httpx.ConnectTimeout):
        return ConnectTimeout(reason)
    if isinstance(error, httpx.PoolTimeout):
        return QueueFull(reason)
    if isinstance(error, httpx.TimeoutException):
        return UpstreamTimeout(reason)
    if isinstance(error, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.ProxyError):
        return ConnectFailed(reason)
    if isinstance(error, httpx.LocalProtocolError):
        return BadRequest(reason)
    if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
        return BadUpstreamResponse(reason)
    return ConnectionBroken(reason)
