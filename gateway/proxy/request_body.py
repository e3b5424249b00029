"""The client's request body: streamed, bounded, and replayable while it is small."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

from starlette.types import Message, Receive

from gateway.errors import BadRequest, BodyTooLarge, ClientLeft, GatewayError
from gateway.exchange import BODY_FAILURE
from gateway.upstream.messages import BodySink, FlowingStream

DISCONNECT = "http.disconnect"


class BodySource(FlowingStream, Protocol):
    """A server that can give a request body without being asked for each piece."""

    async def receive(self) -> Message:
        """What ASGI offers in its place."""
        ...

    def has_left(self) -> bool:
        """Whether the client is gone."""


class RequestBody:
    """An async iterator of the pieces of one request body.

    ``length`` is what Content-Length announced, in bytes; None for a chunked body. ``max_bytes`` is the limit, None for
    no limit; up to ``replay_bytes`` are kept so that the body can be sent again. Where the pieces come straight from
    ``source``, the body flows: see ``FlowingStream``. Iterating raises ClientLeft,
    BodyTooLarge, BadRequest when fewer bytes come than were announced, or what the server says that ended the body.
    """

    __slots__ = (
        "_clock",
        "_ended",
        "_flowing_since",
        "_kept",
        "_lost",
        "_max_bytes",
        "_pending",
        "_position",
        "_receive",
        "_replay_bytes",
        "_sink",
        "_source",
        "_unread",
        "failure",
        "length",
        "received_bytes",
        "waited_s",
        "waiting_since",
    )

    def __init__(
        self,
        receive: Receive,
        *,
        length: int | None,
        max_bytes: int | None,
        replay_bytes: int,
        clock: Callable[[], float],
        source: BodySource | None = None,
    ) -> None:
        self._receive = receive
        self._source = source
        self._sink: BodySink | None = None
        self._flowing_since = 0.0
        self._clock = clock
        self.length = length
        self._max_bytes = max_bytes
        self._replay_bytes = replay_bytes
        self._kept: list[bytes] | None = []
        self._pending: asyncio.Future[Message] | None = None
        """A message that was asked for and has not been taken."""
        self._position = 0
        """Index into ``_kept`` of the next piece that a replay gives."""
        self._unread: list[bytes] = []
        """Pieces that were read ahead and can be given once only."""
        self._lost = False
        """Whether a piece was given that cannot be given again."""
        self._ended = False
        self.received_bytes = 0
        self.failure: GatewayError | None = None
        """What ended the body early: mostly ClientLeft."""
        self.waiting_since: float | None = None
        """When the wait for the client's next piece began, monotonic; None while nothing is awaited."""
        self.waited_s = 0.0
        """Seconds spent waiting for the client so far."""

    def __aiter__(self) -> RequestBody:
        return self

    @property
    def complete(self) -> bool:
        """Whether the last piece has arrived from the client."""
        return self._ended

    @property
    def replayable(self) -> bool:
        """Whether everything received so far can be given again."""
        return self._kept is not None

    def rewind(self, *, was_sent: bool = False) -> bool:
        """Start again from the first byte; False when that is gone.

        With ``was_sent`` the body has gone out before, and only one that was kept within its limit may do so again.
        """
        if self._kept is None:
            return not was_sent and not self._lost
        self._position = 0
        return True

    async def at_hand(self) -> bytes | None:
        """The whole body, when the server has all of it already; waits no longer than one turn of the event loop.

        A body that is at hand goes upstream with the head in one write and needs no task to pump it.
        """
        if not self._ended and self._pending is None and not self.received_bytes:
            # A task of its own: receive() may hold scopes that must end in the task in which they began.
            self._pending = asyncio.ensure_future(self._receive())
            await asyncio.sleep(0)
            if self._pending.done():
                await self._read_ahead()
        if not self._ended:
            return None
        pieces = self._kept if self._kept is not None else self._unread
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def fill(self, max_bytes: int) -> None:
        """Read ahead until the body ends or ``max_bytes`` have come; what was read is given when iterated."""
        self._replay_bytes = max(self._replay_bytes, max_bytes)
        while not self._ended and self.received_bytes < max_bytes:
            await self._read_ahead()

    async def _read_ahead(self) -> None:
        piece = self._take(await self._next_message())
        if self._kept is None and piece:
            self._unread.append(piece)

    async def __anext__(self) -> bytes:
        kept = self._kept
        if kept is not None and self._position < len(kept):
            piece = kept[self._position]
            self._position += 1
            return piece
        if self._unread:
            self._lost = True
            return self._unread.pop(0)
        while not self._ended:
            piece = self._take(await self._next_message())
            if piece:
                if self._kept is not None:
                    self._position = len(self._kept)
                else:
                    self._lost = True
                return piece
        raise StopAsyncIteration

    async def client_left(self) -> bool:
        """Wait until the client leaves, or its body fails: True.

        False when a piece of the body came instead, which is kept for later; and while somebody waits for one, who
        then hears of it himself: servers give a piece to one of two that ask at once, and nothing to the other.
        """
        if self.waiting_since is not None:
            return False
        while True:
            pending = self._pending
            if pending is None:
                pending = self._pending = asyncio.ensure_future(self._receive())
            await asyncio.wait((pending,))
            message = pending.result()
            if message["type"] == DISCONNECT:
                self.failure = message.get(BODY_FAILURE) or ClientLeft("the client left")
                return True
            if self._ended or message.get("body") or message.get("more_body"):
                return False
            # The empty last piece: from here on only a disconnect can come.
            self._ended = True
            self._pending = None

    def close(self) -> None:
        """Ask the server for nothing more, and keep nothing."""
        self._kept = None
        self._unread = []
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    async def _next_message(self) -> Message:
        self.waiting_since = started = self._clock()
        try:
            if self._pending is None:
                return await self._receive()
            pending = self._pending
            message = await asyncio.shield(pending)
            if self._pending is pending:
                self._pending = None
            return message
        finally:
            self.waited_s += self._clock() - started
            self.waiting_since = None

    def _take(self, message: Message) -> bytes:
        """Account for a message; its bytes."""
        if message["type"] == DISCONNECT:
            self.failure = message.get(BODY_FAILURE) or ClientLeft("the client left while its request body was awaited")
            raise self.failure
        piece: bytes = message.get("body", b"")
        self._account(piece, is_last=not message.get("more_body", False))
        return piece

    def _account(self, piece: bytes, *, is_last: bool) -> None:
        """Check a piece against limit and length, and keep it where it may have to be sent again."""
        self.received_bytes += len(piece)
        if self._max_bytes is not None and self.received_bytes > self._max_bytes:
            raise BodyTooLarge(f"the request body exceeds {self._max_bytes} bytes")
        self._ended = is_last
        if self.length is not None and (
            self.received_bytes > self.length or (self._ended and self.received_bytes < self.length)
        ):
            raise BadRequest("the request body has not the length it announces")
        if self._kept is not None and piece:
            if self.received_bytes <= self._replay_bytes:
                self._kept.append(piece)
            else:
                self._unread = self._kept[self._position :]
                self._lost = self._position > 0
                self._kept = None

    # A body that flows.

    def flow_into(self, sink: BodySink) -> bool:
        """Give what is still to come to ``sink``; False while something has to be taken by iterating first."""
        is_at_end = not self._unread and (self._kept is None or self._position == len(self._kept))
        if self._source is None or self._ended or self._pending is not None or not is_at_end:
            return False
        self._sink = sink
        self._flowing_since = self.waiting_since = self._clock()
        if not self._source.flow_into(self):
            self.stop_flow()
            return False
        return True

    def pause_flow(self) -> None:
        """Have the source wait."""
        if self._source is not None:
            # Nobody waits for the client.
            self.waited_s += self._clock() - self._flowing_since
            self.waiting_since = math.inf
            self._source.pause_flow()

    def resume_flow(self) -> None:
        """Have the source go on."""
        if self._source is not None:
            self._flowing_since = self.waiting_since = self._clock()
            self._source.resume_flow()

    def stop_flow(self) -> None:
        """Whoever wants the rest iterates."""
        if self._sink is not None and self._source is not None:
            self._sink = None
            self._source.stop_flow()
            if self.waiting_since != math.inf:
                self.waited_s += self._clock() - self._flowing_since
            self.waiting_since = None

    def feed(self, piece: bytes) -> None:
        """The source's next piece."""
        try:
            self._account(piece, is_last=False)
        except GatewayError as error:
            self.fail(error)
            return
        if self._kept is not None:
            self._position = len(self._kept)
        else:
            self._lost = True
        if self._sink is not None:
            if self.waiting_since != math.inf:
                self.waiting_since = self._clock()
            self._sink.feed(piece)

    def raw_target(self) -> asyncio.Transport | None:
        """Where the bytes go as they are, once nothing of them is kept."""
        return None if self._sink is None or self._kept is not None else self._sink.raw_target()

    def moved(self, count: int) -> None:
        """So many bytes have gone there."""
        self.received_bytes += count
        if self._sink is not None:
            self.waiting_since = self._clock()
            self._sink.moved(count)

    def hold(self, is_held: bool) -> None:
        """Whether they wait there."""
        if self._sink is not None:
            self.waiting_since = math.inf if is_held else self._clock()
            self._sink.hold(is_held)

    def end(self) -> None:
        """The source has given everything."""
        try:
            self._account(b"", is_last=True)
        except GatewayError as error:
            self.fail(error)
            return
        if self._sink is not None:
            self._sink.end()

    def fail(self, error: Exception) -> None:
        """The source gives no more, or what it gave cannot be."""
        if isinstance(error, GatewayError):
            self.failure = error
        if self._sink is not None:
            self._sink.fail(error)


def has_body(scope_headers: list[tuple[bytes, bytes]], http_version: str) -> tuple[bool, int | None]:
    """Whether a request carries a body, RFC 9112 section 6.3, and the length it announces."""
    for name, value in scope_headers:
        if name == b"content-length":
            return True, int(value) if value.isdigit() else None
        if name == b"transfer-encoding":
            return True, None
    # HTTP/2 and later frame without fields; only the first message tells.
    return not http_version.startswith("1"), None
