"""The gateway's end of a WebSocket to an upstream over the network."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Side
from websockets.protocol import Protocol as FrameProtocol

from gateway.errors import BadUpstreamResponse, ConnectionBroken, ResponseBroken, UpstreamError
from gateway.http.fields import Fields
from gateway.http.websocket import (
    INTERNAL_ERROR,
    INVALID_DATA,
    NO_STATUS,
    TOO_BIG,
    HandshakeError,
    WebSocketClosed,
    check_handshake,
)
from gateway.proxy.websocket_answer import HandshakeAnswer

# Reading stops while this much waits to be taken, and goes on when all of it was.
_MAX_QUEUED_BYTES = 64 * 1024
_MAX_QUEUED_MESSAGES = 64

_MAX_HEAD_BYTES = 64 * 1024

logger = logging.getLogger("gateway.websocket")


class _Frames(FrameProtocol):
    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            # It may come inside a message, as every control frame may (RFC 6455 section 5.4): that is no failure.
            self.current_size = None
        super().recv_frame(frame)


class WebSocketClient(asyncio.Protocol):
    """One WebSocket: first its handshake, then messages; for one task that receives and one that sends.

    Messages come whole, text as ``str``, at most ``max_message_bytes`` long. ``status`` other than 101 is a refusal,
    whose ``body()`` may be read. ``subprotocol`` is the chosen one of ``offered``.
    """

    def __init__(self, key: bytes, offered: Sequence[str], max_message_bytes: int) -> None:
        self.subprotocol: str | None = None
        self._key = key
        self._offered = offered
        self._max_message_bytes = max_message_bytes
        self._answer = HandshakeAnswer(_MAX_HEAD_BYTES)
        self._frames: FrameProtocol | None = None
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: UpstreamError | None = None
        """Why the handshake, or the body of a refusal, cannot be completed."""
        self._end: WebSocketClosed | None = None
        """Why no message follows the queued ones."""
        self._queue: deque[str | bytes] = deque()
        self._queued_bytes = 0
        self._partial: bytearray | None = None
        self._partial_is_text = False
        self._closing = False
        self._read_paused = False
        self._write_paused = False
        self._held_reply = b""
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._next_ping = 0.0
        self._unanswered = False

    @property
    def status(self) -> int:
        """Status of the answer to the handshake."""
        return self._answer.status

    @property
    def fields(self) -> Fields:
        """Fields of the answer to the handshake, names in lower case."""
        return self._answer.fields

    async def handshake(self, head: bytes) -> None:
        """Send the request and wait for the head of the answer."""
        self._transport.write(head)
        while not self._answer.has_head and self._failure is None:
            await self._wait_to_read()
        opened = self._frames is not None if self._answer.status == 101 else self._answer.has_head
        if self._failure is not None and not opened:
            raise self._failure

    async def body(self) -> AsyncIterator[bytes]:
        """The pieces of a refusal's body; raises ResponseBroken when it breaks off."""
        answer = self._answer
        while True:
            while answer.body:
                yield answer.body.popleft()
            if answer.complete:
                return
            if self._failure is not None:
                raise self._failure
            self._resume_reading()
            await self._wait_to_read()

    async def receive(self) -> str | bytes:
        """The next message; raises WebSocketClosed after the last one."""
        while not self._queue:
            if self._end is not None:
                raise self._end
            await self._wait_to_read()
        message = self._queue.popleft()
        if not self._queue:
            self._queued_bytes = 0
            self._resume_reading()
        return message

    def write(self, message: str | bytes) -> None:
        """Send one message; wait for ``drain`` before the next when ``is_full``. Raises WebSocketClosed."""
        frames = self._frames
        assert frames is not None
        if self._end is not None:
            raise self._end
        if isinstance(message, str):
            frames.send_text(message.encode("utf-8"))
        else:
            frames.send_binary(message)
        self._transport.write(b"".join(frames.data_to_send()))

    @property
    def is_full(self) -> bool:
        """Whether the upstream takes messages more slowly than they come."""
        return self._write_paused

    async def drain(self) -> None:
        """Wait until the upstream takes messages again, or is gone."""
        while self._write_paused and self._end is None:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    def keep_alive(self, now: float, ping_s: float) -> None:
        """Ping when it is time; an upstream that was silent since the last ping is given up."""
        if self._frames is None or self._end is not None:
            return
        if self._read_paused or self._write_paused or not self._next_ping:
            # While either direction is held back neither a ping nor its answer gets through: silence proves nothing.
            self._unanswered = False
            self._next_ping = now + ping_s
        elif now >= self._next_ping:
            if self._unanswered:
                self._fail(INTERNAL_ERROR, "ping timeout", "the upstream does not answer")
                return
            self._unanswered = True
            self._next_ping = now + ping_s
            self._frames.send_ping(secrets.token_bytes(4))
            self._reply()

    async def close(self, code: int | None, reason: str, timeout_s: float) -> None:
        """Close with ``code`` (None: a close frame without one), wait for the answer, let go of the connection."""
        self._closing = True
        self._queue.clear()
        try:
            async with asyncio.timeout(timeout_s):
                if self._end is None and self._frames is not None:
                    self._frames.send_close(code, reason)
                    self._transport.write(b"".join(self._frames.data_to_send()))
                    self._resume_reading()
                    while self._end is None:
                        await self._wait_to_read()
                self._transport.close()
                await self._lost
        except TimeoutError:
            logger.debug("an upstream did not finish the closing handshake within %g s", timeout_s)
        finally:
            self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        if not self._lost.done():
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unanswered = False
        if self._frames is None:
            data = self._take_answer(data)
        if data and self._frames is not None:
            self._take_frames(self._frames, data)
        self._pause_reading_if_full()
        self._wake_reader()

    def eof_received(self) -> None:
        if self._frames is None and self._failure is None:
            try:
                self._answer.feed_eof()
            except UpstreamError as error:
                self._failure = error
        self._vanish()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._failure is None:
            text = f"the upstream's connection was lost: {exc or 'closed'}"
            self._failure = ResponseBroken(text) if self._answer.has_head else ConnectionBroken(text)
        self._vanish()
        self._answer.let_go()
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._held_reply:
            self._transport.write(self._held_reply)
            self._held_reply = b""
        self._wake_writer()

    # Handshake.

    def _take_answer(self, data: bytes) -> bytes:
        """Feed the handshake; the bytes that belong to the WebSocket that it opened."""
        if self._failure is not None:
            return b""
        answer = self._answer
        try:
            rest = answer.feed(data)
            if answer.status == 101:
                self.subprotocol = check_handshake(answer.fields, self._key, self._offered)
                self._frames = _Frames(Side.CLIENT, state=OPEN, max_size=self._max_message_bytes, logger=logger)
                # Messages are the users' own: not even a log at DEBUG gets them.
                self._frames.debug = False
        except HandshakeError as error:
            self._failure = BadUpstreamResponse(f"a 101 that is none: {error}")
        except BadUpstreamResponse as error:
            has_head = answer.has_head
            self._failure = ResponseBroken(error.reason) if has_head else error
        else:
            return rest
        return b""

    # Frames.

    def _take_frames(self, frames: FrameProtocol, data: bytes) -> None:
        if self._end is not None:
            return
        frames.receive_data(data)
        for event in frames.events_received():
            if isinstance(event, Frame):
                self._on_frame(event)
        error = frames.parser_exc
        if error is not None and self._end is None:
            logger.info("an upstream broke the WebSocket protocol: %s", error)
            too_big = frames.close_sent is not None and frames.close_sent.code == TOO_BIG
            if too_big:
                self._end_with(TOO_BIG, "message too big")
            else:
                self._end_with(INTERNAL_ERROR, "the upstream broke the protocol")
        self._reply()

    def _on_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            is_text = opcode is Opcode.TEXT
            if frame.fin:
                self._on_message(frame.data, is_text)
            else:
                self._partial, self._partial_is_text = bytearray(frame.data), is_text
        elif opcode is Opcode.CONT:
            assert self._partial is not None
            self._partial += frame.data
            if frame.fin:
                data, self._partial = self._partial, None
                self._on_message(data, self._partial_is_text)
        elif opcode is Opcode.CLOSE:
            assert self._frames is not None and self._frames.close_rcvd is not None
            close = self._frames.close_rcvd
            self._end = WebSocketClosed(None if close.code == NO_STATUS else int(close.code), close.reason)
            self._wake_writer()

    def _on_message(self, data: Any, is_text: bool) -> None:
        if self._closing or self._end is not None:
            return
        message: str | bytes = bytes(data)
        if is_text:
            try:
                message = data.decode("utf-8")
            except UnicodeDecodeError:
                self._fail(INVALID_DATA, "not UTF-8", "the upstream broke the protocol")
                return
        self._queue.append(message)
        self._queued_bytes += len(data)

    def _reply(self) -> None:
        """Write what the frame protocol has to say by itself.

        While the upstream takes nothing, only the latest is kept (RFC 6455 section 5.5.3): pings cannot fill memory.
        """
        assert self._frames is not None
        replies = [reply for reply in self._frames.data_to_send() if reply]
        if not replies or self._transport.is_closing():
            return
        if self._write_paused:
            self._held_reply = replies[-1]
        else:
            self._transport.write(b"".join(replies))

    def _fail(self, code: int, reason: str, told: str) -> None:
        """Fail the connection with ``code``; the client is told 1011 and ``told``."""
        assert self._frames is not None
        self._frames.fail(code, reason)
        self._end_with(INTERNAL_ERROR, told)
        self._reply()
        self._wake_reader()

    def _vanish(self) -> None:
        self._end_with(INTERNAL_ERROR, "the upstream is gone")
        self._wake_reader()

    def _end_with(self, code: int, reason: str) -> None:
        if self._end is None:
            self._end = WebSocketClosed(code, reason, vanished=True)
        self._wake_writer()

    # Flow control.

    def _pause_reading_if_full(self) -> None:
        waiting = self._queued_bytes if self._frames is not None else sum(map(len, self._answer.body))
        full = waiting > _MAX_QUEUED_BYTES or len(self._queue) > _MAX_QUEUED_MESSAGES
        if full and not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    async def _wait_to_read(self) -> None:
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
