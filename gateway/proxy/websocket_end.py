"""One end of a WebSocket whose bytes are passed on: a connection, what came from it, and how far it is closed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Protocol, cast

from websockets.frames import Close, Frame, Opcode

from gateway.http.websocket_frames import FrameFlow


class Connection(Protocol):
    """A transport, or the server's stand-in for one."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_extra_info(self, name: str) -> object: ...
    def can_write_eof(self) -> bool: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Watcher(Protocol):
    """Who decides what happens when an end does no longer just send and take messages."""

    def on_ended(self, end: End, /) -> None:
        """It sent a close frame, or broke the rules: ``end.flow`` says which."""

    def on_gone(self, end: End, /) -> None:
        """Nothing comes from it any more."""


class End(asyncio.Protocol):
    """Takes the bytes of its connection and writes them to the other end's, as fast as that one takes them.

    A close frame of one end is passed on as it is; everything else that ends the WebSocket is said by ``tell``.
    """

    __slots__ = (
        "_close_sent",
        "_connection",
        "_dropped_bytes",
        "_dropped_messages",
        "_feed",
        "_is_quiet",
        "_is_shut",
        "_is_tls",
        "_last_words",
        "_next_ping",
        "_pinged_at",
        "_read_paused",
        "_watcher",
        "_write",
        "close_received",
        "flow",
        "gone",
        "is_client",
        "is_full",
        "lost",
        "other",
    )

    def __init__(self, watcher: Watcher, *, is_client: bool, max_message_bytes: int) -> None:
        self.is_client = is_client
        self.flow = FrameFlow(masked=is_client, max_message_bytes=max_message_bytes)
        self.other: End = self
        self.is_full = False
        """It takes bytes more slowly than they come."""
        self.close_received = False
        self.gone = False
        """Nothing comes from it any more."""
        self.lost = False
        """Its connection is no more."""
        self._close_sent = False
        self._watcher = watcher
        self._connection = cast(Connection, None)
        self._feed: Callable[[bytes], bytes] = self.flow.feed
        self._write: Callable[[bytes], object] = _nothing
        self._is_tls = False
        self._is_shut = False
        self._is_quiet = False
        """Nothing from it is passed on any more, but the rest of a frame that has begun."""
        self._last_words = b""
        """The close frame that the other end gets after that rest."""
        self._dropped_messages = 0
        self._dropped_bytes = 0
        self._read_paused = False
        self._next_ping = 0.0
        self._pinged_at: int | None = None
        """The flow's progress when a ping was sent that nothing has followed."""

    def begin(self, connection: Connection) -> None:
        """Take over a connection."""
        self._connection = connection
        self._is_tls = connection.get_extra_info("ssl_object") is not None

    def start(self) -> None:
        """From now on bytes may come: both ends have begun."""
        # One attribute less to look up for every piece.
        self._write = self.other._connection.write

    @property
    def messages(self) -> int:
        """Messages that were passed on."""
        return self.flow.messages - self._dropped_messages

    @property
    def payload_bytes(self) -> int:
        """Bytes of messages that were passed on."""
        return self.flow.payload_bytes - self._dropped_bytes

    @property
    def is_closed(self) -> bool:
        """Whether both close frames have passed, RFC 6455 section 7.1."""
        return self._close_sent and self.close_received and not self.other._last_words

    @property
    def has_heard_all(self) -> bool:
        """Whether nothing follows the close frame that it got, and nobody waits for its answer.

        A client may be gone only as far as it sends: then its upstream still has to end what it says.
        """
        is_given_up = self.flow.violation is not None or (self.is_client and self.other.gone)
        return is_given_up and self._close_sent and not self.other._last_words

    @property
    def is_between_frames(self) -> bool:
        """Whether a frame of our own may be written to it."""
        return not self.other.flow.owed and not self._close_sent

    # Ending.

    def tell(self, code: int | None, reason: str) -> bool:
        """Send a close frame, after the frame that is on its way to it; false where that one can never be complete."""
        if self._close_sent or self.lost:
            return True
        if self.other.gone and self.other.flow.owed:
            return False
        self._close_sent = True
        payload = b"" if code is None else Close(code, reason).serialize()
        self.other._fall_quiet(self._frame(Opcode.CLOSE, payload))
        return True

    def let_go(self) -> None:
        """Both connections are no more: what refers to each other would wait for the garbage collector."""
        del self.other, self._watcher, self._connection
        self._feed = self._write = _nothing

    def shut(self) -> None:
        """End this side of the connection, and leave it to the end itself to close: what it sends is discarded.

        Who fails a connection does not wait for an answer, RFC 6455 section 7.1.7, and one that still sends would lose
        the close frame to a reset.
        """
        if self._is_shut or self.lost or self._connection.is_closing():
            return
        self._is_shut = True
        if self._connection.can_write_eof():
            self._connection.write_eof()
        else:
            self._connection.close()

    def close(self) -> None:
        """Close the connection when everything written is taken."""
        if not self.lost:
            self._connection.close()

    def abort(self) -> None:
        """Cut the connection."""
        if not self.lost:
            self._connection.abort()

    def keep_alive(self, now: float, ping_s: float) -> bool:
        """Ping when it is time; false when nothing came for ``ping_s`` after the last ping."""
        if self._read_paused or self.is_full or not self.is_between_frames or not self._next_ping:
            # While either direction is held back neither a ping nor its answer gets through: silence proves nothing.
            self._pinged_at = None
            self._next_ping = now + ping_s
        elif now >= self._next_ping:
            progress = self.flow.progress
            if self._pinged_at == progress:
                return False
            self._pinged_at = progress
            self._next_ping = now + ping_s
            # The answer reaches the other end: a pong that nobody asked for, RFC 6455 section 5.5.3.
            self._connection.write(self._frame(Opcode.PING, secrets.token_bytes(4)))
        return True

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        if self._is_quiet:
            self._take_quietly(data)
            return
        passed = self._feed(data)
        if passed:
            self._write(passed)
        if self.flow.ended:
            self._on_ended()

    def eof_received(self) -> bool:
        self._on_gone()
        # Its close frame may still be answered. TLS knows no half-closed connections here.
        return not self._is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost:
            return
        self.lost = True
        self.other._fall_quiet(b"")
        self._on_gone()

    def pause_writing(self) -> None:
        self.is_full = True
        self.other._pause_reading()

    def resume_writing(self) -> None:
        self.is_full = False
        self.other._resume_reading()

    # Nothing more is passed on.

    def _fall_quiet(self, last_words: bytes) -> None:
        """Pass nothing on any more; the other end gets ``last_words`` as soon as no frame is under way."""
        self._is_quiet = True
        if last_words and self.flow.owed:
            self._last_words = last_words
            return
        self._last_words = b""
        if last_words:
            self.other._write_last(last_words)
        self._resume_reading()

    def _take_quietly(self, data: bytes) -> None:
        flow, last_words = self.flow, self._last_words
        if last_words:
            owed = flow.owed
            self.other._write_last(data[:owed])
            if len(data) < owed:
                self._feed(data)
                return
            self._feed(data[:owed])
            self._last_words = b""
            self.other._write_last(last_words)
            data = data[owed:]
        messages, payload_bytes = flow.messages, flow.payload_bytes
        self._feed(data)
        self._dropped_messages += flow.messages - messages
        self._dropped_bytes += flow.payload_bytes - payload_bytes
        if flow.ended:
            self._on_ended()

    def _on_ended(self) -> None:
        if self._feed is _nothing:
            return
        self._is_quiet = True
        self._feed = _nothing
        if self.flow.close is not None:
            self.close_received = True
            other = self.other
            if not other._close_sent:
                other._close_sent = True
                other._write_last(self.flow.close_frame)
        self._watcher.on_ended(self)

    def _on_gone(self) -> None:
        self.gone = True
        self._watcher.on_gone(self)

    def _write_last(self, data: bytes) -> None:
        if not self._connection.is_closing():
            self._connection.write(data)

    def _frame(self, opcode: Opcode, payload: bytes) -> bytes:
        return Frame(opcode, payload).serialize(mask=not self.is_client)

    # Flow control.

    def _pause_reading(self) -> None:
        # What is not passed on need not wait for anybody.
        if not self._read_paused and not (self._is_quiet and not self._last_words) and self._may_turn():
            self._read_paused = True
            self._connection.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused and self._may_turn():
            self._read_paused = False
            self._connection.resume_reading()

    def _may_turn(self) -> bool:
        return not self.gone and not self._connection.is_closing()


def _nothing(data: bytes) -> bytes:
    return b""
