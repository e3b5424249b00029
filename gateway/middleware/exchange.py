"""Keeps one record per request, answers what failed, and runs the response rules: the outermost layer of the gateway.

app = ExchangeMiddleware(app, gates=[check_host], recorders=[access_log.record])
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import CapacityError, ClientError, ClientLeft, GatewayError, InternalError, UpstreamError
from gateway.exchange import BEGUN_KEY, SCOPE_KEY, WHOLE_FOLLOWS, Exchange, Outcome, Recorder, record_ended
from gateway.http.dates import http_date
from gateway.http.fields import get_joined
from gateway.http.problem import problem_response

Gate = Callable[[Scope, Exchange], None]
"""Checks a request, or adds what it found to the exchange; raises a GatewayError to end it. May change the scope."""

logger = logging.getLogger("gateway")

_KINDS = frozenset(["http", "websocket"])

_OWN_SERVER = "gateway.target"
"""Extension by which the gateway's own server is known: it frames every answer as it must be."""


class ExchangeMiddleware:
    """Opens an Exchange, passes the gates in order, and hands it to the recorders when the response has ended.

    A GatewayError from a gate or from below is answered as a problem document, or by cutting the connection when the
    response has begun. Any other exception is a 500 with a traceback in the log. ``request_id_header`` carries the
    request id on every answer; empty: none does. An exchange that was begun on the short way goes on. ``clock`` gives
    monotonic seconds, ``wall_clock`` those of Date.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        gates: Sequence[Gate] = (),
        recorders: Sequence[Recorder] = (),
        request_id_header: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.app = app
        self.gates = tuple(gates)
        self.recorders = tuple(recorders)
        self.request_id_header = request_id_header.lower().encode("ascii")
        self.clock = clock
        self.wall_clock = wall_clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in _KINDS:
            await self.app(scope, receive, send)
            return
        target: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
        if scope["query_string"]:
            target = b"%b?%b" % (target, scope["query_string"])
        elif (scope.get("extensions") or {}).get(_OWN_SERVER, b"")[-1:] == b"?":
            # ASGI has one word for no query and for an empty one.
            target += b"?"
        begun = scope.get(BEGUN_KEY)
        exchange = begun.exchange if begun is not None else Exchange(scope.get("method", "GET"), target, self.clock)
        scope = {**scope, SCOPE_KEY: exchange}
        responder = Responder(scope, exchange, send, self.request_id_header, self.wall_clock)
        try:
            for gate in self.gates:
                gate(scope, exchange)
            await self.app(scope, receive, responder.send)
        except GatewayError as error:
            await responder.fail(error)
        except Exception as error:
            logger.exception("request %s on route %r failed", exchange.request_id, exchange.route)
            await responder.fail(InternalError(f"{type(error).__name__}: {error}"))
        except BaseException:
            # Cancelled by the server: nothing can be answered any more, but the record is kept.
            exchange.outcome = "aborted"
            raise
        finally:
            if begun is not None:
                begun.let_go()
            exchange.finished = self.clock()
            record_ended(exchange, self.recorders)


class Responder:
    """The way out of one exchange: every response head passes here, whoever made it."""

    __slots__ = ("_exchange", "_request_id_header", "_scope", "_send", "_started", "_wall_clock")

    def __init__(
        self,
        scope: Scope,
        exchange: Exchange,
        send: Send,
        request_id_header: bytes,
        wall_clock: Callable[[], float],
    ) -> None:
        self._scope = scope
        self._exchange = exchange
        self._send = send
        self._request_id_header = request_id_header
        self._wall_clock = wall_clock
        self._started = False

    # A plain function that returns the next one's awaitable: a coroutine of its own would cost 0.6 us a message.
    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message to the client; a head goes through the rules of the route first."""
        kind = message["type"]
        if kind == "http.response.body":
            self._exchange.body_bytes_out += len(message.get("body", b""))
        elif kind == "http.response.start":
            message = self._finish_head(message)
        elif kind == "websocket.accept":
            self._started = True
            self._exchange.status = 101
            message = self._with_own_fields(message)
        elif kind == "websocket.close" and not self._started:
            self._started = True
            self._exchange.status = 403
        elif kind == "websocket.http.response.start":
            message = self._finish_head(message)
        return self._send(message)

    def _finish_head(self, message: Message) -> Message:
        self._started = True
        exchange = self._exchange
        exchange.status = message["status"]
        message = self._with_own_fields(message)
        for rule in exchange.response_rules:
            rule(self._scope, message)
        fields = message["headers"]
        if message["status"] == 304 and not self._has_own_server:
            # Other servers would wait for as many bytes of a body that no 304 has.
            fields = message["headers"] = [field for field in fields if field[0] != b"content-length"]
        for name, _ in fields:
            if name == b"date":
                break
        else:
            fields.append((b"date", http_date(self._wall_clock())))
        return message

    def _with_own_fields(self, message: Message) -> Message:
        """A copy with the fields of this exchange alone: the message from below may be shared with others."""
        exchange, name = self._exchange, self._request_id_header
        fields = [*message.get("headers", ()), *exchange.response_fields]
        if name:
            for index, field in enumerate(fields):
                if field[0] == name:
                    fields[index] = (name, exchange.request_id.encode("latin-1"))
                    break
            else:
                fields.append((name, exchange.request_id.encode("latin-1")))
        return {**message, "headers": fields}

    async def fail(self, error: GatewayError) -> None:
        """Answer with ``error``, or cut the connection when a response has begun.

        Raises ``error`` where the server offers no way of cutting: it then does so by itself.
        """
        exchange = self._exchange
        exchange.error = error
        exchange.outcome = self._outcome(error)
        if isinstance(error, ClientLeft):
            exchange.status = error.status
            return
        if self._started:
            abort = (self._scope.get("extensions") or {}).get("gateway.abort")
            if abort is None:
                raise error
            abort()
            return
        status, fields, body = self._answer(error)
        if self._scope["type"] == "websocket":
            await self._refuse_websocket(status, fields, body)
            return
        await self.send({"type": "http.response.start", "status": status, "headers": fields, WHOLE_FOLLOWS: True})
        await self.send({"type": "http.response.body", "body": b"" if exchange.method == "HEAD" else body})

    def _answer(self, error: GatewayError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        accept = get_joined(self._scope["headers"], b"accept")
        status, fields, body = problem_response(error, self._exchange.request_id, accept)
        if not self._has_own_server and not error.close and self._leaves_upload():
            fields.append((b"connection", b"close"))
        return status, fields, body

    @property
    def _has_own_server(self) -> bool:
        return _OWN_SERVER in (self._scope.get("extensions") or ())

    def _leaves_upload(self) -> bool:
        """Whether the rest of a request body may still be on its way."""
        for name, value in self._scope["headers"]:
            if name == b"content-length":
                return value.isdigit() and int(value) > self._exchange.body_bytes_in
            if name == b"transfer-encoding":
                return True
        return False

    async def _refuse_websocket(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
        if "websocket.http.response" in (self._scope.get("extensions") or {}):
            await self.send({"type": "websocket.http.response.start", "status": status, "headers": fields})
            await self._send({"type": "websocket.http.response.body", "body": body})
        else:
            await self.send({"type": "websocket.close"})
            self._exchange.status = status

    def _outcome(self, error: GatewayError) -> Outcome:
        if isinstance(error, ClientLeft):
            return "client-left"
        if self._started:
            return "aborted"
        if isinstance(error, ClientError | CapacityError):
            return "refused"
        return "failed" if isinstance(error, UpstreamError | InternalError) else "refused"
