"""The lane to an upstream: a request to a connection that idles, and an answer that is there whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from gateway.exchange import Admitted, Exchange
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
from gateway.express.request_template import MARK, RequestTemplate, make_template
from gateway.http.coded_answer import ADDED_NAMES
from gateway.http.dates import http_date
from gateway.http.fields import Fields
from gateway.http.hop_by_hop import inbound_fields
from gateway.middleware.compression import CompressionMiddleware
from gateway.proxy.outbound import Outbound
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.http1_request import request_head
from gateway.upstream.messages import InboundResponse
from gateway.upstream.pool import Upstream

if TYPE_CHECKING:
    from gateway.express.exchange import ExpressExchange
    from gateway.express.table import Express, ExpressClient, Passing, Way

# Without a body, or of meaning to retries and outlier detection.
_NOT_PLAIN_STATUSES = frozenset([204, 205, 304, 502, 503, 504])
_MAX_TEMPLATES = 256
# Each connection that idles may have a head for each route and endpoint.
_MAX_NOTED_BYTES = 4 * 1024
_NO_SCOPE: dict[str, Any] = {}


class ProxiedLane:
    """A route whose requests go to one upstream. ``name`` is the route's.

    ``timeout_s``, ``attempt_timeout_s`` (0 for none) and ``idle_timeout_s`` as for ``ProxyHandler``; ``retried`` are
    statuses after which another attempt may follow. ``is_same_for_all`` says that the route's rules for the fields of
    requests make nothing of who sends them.
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
        is_same_for_all: bool,
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
        self._any_exchange = Exchange("GET", b"/")
        self._any_exchange.route = name
        self._is_same_for_all = is_same_for_all
        self._templates: dict[object, RequestTemplate | None] = {}
        self._leaves_targets = outbound.leaves_targets(b"")

    def begin(
        self,
        express: Express,
        admitted: Admitted,
        target: bytes,
        way: Way,
        client: ExpressClient,
        passing: Passing | None = None,
    ) -> bool:
        """Send the request; False when no endpoint has room, the rate is exceeded or weak tags have to be changed.

        Raises NoEndpoint.
        """
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
        out = target
        if endpoint.base_path or not self._leaves_targets:
            out = way.targets.get(endpoint.base_path) or self._target(admitted, endpoint, target, way, exchange)
        key = (self, endpoint) if self.outbound.is_for_endpoint else self
        parts: list[bytes] | None = admitted.notes.get(key)
        if parts is None:
            parts = self._head_parts(admitted, endpoint)
            if sum(map(len, parts)) <= _MAX_NOTED_BYTES:
                admitted.note(key, parts)
        return b"GET " + out + exchange.request_id.encode("ascii").join(parts)

    def _target(self, admitted: Admitted, endpoint: Endpoint, target: bytes, way: Way, exchange: Exchange) -> bytes:
        scope = way.scope(admitted, target, exchange)
        out = way.targets[endpoint.base_path] = self.outbound.target_for(endpoint, scope, way.params)
        return out

    def _head_parts(self, admitted: Admitted, endpoint: Endpoint) -> list[bytes]:
        """What follows the target of every request with these fields, cut where the request id stands."""
        if admitted.names is not None and self._is_same_for_all:
            key = (endpoint, admitted.names) if self.outbound.is_for_endpoint else admitted.names
            if key not in self._templates:
                self._learn(key, admitted, endpoint)
            template = self._templates[key]
            if template is not None:
                return template.fill(admitted)
        exchange = self._any_exchange
        admitted.describe(exchange, MARK)
        head = request_head(b"GET", b"/", self._outbound_fields(admitted.fields, exchange, endpoint), None)
        return head.removeprefix(b"GET /").split(MARK.encode("ascii"))

    def _learn(self, key: object, admitted: Admitted, endpoint: Endpoint) -> None:
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()

        def make_fields(fields: Fields, exchange: Exchange) -> Fields:
            exchange.route = self.name
            return self._outbound_fields(fields, exchange, endpoint)

        self._templates[key] = make_template(admitted, make_fields)

    def _outbound_fields(self, fields: Fields, exchange: Exchange, endpoint: Endpoint) -> Fields:
        common = self.outbound.fields({"headers": fields, "http_version": "1.1"}, exchange)
        return self.outbound.fields_for(endpoint, common)

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
