"""Passes the bytes of one WebSocket both ways until an end closes it."""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol

from starlette.types import Receive, Scope, Send
from websockets.frames import Close, Frame, Opcode

from gateway.exchange import Exchange
from gateway.http.websocket import ABNORMAL, GOING_AWAY, INTERNAL_ERROR, TOO_BIG
from gateway.http.websocket_frames import FrameFlow
from gateway.proxy.websocket_client import WebSocketClient
from gateway.proxy.websocket_relay import CLOSE_TIMEOUT_S, GONE_TIMEOUT_S, Ending, WebSocketSettings

TUNNEL = "gateway.tunnel"
"""Extension of servers that can leave a client's connection to a Tunnel: it stands in a ``websocket.accept``."""

# The outermost layer of the gateway looks at the head alone, which an accept has.
_HEAD_ONLY = "gateway.middleware.exchange"

# How often a tunnel is looked at for silence; a look at every tick would be 15 us a second for each idle WebSocket.
_LOOK_S = 1.0


class Transport(Protocol):
    """What a tunnel does with either connection."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


def is_unseen(scope: Scope, receive: Receive, send: Send) -> bool:
    """Whether the server offers a tunnel and nobody in between wants the messages.

    Whoever does wraps ``receive`` or ``send``: both must be the server's own.
    """
    server = (scope.get("extensions") or {}).get(TUNNEL)
    if server is None or receive != server.receive:
        return False
    return send == server.send or getattr(send, "__module__", "") == _HEAD_ONLY


class OpeningTunnel(WebSocketClient):
    """An upstream's handshake, after which what it sends stays bytes."""

    _early = b""

    def _take_frames(self, frames: object, data: bytes) -> None:
        self._early += data
        self._queued_bytes = len(self._early)

    def hand_over(self, end: End) -> None:
        """Leave the connection to ``end``, and what came already."""
        transport, self._read_paused = self._transport, self._read_paused
        transport.set_protocol(end)
        end.begin(transport)
        if self._end is not None or transport.is_closing():
            end.data_received(self._early)
            end.connection_lost(None)
            return
        if self._read_paused:
            transport.resume_reading()
        if self._early:
            end.data_received(self._early)


class End(asyncio.Protocol):
    """One of the two ends: takes its bytes and writes them to the other one.

    ``data_received`` may be called before the other end is there only after ``Tunnel.start``.
    """

    __slots__ = (
        "_closing_words",
        "_feed",
        "_is_client",
        "_is_held",
        "_next_ping",
        "_progress",
        "_quiet",
        "_read_paused",
        "_transport",
        "_tunnel",
        "_unanswered",
        "_write",
        "close_received",
        "close_sent",
        "flow",
        "gone",
        "is_full",
        "lost",
        "other",
    )

    def __init__(self, tunnel: Tunnel, *, is_client: bool, max_message_bytes: int) -> None:
        self.flow = FrameFlow(masked=is_client, max_message_bytes=max_message_bytes)
        self.other: End = self
        self.close_sent = False
        self.close_received = False
        self.gone = False
        """It sends nothing any more."""
        self.lost = False
        """Its connection is no more."""
        self.is_full = False
        """It takes bytes more slowly than they come."""
        self._tunnel = tunnel
        self._is_client = is_client
        self._feed = self.flow.feed
        self._quiet = False
        """Nothing of what it sends is passed on any more, but the rest of the frame under way."""
        self._closing_words = b""
        """What the other end is told after that rest."""
        self._read_paused = False
        self._progress = -1
        self._next_ping = 0.0
        self._unanswered = False
