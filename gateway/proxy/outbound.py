"""The request as the upstream gets it: target, fields, framing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import Scope

from gateway.exchange import Exchange, exchange_of
from gateway.http.fields import Fields
from gateway.http.hop_by_hop import outbound_fields
from gateway.http.target import TargetRewrite
from gateway.upstream.endpoint import Endpoint

FieldsMaker = Callable[[Scope, Exchange], Fields]
"""Fields that the gateway adds to a request: forwarding, Via, request id."""

FieldsRule = Callable[[Fields, Exchange], Fields]
"""Rewrites the fields of a request: the route's request_headers."""

PRESERVE = "preserve"
UPSTREAM = "upstream"


class Outbound:
    """Turns the client's request into the upstream's; one for each route.

    ``host_header`` is ``preserve``, ``upstream`` or a literal. ``drop`` names fields that never leave, such as
    credentials that the gateway has judged; ``protected`` are fields that the gateway itself has put into the request:
    they pass whatever their names. ``make_rewrite`` gives the target rule for each base path of the endpoints.
    """

    def __init__(
        self,
        *,
        make_rewrite: Callable[[bytes], TargetRewrite],
        add: tuple[FieldsMaker, ...] = (),
        rule: FieldsRule | None = None,
        host_header: str = PRESERVE,
        drop: frozenset[bytes] = frozenset(),
        protected: frozenset[bytes] = frozenset(),
    ) -> None:
        self._make_rewrite = make_rewrite
        self._rewrites: dict[bytes, TargetRewrite] = {}
        self._add = add
        self._rule = rule
        self._host_header = host_header
        self._literal_host = None if host_header in (PRESERVE, UPSTREAM) else host_header.encode("ascii")
        self._drop = drop
        self._protected = protected
        self.is_for_endpoint = host_header == UPSTREAM
        """Whether the fields differ from one endpoint to the other."""

    def fields(self, scope: Scope, exchange: Exchange) -> Fields:
        """The fields that every attempt has in common."""
        fields = outbound_fields(scope["headers"], drop=self._drop, protected=self._protected)
        for make in self._add:
            fields += make(scope, exchange)
        if self._rule is not None:
            fields = self._rule(fields, exchange)
        if self._literal_host is not None:
            return _with_host(fields, self._literal_host)
        return fields

    def fields_for(self, endpoint: Endpoint, common: Fields) -> Fields:
        """The fields of one attempt; a list that the transport may keep."""
        if self._host_header == UPSTREAM:
            return _with_host(common, endpoint.authority)
        return common

    def request_for(self, scope: Scope, endpoint: Endpoint) -> tuple[bytes, Fields]:
        """Target and fields of a request to ``endpoint``, where there is only one attempt at a time."""
        exchange = exchange_of(scope) or Exchange(scope.get("method", "GET"), scope["raw_path"])
        fields = self.fields_for(endpoint, self.fields(scope, exchange))
        return self.target_for(endpoint, scope, exchange.params), fields

    def target_for(self, endpoint: Endpoint, scope: Scope, params: Mapping[str, bytes]) -> bytes:
        """Path and query for ``endpoint``: the client's own bytes, less and plus prefixes."""
        rewrite = self._rewrite(endpoint.base_path)
        query: bytes = scope["query_string"]
        target = rewrite.apply(scope["raw_path"], query, params)
        # ASGI has one word for no query and for an empty one; the server's own extension tells them apart.
        if not query and (scope.get("extensions") or {}).get("gateway.target", b"")[-1:] == b"?":
            target += b"?"
        return target

    def leaves_targets(self, base_path: bytes) -> bool:
        """Whether endpoints with this base path get every target as it is."""
        return self._rewrite(base_path).is_identity

    def _rewrite(self, base_path: bytes) -> TargetRewrite:
        rewrite = self._rewrites.get(base_path)
        if rewrite is None:
            rewrite = self._rewrites[base_path] = self._make_rewrite(base_path)
        return rewrite


def _with_host(fields: Fields, host: bytes) -> Fields:
    for index, field in enumerate(fields):
        if field[0] == b"host":
            return [*fields[:index], (b"host", host), *fields[index + 1 :]]
    return [(b"host", host), *fields]
