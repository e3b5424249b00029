"""One exchange on the short way between a client's connection and an upstream's: no task, no messages."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway.exchange import Exchange
from gateway.express.exchange import ExpressExchange
from gateway.express.proxied import ProxiedLane, framed
from gateway.http.fields import Fields
from gateway.server.response_head import STATUS_LINES, informational_head
from gateway.upstream.messages import InboundResponse

if TYPE_CHECKING:
    from gateway.express.table import Express
    from gateway.server.protocol import GatewayProtocol

# From here on two buffers are handed to the transport instead of one copy of both.
_JOIN_BYTES = 16 * 1024

logger = logging.getLogger("gateway.server")


def write_whole(transport: asyncio.Transport, status: int, lines: bytes, body: bytes, *, keep_alive: bool) -> None:
    """Write a response to an HTTP/1.1 request in one piece; ``lines`` are its fields, framing included."""
    end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
    if len(body) < _JOIN_BYTES:
        transport.write(b"".join((STATUS_LINES[status], lines, end, body)))
    else:
        transport.writelines((b"".join((STATUS_LINES[status], lines, end)), body))


class ExpressCycle(ExpressExchange):
    """Stands where a ``Cycle`` would: the connection tells it that the client has left, and hears when all is said."""

    __slots__ = ("_express", "_protocol", "_transport", "keep_alive")

    body_complete = True
    response_started = False

    def __init__(
        self,
        express: Express,
        lane: ProxiedLane,
        exchange: Exchange,
        protocol: GatewayProtocol,
        transport: asyncio.Transport,
        keep_alive: bool,
    ) -> None:
        super().__init__(lane, exchange)
        self._express = express
        self._protocol = protocol
        self._transport = transport
        self.keep_alive = keep_alive

    def answer(self, response: InboundResponse, body: bytes) -> None:
        try:
            protocol = self._protocol
            public = None if protocol.write_paused is not None else self.lane.public_head(self, response)
            if public is None:
                self.go_on()
                return
            lines, has_length, whole = public
            size = len(whole)
            if not has_length:
                lines, whole = framed(lines, has_length, whole)
            write_whole(self._transport, response.status_code, lines, whole, keep_alive=self.keep_alive)
            self.settle(response, size)
            self._express.end(self)
            protocol.response_done(self)
        except Exception:
            # Whoever calls is the upstream's connection: the failure is none of its.
            logger.exception("request %s on route %r failed", self.exchange.request_id, self.lane.name)
            if self.is_settled:
                # What follows an answer is taken for the answer to the next request.
                self._protocol.cut(reset=True)
            else:
                self.go_on()

    def go_on(self) -> None:
        self._protocol.leave_express(self, self._express.app)

    def inform(self, status: int, fields: Fields) -> None:
        if 102 <= status <= 199 and not self.is_over:
            self._transport.write(informational_head(status, self.lane.public_interim(fields)))

    def disconnect(self) -> None:
        """The client is gone."""
        if self.is_over:
            return
        self.abandon()
        self._express.end(self)
