"""A client's connection: bytes to ASGI and back, with the limits that only the server can hold.

Serves under uvicorn in the place of its own protocol classes:

    connections = Connections(Limits())
    uvicorn.Config(app, http=functools.partial(GatewayProtocol, connections=connections))
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import uuid
from typing import Any

from starlette.types import ASGIApp, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.errors import BadRequest, ClientError, GatewayError, Overloaded, RequestTimeout
from gateway.exchange import BEGUN_KEY, Exchange
from gateway.express.fields import lines_of
from gateway.express.proxied import ProxiedLane
from gateway.express.stored import StoredHead
from gateway.express.table import Express
from gateway.http.websocket import check_opening
from gateway.server.body_intake import BodyIntake
from gateway.server.cycle import Cycle
from gateway.server.express_cycle import ExpressCycle, write_whole
from gateway.server.framing import HEAD_END, HeadReader, without_empty_lines
from gateway.server.limits import HIGH_WATER_BYTES, NEVER, Connections, SendWatch
from gateway.server.refusal import Refusal, refusal_answer
from gateway.server.regulars import regular_name
from gateway.server.scope import client_address, connection_scope, is_nobodys, request_scope, server_address
from gateway.server.tls_facts import tls_facts
from gateway.server.websocket import GatewayWebSocket

LINGER_BYTES = 1024 * 1024
LINGER_S = 2.0
DRAIN_GRACE_S = 1.0
"""For a request that is on its way on an idle connection when the drain begins: it is answered, as the last one."""
# Connections beyond max_connections that may hear so at a time; the others are cut.
_MAX_TURNED_AWAY = 256
# Pipelined requests that are answered before others have their turn.
_MAX_AT_ONCE = 64

_CR = 0x0D

# What the connection waits for.
_FIRST_BYTE, _HEAD, _EXCHANGE, _IDLE, _LINGER, _CLOSED = range(6)


class GatewayProtocol(asyncio.Protocol):
    """One connection. Requests are answered one after the other; what comes early waits in the buffer."""

    __slots__ = (
        "_answered_at_once",
        "_app_state",
        "_buffer",
        "_client",
        "_config",
        "_cycle",
        "_discarded",
        "_paused_at",
        "_phase",
        "_regular",
        "_scheme",
        "_scope",
        "_send_watch",
        "_server_state",
        "_since",
        "_tls",
        "_transport",
        "body",
        "connections",
        "deadline",
        "head",
        "is_read_paused",
        "is_sending",
        "loop",
        "write_paused",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        if not config.loaded:
            config.load()
        limits = connections.limits
        self.connections = connections
        self.loop = _loop or asyncio.get_running_loop()
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self.head = HeadReader(
            max_header_bytes=limits.max_header_bytes,
            max_headers=limits.max_headers,
            max_target_bytes=limits.max_target_bytes,
            known_lines=connections.known_lines,
        )
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self._client: tuple[str, int] | None = None
        self._scope: Scope | None = None
        """What the scopes of all requests have in common; made for the first that needs one."""
        self._tls: dict[str, Any] | None = None
        self._scheme = "http"
        self._phase = _FIRST_BYTE
        self._since = connections.clock()
        """When the connection, or the request whose head is being read, began: before a TLS handshake."""
        self.deadline = self._since + limits.header_timeout_s
        self.is_sending = False
        self._send_watch: SendWatch | None = None
        """While something waits in the transport."""
        self.write_paused: asyncio.Event | None = None
        """Set when the client takes more of its answer; None while it does."""
        self._buffer: bytes | bytearray = b""
        """The beginning of a head, or pipelined requests."""
        self._cycle: Cycle | ExpressCycle | None = None
        self._regular = ""
        """Under which name the client's first words may be known on the next connection; empty for none."""
        self._answered_at_once = 0
        self.body: BodyIntake | None = None
        """The request body while it is incomplete."""
        self.is_read_paused = False
        self._paused_at = 0.0
        self._discarded = 0

    @property
    def transport(self) -> asyncio.Transport:
        """The client's side."""
        return self._transport

    # The transport's side.

    # uvloop's transports have the methods of asyncio.Transport, but not the class.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self._tls = tls_facts(ssl_object)
            self._scheme = "https"
        connections = self.connections
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self._client = client_address(transport)
        self._regular = regular_name(self._client, self._tls)
        known = connections.regulars.find(self._regular)
        if known is not None:
            self.head.section = known
        excess = connections.add(self) - connections.limits.max_connections
        # Nobody known to no rule: what it sent before it left must not pass for the word of a peer on a UNIX socket.
        if excess > _MAX_TURNED_AWAY or (self._client is None and is_nobodys(transport)):
            self.cut(reset=True)
        elif excess > 0:
            self.refuse(Overloaded(f"{len(connections)} connections"))
        elif connections.draining:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.body is not None:
            self._drop_body()
        self._phase = _CLOSED
        self.deadline = NEVER
        self.is_sending = False
        self.connections.discard(self)
        if self.is_read_paused:
            self.connections.hang_ups.discard(self)
        self._server_state.connections.discard(self)
        if self._cycle is not None:
            self._cycle.disconnect()
        if self.write_paused is not None:
            self.resume_writing()
        self._buffer = b""

    def on_hang_up(self) -> None:
        """The client has left; what it sent before is nobody's any more."""
        self._transport.abort()

    def eof_received(self) -> bool:
        # One that has left and one that only ends its side look alike, and upstreams must not work for the first. It
        # is as one that left that the client is recorded; should it still listen, it hears what became of its body.
        if self.body is not None and self._cycle is not None and not self._cycle.response_started:
            self._transport.write(self._answer_to(BadRequest("the request body broke off"), ""))
            self._cycle.disconnect()
        return False

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase == _EXCHANGE:
            self._continue_exchange(data)
        elif phase < _EXCHANGE or phase == _IDLE:
            self._answered_at_once = 0
            rest = self._read_head(data)
            if rest:
                self._read_heads(rest)
        elif phase == _LINGER:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self._close()

    def pause_writing(self) -> None:
        self.write_paused = asyncio.Event()
        self.is_sending = True

    def resume_writing(self) -> None:
        if self.write_paused is not None:
            self.write_paused.set()
            self.write_paused = None

    # uvicorn's side.

    def shutdown(self) -> None:
        """Begin to drain: an idle connection closes after a moment, a running exchange is the last one."""
        if self._phase == _FIRST_BYTE or self._phase == _IDLE:
            self.deadline = min(self.deadline, self.connections.clock() + DRAIN_GRACE_S)
        elif self._cycle is not None:
            self._cycle.keep_alive = False

    # Requests.

    def _read_heads(self, data: bytes) -> None:
        """Take pipelined requests, of which some may be answered at once."""
        while data:
            data = self._read_head(data)

    def _read_head(self, data: bytes) -> bytes:
        """Take ``data`` as the beginning, or more, of a request head; what follows it when its request is answered."""
        buffer = self._buffer
        if buffer:
            searched = max(0, len(buffer) - 3)
            buffer += data
            if buffer[0] == _CR:
                # The beginning of an empty line was held back.
                data, buffer, self._buffer = bytes(buffer), b"", b""
            else:
                end = buffer.find(HEAD_END, searched)
        if not buffer:
            if data[0] == _CR:
                try:
                    data = without_empty_lines(data)
                except BadRequest as error:
                    self.refuse(error)
                    return b""
                if not data:
                    return b""
            buffer = data
            end = data.find(HEAD_END)
        try:
            if end < 0:
                self._begin_head(buffer)
                self.head.check_partial(buffer)
                return b""
            end += 4
            size = len(buffer)
            self._buffer = b""
            self.head.read(bytes(buffer[:end]) if end < size or buffer is not data else data)
        except ClientError as error:
            self.refuse(error)
            return b""
        rest = bytes(buffer[end:]) if end < size else b""
        if self.head.is_plain and self._begin_express(rest):
            if self._phase == _IDLE:
                self._buffer = b""
                return rest
            return b""
        self._begin_exchange(rest)
        return b""

    def _begin_head(self, head: bytes | bytearray) -> None:
        """Keep an incomplete head; its time runs from the connection's or the request's first moment."""
        if isinstance(head, bytes):
            head = bytearray(head)
        self._buffer = head
        if self._phase == _IDLE:
            self._since = self.connections.clock()
            self.deadline = self._since + self.connections.limits.header_timeout_s
        self._phase = _HEAD

    def _begin_exchange(self, rest: bytes) -> None:
        """Start the application on a request whose head is read; ``rest`` is what came with it."""
        reader = self.head
        has_body = reader.chunked or bool(reader.length)
        if (
            reader.upgrade == b"websocket"
            and reader.method == b"GET"
            and not has_body
            and self._config.ws_protocol_class is not None
        ):
            self._become_websocket(rest)
            return
        self._phase = _EXCHANGE
        self.deadline = NEVER
        self._cycle = cycle = Cycle(
            self,
            self._transport,
            reader.is_http_11,
            reader.keep_alive and not self.connections.draining,
            reader.method == b"HEAD",
            not has_body,
            has_body and reader.expects_continue,
        )
        scope = self._request_scope(cycle)
        if has_body:
            scope["extensions"]["gateway.body"] = cycle
            self.body = body = BodyIntake(self, cycle)
            if rest:
                # What is malformed already never reaches the application.
                try:
                    rest = body.feed(rest)
                except BadRequest as error:
                    self.refuse(error)
                    return
        self._buffer = rest
        self._run(cycle, self._config.loaded_app, scope)

    def _request_scope(self, cycle: Cycle) -> Scope:
        extensions: dict[str, Any] = {
            "gateway.target": self.head.target,
            "gateway.abort": cycle.abort,
            "gateway.informational": cycle.inform,
        }
        if self._tls is not None:
            extensions["tls"] = self._tls
        common = self._scope
        if common is None:
            server = server_address(self._transport)
            common = self._scope = connection_scope(self._config.asgi_version, self._scheme, self._client, server)
        return request_scope(common, self.head, self._app_state.copy(), extensions)

    def _run(self, cycle: Cycle, app: ASGIApp, scope: Scope) -> None:
        cycle.task = task = self.loop.create_task(cycle.run(app, scope))
        self._server_state.tasks.add(task)

    def _continue_exchange(self, data: bytes) -> None:
        """Bytes that come during an exchange: its body, then pipelined requests."""
        cycle = self._cycle
        assert cycle is not None
        if self.body is not None:
            try:
                data = self.body.feed(data)
            except BadRequest as error:
                self._fail_body(error)
                return
        if data:
            # Requests are answered in order, RFC 9112 section 9.3.2: the next one is read when this one is done.
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
            if len(self._buffer) > HIGH_WATER_BYTES:
                self.pause_reading()

    def _become_websocket(self, rest: bytes) -> None:
        if self.connections.draining:
            self.refuse(Overloaded("the server is being stopped"))
            return
        try:
            check_opening(self.head.fields)
        except GatewayError as error:
            self.refuse(error)
            return
        self._phase = _CLOSED
        self.deadline = NEVER
        self.connections.discard(self)
        self._server_state.connections.discard(self)
        socket_protocol = GatewayWebSocket(self._config, self._server_state, self._app_state, registry=self.connections)
        socket_protocol.begin(
            self._transport, target=self.head.target, fields=self.head.fields, rest=rest, tls=self._tls
        )

    # The short way.

    def _begin_express(self, rest: bytes) -> bool:
        """Send a plain request on its way without the application; False when it has to pass through that."""
        express = self.connections.express()
        if express is None:
            return False
        reader = self.head
        section = reader.section
        if section.express is not express:
            section.express = express
            extensions = {"gateway.target": reader.target, "tls": self._tls}
            section.admitted = express.admit(
                {"client": self._client, "scheme": self._scheme, "headers": section.fields, "extensions": extensions}
            )
            if self._regular:
                self.connections.regulars.meet(self._regular, section)
                self._regular = ""
        if section.admitted is None:
            return False
        self._phase = _EXCHANGE
        self.deadline = NEVER
        self._buffer = rest
        return express.begin(section.admitted, reader.target, self)

    @property
    def may_answer_at_once(self) -> bool:
        return self.write_paused is None and self._answered_at_once < _MAX_AT_ONCE

    def answer_at_once(self, status: int, head: StoredHead, id_name: bytes, exchange: Exchange, body: bytes) -> bool:
        if self.write_paused is not None or self._answered_at_once >= _MAX_AT_ONCE:
            return False
        self._answered_at_once += 1
        keep_alive = self.head.keep_alive and not self.connections.draining
        lines = head.lines
        if id_name:
            lines = b"%b%b: %b\r\n" % (lines, id_name, exchange.request_id.encode("ascii"))
        if exchange.response_fields:
            lines += lines_of(exchange.response_fields)
        write_whole(self._transport, status, lines, body, keep_alive=keep_alive)
        self._end_exchange(keep_alive, is_read=True)
        return True

    def begin_express(self, express: Express, lane: ProxiedLane, exchange: Exchange) -> ExpressCycle:
        keep_alive = self.head.keep_alive and not self.connections.draining
        self._cycle = cycle = ExpressCycle(express, lane, exchange, self, self._transport, keep_alive)
        return cycle

    def leave_express(self, begun: ExpressCycle, app: ASGIApp) -> None:
        """Have the application go on with what was begun on the short way."""
        self._cycle = cycle = Cycle(self, self._transport, True, begun.keep_alive, False, True, False)
        scope = self._request_scope(cycle)
        scope[BEGUN_KEY] = begun
        self._run(cycle, app, scope)

    # What is read, and when.

    def _fail_body(self, error: GatewayError) -> None:
        """End the request body with ``error``: the application answers, for it keeps the record of the request."""
        cycle = self._cycle
        assert isinstance(cycle, Cycle)
        if cycle.response_started:
            self.refuse(error)
            return
        self._drop_body()
        self.deadline = NEVER
        cycle.keep_alive = False
        cycle.fail_body(error)

    def _drop_body(self) -> None:
        """Nothing more of a body is waited for."""
        if self.body is not None:
            self.body.stop()
            self.body = None

    def pause_reading(self) -> None:
        if not self.is_read_paused and self._phase != _CLOSED:
            self.is_read_paused = True
            self.connections.hang_ups.add(self, self._transport)
            self._paused_at = self.connections.clock()
            # The silence is the application's from here on.
            self.deadline = NEVER
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        body = self.body
        if self.is_read_paused and (body is None or not body.is_moved):
            self.is_read_paused = False
            self.connections.hang_ups.discard(self)
            if body is not None:
                body.resume(self._paused_at)
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # The exchange's side.

    def ask_for_body(self) -> None:
        """Tell a client that waits for it to send its body, RFC 9110 section 10.1.1."""
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.body is not None:
            self.body.expect_again()

    def body_taken(self, cycle: Cycle) -> None:
        """The application took a piece of the request body."""
        is_behind = cycle.queued_bytes >= HIGH_WATER_BYTES or cycle.is_flow_paused
        if self.is_read_paused and cycle is self._cycle and not is_behind:
            self.resume_reading()

    def flow_stopped(self, cycle: Cycle) -> None:
        """Nobody wants the body to flow any more."""
        if self.body is not None and self.body.is_moved:
            self.body.stop()
            self.body_taken(cycle)

    def response_done(self, cycle: Cycle | ExpressCycle) -> None:
        """The last byte of the answer is written: on to the next request, or close."""
        self._end_exchange(cycle.keep_alive, cycle.body_complete)
        if self._phase == _IDLE and self._buffer:
            waiting, self._buffer = bytes(self._buffer), b""
            self._answered_at_once = 0
            self._read_heads(waiting)

    def _end_exchange(self, keep_alive: bool, is_read: bool) -> None:
        """Be ready for the next request, or close; ``is_read`` says whether the last byte of this one has come."""
        self._server_state.total_requests += 1
        self._cycle = None
        if self.body is not None:
            self._drop_body()
        self.deadline = NEVER
        if self._transport.is_closing():
            # By its own end: what is left has send_timeout_s as well.
            self.is_sending = True
            return
        if not keep_alive:
            if is_read and not self._buffer:
                self._close()
            else:
                self._linger()
            return
        if self.head.is_long:
            self.head.forget()
        connections = self.connections
        self._phase = _IDLE
        self.deadline = connections.clock() + (
            DRAIN_GRACE_S if connections.draining else connections.limits.keep_alive_s
        )
        self.is_sending = True
        if self.is_read_paused:
            self.resume_reading()

    def forget_task(self, task: asyncio.Task[None] | None) -> None:
        """The application has returned."""
        if task is not None:
            self._server_state.tasks.discard(task)

    def cut(self, *, reset: bool = False) -> None:
        """Close without another byte. ``reset``: not even a clean end of the connection, which would end a body."""
        if self._phase == _CLOSED and not reset:
            return
        self._drop_body()
        if not reset:
            self._close()
            return
        self._phase = _CLOSED
        self.deadline = NEVER
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # Refusals.

    def refuse(self, error: GatewayError) -> None:
        """Answer ``error`` in the place of the application and close; cut when the application's answer has begun."""
        if self._transport.is_closing():
            return
        self._drop_body()
        cycle, self._cycle = self._cycle, None
        can_answer = cycle is None or not cycle.response_started
        if cycle is not None:
            cycle.disconnect()
        request_id = uuid.uuid4().hex
        if self.connections.on_refused is not None:
            self.connections.on_refused(Refusal.of(self.head, error, self._client, request_id, answered=can_answer))
        if not can_answer:
            self.cut(reset=True)
            return
        self._transport.write(self._answer_to(error, request_id))
        self._linger()

    def _answer_to(self, error: GatewayError, request_id: str) -> bytes:
        connections = self.connections
        return refusal_answer(
            error,
            request_id,
            request_id_field=connections.request_id_field,
            is_head=self.head.method == b"HEAD",
            date_line=connections.date_line,
        )

    # Endings.

    def _linger(self) -> None:
        """Shut the write side and discard what still comes, so that closing does not reset the answer away.

        RFC 9112 section 9.6.
        """
        self._phase = _LINGER
        self._buffer = b""
        self._discarded = 0
        self.deadline = self.connections.clock() + LINGER_S
        self.is_sending = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.resume_reading()

    def _close(self) -> None:
        """Close once everything written has left; the client has ``send_timeout_s`` for each byte of it."""
        self._phase = _CLOSED
        self.deadline = NEVER
        self._buffer = b""
        self.is_sending = True
        self._transport.close()

    # Deadlines.

    def on_deadline(self, now: float) -> None:
        """What the connection waits for has not come in time."""
        self.deadline = NEVER
        if self._phase == _HEAD:
            self.refuse(RequestTimeout("the request head did not come in time"))
        elif self._phase == _EXCHANGE:
            self._fail_body(RequestTimeout("the request body came too slowly"))
        else:
            # Nobody asked for anything, or everything is said.
            self._close()

    def check_sending(self, now: float) -> None:
        """Cut a client that takes nothing of its answer."""
        if not self._transport.get_write_buffer_size():
            self._send_watch = None
            self.is_sending = False
            return
        if self._send_watch is None:
            self._send_watch = SendWatch()
        if self._send_watch.is_stalled(self._transport, now, self.connections.limits.send_timeout_s):
            if self._cycle is not None:
                self._cycle.disconnect()
            self.cut(reset=True)
