"""One exchange on the short way: from its request on a connection that idles to one of its many ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.errors import ClientLeft, ConnectionBroken
from gateway.exchange import Admitted, Attempt, Exchange
from gateway.http.fields import Fields
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.http1_connection import Http1Connection
from gateway.upstream.messages import InboundResponse

if TYPE_CHECKING:
    from gateway.express.proxied import ProxiedLane
    from gateway.express.table import Way
    from gateway.express.unstored import Unstored
    from gateway.middleware.concurrency import InFlight


class ExpressExchange:
    """One exchange on the short way. Whoever serves the client overrides ``answer``, ``go_on`` and ``inform``.

    It waits for the response in the place of a future. ``error`` and ``response`` are what came; ``is_sent`` says
    whether the request has left at all, ``was_stale`` that it did on a connection which the upstream had closed.
    """

    __slots__ = (
        "_connection",
        "admitted",
        "deadline",
        "endpoint",
        "error",
        "exchange",
        "is_over",
        "is_sent",
        "is_settled",
        "is_taken",
        "lane",
        "place",
        "response",
        "unstored",
        "was_stale",
        "way",
    )

    def __init__(self, lane: ProxiedLane, exchange: Exchange) -> None:
        self.lane = lane
        self.exchange = exchange
        self.deadline = exchange.started + lane.timeout_s
        self.is_sent = False
        self.was_stale = False
        self.response: InboundResponse | None = None
        self.error: Exception | None = None
        self.is_over = False
        self.is_settled = False
        self.is_taken = False
        self._connection: Http1Connection | None = None
        self.place: InFlight | None = None
        """Where it is counted while it lasts, on a route that bounds how many there are."""
        self.unstored: Unstored | None = None
        """Why a cache was not asked, on a route that has one."""
        self.endpoint: Endpoint
        self.admitted: Admitted
        self.way: Way

    def send(self, endpoint: Endpoint, admitted: Admitted, target: bytes, way: Way) -> None:
        """Send the request for ``target`` to ``endpoint``, which counts it in flight already."""
        self.endpoint, self.admitted, self.way = endpoint, admitted, way
        exchange, lane, transport = self.exchange, self.lane, endpoint.transport
        if not isinstance(transport, Http1Transport):
            self.go_on()
            return
        try:
            head = lane.head(admitted, endpoint, target, way, exchange)
        except Exception:
            # The layers fail on it as well, and answer it.
            self.go_on()
            return
        connection = transport.take_idle(exchange.started)
        if connection is None:
            self.go_on()
            return
        exchange.attempts.append(Attempt(endpoint.label, exchange.started))
        self._connection = connection
        self.is_sent = True
        connection.begin(
            self,
            head,
            deadline=exchange.started + lane.head_s,
            timeouts=lane.timeouts,
            on_interim=self.inform,
        )

    def leave(self, admitted: Admitted, way: Way) -> None:
        """Go on through the layers before anything was sent; it is for them to choose an endpoint."""
        self.admitted, self.way = admitted, way
        self.is_taken = True
        self.go_on()

    # What the connection tells.

    def done(self) -> bool:
        """Whether nobody waits for the response any more."""
        return self.is_over

    def set_result(self, response: InboundResponse, /) -> None:
        """The response head is here, and the whole body if it is short."""
        self.is_over = True
        self.response = response
        whole = response.whole
        if whole is None:
            self.go_on()
            return
        self.answer(response, whole)

    def set_exception(self, error: Exception, /) -> None:
        """There will be no response."""
        self.is_over = True
        connection = self._connection
        if isinstance(error, ConnectionBroken) and connection is not None and connection.is_stale:
            # The upstream had closed a connection that seemed idle: nothing has happened, but it happens only once.
            self.exchange.attempts.clear()
            self.is_sent = False
            self.was_stale = True
        else:
            self.error = error
        self.go_on()

    # What the handler takes over.

    def take(self) -> Endpoint:
        """The endpoint, which whoever asks releases."""
        self.is_taken = True
        return self.endpoint

    async def outcome(self) -> InboundResponse | None:
        """The response; None when the connection was stale. Raises what happened in its place."""
        if self.error is not None:
            raise self.error
        return self.response

    # Endings.

    def settle(self, response: InboundResponse, size: int) -> None:
        """A plain answer, complete by now, ``size`` bytes for the client: the endpoint has done well and is free."""
        exchange = self.exchange
        attempt = exchange.attempts[0]
        attempt.status = exchange.status = response.status_code
        attempt.head_s = time.monotonic() - attempt.started
        attempt.outcome = "ok"
        exchange.body_bytes_out = size
        exchange.upstream = self.lane.upstream_name
        self.is_settled = True
        self.lane.upstream.succeeded(self.endpoint)

    def cancel(self) -> None:
        """Nobody waits for the response any more."""
        self.is_over = True
        if self._connection is not None:
            self._connection.abandon(self)

    def abandon(self) -> None:
        """The client has left, before the response was settled or went on."""
        self._free()
        exchange = self.exchange
        exchange.upstream = self.lane.upstream_name
        exchange.error = ClientLeft("the client left")
        exchange.status = ClientLeft.status
        exchange.outcome = "client-left"

    def let_go(self) -> None:
        """The layers have ended; not all of them come to the handler."""
        if not self.is_taken:
            # Nor may anybody come to it later: a flight goes on when its client has left.
            self.is_taken = True
            self._free()
        if self.place is not None:
            self.leave_place()

    def leave_place(self) -> None:
        """The exchange has ended: another may begin on its route."""
        assert self.place is not None
        self.place.count -= 1
        self.place = None

    def _free(self) -> None:
        if not self.is_over:
            self.cancel()
        elif self.response is not None and self.response.whole is None:
            self.response.stream.close()
        self.lane.upstream.release(self.endpoint)

    # The client's side.

    def answer(self, response: InboundResponse, body: bytes) -> None:
        """A complete response is here."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Take the exchange through the layers."""
        raise NotImplementedError

    def inform(self, status: int, fields: Fields) -> None:
        """An interim response."""
        raise NotImplementedError
