"""The short way of a plain exchange: a request without a body to a connection that idles, an answer that needs no work.

``ProxyHandler`` and the layers before it say what an exchange means; this is what is left of them when there is nothing
to wait for but the upstream. Their rules are asked once for each header section and each field, and remembered. What
turns out not to be plain goes on through the layers from where it stands: the handler takes over the endpoint, the
attempt and what came of it, and decides about retries, coding and streaming.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, Protocol

from gateway.errors import ClientLeft, ConnectionBroken
from gateway.exchange import SCOPE_KEY, Admitted, Attempt, Exchange, Message, ResponseRule, Scope
from gateway.http.fields import Fields
from gateway.http.hop_by_hop import inbound_fields, is_plain_connection
from gateway.proxy.outbound import Outbound
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.http1_connection import Http1Connection
from gateway.upstream.http1_request import request_head
from gateway.upstream.messages import InboundResponse
from gateway.upstream.pool import Upstream

Field = tuple[bytes, bytes]

HAS_LENGTH, HAS_DATE, COMPRESSIBLE, NOT_PLAIN = 1, 2, 4, 8
"""What a field says about its response."""

_MAX_REMEMBERED = 1024
# What they become depends on where the client thinks it is.
_REFERENCES = frozenset([b"location", b"content-location", b"refresh"])
# Without a body, or of meaning to retries and outlier detection.
_NOT_PLAIN_STATUSES = frozenset([204, 205, 304, 502, 503, 504])
_DROPPED = 0, b""


class Compression(Protocol):
    """What decides about the coding of answers."""

    min_size: int

    def is_compressible(self, media_type: bytes) -> bool: ...


class PlainFields(dict[Field, tuple[int, bytes]]):
    """What becomes of a field of an upstream's response: what it says about it, and its line for the client.

    The line is empty for what is dropped: ``hidden`` fields, those of the hop, and ``own``, which the gateway adds
    itself.
    """

    def __init__(
        self,
        *,
        hidden: frozenset[bytes],
        own: frozenset[bytes],
        answer_rules: tuple[ResponseRule, ...],
        response_rules: tuple[ResponseRule, ...],
        compression: Compression | None,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self._own = own
        self._answer_rules = answer_rules
        self._response_rules = response_rules
        self._compression = compression

    def __missing__(self, field: Field) -> tuple[int, bytes]:
        verdict = self._judge(field)
        # What is one client's alone is not to be kept.
        if field[0] != b"set-cookie":
            if len(self) >= _MAX_REMEMBERED:
                self.clear()
            self[field] = verdict
        return verdict

    def added(self, scheme: str) -> Fields:
        """What the route's rules add to a response with none of the names that they look at."""
        return _after(self._response_rules, [], scheme)

    def _judge(self, field: Field) -> tuple[int, bytes]:
        name, value = field
        if name == b"connection":
            return _DROPPED if is_plain_connection(value) else (NOT_PLAIN, b"")
        if name in self._own or not inbound_fields([field], drop=self.hidden):
            return _DROPPED
        if name in _REFERENCES:
            return NOT_PLAIN, b""
        if name == b"set-cookie":
            (field,) = _after(self._answer_rules, [field], "https")
        if _after(self._response_rules, [field], "https") != [field, *self.added("https")]:
            return NOT_PLAIN, b""
        return self._flags(name, value), b"%b: %b\r\n" % field

    def _flags(self, name: bytes, value: bytes) -> int:
        if name == b"content-length":
            return HAS_LENGTH
        if name == b"date":
            return HAS_DATE
        if self._compression is not None:
            if name == b"content-encoding":
                return NOT_PLAIN
            if name == b"content-type" and self._compression.is_compressible(value):
                return COMPRESSIBLE
        return 0


def _after(rules: Iterable[ResponseRule], fields: Fields, scheme: str) -> Fields:
    """``fields`` after ``rules``, none of which looks at more of an exchange than its scheme."""
    exchange = Exchange("GET", b"/")
    exchange.scheme = scheme
    scope: Scope = {SCOPE_KEY: exchange, "headers": []}
    message: Message = {"type": "http.response.start", "status": 200, "headers": list(fields)}
    for rule in rules:
        rule(scope, message)
    found: Fields = message["headers"]
    return found


class ExpressRoute:
    """A route for which there is a short way. ``name`` is the route's.

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
        compression: Compression | None,
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
        self._coded_from = compression.min_size if compression is not None else 0
        self._id_line = request_id_name + b": " if request_id_name else b""
        self._added = {
            scheme: b"".join(b"%b: %b\r\n" % field for field in plain_fields.added(scheme))
            for scheme in ("http", "https")
        }
        # Stands where the request id comes in heads that are kept; nobody outside can know it.
        self._mark = secrets.token_hex(16)

    def public_interim(self, fields: Fields) -> Fields:
        """What the client sees of the fields of an interim response."""
        return inbound_fields(fields, drop=self.hidden)

    def head(self, admitted: Admitted, endpoint: Endpoint, target: bytes, request_id: str) -> bytes:
        """The request to ``endpoint``, up to its empty line."""
        key = endpoint if self.outbound.is_for_endpoint else self
        parts = admitted.heads.get(key)
        if parts is None:
            parts = admitted.heads[key] = self._head_parts(admitted, endpoint)
        return b"GET " + target + request_id.encode("ascii").join(parts)

    def _head_parts(self, admitted: Admitted, endpoint: Endpoint) -> list[bytes]:
        """What follows the target of every request with these fields, cut where the request id stands."""
        exchange = Exchange("GET", b"/")
        admitted.describe(exchange, self._mark)
        exchange.route = self.name
        scope = {"headers": admitted.fields, "http_version": "1.1"}
        fields = self.outbound.fields_for(endpoint, self.outbound.fields(scope, exchange))
        head = request_head(b"GET", b"/", fields, None)
        return head.removeprefix(b"GET /").split(self._mark.encode("ascii"))

    def public_head(self, response: InboundResponse, exchange: Exchange, date_line: bytes) -> tuple[bytes, bool] | None:
        """The lines of the client's response head, and whether the length is among them; None if it takes more work."""
        flags = 0
        lines = []
        plain_fields = self.plain_fields
        for field in response.raw_fields:
            flag, line = plain_fields[field]
            flags |= flag
            lines.append(line)
        if flags & NOT_PLAIN or response.status_code in self._retried:
            return None
        has_length = flags & HAS_LENGTH
        if flags & COMPRESSIBLE and (not has_length or len(response.whole or b"") >= self._coded_from):
            return None
        if self._id_line:
            lines += (self._id_line, exchange.request_id.encode("ascii"), b"\r\n")
        lines.append(self._added[exchange.scheme])
        if not flags & HAS_DATE:
            lines.append(date_line)
        return b"".join(lines), bool(has_length)


class ExpressExchange:
    """One exchange on the short way. Whoever serves the client overrides ``answer``, ``go_on`` and ``inform``.

    It waits for the response in the place of a future. ``error`` and ``response`` are what came; ``is_sent`` says
    whether the request has left at all, ``was_stale`` that it did on a connection which the upstream had closed.
    """

    __slots__ = (
        "_connection",
        "deadline",
        "endpoint",
        "error",
        "exchange",
        "is_over",
        "is_sent",
        "response",
        "route",
        "was_stale",
    )

    def __init__(self, route: ExpressRoute, exchange: Exchange) -> None:
        self.route = route
        self.exchange = exchange
        self.deadline = exchange.started + route.timeout_s
        self.is_sent = False
        self.was_stale = False
        self.response: InboundResponse | None = None
        self.error: Exception | None = None
        self.is_over = False
        self._connection: Http1Connection | None = None
        self.endpoint: Endpoint

    def send(self, endpoint: Endpoint, admitted: Admitted, target: bytes) -> None:
        """Send the request for ``target`` to ``endpoint``, which counts it in flight already."""
        self.endpoint = endpoint
        exchange, route, transport = self.exchange, self.route, endpoint.transport
        if not isinstance(transport, Http1Transport):
            self.go_on()
            return
        head = route.head(admitted, endpoint, target, exchange.request_id)
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
            deadline=exchange.started + route.head_s,
            timeouts=route.timeouts,
            on_interim=self.inform,
        )

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

    def outcome(self) -> InboundResponse:
        """The response; raises what happened in its place."""
        if self.error is not None:
            raise self.error
        assert self.response is not None
        return self.response

    # Endings.

    def settle(self, response: InboundResponse) -> None:
        """A plain answer, complete by now: the endpoint has done well and is free."""
        exchange, endpoint, upstream = self.exchange, self.endpoint, self.route.upstream
        attempt = exchange.attempts[0]
        attempt.status = exchange.status = response.status_code
        attempt.head_s = exchange.finished - attempt.started
        attempt.outcome = "ok"
        exchange.upstream = self.route.upstream_name
        upstream.release(endpoint)
        upstream.record(endpoint, ok=True)

    def abandon(self) -> None:
        """The client has left."""
        if self.is_over:
            return
        self.is_over = True
        if self._connection is not None:
            self._connection.abandon(self)
        upstream, exchange = self.route.upstream, self.exchange
        exchange.upstream = self.route.upstream_name
        upstream.release(self.endpoint)
        exchange.error = ClientLeft("the client left")
        exchange.status = ClientLeft.status
        exchange.outcome = "client-left"

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
