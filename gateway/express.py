"""Where the short way begins: a header section that has been let in, a route that has one, an endpoint with room."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Scope

from gateway.errors import GatewayError
from gateway.exchange import SCOPE_KEY, Admitted, Exchange, Recorder
from gateway.http.target import read_path
from gateway.middleware.admission import Admission
from gateway.proxy.express import ExpressExchange, ExpressRoute
from gateway.router import RouteTable


class ExpressClient(Protocol):
    """Whoever serves a client and can do so on the short way."""

    def begin_express(self, express: Express, route: ExpressRoute, exchange: Exchange) -> ExpressExchange:
        """From now on the client waits for this exchange."""


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
        self._match = table.match
        self._enter = enter
        self._recorders = tuple(recorders)
        self._clock = clock

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
        raw_path, _, query = target.partition(b"?")
        identity = admitted.identity
        scope: Scope = {
            "headers": admitted.fields,
            "raw_path": raw_path,
            "query_string": query,
            "extensions": {"gateway.target": target},
        }
        try:
            path = read_path(raw_path)
            match = self._match("GET", admitted.host, path, scope, identity.client)
            route: ExpressRoute | None = match.rule.target.express
            if route is None or not route.takes(admitted):
                return False
            exchange = scope[SCOPE_KEY] = Exchange("GET", target, self._clock)
            admitted.describe(exchange, self._admission.new_request_id())
            exchange.path = path
            exchange.params = match.params
            endpoint = route.upstream.try_acquire(scope)
        except GatewayError:
            return False
        if endpoint is None:
            return False
        self._enter()
        exchange.route = route.name
        exchange.decision = route.upstream.decision
        client.begin_express(self, route, exchange).send(endpoint, admitted, scope)
        return True

    def end(self, exchange: Exchange) -> None:
        """Record an exchange that ended on the short way."""
        for record in self._recorders:
            record(exchange)
