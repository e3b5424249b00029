"""What outlives a change of the route table: clock, cache, log, metrics, live WebSockets, limits in use."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Container, Iterator
from pathlib import Path

from gateway.config.document import Config
from gateway.config.server import CacheStoreConfig
from gateway.exchange import Recorder
from gateway.express.mounted import MountedExpress
from gateway.middleware.access_log import AccessLog
from gateway.middleware.cache import Cache
from gateway.middleware.coding_turn import CodingTurn
from gateway.middleware.concurrency import InFlight
from gateway.middleware.rate_limit_store import CounterStore
from gateway.proxy.client_watch import ClientWatch
from gateway.proxy.mirror import MirrorCounts
from gateway.proxy.websocket import LiveWebSockets
from gateway.stores.base import CacheStore
from gateway.stores.memory import MemoryStore
from gateway.telemetry.metrics import Gauge, Metrics
from gateway.ticker import Ticker
from gateway.upstream.fetch import Fetcher
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.pool import Upstream
from gateway.upstream.settings import UpstreamSettings
from gateway.wiring.upstreams import transport_factory

PSEUDONYM_VARIABLE = "GATEWAY_VIA"
"""Where the workers of one start find their common pseudonym."""

SECRET_VARIABLE = "GATEWAY_SECRET"
"""Where the workers of one start find the key of their sticky cookies, in hexadecimal."""

METRICS_VARIABLE = "GATEWAY_METRICS_DIR"
"""The folder in which workers leave their counters for one another."""

PUBLISH_S = 1.0


class Runtime:
    """The parts of one gateway that generations share; ``start`` needs a running event loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.ticker = Ticker()
        self.rng = random.Random()
        self._transport_factory = transport_factory(self.ticker)
        self.pseudonym = os.environ.get(PSEUDONYM_VARIABLE) or f"gw-{secrets.token_hex(4)}"
        secret = os.environ.get(SECRET_VARIABLE)
        self.secret = bytes.fromhex(secret) if secret else secrets.token_bytes(32)
        self.cache = Cache(make_store(config.cache))
        self.coding_turn = CodingTurn()
        self.websockets = LiveWebSockets(self.ticker)
        folder = os.environ.get(METRICS_VARIABLE)
        self.metrics = Metrics(folder=Path(folder) if folder else None)
        form = config.server.access_log
        self.access_log = None if form == "off" else AccessLog(form)
        self.client_watch: ClientWatch | None = None
        self.mounted: MountedExpress
        """The short way under other servers, once it is started."""
        self.upstreams: dict[str, Upstream] = {}
        """Those of the current generation, by name."""
        self.fetch = Fetcher(self.ticker)
        self.in_flight = InFlight()
        """Requests and open WebSockets of all generations."""
        self._in_flight_by_route: dict[str, InFlight] = {}
        self._mirrored: dict[str, MirrorCounts] = {}
        self._counters: dict[str, CounterStore] = {}
        self._published = 0.0
        self.metrics.add_reader(self._readings)

    async def start(self) -> None:
        """Begin what runs on the event loop."""
        self.client_watch = ClientWatch(self.ticker, body_timeout_s=self.config.server.limits.body_timeout)
        self.mounted = MountedExpress(self.ticker)
        if self.access_log is not None:
            self.access_log.start(self.ticker)
        self.ticker.add(self._sweep)

    def make_upstream(self, settings: UpstreamSettings) -> Upstream:
        """An upstream that has no predecessor."""
        return Upstream(settings, transport_factory=self._transport_factory, ticker=self.ticker, rng=self.rng)

    def counters(self, store: str) -> CounterStore:
        """The counters of rate limits in ``store``, ``memory`` or a URL: they go on counting after a reload."""
        found = self._counters.get(store)
        if found is None:
            found = self._counters[store] = CounterStore(store)
        return found

    def in_flight_on(self, route: str) -> InFlight:
        """The requests on a route, those included that an earlier generation serves."""
        return self._in_flight_by_route.setdefault(route, InFlight())

    def mirrored_on(self, route: str) -> MirrorCounts:
        """What became of the copies of a route's requests: they go on counting after a reload."""
        return self._mirrored.setdefault(route, MirrorCounts())

    def forget_routes_but(self, names: Container[str]) -> None:
        """Count no longer for routes that are gone and empty."""
        for name, in_flight in list(self._in_flight_by_route.items()):
            if name not in names and not in_flight.count:
                del self._in_flight_by_route[name]
        for name in [name for name in self._mirrored if name not in names]:
            del self._mirrored[name]

    def loop_lag(self) -> float:
        """How many seconds late the event loop was when it last came round."""
        return self.ticker.lag_s

    async def aclose(self) -> None:
        """Write what waits and end the rest."""
        self.metrics.publish()
        if self.access_log is not None:
            self.access_log.close()
        if self.client_watch is not None:
            self.client_watch.close()
        await self.cache.aclose()
        await self.fetch.aclose()
        for counters in self._counters.values():
            await counters.aclose()
        self.ticker.close()

    @property
    def recorders(self) -> tuple[Recorder, ...]:
        """Who reads an exchange when it has ended."""
        log = () if self.access_log is None else (self.access_log.record,)
        return (*log, self.metrics.record)

    def _sweep(self, now: float) -> None:
        if now - self._published >= PUBLISH_S:
            self._published = now
            self.metrics.publish()
            if isinstance(self.cache.store, MemoryStore):
                self.cache.store.sweep(self.cache.clock())

    def _readings(self) -> Iterator[Gauge]:
        yield Gauge("in_flight", "Requests and open WebSockets in flight.", (), self.in_flight.count)
        yield Gauge("event_loop_lag_seconds", "How late the last tick came.", (), self.ticker.lag_s, merge="max")
        yield Gauge("websockets", "WebSockets that are open.", (), len(self.websockets))
        store = self.cache.store
        if isinstance(store, MemoryStore):
            yield Gauge("cache_keys", "Keys in the memory cache.", (), len(store))
            yield Gauge("cache_bytes", "Space that the memory cache takes.", (), store.used_bytes)
        for name, counts in self._mirrored.items():
            for result in ("answered", "failed", "skipped"):
                place = (("route", name), ("result", result))
                yield Gauge("mirrored", "Copies of requests.", place, getattr(counts, result), is_counter=True)
        for name, upstream in self.upstreams.items():
            labels = (("upstream", name),)
            yield Gauge("upstream_pending", "Requests waiting for a connection.", labels, upstream.pending)
            for state in upstream.snapshot():
                place = (*labels, ("endpoint", state.label))
                yield Gauge("endpoint_in_flight", "Requests at the endpoint.", place, state.in_flight)
                yield Gauge("endpoint_healthy", "1 when active checks pass.", place, float(state.healthy), merge="min")
                is_ejected = float(state.ejected_until is not None)
                yield Gauge("endpoint_ejected", "1 while it is ejected.", place, is_ejected, merge="max")
                yield Gauge("endpoint_ejections", "Ejections.", place, state.ejections, is_counter=True)
                yield Gauge("endpoint_failures", "Failed attempts.", place, state.failures, is_counter=True)
            for endpoint in upstream.endpoints:
                if isinstance(endpoint.transport, Http1Transport):
                    place = (*labels, ("endpoint", endpoint.label))
                    connections = endpoint.transport.connections
                    yield Gauge("endpoint_connections", "Connections, idle ones included.", place, connections)


def make_store(config: CacheStoreConfig) -> CacheStore:
    """The store behind the caches of the routes."""
    if config.store == "memory":
        return MemoryStore(config.max_size)
    from gateway.stores.redis import RedisStore

    return RedisStore(config.store, prefix=config.prefix, timeout_s=config.timeout)
