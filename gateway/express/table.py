"""Where the short way begins: a header section that has been let in, and a target that leads to a lane."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Scope

from gateway.errors import GatewayError
from gateway.exchange import SCOPE_KEY, Admitted, Exchange, Recorder, ResponseRule, record_ended
from gateway.express.exchange import ExpressExchange
from gateway.express.proxied import ProxiedLane
from gateway.express.stored import StoredHead
from gateway.http.target import MAX_CACHED_BYTES, RequestPath, read_path_anew
from gateway.middleware.admission import Admission
from gateway.recent import Recent
from gateway.router import RouteTable

_MAX_REMEMBERED = 4096


class ExpressClient(Protocol):
    """Whoever serves a client and can do so on the short way."""

    def begin_express(self, express: Express, lane: ProxiedLane, exchange: Exchange) -> ExpressExchange:
        """From now on the client waits for this exchange."""

    def answer_at_once(self, status: int, head: StoredHead, id_name: bytes, exchange: Exchange, body: bytes) -> bool:
        """Answer with ``head``, the exchange's own fields, the request id unless its field has no name, and a body.

        False when it has to wait.
        """

    @property
    def may_answer_at_once(self) -> bool:
        """Whether it need not wait."""


class Passing(Protocol):
    """How a request came past the layers before its lane, and what they want to know of it."""

    def count(self, exchange: Exchange) -> bool:
        """Count a request that is certain to begin; False, and nothing has happened, for one that must not."""

    def hold(self, begun: ExpressExchange) -> None:
        """Take what has to be given back when the exchange has ended."""


class Lane(Protocol):
    """What a route is on the short way."""

    @property
    def name(self) -> str:
        """The route's."""

    def begin(
        self,
        express: Express,
        admitted: Admitted,
        target: bytes,
        way: Way,
        client: ExpressClient,
        passing: Passing | None = None,
    ) -> bool:
        """Serve a GET of ``target``; False, and nothing has happened, when it has to go the long way.

        Raises GatewayError, which means the same.
        """


class Destination(Protocol):
    """A route. ``unguarded`` are its layers behind those that decide who may use it."""

    lane: Lane | None
    unguarded: ASGIApp
    response_rules: tuple[ResponseRule, ...]


class Way:
    """Where a target leads: the route, what its names matched, and the target for each base path of the endpoints."""

    __slots__ = ("lane", "params", "path", "route", "targets")

    def __init__(self, route: Destination, path: RequestPath, params: Mapping[str, bytes]) -> None:
        self.route = route
        self.lane = route.lane
        self.path = path
        self.params = params
        self.targets: dict[bytes, bytes] = {}

    @staticmethod
    def scope(admitted: Admitted, target: bytes, exchange: Exchange) -> Scope:
        """As much of a scope as balancing and rewriting look at."""
        raw_path, _, query = target.partition(b"?")
        return {
            "headers": admitted.fields,
            "raw_path": raw_path,
            "query_string": query,
            "extensions": {"gateway.target": target},
            SCOPE_KEY: exchange,
        }


class Express:
    """The short ways of one generation; ``app`` takes exchanges on that were begun and turn out not to be plain.

    ``enter`` counts an exchange that goes on for a while, ``leave`` counts it back.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        table: RouteTable,
        enter: Callable[[], None],
        leave: Recorder,
        recorders: Sequence[Recorder],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.enter = enter
        self._leave = leave
        self.max_target_bytes = admission.max_target_bytes
        """For servers that do not enforce it themselves."""
        self._admission = admission
        self._new_request_id = admission.new_request_id
        self._match = table.match
        self._recorders = tuple(recorders)
        self._clock = clock
        # With conditions on fields or clients, host and target alone do not say where a request goes.
        self._ways: dict[tuple[str, bytes], Way] | None = None if table.has_conditions else {}
        self._recent = Recent()

    def admit(self, scope: Scope) -> Admitted | None:
        """Judge a header section; None where the long way has something to say about it."""
        try:
            return self._admission.admit(scope)
        except GatewayError:
            return None

    def begin(self, admitted: Admitted, target: bytes, client: ExpressClient) -> bool:
        """Serve a GET without a body; False, and nothing has happened, when it has to go the long way.

        ``target`` is a path and perhaps a query, of characters that have one meaning.
        """
        try:
            ways = self._ways
            way = None if ways is None else ways.get((admitted.host, target))
            if way is None:
                way = self._find(admitted, target)
            lane = way.lane
            return lane is not None and lane.begin(self, admitted, target, way, client)
        except GatewayError:
            return False

    def exchange(self, admitted: Admitted, target: bytes, way: Way) -> Exchange:
        """The record of an exchange that begins now."""
        exchange = Exchange("GET", target, self._clock)
        admitted.describe(exchange, self._new_request_id())
        exchange.path = way.path
        exchange.params = way.params
        assert way.lane is not None
        exchange.route = way.lane.name
        return exchange

    def end(self, begun: ExpressExchange) -> None:
        """Record an exchange that ended on the short way."""
        if begun.place is not None:
            begun.leave_place()
        self._leave(begun.exchange)
        self.record(begun.exchange)

    def record(self, exchange: Exchange) -> None:
        """Record an exchange that was over as soon as it began, and so was never counted."""
        exchange.finished = self._clock()
        record_ended(exchange, self._recorders)

    def _find(self, admitted: Admitted, target: bytes) -> Way:
        raw_path, _, query = target.partition(b"?")
        path = read_path_anew(raw_path)
        scope: Scope = {"headers": admitted.fields, "query_string": query}
        match = self._match("GET", admitted.host, path, scope, admitted.identity.client)
        way = Way(match.rule.target, path, match.params)
        ways = self._ways
        if ways is not None and len(target) <= MAX_CACHED_BYTES:
            key = (admitted.host, target)
            if self._recent.has_met(key):
                if len(ways) >= _MAX_REMEMBERED:
                    ways.clear()
                ways[key] = way
        return way
