"""The lane to an upstream: a request to a connection that idles, and an answer that is there whole."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from gateway.errors import ClientLeft, ConnectionBroken
from gateway.exchange import Admitted, Attempt, Exchange
from gateway.express.coded import CodedHeads
from gateway.express.fields import (
    CODING,
    COMPRESSIBLE,
    HAS_DATE,
    HAS_LENGTH,
    HAS_VARY,
    NOT_PLAIN,
    REFERS,
    PlainFields,
    lines_of,
)
from gateway.http.coded_answer import ADDED_NAMES
from gateway.http.dates import http_date
from gateway.http.fields import Fields
from gateway.http.hop_by_hop import inbound_fields
from gateway.middleware.compression import CompressionMiddleware
from gateway.proxy.outbound import Outbound
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.http1_connection import Http1Connection
from gateway.upstream.http1_request import request_head
from gateway.upstream.messages import InboundResponse
from gateway.upstream.pool import Upstream

if TYPE_CHECKING:
    from gateway.express.table import Express, ExpressClient, Passing, Way
    from gateway.express.unstored import Unstored
    from gateway.middleware.concurrency import InFlight

# Without a body, or of meaning to retries and outlier detection.
_NOT_PLAIN_STATUSES = frozenset([204, 205, 304, 502, 503, 504])
_NO_SCOPE: dict[str, Any] = {}


class ProxiedLane:
    """A route whose requests go to one upstream. ``name`` is the route's.

    ``timeout_s``, ``attempt_timeout_s`` (0 for none) and ``idle_timeout_s`` as for ``ProxyHandler``; ``retried`` are
    statuses after which another attempt may follow.
    """

    def __init__(
        self,
        name: str,
        upstream: Upstream,
        *,
        outbound: Outbound,
        plain_fields: PlainFields,
        request_id_name: bytes,
        timeout_s: float,
        attempt_timeout_s: float,
        idle_timeout_s: float,
        retried: frozenset[Any],
        compression: CompressionMiddleware | None,
    ) -> None:
        self.name = name
        self.upstream = upstream
        self.upstream_name = upstream.settings.name
        self.outbound = outbound
        self.timeout_s = timeout_s
        self.head_s = min(timeout_s, attempt_timeout_s) if attempt_timeout_s else timeout_s
        self.timeouts = {"read": idle_timeout_s, "write": idle_timeout_s}
        self.plain_fields = plain_fields
        self.hidden = plain_fields.hidden
        self._retried = retried | _NOT_PLAIN_STATUSES
        self.is_coded = compression is not None
        """Whether tags that the client knows may have been weakened: the upstream needs to see their strong form."""
        self._coded_from = compression.rule.min_size if compression is not None else 0
        # On the long way the route's rules see what coding adds.
        self._compression = compression if plain_fields.leaves_alone(ADDED_NAMES) else None
        self._coded_heads = CodedHeads(self._compression) if self._compression is not None else None
        self._request_id_name = request_id_name
        self._id_line = request_id_name + b": " if request_id_name else b""
        self._is_sticky = upstream.settings.sticky is not None
        added = {scheme: plain_fields.added(scheme) for scheme in ("http", "https")}
        self._added_fields = added
        self._added = {scheme: lines_of(fields) for scheme, fields in added.items()}
        self._added_beside_vary = {
            scheme: lines_of([field for field in fields if field[0] != b"vary"]) for scheme, fields in added.items()
        }
        # Stands where the request id comes in heads that are kept; nobody outside can know it.
        self._mark = secrets.token_hex(16)
        self._any_exchange = Exchange("GET", b"/")
        self._any_exchange.route = name

    def begin(
        self,
        express: Express,
        admitted: Admitted,
        target: bytes,
        way: Way,
        client: ExpressClient,
        passing: Passing | None = None,
    ) -> bool:
        """Send the request; False when no endpoint has room. Raises NoEndpoint."""
        if self.is_coded and admitted.has_weak_tags:
            return False
        exchange = express.exchange(admitted, target, way)
        upstream = self.upstream
        if passing is not None and not (upstream.has_room and passing.count(exchange)):
            return False
        scope = way.scope(admitted, target, exchange) if upstream.looks_at_requests else _NO_SCOPE
        endpoint = upstream.try_acquire(scope)
        if endpoint is None:
            return False
        express.enter()
        exchange.decision = upstream.decision
        begun = client.begin_express(express, self, exchange)
        if passing is not None:
            passing.hold(begun)
        begun.send(endpoint, admitted, target, way)
        return True

    def public_interim(self, fields: Fields) -> Fields:
        """What the client sees of the fields of an interim response."""
        return inbound_fields(fields, drop=self.hidden)

    def head(self, admitted: Admitted, endpoint: Endpoint, target: bytes, way: Way, exchange: Exchange) -> bytes:
        """The request to ``endpoint``, up to its empty line. Raises BadRequest for what cannot be written."""
        out = way.targets.get(endpoint.base_path)
        if out is None:
            scope = way.scope(admitted, target, exchange)
            out = way.targets[endpoint.base_path] = self.outbound.target_for(endpoint, scope, way.params)
        key = (self, endpoint) if self.outbound.is_for_endpoint else self
        parts: list[bytes] | None = admitted.notes.get(key)
        if parts is None:
            parts = self._head_parts(admitted, endpoint)
            admitted.note(key, parts)
        return b"GET " + out + exchange.request_id.encode("ascii").join(parts)

    def _head_parts(self, admitted: Admitted, endpoint: Endpoint) -> list[bytes]:
        """What follows the target of every request with these fields, cut where the request id stands."""
        exchange = self._any_exchange
        admitted.describe(exchange, self._mark)
        scope = {"headers": admitted.fields, "http_version": "1.1"}
        fields = self.outbound.fields_for(endpoint, self.outbound.fields(scope, exchange))
        head = request_head(b"GET", b"/", fields, None)
        return head.removeprefix(b"GET /").split(self._mark.encode("ascii"))

    def public_head(self, begun: ExpressExchange, response: InboundResponse) -> tuple[bytes, bool, bytes] | None:
        """What the client gets: the lines of the head, whether the length is among them, and the body.

        None if it takes more work.
        """
        flags = 0
        lines = []
        plain_fields = self.plain_fields
        for field in response.raw_fields:
            flag, line, _ = plain_fields[field]
            flags |= flag
            lines.append(line)
        if not self._is_plain(flags, begun, response):
            return None
        body = response.whole or b""
        has_length = flags & HAS_LENGTH != 0
        if flags & COMPRESSIBLE and (not has_length or len(body) >= self._coded_from):
            if self._coded_heads is None:
                return None
            lines = []
            asked: Fields = []
            for field in response.raw_fields:
                flag, line, _ = plain_fields[field]
                if flag & CODING:
                    asked.append(field)
                else:
                    lines.append(line)
            coded = self._coded_heads.answer(response.status_code, asked, body, begun.admitted.fields)
            if coded is None:
                return None
            # What is coded has a length, whether the plain body has one or not.
            has_length = has_length or coded[1] is not body
            coded_lines, body = coded
            lines.append(coded_lines)
        exchange = begun.exchange
        if begun.unstored is not None:
            begun.unstored.finish(begun, response)
        if self._is_sticky:
            self._stick(begun)
        if self._id_line:
            lines += (self._id_line, exchange.request_id.encode("ascii"), b"\r\n")
        if exchange.response_fields:
            lines.append(lines_of(exchange.response_fields))
        lines.append((self._added_beside_vary if flags & HAS_VARY else self._added)[exchange.scheme])
        if not flags & HAS_DATE:
            lines.append(b"date: %b\r\n" % http_date(time.time()))
        return b"".join(lines), has_length, body

    def public_answer(self, begun: ExpressExchange, response: InboundResponse) -> tuple[Fields, bytes] | None:
        """The same as fields and body."""
        flags = 0
        fields: Fields = []
        plain_fields = self.plain_fields
        for field in response.raw_fields:
            flag, _, kept = plain_fields[field]
            flags |= flag
            if kept is not None:
                fields.append(kept)
        if not self._is_plain(flags, begun, response):
            return None
        body = response.whole or b""
        if flags & COMPRESSIBLE and (not flags & HAS_LENGTH or len(body) >= self._coded_from):
            if self._compression is None:
                return None
            coded = self._compression.whole_answer(response.status_code, fields, body, begun.admitted.fields)
            if coded is None:
                return None
            fields, body = coded
        exchange = begun.exchange
        if begun.unstored is not None:
            begun.unstored.finish(begun, response)
        if self._is_sticky:
            self._stick(begun)
        if self._request_id_name:
            fields.append((self._request_id_name, exchange.request_id.encode("ascii")))
        fields += exchange.response_fields
        added = self._added_fields[exchange.scheme]
        fields += [field for field in added if field[0] != b"vary"] if flags & HAS_VARY else added
        if not flags & HAS_DATE:
            fields.append((b"date", http_date(time.time())))
        return fields, body

    def _stick(self, begun: ExpressExchange) -> None:
        """Bring the client back to the endpoint, if it has not been told so before."""
        exchange = begun.exchange
        scope = {"headers": begun.admitted.fields}
        cookie = self.upstream.sticky_cookie(scope, begun.endpoint, secure=exchange.scheme == "https")
        if cookie is not None:
            exchange.response_fields.append((b"set-cookie", cookie))

    def _is_plain(self, flags: int, begun: ExpressExchange, response: InboundResponse) -> bool:
        """Whether nothing but a coding can still need more work."""
        if flags & NOT_PLAIN or response.status_code in self._retried:
            return False
        if flags & REFERS and begun.admitted.prefix:
            return False
        # Only one of several says what was added.
        return not flags & HAS_VARY or sum(name == b"vary" for name, _ in response.raw_fields) == 1


def framed(lines: bytes, has_length: bool, body: bytes) -> tuple[bytes, bytes]:
    """The lines with the framing of HTTP/1.1 among them, and the body so framed."""
    if has_length:
        return lines, body
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    return lines + b"transfer-encoding: chunked\r\n", chunks


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
