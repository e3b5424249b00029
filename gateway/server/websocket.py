"""A connection that has become a WebSocket: uvicorn's protocol, entered with a request that is read already."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.version import version as websockets_version

from gateway.http.fields import Fields
from gateway.http.websocket import GOING_AWAY, INVALID_DATA
from gateway.server.handshake_refusal import HandshakeRefusal
from gateway.server.limits import NEVER, Connections, SendWatch
from gateway.server.tunnel import TunnelledClient

# Frames that may come before the application has accepted.
_MAX_EARLY_BYTES = 64 * 1024
# How long a client may take to answer a close frame.
_CLOSE_S = 2.0
# websockets reads a request only as bytes, and with its own limits for lines and fields: it gets this one.
_PLACEHOLDER = b"GET / HTTP/1.1\r\n\r\n"


class _Rules(ServerProtocol):
    """Where RFC 6455 says more than the library does."""

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            # Section 5.4: it may come inside a message, as every control frame may, and that is no failure.
            self.current_size = None
        super().recv_frame(frame)


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """The WebSocket side of a client's connection. ``registry`` counts it and watches how it takes what is sent."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], *, registry: Connections
    ) -> None:
        super().__init__(config, server_state, app_state, asyncio.get_running_loop())
        # Else it refers to itself until the garbage collector comes.
        self.conn.parser.close()
        self.conn = _Rules(
            extensions=self.conn.available_extensions, max_size=config.ws_max_size, logger=self.conn.logger
        )
        self.deadline = NEVER
        self.is_sending = False
        self._registry = registry
        self._send_watch = SendWatch()
        self._early = b""
        self._is_failed = False
        self._refusal: HandshakeRefusal | None = None
        self._is_left = False
        """Whether a tunnel has the connection."""
        self._is_answered = False
        """Whether the application has returned."""

    def begin(
        self, transport: asyncio.Transport, *, target: bytes, fields: Fields, rest: bytes, tls: dict[str, Any] | None
    ) -> None:
        """Take the connection over: shake hands for a request that asked for it; ``rest`` came behind it."""
        self.connection_made(transport)
        self._registry.add(self)
        transport.set_protocol(self)
        self.conn.receive_data(_PLACEHOLDER)
        self.conn.events_received()
        headers = Headers([(name.decode("ascii"), _text(value)) for name, value in fields])
        self.handle_connect(Request(target.decode("ascii"), headers))
        if self.handshake_complete:
            # Not a handshake that could be accepted; it is answered.
            return
        self.scope["headers"] = fields
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions["gateway.target"] = target
        extensions["gateway.abort"] = self.cut
        if not self.conn.extensions:
            # Who passes bytes on can have no part in an extension that changes them.
            extensions["gateway.tunnel"] = self
        if tls is not None:
            extensions["tls"] = tls
        self._early = rest

    def data_received(self, data: bytes) -> None:
        if self._is_failed:
            return
        if self.handshake_complete:
            super().data_received(data)
            return
        self._early += data
        if len(self._early) > _MAX_EARLY_BYTES and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """Send; ``gateway.tunnel`` in an accept is who takes the connection over, see TunnelledClient."""
        if message["type"].startswith("websocket.http.response."):
            await self.writable.wait()
            self._refuse(message)
            return
        await super().send(message)  # type: ignore[arg-type]
        tunnel = message.get("gateway.tunnel")
        if tunnel is not None and self.handshake_complete and not self.disconnected:
            self._leave_to(tunnel)
            return
        if self._early and self.handshake_complete:
            early, self._early = self._early, b""
            if self.read_paused:
                self.read_paused = False
                self.transport.resume_reading()
            if not self.close_sent:
                super().data_received(early)

    def _refuse(self, message: Message) -> None:
        """Pass on what answers the handshake; uvicorn would collect the body, and knows only registered statuses."""
        if self.disconnected:
            raise ClientDisconnected
        if message["type"] == "websocket.http.response.start":
            if self.handshake_complete or self._refusal is not None:
                raise RuntimeError("websocket.http.response.start is out of order")
            status, fields = message["status"], message.get("headers", ())
            self._refusal = HandshakeRefusal(self.transport, status, fields, self._registry.date_line)
            # From here on nobody else answers.
            self.initial_response = (status, [], b"")
            return
        if self._refusal is None or self.handshake_complete:
            raise RuntimeError("websocket.http.response.body is out of order")
        more = message.get("more_body", False)
        self._refusal.write(message.get("body", b""), more)
        if not more:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self.close_sent = self.handshake_complete = True
            self.transport.close()

    def _leave_to(self, tunnel: Any) -> None:
        """Let ``tunnel`` have the connection, and what came on it already."""
        self._is_left = True
        self.stop_keepalive()
        self.connections.discard(self)
        self._registry.discard(self)
        early, self._early = self._early, b""
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        TunnelledClient(self.transport, self._registry, self.connections).join(tunnel, early)

    def send_receive_event_to_app(self) -> None:
        """Hand a message on; text that is none is the client's fault, and nothing for the log of errors."""
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "text":
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self.conn.fail(INVALID_DATA, "not UTF-8")
                self.handle_parser_exception()
                return
        else:
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def handle_parser_exception(self) -> None:
        """Say what the client did wrong, and leave it a moment to read that: closing would reset the answer away."""
        self._is_failed = True
        self.stop_keepalive()
        close = self.conn.close_sent
        assert close is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(_CLOSE_S, self.transport.close)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.discard(self)
        self.is_sending = False
        super().connection_lost(exc)
        self._let_go_if_over()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self._is_answered = True
        self._let_go_if_over()

    def _let_go_if_over(self) -> None:
        """End what refers to each other, and would wait for the garbage collector: it comes rarely here."""
        if self._is_answered and (self._is_left or self.disconnected):
            self.conn.parser.close()
            for name in ("gateway.abort", "gateway.tunnel"):
                self.scope["extensions"].pop(name, None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.is_sending = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.is_sending = False

    def shutdown(self) -> None:
        """Tell the client and the application that the server goes away, and give the client a moment to answer."""
        self.stop_keepalive()
        if self.close_sent:
            return
        if not self.handshake_complete:
            super().shutdown()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": GOING_AWAY, "reason": ""})
        self.conn.send_close(GOING_AWAY)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(_CLOSE_S, self.transport.close)

    def cut(self, *, reset: bool = True) -> None:
        """Close without a closing handshake."""
        if reset:
            self.transport.abort()
        else:
            self.transport.close()

    def on_deadline(self, now: float) -> None:
        """A WebSocket has no deadline of its own; pings find out whether the client is there."""

    def check_sending(self, now: float) -> None:
        """Cut a client that takes nothing of what is sent."""
        if self._send_watch.is_stalled(self.transport, now, self._registry.limits.send_timeout_s):
            self.cut()


def _text(value: bytes) -> str:
    # The spelling from which uvicorn makes the same bytes again.
    if int(websockets_version.partition(".")[0]) >= 17:
        return value.decode("latin-1")
    return value.decode("ascii", "surrogateescape")
