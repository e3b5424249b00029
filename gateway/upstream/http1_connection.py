"""One connection to an upstream: HTTP/1.1, one exchange at a time, reading and writing at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gateway.errors import (
    BadUpstreamResponse,
    ConnectionBroken,
    ResponseBroken,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.http.fields import Fields
from gateway.upstream.http1_body import Http1Body
from gateway.upstream.http1_chunked import ChunkedDecoder
from gateway.upstream.http1_connect import is_proper_end
from gateway.upstream.http1_flow import NEVER, NO_TIMEOUTS, FlowControl
from gateway.upstream.http1_head import CHUNKED, UNTIL_CLOSE, Head, HeadParser, PartialHead
from gateway.upstream.http1_upload import Upload, unread
from gateway.upstream.messages import InboundResponse, OutboundRequest, RequestStream

_MAX_INTERIM = 32
_CLOSE_S = 1.0
"""How long the upstream may take over the end of TLS."""

_IDLE, _HEAD, _BODY, _CLOSED = range(4)


class Waiter(Protocol):
    """Whoever waits for a response head: a future, or what acts at once in the place of one."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, response: InboundResponse, /) -> None:
        """The head is here."""

    def set_exception(self, error: Exception, /) -> None:
        """There will be no head; the connection is closed already."""


class ConnectionOwner(Protocol):
    """Whom a connection belongs to."""

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""

    @property
    def head_parser(self) -> HeadParser: ...

    @property
    def max_response_header(self) -> int:
        """In bytes; also the limit of a trailer section."""

    def on_free(self, connection: Http1Connection, idle_s: float | None) -> None:
        """An exchange is complete and the connection may serve another, for ``idle_s`` seconds from now."""

    def on_closing(self, connection: Http1Connection) -> None:
        """The connection will not serve another exchange."""

    def on_lost(self, connection: Http1Connection) -> None:
        """The connection is gone."""


class Http1Connection(FlowControl):
    """Carries one exchange after the other; what it does in between is up to its owner.

    Past ``deadline`` or ``write_deadline``, ``expire`` is due.
    """

    __slots__ = (
        "_body",
        "_decoder",
        "_head_s",
        "_idle_s",
        "_interims",
        "_is_head",
        "_on_interim",
        "_outstanding",
        "_owner",
        "_partial",
        "_state",
        "_upload",
        "_waiter",
        "connect_s",
        "is_stale",
    )

    def __init__(self, owner: ConnectionOwner) -> None:
        super().__init__(owner.clock)
        self._owner = owner
        self._state = _IDLE
        self.connect_s: float | None = None
        """Seconds that connecting took; None once the connection is reused."""
        self.is_stale = False
        """Whether the connection is reused and no byte of the current answer has come."""
        self._waiter: Waiter | None = None
        """Waits for the head; stands for the exchange until the last byte of the response has come."""
        self._on_interim: Callable[[int, Fields], None] | None = None
        self._head_s = NEVER
        self._is_head = False
        self._idle_s: float | None = None
        self._interims = 0
        self._partial: PartialHead | None = None
        """The beginning of a head whose end has not come."""
        self._body: Http1Body | None = None
        self._outstanding = 0
        """Bytes of the body that have not come, or CHUNKED or UNTIL_CLOSE."""
        self._decoder: ChunkedDecoder | None = None
        self._upload: Upload | None = None

    @property
    def is_active(self) -> bool:
        """Whether an exchange is going on."""
        return self._state in (_HEAD, _BODY)

    @property
    def is_usable(self) -> bool:
        """Whether an idle connection can take a request."""
        return self._state == _IDLE and not self._transport.is_closing()

    async def exchange(
        self, request: OutboundRequest, head: bytes, stream: RequestStream | None, started: float
    ) -> InboundResponse:
        """Send ``head``, then ``stream`` if there is one, and wait for the response head.

        ``head`` includes a body that is at hand. Time to the response head counts from ``started``, and anew from the
        last piece of ``stream``. Raises UpstreamError, or what iterating ``stream`` raised.
        """
        extensions = request.extensions
        timeouts = extensions.get("timeout") or NO_TIMEOUTS
        head_s = timeouts.get("head", timeouts.get("read"))
        self._head_s = NEVER if head_s is None else head_s
        waiter: asyncio.Future[InboundResponse] = asyncio.get_running_loop().create_future()
        self.begin(
            waiter,
            head,
            deadline=NEVER if stream is not None else started + self._head_s,
            timeouts=timeouts,
            on_interim=extensions.get("on_interim"),
            is_head=request.raw_method == b"HEAD",
        )
        if stream is not None:
            return await self._exchange_streaming(waiter, stream, started)
        try:
            return await waiter
        except asyncio.CancelledError:
            self.abandon(waiter)
            raise

    def begin(
        self,
        waiter: Waiter,
        head: bytes,
        *,
        deadline: float,
        timeouts: dict[str, Any],
        on_interim: Callable[[int, Fields], None] | None,
        is_head: bool = False,
    ) -> None:
        """Send ``head`` and have ``waiter`` told of the response; ``deadline`` is when its head is too late."""
        self._waiter = waiter
        self._state = _HEAD
        self._is_head = is_head
        self._interims = 0
        self._on_interim = on_interim
        self._timeouts = timeouts
        self.deadline = deadline
        self._transport.write(head)

    async def _exchange_streaming(
        self, waiter: asyncio.Future[InboundResponse], stream: RequestStream, started: float
    ) -> InboundResponse:
        # Connecting was part of the time that the answer may take; waiting for the pieces is not.
        self._head_s -= self._clock() - started
        self._upload = upload = Upload(self, self._transport, stream)
        try:
            response = await waiter
        except asyncio.CancelledError:
            self.abandon(waiter)
            raise
        except Exception:
            # The stream may be sent again, to another endpoint: nothing must read it any more.
            await asyncio.wait((upload.task,))
            raise
        if response.whole is not None:
            await asyncio.wait((upload.task,))
        return response

    def expire(self) -> None:
        """A deadline has passed."""
        if self._state == _IDLE:
            self.close()
        elif self._state == _CLOSED:
            self._transport.abort()
        elif self._state == _BODY:
            self._fail(ResponseBroken("the upstream was silent for too long inside its response"))
        else:
            self._fail(UpstreamTimeout("no response head in time"))

    def close(self) -> None:
        """Close politely; for connections without an exchange."""
        self._state = _CLOSED
        self.deadline = self._clock() + _CLOSE_S
        self._owner.on_closing(self)
        self._transport.close()

    def abort(self) -> None:
        """Close now, whatever is going on."""
        self._state = _CLOSED
        self.deadline = self.write_deadline = NEVER
        self._waiter = self._body = self._partial = None
        self._on_interim = None
        self._stop_upload()
        self._owner.on_closing(self)
        self._transport.abort()

    def cut(self) -> None:
        """End the exchange, if there is one, as broken; it is not to be sent again."""
        self.is_stale = False
        self._fail(self._broken("the connection was cut"))

    def abandon(self, waiter: Waiter) -> None:
        """The exchange of ``waiter`` was cancelled; by now the connection may serve another one."""
        if self._waiter is waiter:
            body = self._body
            self.abort()
            if body is not None:
                body.end(ResponseBroken("the exchange was cancelled"))

    def _fail(self, error: Exception) -> None:
        """End the exchange with ``error``, to whoever waits for its head or reads its body."""
        waiter, body = self._waiter, self._body
        self.abort()
        if body is not None:
            if isinstance(error, UpstreamError) and not isinstance(error, ResponseBroken):
                error = ResponseBroken(error.reason)
            body.end(error)
        elif waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def _broken(self, reason: str) -> UpstreamError:
        return ResponseBroken(reason) if self._state == _BODY else ConnectionBroken(reason)

    # Reading.

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            self._on_head_data(data)
        elif state == _BODY:
            self._on_body_data(data)
        elif state == _IDLE:
            # Nobody asked for it, so it must not be taken for the answer to the next request.
            self.close()

    def _on_head_data(self, data: bytes) -> None:
        self.is_stale = False
        if self._partial is None:
            end = data.find(b"\r\n\r\n")
        else:
            end, data = self._partial.add(data)
        start = end + 4
        limit = self._owner.max_response_header
        try:
            if end < 0:
                self._partial = self._partial or PartialHead(data)
                self._partial.check(limit)
                return
            self._partial = None
            if start > limit:
                raise BadUpstreamResponse("the response head is too large")
            head = self._owner.head_parser.parse(data[:end])
            if head[0] >= 200:
                self._on_head(head, data[start:])
                return
            self._take_interim(head[0], head[3])
        except BadUpstreamResponse as error:
            self._fail(error)
            return
        if len(data) > start:
            self._on_head_data(data[start:])

    def _take_interim(self, status: int, fields: Fields) -> None:
        self._interims += 1
        if status == 101:
            raise BadUpstreamResponse("a 101 that nobody asked for")
        if self._interims > _MAX_INTERIM:
            raise BadUpstreamResponse("too many interim responses")
        if status != 100 and self._on_interim is not None:
            self._on_interim(status, fields)

    def _on_head(self, head: Head, rest: bytes) -> None:
        """The final head is here, and ``rest`` of what came with it."""
        waiter = self._waiter
        assert waiter is not None
        if waiter.done():
            # The exchange was cancelled and its task has not run since.
            self.abort()
            return
        status, version, reason, fields, framing, self._idle_s = head
        self._outstanding = 0 if self._is_head or status == 204 or status == 304 else framing
        if framing == CHUNKED:
            self._decoder = ChunkedDecoder(self._owner.max_response_header)
        if framing == len(rest) == self._outstanding:
            # Most bodies are short, and here with their head.
            piece, self._outstanding = rest, 0
        else:
            piece = self._take_body(rest)
        response = InboundResponse(
            status,
            fields,
            request_complete=self._upload is None or self._upload.done,
            reason=reason,
            raw_http_version=version,
            connect_s=self.connect_s,
        )
        if self._outstanding == 0:
            response.whole = piece
            self._finish()
        else:
            self._state = _BODY
            self.deadline = NEVER
            response.stream = self._body = body = Http1Body(self)
            if piece:
                body.add(piece)
        waiter.set_result(response)

    def _on_body_data(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        try:
            piece = self._take_body(data)
        except BadUpstreamResponse as error:
            self._fail(error)
            return
        if piece:
            body.add(piece)
        if self._outstanding == 0:
            body.end()
            self._finish()

    def _take_body(self, data: bytes) -> bytes:
        """What ``data`` holds of the body; with its last byte nothing is outstanding any more."""
        outstanding = self._outstanding
        excess = 0
        if outstanding >= 0:
            excess = len(data) - outstanding
            if excess > 0:
                data = data[:outstanding]
            self._outstanding = 0 if excess >= 0 else -excess
        elif outstanding == CHUNKED:
            assert self._decoder is not None
            pieces: list[bytes] = []
            excess = len(self._decoder.feed(data, pieces))
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._decoder.done:
                self._outstanding = 0
        if excess > 0:
            # It could be taken for the answer to the next request.
            self._idle_s = 0.0
        return data

    def _finish(self) -> None:
        """The last byte of the response has come."""
        self._waiter = self._body = self._decoder = None
        self.deadline = NEVER
        if self._write_paused or not (self._upload is None or self._upload.done):
            self.abort()
            return
        self._upload = None
        if self._idle_s == 0.0 or self._transport.is_closing():
            self.close()
            return
        self._on_interim = None
        self.connect_s = None
        self.is_stale = True
        self._state = _IDLE
        if self._read_paused:
            self.resume_reading()
        self._owner.on_free(self, self._idle_s)

    # Writing.

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._upload is not None:
            self._upload.on_writable()

    def on_uploaded(self) -> None:
        """The last byte of the request has been written: from now on it is the upstream that is slow."""
        if self._state == _HEAD:
            self.deadline = self._clock() + self._head_s

    def on_upload_failed(self, error: Exception) -> None:
        """End the exchange with ``error``."""
        self._fail(error)

    def _stop_upload(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.stop()

    # Beginning and end.

    def eof_received(self) -> None:
        if self._state == _IDLE:
            self.close()
        elif self._state == _BODY and self._outstanding == UNTIL_CLOSE and is_proper_end(self._transport):
            assert self._body is not None
            self._idle_s = 0.0
            self._body.end()
            self._finish()
        elif self.is_active:
            self._fail(self._broken("the upstream closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_active:
            if exc is not None and self._upload is not None:
                for data in unread(self._transport):
                    self.data_received(data)
            if self.is_active:
                self._fail(self._broken(f"the connection was lost: {exc or 'closed'}"))
        elif self._state == _IDLE:
            self._state = _CLOSED
            self._owner.on_closing(self)
        self._owner.on_lost(self)
