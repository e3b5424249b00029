"""What a cached route passes on to its upstream without the store: the answer says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.exchange import Exchange
from gateway.http.cache_key import CacheKey
from gateway.http.hop_by_hop import inbound_fields
from gateway.middleware.cache import CacheMiddleware
from gateway.middleware.cache_report import note
from gateway.upstream.messages import InboundResponse

if TYPE_CHECKING:
    from gateway.express.exchange import ExpressExchange
    from gateway.express.table import Passing


class Unstored:
    """How a request came past the store; ``before`` is how it came past the route's guards."""

    __slots__ = ("_before", "_cache", "_detail", "_result")

    def __init__(self, cache: CacheMiddleware, before: Passing | None, result: str, detail: str = "") -> None:
        self._cache = cache
        self._before = before
        self._result = result
        self._detail = detail

    def count(self, exchange: Exchange) -> bool:
        """Note what the cache has to do with a request that is certain to begin."""
        note(exchange, self._result, self._detail)
        return self._before is None or self._before.count(exchange)

    def hold(self, begun: ExpressExchange) -> None:
        """Have the answer say so."""
        begun.unstored = self
        if self._before is not None:
            self._before.hold(begun)

    def finish(self, begun: ExpressExchange, response: InboundResponse) -> None:
        """Say so in an answer that is about to leave."""
        raise NotImplementedError


class Bypass(Unstored):
    """A request that goes past the store because of ``detail``."""

    __slots__ = ()

    def __init__(self, cache: CacheMiddleware, before: Passing | None, detail: str) -> None:
        super().__init__(cache, before, "bypass", detail)

    def finish(self, begun: ExpressExchange, response: InboundResponse) -> None:
        begun.exchange.response_fields += self._cache.bypass_fields(response.status_code, self._detail)


class Alone(Unstored):
    """A request for what nobody else can get as well; ``requested_at`` in seconds since the epoch."""

    __slots__ = ("_is_identified", "_key", "_requested_at")

    def __init__(
        self,
        cache: CacheMiddleware,
        before: Passing | None,
        key: CacheKey,
        *,
        is_identified: bool,
        requested_at: float,
    ) -> None:
        super().__init__(cache, before, "miss")
        self._key = key
        self._is_identified = is_identified
        self._requested_at = requested_at

    def finish(self, begun: ExpressExchange, response: InboundResponse) -> None:
        exchange = begun.exchange
        reason, own = self._cache.alone_fields(
            self._key,
            response.status_code,
            inbound_fields(response.raw_fields, drop=begun.lane.hidden),
            size=len(response.whole or b""),
            authorized=self._is_identified,
            requested_at=self._requested_at,
        )
        note(exchange, "miss", reason)
        exchange.response_fields += own
