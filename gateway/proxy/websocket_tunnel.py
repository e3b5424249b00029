"""Passes one WebSocket as bytes: frames are told apart, and never taken apart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send
from websockets.protocol import Protocol as FrameProtocol

from gateway.exchange import Exchange
from gateway.http.websocket import GOING_AWAY, INTERNAL_ERROR, TOO_BIG
from gateway.proxy.websocket_client import WebSocketClient
from gateway.proxy.websocket_end import Connection, End
from gateway.proxy.websocket_relay import CLIENT_GONE, Ending, WebSocketSettings

TUNNEL = "gateway.tunnel"
"""Extension of a server that leaves a client's connection to a Tunnel in its ``websocket.accept``."""

# The outermost layer of the gateway looks at heads, and at nothing of a WebSocket that was accepted.
_HEADS_ONLY = "gateway.middleware.exchange"

# How often a WebSocket is looked at for silence: at every tick, ten thousand idle ones would take a tenth of a core.
_LOOK_S = 1.0

# Who broke the rules may take this long to read which.
_LINGER_S = 1.0

_UPSTREAM_FAILED = Ending(None, None, "aborted", upstream_failed=True)
_UPSTREAM_BROKE = _UPSTREAM_FAILED._replace(timeout_s=_LINGER_S)
_CLIENT_BROKE = Ending(None, None, timeout_s=_LINGER_S)
_CLOSED = Ending(None, None)


def is_unseen(scope: Scope, receive: Receive, send: Send) -> bool:
    """Whether the server offers a tunnel, and nobody before it wants to see the messages.

    Whoever does wraps ``receive`` or ``send``: both have to be those that the server gave.
    """
    server = (scope.get("extensions") or {}).get(TUNNEL)
    if server is None or receive != server.receive:
        return False
    return send == server.send or getattr(send, "__module__", "") == _HEADS_ONLY


class TunnelOpening(WebSocketClient):
    """The handshake with an upstream; the frames that follow it stay bytes."""

    def __init__(self, key: bytes, offered: Sequence[str], max_message_bytes: int) -> None:
        super().__init__(key, offered, max_message_bytes)
        self._early = b""

    @property
    def transport(self) -> asyncio.Transport:
        """The connection."""
        return self._transport

    def hand_over(self, end: End) -> None:
        """Leave the connection to ``end``, with what came behind the handshake."""
        self._transport.set_protocol(end)
        self._resume_reading()
        if self._early:
            end.data_received(self._early)
        if self._lost.done():
            end.connection_lost(None)
        elif self._transport.is_closing():
            end.eof_received()

    def _take_frames(self, frames: FrameProtocol, data: bytes) -> None:
        self._early += data
        self._queued_bytes = len(self._early)


class Tunnel:
    """One WebSocket between its accept and its end, in the place of a Relay.

    Bytes go to the other side as they come, a slow reader slowing its writer; they are looked at only for where frames
    begin. That is enough to hold ``max_message_bytes`` and the order of frames, to count messages, and to put pings and
    close frames of the gateway's own in between. What the peers judge for themselves is the UTF-8 of texts. Close
    frames pass from end to end. ``ping_s`` holds for both sides. Silence is noticed up to a second late, or a tenth
    of the time set if that is shorter.
    """

    def __init__(self, socket: TunnelOpening, exchange: Exchange, settings: WebSocketSettings) -> None:
        max_bytes = settings.max_message_bytes
        self.client = End(self, is_client=True, max_message_bytes=max_bytes)
        self.upstream = End(self, is_client=False, max_message_bytes=max_bytes)
        self.client.other, self.upstream.other = self.upstream, self.client
        self.is_joined = False
        """Whether the server has left the client's connection to it."""
        self._socket = socket
        self._exchange = exchange
        self._settings = settings
        loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[Ending] = loop.create_future()
        self._over: asyncio.Future[None] = loop.create_future()
        self._told: tuple[int, str] | None = None
        times = [time_s / 10 for time_s in (settings.idle_timeout_s, settings.ping_s) if time_s > 0]
        self._look_s = min([_LOOK_S, *times])
        self._next_look = 0.0
        self._activity = -1
        self._idle_since = 0.0

    @property
    def receiver(self) -> End:
        """Who takes what happens on the client's connection."""
        return self.client

    def join(self, connection: Connection, early: bytes) -> None:
        """Called by the server when the client is accepted: its connection, and what came behind its handshake."""
        client, upstream = self.client, self.upstream
        self.is_joined = True
        client.begin(connection)
        upstream.begin(self._socket.transport)
        client.start()
        upstream.start()
        self._socket.hand_over(upstream)
        if early:
            client.data_received(early)
        if self._told is not None:
            self.tell(*self._told)

    async def run(self) -> Ending:
        """Wait until either side closes, falls silent, breaks a limit, or the process ends, and both are gone."""
        try:
            ending = await self._ending
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ending.timeout_s):
                    await self._over
        finally:
            self._count()
            # A slow client may still take what was written: the server sees to how long.
            self.client.close()
            self.upstream.abort()
        return ending

    def tell(self, code: int, reason: str) -> None:
        """Close both sides."""
        if not self.is_joined:
            self._told = (code, reason)
            return
        self._end(_CLOSED)
        for end in (self.client, self.upstream):
            self._tell(end, code, reason)
        self._settle()

    def shutdown(self) -> None:
        """Called by the server when it goes away."""
        self.tell(GOING_AWAY, "the gateway is shutting down")

    def sweep(self, now: float) -> None:
        """Compare with the limits in time; ``now`` in monotonic seconds."""
        if now < self._next_look or not self.is_joined or self._ending.done():
            return
        self._next_look = now + self._look_s
        self._count()
        exchange, settings = self._exchange, self._settings
        activity = exchange.messages_in + exchange.messages_out + exchange.body_bytes_in + exchange.body_bytes_out
        if activity != self._activity:
            self._activity = activity
            self._idle_since = now
        elif 0 < settings.idle_timeout_s <= now - self._idle_since:
            self.tell(GOING_AWAY, "idle timeout")
            return
        if settings.ping_s > 0:
            for end in (self.client, self.upstream):
                if not end.keep_alive(now, settings.ping_s):
                    self._give_up(end)
                    return

    # What the ends tell.

    def on_ended(self, end: End) -> None:
        """A close frame was passed on, or an end broke the rules: then both are told."""
        violation = end.flow.violation
        if violation is None:
            self._end(_CLOSED)
        elif end.is_client:
            self._end(_CLIENT_BROKE)
            self._tell(self.client, *violation)
            self._tell(self.upstream, *violation)
        else:
            self._end(_UPSTREAM_BROKE)
            self._tell(self.upstream, *violation)
            is_size = violation[0] == TOO_BIG
            self._tell(self.client, *(violation if is_size else (INTERNAL_ERROR, "the upstream broke the protocol")))
        self._settle()

    def on_gone(self, end: End) -> None:
        """An end left: without a close frame the other one is told."""
        if not self._ending.done():
            if end.is_client:
                self._end(CLIENT_GONE)
                self._tell(self.upstream, GOING_AWAY, "")
            else:
                self._end(_UPSTREAM_FAILED)
                self._tell(self.client, INTERNAL_ERROR, "the upstream is gone")
        self._settle()

    # Ending.

    def _give_up(self, end: End) -> None:
        """An end does not answer: nothing is waited for from it."""
        end.gone = True
        self._tell(end, INTERNAL_ERROR, "ping timeout")
        if end.is_client:
            self._end(CLIENT_GONE)
            self._tell(self.upstream, GOING_AWAY, "")
        else:
            self._end(_UPSTREAM_FAILED)
            self._tell(self.client, INTERNAL_ERROR, "the upstream does not answer")
        self._settle()

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    def _tell(self, end: End, code: int, reason: str) -> None:
        if not end.tell(code, reason):
            # Only the end of the connection says that its last frame stays incomplete.
            end.close()

    def _settle(self) -> None:
        """Close what has nothing more to say or to hear."""
        if self._over.done():
            return
        client, upstream = self.client, self.upstream
        done = [end.gone or end.is_closed for end in (client, upstream)]
        for end in (client, upstream):
            if end.is_closed or all(done):
                end.close()
            elif end.has_heard_all:
                end.shut()
        if client.lost and upstream.lost:
            self._over.set_result(None)
            client.let_go()
            upstream.let_go()

    def _count(self) -> None:
        exchange, client, upstream = self._exchange, self.client, self.upstream
        exchange.messages_in, exchange.body_bytes_in = client.messages, client.payload_bytes
        exchange.messages_out, exchange.body_bytes_out = upstream.messages, upstream.payload_bytes
