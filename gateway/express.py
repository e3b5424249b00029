"""Where the short way begins: a header section that has been let in, a route that has one, an endpoint with room."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Scope

from gateway.errors import GatewayError
from gateway.exchange import SCOPE_KEY, Admitted, Exchange, Recorder
from gateway.http.target import MAX_CACHED_BYTES, RequestPath, read_path
from gateway.middleware.admission import Admission
from gateway.proxy.express import ExpressExchange, ExpressRoute
from gateway.router import RouteTable

_MAX_REMEMBERED = 4096


class ExpressClient(Protocol):
    """Whoever serves a client and can do so on the short way."""

    def begin_express(self, express: Express, route: ExpressRoute, exchange: Exchange) -> ExpressExchange:
        """From now on the client waits for this exchange."""


class Way:
    """Where a target leads: the route, what its names matched, and the target for each base path of its endpoints."""

    __slots__ = ("params", "path", "route", "targets")

    def __init__(self, route: ExpressRoute | None, path: RequestPath, params: Mapping[str, bytes]) -> None:
        self.route = route
        self.path = path
        self.params = params
        self.targets: dict[bytes, bytes] = {}


class Express:
    """The short ways of one generation; ``app`` is the long one, for exchanges that turn out not to be plain."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        table: RouteTable,
        enter: Callable[[], None],
        recorders: Sequence[Recorder],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self._admission = admission
        self._new_request_id = admission.new_request_id
        self._match = table.match
        self._enter = enter
        self._recorders = tuple(recorders)
        self._clock = clock
        # With conditions on fields or clients, host and target alone do not say where a request goes.
        self._ways: dict[tuple[str, bytes], Way] | None = None if table.has_conditions else {}

    def admit(self, scope: Scope) -> Admitted | None:
        """Judge a header section; None where the long way has something to say about it."""
        try:
            return self._admission.admit(scope)
        except GatewayError:
            return None

    def begin(self, admitted: Admitted, target: bytes, client: ExpressClient) -> bool:
        """Send a GET without a body on its way; False, and nothing has happened, when it has to go the long one.

        ``target`` is a path and perhaps a query, of characters that have one meaning.
        """
        try:
            ways = self._ways
            way = None if ways is None else ways.get((admitted.host, target))
            if way is None:
                way = self._find(admitted, target)
            route = way.route
            if route is None or (route.is_coded and admitted.has_weak_tags):
                return False
            exchange = Exchange("GET", target, self._clock)
            admitted.describe(exchange, self._new_request_id())
            upstream = route.upstream
            endpoint = upstream.try_acquire(
                _scope_of(admitted, target, exchange) if upstream.looks_at_requests else _NO_SCOPE
            )
        except GatewayError:
            return False
        if endpoint is None:
            return False
        self._enter()
        exchange.path = way.path
        exchange.params = way.params
        exchange.route = route.name
        exchange.decision = upstream.decision
        out = way.targets.get(endpoint.base_path)
        if out is None:
            scope = _scope_of(admitted, target, exchange)
            out = way.targets[endpoint.base_path] = route.outbound.target_for(endpoint, scope, way.params)
        client.begin_express(self, route, exchange).send(endpoint, admitted, out)
        return True

    def end(self, exchange: Exchange) -> None:
        """Record an exchange that ended on the short way."""
        for record in self._recorders:
            record(exchange)

    def _find(self, admitted: Admitted, target: bytes) -> Way:
        raw_path, _, query = target.partition(b"?")
        path = read_path(raw_path)
        scope: Scope = {"headers": admitted.fields, "query_string": query}
        match = self._match("GET", admitted.host, path, scope, admitted.identity.client)
        way = Way(match.rule.target.express, path, match.params)
        ways = self._ways
        if ways is not None and len(target) <= MAX_CACHED_BYTES:
            if len(ways) >= _MAX_REMEMBERED:
                ways.clear()
            ways[admitted.host, target] = way
        return way


_NO_SCOPE: Scope = {}


def _scope_of(admitted: Admitted, target: bytes, exchange: Exchange) -> Scope:
    """As much of a scope as balancing and rewriting look at."""
    raw_path, _, query = target.partition(b"?")
    return {
        "headers": admitted.fields,
        "raw_path": raw_path,
        "query_string": query,
        "extensions": {"gateway.target": target},
        SCOPE_KEY: exchange,
    }
