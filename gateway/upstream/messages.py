"""Requests to upstreams and their responses: httpx's classes, without what a gateway does not use per request.

An ordinary ``httpx.Request`` costs 3 us to build and a ``Response`` 2; these cost 0.3 each, since whatever httpx offers
beyond the raw message is made on first access. They are valid wherever httpx's own are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol, runtime_checkable

import httpx

from gateway.http.fields import Fields


class BodySink(Protocol):
    """Takes a body as it comes, without a task that waits for its pieces."""

    def feed(self, piece: bytes) -> None:
        """The next bytes."""

    def end(self) -> None:
        """There are no more."""

    def fail(self, error: Exception) -> None:
        """There will be no more, and these were not all."""

    def raw_target(self) -> asyncio.Transport | None:
        """The transport whose socket takes the bytes as they are, in the place of ``feed``; None where none does."""

    def moved(self, count: int) -> None:
        """So many bytes have been written to that socket past this."""

    def hold(self, is_held: bool) -> None:
        """Whether that socket takes nothing more for the moment."""


@runtime_checkable
class RequestStream(Protocol):
    """A request body that comes in pieces.

    ``length`` is the number of bytes to come, None when it is not known: then the body goes out chunked. A stream may
    also have ``rewind() -> bool``, which makes it start again from its first byte; False when it cannot. One that is a
    ``FlowingStream`` need not be iterated.
    """

    @property
    def length(self) -> int | None: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


@runtime_checkable
class FlowingStream(Protocol):
    """A stream whose pieces can be written where they arrive: a queue and a task would cost a third of an upload."""

    def flow_into(self, sink: BodySink) -> bool:
        """Give what is still to come to ``sink``; False while something has to be taken by iterating first."""

    def pause_flow(self) -> None:
        """Give nothing for a while; what is under way may still come."""

    def resume_flow(self) -> None:
        """Go on."""

    def stop_flow(self) -> None:
        """Give nothing more: whoever wants the rest iterates."""


class ResponseBody(Protocol):
    """A response body that comes in pieces. Iterating raises ResponseBroken when the upstream breaks off."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    def close(self) -> None:
        """Take no more; releases or closes the connection at once, also while a task is being cancelled."""

    async def aclose(self) -> None:
        """The same as ``close``."""


class OutboundRequest(httpx.Request):
    """A request as it goes to an upstream.

    ``fields`` are raw pairs with lower-case names, Content-Length included when the length of the body is known.
    ``body`` is None for no body at all (neither Content-Length nor Transfer-Encoding goes out), bytes for a body that
    is at hand, or a stream.

    ``extensions`` may have: ``target``, raw path and query; ``timeout``, a dict of seconds with ``connect``, ``head``
    (from the last byte of the request to the end of the response head), ``read`` (longest silence inside the response
    body), ``write`` (longest time in which the upstream takes nothing), and ``patience``, the Patience with a new
    connection before ConnectPending (None: for ``connect``); ``on_interim``, called with status and fields of every 1xx
    response but 100 and 101; ``fresh``, True for a connection that was not used before.
    """

    def __init__(
        self,
        method: bytes,
        url: httpx.URL,
        fields: Fields,
        body: bytes | RequestStream | None = None,
        extensions: dict[str, Any] | None = None,
    ) -> None:
        # Not calling the base class is the point: it would parse, copy and normalise.
        self.raw_method = method
        self.url = url
        self.raw_fields = fields
        self.body = body
        self.extensions = {} if extensions is None else extensions

    def __getattr__(self, name: str) -> Any:
        value: Any
        if name == "method":
            value = self.raw_method.decode("ascii")
        elif name == "headers":
            value = httpx.Headers(self._framed_fields())
        elif name == "stream":
            value = request_stream(self.body)
        else:
            raise AttributeError(name)
        self.__dict__[name] = value
        return value

    def _framed_fields(self) -> Fields:
        """The fields with the framing that other transports expect to find there."""
        body = self.body
        if body is None or any(name == b"content-length" for name, _ in self.raw_fields):
            return self.raw_fields
        length = len(body) if isinstance(body, bytes) else body.length
        if length is None:
            return [*self.raw_fields, (b"transfer-encoding", b"chunked")]
        return [*self.raw_fields, (b"content-length", b"%d" % length)]


class InboundResponse(httpx.Response):
    """A response as it came from an upstream: the head, and a body that is still coming unless it is ``whole``.

    ``raw_fields`` have lower-case names, in order and with repetition. ``whole`` is the complete body when it was at
    hand with the head: then the connection is already given back. ``request_complete`` is False when the response came
    before the request had been sent to its end. ``connect_s`` is the time that connecting took, None when the
    connection was reused or never made.
    """

    # Read on every instance, hardly ever set: what httpx's __init__ stores.
    _request = None
    next_request = None
    is_closed = False
    is_stream_consumed = False
    default_encoding = "utf-8"
    _num_bytes_downloaded = 0

    stream: ResponseBody  # type: ignore[assignment]  # more than httpx asks for, and made on first access

    def __init__(
        self,
        status: int,
        raw_fields: Fields,
        stream: ResponseBody | None = None,
        *,
        whole: bytes | None = None,
        request_complete: bool = True,
        reason: bytes = b"",
        raw_http_version: bytes = b"HTTP/1.1",
        connect_s: float | None = None,
    ) -> None:
        self.status_code = status
        self.raw_fields = raw_fields
        self.whole = whole
        self.request_complete = request_complete
        self.reason = reason
        self.raw_http_version = raw_http_version
        self.connect_s = connect_s
        if stream is not None:
            self.stream = stream

    def __getattr__(self, name: str) -> Any:
        value: Any
        if name == "headers":
            value = httpx.Headers(self.raw_fields)
        elif name == "stream":
            value = WholeBody(self.whole or b"")
        elif name == "extensions":
            value = {"http_version": self.raw_http_version, "reason_phrase": self.reason}
        elif name == "history":
            value = []
        else:
            raise AttributeError(name)
        self.__dict__[name] = value
        return value


class WholeBody(httpx.AsyncByteStream):
    """A response body that is at hand: one piece, none when it is empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, b""
        if not data:
            raise StopAsyncIteration
        return data

    def close(self) -> None:
        """Forget the body."""
        self._data = b""

    async def aclose(self) -> None:
        """The same as ``close``."""
        self.close()


class _StreamedBody(httpx.AsyncByteStream):
    """A request stream in the clothes that httpx wants."""

    def __init__(self, stream: RequestStream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)


def request_stream(body: bytes | RequestStream | None) -> httpx.AsyncByteStream:
    """A request body as other transports take it."""
    if body is None or isinstance(body, bytes):
        return httpx.ByteStream(body or b"")
    return _StreamedBody(body)
