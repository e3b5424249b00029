"""One exchange on the short way between a client's connection and an upstream's: no task, no messages."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway.errors import InternalError
from gateway.exchange import Exchange
from gateway.http.fields import Fields
from gateway.proxy.express import ExpressExchange, ExpressRoute
from gateway.server.response_head import STATUS_LINES, informational_head
from gateway.upstream.messages import InboundResponse

if TYPE_CHECKING:
    from gateway.express import Express
    from gateway.server.protocol import GatewayProtocol

# From here on two buffers are handed to the transport instead of one copy of both.
_JOIN_BYTES = 16 * 1024

logger = logging.getLogger("gateway.server")


class ExpressCycle(ExpressExchange):
    """Stands where a ``Cycle`` would: the connection tells it that the client has left, and hears when all is said."""

    __slots__ = ("_express", "_protocol", "_transport", "keep_alive")

    body_complete = True
    response_started = False

    def __init__(
        self,
        express: Express,
        route: ExpressRoute,
        exchange: Exchange,
        protocol: GatewayProtocol,
        transport: asyncio.Transport,
        keep_alive: bool,
    ) -> None:
        super().__init__(route, exchange)
        self._express = express
        self._protocol = protocol
        self._transport = transport
        self.keep_alive = keep_alive

    def answer(self, response: InboundResponse, body: bytes) -> None:
        try:
            self._answer(response, body)
        except Exception:
            # Whoever calls is the upstream's connection: the failure is none of its.
            logger.exception("request %s on route %r failed", self.exchange.request_id, self.route.name)
            self._protocol.refuse(InternalError("the answer could not be passed on"))

    def _answer(self, response: InboundResponse, body: bytes) -> None:
        protocol, exchange = self._protocol, self.exchange
        if protocol.write_paused is not None:
            self.go_on()
            return
        public = self.route.public_head(response, exchange, protocol.connections.date_line)
        if public is None:
            self.go_on()
            return
        lines, has_length = public
        parts = [STATUS_LINES[response.status_code], lines]
        size = len(body)
        if not has_length:
            parts.append(b"transfer-encoding: chunked\r\n")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if size else b"0\r\n\r\n"
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        if size < _JOIN_BYTES:
            parts.append(body)
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines((b"".join(parts), body))
        exchange.body_bytes_out = size
        exchange.finished = protocol.connections.clock()
        self.settle(response)
        self._express.end(exchange)
        protocol.response_done(self)

    def go_on(self) -> None:
        self._protocol.leave_express(self, self._express.app)

    def inform(self, status: int, fields: Fields) -> None:
        if 102 <= status <= 199 and not self.is_over:
            self._transport.write(informational_head(status, self.route.public_interim(fields)))

    def disconnect(self) -> None:
        """The client is gone."""
        if self.is_over:
            return
        self.abandon()
        self.exchange.finished = self._protocol.connections.clock()
        self._express.end(self.exchange)
