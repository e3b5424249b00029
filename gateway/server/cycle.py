"""One request and its response between the connection and the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Scope

from gateway.errors import ClientLeft, GatewayError, InternalError
from gateway.exchange import BODY_FAILURE, WHOLE_FOLLOWS
from gateway.server.response_head import BODILESS, CHUNKED, UNTIL_CLOSE, informational_head, response_head

if TYPE_CHECKING:
    from gateway.server.protocol import GatewayProtocol
    from gateway.upstream.messages import BodySink

# From here on two buffers are handed to the transport instead of one copy of both.
_JOIN_BYTES = 16 * 1024
# Smaller pieces of a request body that have queued up are joined: a message costs more than the copy.
_SMALL_PIECE_BYTES = 16 * 1024

_NO_HEAD = -1

logger = logging.getLogger("gateway.server")


class _Done:
    """An awaitable with nothing left to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


DONE = _Done()


class Cycle:
    """The ASGI side of one request: ``run`` the application, which calls ``receive`` and ``send``.

    The connection feeds it with ``add_body``, ``end_body``, ``fail_body`` and ``disconnect``, and hears from it when
    the answer is complete or broken. The response head waits for the first body message, so that both
    leave in one write, unless that message does not come before the event loop turns.
    """

    __slots__ = (
        "_connection",
        "_framing",
        "_held",
        "_left",
        "_sink",
        "_told_end",
        "_transport",
        "_waiters",
        "body_complete",
        "disconnected",
        "failure",
        "is_flow_paused",
        "is_head",
        "is_http_11",
        "keep_alive",
        "must_continue",
        "pieces",
        "queued_bytes",
        "response_complete",
        "response_started",
        "task",
    )

    def __init__(
        self,
        connection: GatewayProtocol,
        transport: asyncio.Transport,
        is_http_11: bool,
        keep_alive: bool,
        is_head: bool,
        body_complete: bool,
        must_continue: bool,
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._waiters: list[asyncio.Future[None]] | None = None
        self._held: bytes | None = None
        """A serialised head that has not been written."""
        self._framing = _NO_HEAD
        self._left = 0
        """Bytes of the announced response body that are still to come."""
        self.task: asyncio.Task[None] | None = None
        self.is_http_11 = is_http_11
        self.is_head = is_head
        self.keep_alive = keep_alive
        self.must_continue = must_continue
        """Whether the client waits for 100 (Continue) before it sends its body."""
        self._told_end = False
        self._sink: BodySink | None = None
        """Takes the request body in the place of ``receive``."""
        self.is_flow_paused = False
        """Whether the sink is behind."""
        self.pieces: list[bytes] = []
        self.queued_bytes = 0
        """Bytes of the request body that the application has not taken yet."""
        self.body_complete = body_complete
        self.failure: GatewayError | None = None
        """What ended the request body before it was complete."""
        self.disconnected = False
        self.response_started = False
        """Whether anything of the response head is on the wire."""
        self.response_complete = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Call the application; a failure is a 500, or a broken transfer once the answer has begun.

        The scope refers to the cycle, so the cycle keeps no reference to it: left to the garbage collector, requests
        cost a sixth more.
        """
        try:
            await app(scope, self.receive, self.send)
        except BaseException as error:
            if not self.disconnected or not isinstance(error, asyncio.CancelledError):
                logger.error("the application failed", exc_info=error)
            self._fail()
            if not isinstance(error, Exception) and not isinstance(error, asyncio.CancelledError):
                raise
        else:
            if not self.response_complete and not self.disconnected:
                if self.failure is None:
                    logger.error("the application returned without completing its response")
                self._fail()
        finally:
            # What nobody took of an upload must not wait for the garbage collector: it may be 256 KiB.
            self.pieces.clear()
            self._sink = None
            self._connection.forget_task(self.task)

    # The connection's side.

    def add_body(self, piece: bytes) -> None:
        """A piece of the request body has come."""
        if self._sink is not None:
            self._sink.feed(piece)
            return
        self.pieces.append(piece)
        self.queued_bytes += len(piece)
        if self._waiters is not None:
            self._wake()

    def end_body(self) -> None:
        """The request body is complete."""
        self.body_complete = True
        if self._sink is not None:
            self._told_end = True
            self._sink.end()
        if self._waiters is not None:
            self._wake()

    def fail_body(self, error: GatewayError) -> None:
        """Nothing more of the request body will come, or is believed; the application answers with ``error``."""
        self.failure = error
        self.must_continue = False
        if self._sink is not None:
            self._sink.fail(error)
        if self._waiters is not None:
            self._wake()

    def disconnect(self) -> None:
        """The client is gone, or nothing more of it is believed."""
        self.disconnected = True
        self._held = None
        if self._sink is not None and not self.body_complete:
            self._sink.fail(ClientLeft("the client left while its request body was awaited"))
        if self._waiters is not None:
            self._wake()

    def has_left(self) -> bool:
        """Whether the client is gone: known before ``receive`` says so, which has pieces to give first."""
        return self.disconnected

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # The application's side.

    async def receive(self) -> Message:
        """The next piece of the request body; after the last one, waits until the client leaves or the answer ends."""
        if self.must_continue:
            self.must_continue = False
            if not self.disconnected and not self.response_started and self._held is None:
                self._connection.ask_for_body()
        while True:
            if self.failure is not None:
                return {"type": "http.disconnect", BODY_FAILURE: self.failure}
            if self.disconnected or self.response_complete:
                return {"type": "http.disconnect"}
            if self.pieces:
                return self._next_piece()
            if self.body_complete and not self._told_end:
                self._told_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter

    def flow_into(self, sink: BodySink) -> bool:
        """Give what is to come of the request body to ``sink``; False while ``receive`` has to be asked.

        What is waiting goes first.
        """
        if self._waiters or self.must_continue or self.failure is not None or self.disconnected or self._told_end:
            return False
        self._sink = sink
        pieces, self.pieces, self.queued_bytes = self.pieces, [], 0
        for piece in pieces:
            sink.feed(piece)
        if self.body_complete:
            self._told_end = True
            sink.end()
        else:
            self._connection.body_taken(self)
        return True

    def raw_target(self) -> asyncio.Transport | None:
        """Where the bytes of the body go as they are; None where somebody has to look at them."""
        return None if self._sink is None else self._sink.raw_target()

    def body_moved(self, count: int) -> None:
        """So many bytes of the body have gone there."""
        if self._sink is not None:
            self._sink.moved(count)

    def hold_body(self, is_held: bool) -> None:
        """Whether nothing more goes there for the moment."""
        if self._sink is not None:
            self._sink.hold(is_held)

    def pause_flow(self) -> None:
        """The sink is behind."""
        self.is_flow_paused = True

    def resume_flow(self) -> None:
        """The sink has caught up."""
        self.is_flow_paused = False
        self._connection.body_taken(self)

    def stop_flow(self) -> None:
        """From here on pieces wait for ``receive``."""
        self._sink = None
        # Whoever asks next must not wait for what is not read.
        was_paused, self.is_flow_paused = self.is_flow_paused, False
        self._connection.flow_stopped(self)
        if was_paused:
            self._connection.body_taken(self)

    def _next_piece(self) -> Message:
        pieces = self.pieces
        if len(pieces) == 1 or len(pieces[0]) >= _SMALL_PIECE_BYTES:
            piece = pieces.pop(0)
        else:
            piece = b"".join(pieces)
            pieces.clear()
        self.queued_bytes -= len(piece)
        self._connection.body_taken(self)
        self._told_end = self.body_complete and not pieces
        return {"type": "http.request", "body": piece, "more_body": not self._told_end}

    # A plain function that mostly returns what is done already: a coroutine for each message would cost 0.5 us.
    def send(self, message: Message) -> Awaitable[None]:
        """Write a message to the client; waits while the client takes nothing. Does nothing once the client is gone.

        Raises RuntimeError for messages out of order, invalid heads, and bodies that are not as long as announced.
        """
        if self._connection.write_paused is not None and not self.disconnected:
            return self._send_when_writable(self._connection.write_paused, message)
        self._send_now(message)
        return DONE

    async def _send_when_writable(self, writable: asyncio.Event, message: Message) -> None:
        await writable.wait()
        self._send_now(message)

    def _send_now(self, message: Message) -> None:
        if self.disconnected:
            return
        kind = message["type"]
        if self._framing == _NO_HEAD:
            if kind != "http.response.start":
                raise RuntimeError(f"expected http.response.start, not {kind}")
            self._start(message)
            return
        if kind != "http.response.body" or self.response_complete:
            raise RuntimeError(f"{kind} is out of order")
        self._send_body(message.get("body", b""), message.get("more_body", False))

    def _start(self, message: Message) -> None:
        if self.failure is not None and message["status"] < 400:
            # The application took what came of the body for the whole.
            self._connection.refuse(self.failure)
            return
        connections = self._connection.connections
        self._held, self._framing, self._left, self.keep_alive = response_head(
            message["status"],
            message.get("headers", ()),
            self.is_head,
            self.is_http_11,
            # What is left of an upload nobody wants could only be waited for.
            self.keep_alive and self.body_complete,
            connections.date_line,
        )
        if not message.get(WHOLE_FOLLOWS):
            connections.flush_soon(self)

    def flush_head(self) -> None:
        """Write a head that has waited for its body long enough."""
        if self._held is not None and not self.disconnected:
            head, self._held = self._held, None
            self.response_started = True
            self._transport.write(head)

    def _send_body(self, body: bytes, more: bool) -> None:
        parts: tuple[bytes, ...]
        framing = self._framing
        if framing == BODILESS:
            parts = ()
        elif framing == CHUNKED:
            if body:
                parts = (b"%x\r\n" % len(body), body, b"\r\n" if more else b"\r\n0\r\n\r\n")
            else:
                parts = () if more else (b"0\r\n\r\n",)
        else:
            if framing != UNTIL_CLOSE:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("the response body is not as long as its Content-Length")
            parts = (body,) if body else ()
        if self._held is not None:
            parts = (self._held, *parts)
            self._held = None
            self.response_started = True
        if len(parts) == 1:
            self._transport.write(parts[0])
        elif len(body) < _JOIN_BYTES:
            if parts:
                self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)
        if not more:
            self.response_complete = True
            if self._waiters is not None:
                self._wake()
            self._connection.response_done(self)

    # Extensions.

    def abort(self) -> None:
        """Cut the connection, so that the client sees a broken transfer and never a clean end."""
        if self.disconnected or self.response_complete:
            return
        self.flush_head()
        self.disconnect()
        self._connection.cut(reset=self._framing == UNTIL_CLOSE)

    def inform(self, status: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Send an interim answer such as 103 (Early Hints); does nothing where the client could not take it.

        Raises RuntimeError for fields that cannot be sent.
        """
        if self.is_http_11 and self._framing == _NO_HEAD and not self.disconnected and 102 <= status <= 199:
            self._transport.write(informational_head(status, fields))

    def _fail(self) -> None:
        if self.disconnected or self.response_complete:
            return
        if self.response_started:
            self.abort()
        else:
            self._held = None
            self._connection.refuse(self.failure or InternalError("the application failed"))
