"""An upstream: who gets the next request.

The endpoints that can take a request stand ready in a tuple, made anew when health, ejection, drain, membership or
fullness changes and not for each request. During a reload two upstreams share endpoints: what happens to one of them
is told to both.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import secrets
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from gateway.errors import ConnectFailed, GatewayError, NoEndpoint, QueueFull
from gateway.exchange import Scope
from gateway.ticker import Ticker
from gateway.upstream.balancing import make_balancer
from gateway.upstream.budget import RetryBudget
from gateway.upstream.endpoint import Endpoint, EndpointState, notify_owners, open_endpoints, state_of, why_out
from gateway.upstream.health import HealthChecker
from gateway.upstream.outlier import OutlierDetector
from gateway.upstream.resolve import Lookup, Members, TransportFactory, lookup_host
from gateway.upstream.settings import EndpointSettings, UpstreamSettings
from gateway.upstream.slow_start import SlowStart
from gateway.upstream.sticky import StickyCookie
from gateway.upstream.waiting import WaitingLine

__all__ = ["TransportFactory", "Upstream"]

_MAX_RETRY_AFTER_S = 60

logger = logging.getLogger("gateway.upstream")


class Upstream:
    """A named group of endpoints.

    ``try_acquire`` or ``acquire`` chooses an endpoint and counts the request in flight there, ``release`` counts it
    back, ``record`` tells how an attempt went. Without ``start`` nothing is checked, looked up or timed out.
    ``resolver`` looks host names up; by default the system does.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        transport_factory: TransportFactory,
        ticker: Ticker,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        resolver: Lookup | None = None,
        predecessor: Upstream | None = None,
    ) -> None:
        self.settings = settings
        self._transport_factory = transport_factory
        self._ticker = ticker
        self._rng = rng
        self._clock = clock
        self._lookup = resolver or lookup_host
        self.retry_budget = RetryBudget(settings.retry_budget, lambda: self.in_flight)
        balancer = make_balancer(settings.balance, settings.hash_on, rng)
        self._pick = balancer.pick
        self.on_release = balancer.on_release
        self.looks_at_requests = settings.balance == "hash" or settings.sticky is not None
        """Whether the choice of an endpoint depends on the request."""
        self._sticky = _make_sticky(settings, predecessor)
        self.has_choice = False
        """Whether a request that one endpoint keeps waiting may as well go to another: not where clients stick."""
        self._slow_start = SlowStart(settings.slow_start_s)
        self._outlier = OutlierDetector(settings.outlier) if settings.outlier else None
        self._checker: HealthChecker | None = None
        if settings.health is not None:
            self._checker = HealthChecker(
                settings.health,
                lambda: self._members.endpoints,
                upstream=settings.name,
                rng=rng,
                on_change=self._on_health,
            )
        self._open: tuple[Endpoint, ...] = ()
        """Endpoints that are neither out nor kept in reserve, the full ones included."""
        self._available: tuple[Endpoint, ...] = ()
        """Those of them with room."""
        self._reserve: tuple[Endpoint, ...] = ()
        """Backups that are up while primaries get the requests: for those that every primary has failed."""
        self._only: Endpoint | None = None
        """The one there is no choice but."""
        self._by_cookie: dict[bytes, Endpoint] = {}
        self._is_unsettled = False
        """Whether time alone will change something."""
        self._waiting = WaitingLine(settings.name, self.release)
        self._remove_sweep: Callable[[], None] | None = None
        self._is_running = False
        self._is_closed = False
        self._successor: Upstream | None = None
        self._members = Members(
            settings,
            self,
            transport_factory=transport_factory,
            lookup=self._lookup,
            rng=rng,
            on_change=self.on_change,
            on_join=lambda endpoint: self._slow_start.begin(endpoint, clock()),
        )
        if predecessor is None:
            self._members.found()
        else:
            self._members.adopt(predecessor._members)

    # Requests.

    def try_acquire(self, scope: Scope, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """An endpoint for a request, counted in flight; None when all that are available are full.

        Those in ``tried`` get it only when there is no other, backups included. Raises NoEndpoint, or ConnectFailed
        when no name of the upstream has been resolved.
        """
        endpoint = self._only
        if endpoint is None:
            if tried or self._sticky is not None or not self._available:
                chosen = self._choose(scope, tried)
                if chosen is None:
                    return None
                endpoint = chosen
            else:
                endpoint = self._pick(self._available, scope)
        in_flight = endpoint.in_flight = endpoint.in_flight + 1
        endpoint.requests += 1
        if in_flight >= endpoint.limit or endpoint.ejection.half_open:
            self._on_taken(endpoint)
        return endpoint

    @property
    def has_room(self) -> bool:
        """Whether ``try_acquire`` finds an endpoint for a request that has tried none."""
        return self._only is not None or bool(self._available)

    async def acquire(self, scope: Scope, tried: Collection[Endpoint], timeout_s: float) -> Endpoint:
        """An endpoint for a request, waiting for room in the order of arrival.

        Raises what ``try_acquire`` does; QueueFull when too many wait or ``queue_timeout_s`` passes; UpstreamTimeout
        when ``timeout_s`` passes first.
        """
        endpoint = self.try_acquire(scope, tried)
        if endpoint is not None:
            return endpoint
        settings = self.settings
        if self._is_closed or len(self._waiting) >= settings.max_pending or settings.queue_timeout_s <= 0:
            raise QueueFull(f"upstream {settings.name}: all endpoints are full, {len(self._waiting)} requests wait")
        return await self._waiting.wait(
            scope, tried, now=self._clock(), timeout_s=timeout_s, queue_timeout_s=settings.queue_timeout_s
        )

    def release(self, endpoint: Endpoint) -> None:
        """The request has ended; its place goes to whoever has waited longest."""
        in_flight = endpoint.in_flight
        endpoint.in_flight = in_flight - 1
        if in_flight >= endpoint.limit or endpoint.is_followed:
            self._on_released(endpoint)

    def succeeded(self, endpoint: Endpoint) -> None:
        """``release`` and ``record`` of a request that went well."""
        in_flight = endpoint.in_flight
        endpoint.in_flight = in_flight - 1
        if in_flight >= endpoint.limit or endpoint.is_followed:
            self._on_released(endpoint)
        if endpoint.ejection.failures or endpoint.ejection.half_open:
            self.record(endpoint, ok=True)

    def release_after(self, endpoint: Endpoint, outcome: asyncio.Future[Any]) -> None:
        """``release``, and ``record`` a failure, when an attempt is over that its request did not wait for."""
        outcome.add_done_callback(partial(self._on_outcome, endpoint))

    def record(self, endpoint: Endpoint, *, ok: bool, error: str = "") -> None:
        """How one attempt went; what is the client's fault is not to be recorded. ``error`` is for the log."""
        ejection = endpoint.ejection
        if not ok:
            endpoint.failures += 1
            endpoint.last_error = error or endpoint.last_error
            if endpoint.owners:
                endpoint.owners[-1].on_failure(endpoint)
        elif (ejection.failures or ejection.half_open) and self._outlier is not None:
            now = self._clock()
            if self._outlier.succeeded(ejection, now):
                logger.info("endpoint %s of upstream %s is back", endpoint.label, self.settings.name)
                self._slow_start.begin(endpoint, now)
                endpoint.notify()

    def has_another(self, endpoint: Endpoint, tried: Collection[Endpoint]) -> bool:
        """Whether a request has somewhere to go besides ``endpoint`` and those it has tried."""
        for other in self._available:  # noqa: SIM110 - asked for most requests, and a generator costs three times as much
            if other is not endpoint and other not in tried:
                return True
        return False

    def sticky_cookie(self, scope: Scope, endpoint: Endpoint, secure: bool = False) -> bytes | None:
        """The Set-Cookie value for a client that has no valid cookie for ``endpoint``; None when it has."""
        sticky = self._sticky
        if sticky is None or endpoint.cookie_id in sticky.ids_in(scope):
            return None
        return sticky.header(endpoint, secure=secure)

    # Readings.

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, in the order of the configuration."""
        return self._members.endpoints

    @property
    def in_flight(self) -> int:
        """Requests in flight at all endpoints, those on their way out included."""
        return sum(endpoint.in_flight for endpoint in (*self._members.endpoints, *self._members.leaving))

    @property
    def pending(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiting)

    @property
    def decision(self) -> str:
        """How many endpoints a request can go to and why the others are out, for the log; empty when none is."""
        members, resolver = self._members.endpoints, self._members.resolver
        if len(self._available) == len(members) and not resolver.failing_count:
            return ""
        reasons = [*filter(None, map(why_out, members))]
        reasons += [f"{host} is not resolved" for host in resolver.failing]
        return f"{len(self._available)} of {len(members)} available: {', '.join(reasons)}" if reasons else ""

    def snapshot(self) -> list[EndpointState]:
        """How every endpoint is doing."""
        return [state_of(endpoint) for endpoint in self._members.endpoints]

    # Life.

    async def start(self) -> None:
        """Look names up, within ``connect_timeout_s`` seconds, and begin to check endpoints; once.

        A name without an answer is no error: its upstream goes on asking. Raises what the start of a transport raises.
        """
        for endpoint in self._members.endpoints:
            if self._checker is None:
                endpoint.health.healthy = True
            if self._outlier is None:
                endpoint.ejection.clear()
            if self._sticky is not None:
                endpoint.cookie_id = self._sticky.id_of(endpoint)
        await self._members.start(self._clock())
        self._remove_sweep = self._ticker.add(self.sweep)
        self._is_running = True
        notify_owners(self._members.endpoints)

    async def aclose(self) -> None:
        """End the background work and whoever waits; close the transports that no other upstream shares."""
        if self._is_closed:
            return
        self._is_closed = True
        self._is_running = False
        if self._remove_sweep is not None:
            self._remove_sweep()
        self._waiting.close(NoEndpoint(f"upstream {self.settings.name} is closing"))
        if self._checker is not None:
            await self._checker.aclose()
        await self._members.aclose()
        self.on_change()

    def successor(self, settings: UpstreamSettings) -> Upstream:
        """The upstream that takes over once it is started: unchanged endpoints are the very same.

        What was changed at run time stays where the configuration says nothing new. Until that start, and after it
        when the successor is closed first, this upstream goes on checking and looking up itself.
        """
        self._successor = Upstream(
            settings,
            transport_factory=self._transport_factory,
            ticker=self._ticker,
            rng=self._rng,
            clock=self._clock,
            resolver=self._lookup,
            predecessor=self,
        )
        return self._successor

    def sweep(self, now: float) -> None:
        """What time brings; called on every tick."""
        self._waiting.expire(now)
        if self._is_unsettled:
            self._advance(now)
        if not self._is_superseded:
            if self._checker is not None:
                self._checker.sweep(now)
            self._members.resolver.sweep(now)

    # Changes at run time.

    def add(self, settings: EndpointSettings) -> None:
        """Take in another endpoint; a host name joins with its first answer. Raises ValueError when it is known."""
        self._members.add(settings)

    def remove(self, label: str) -> None:
        """Send nothing more to an endpoint, or to all addresses of a name; close it when its requests have ended.

        This and the following raise LookupError for an unknown label.
        """
        self._members.remove(label)

    def drain(self, label: str, on: bool = True) -> None:
        """Send no new requests to an endpoint, or to all addresses of a name; with ``on`` False, send them again."""
        self._members.change(label, drain=on)

    def set_weight(self, label: str, weight: int) -> None:
        """Change the share of an endpoint, or of each address of a name; 0: nothing."""
        if weight < 0:
            raise ValueError(f"a weight is at least 0, not {weight}")
        self._members.change(label, weight=weight)

    # What endpoints tell.

    def on_change(self) -> None:
        """Make the tuples anew; whoever waits may go on, or has nothing left to wait for."""
        members = self._members.endpoints
        self._open = open_endpoints(members, self.settings.panic)
        self._available = tuple(endpoint for endpoint in self._open if endpoint.in_flight < endpoint.limit)
        self._reserve = tuple(
            endpoint
            for endpoint in members
            if endpoint.backup and endpoint.is_usable and endpoint.is_up and endpoint not in self._open
        )
        self.has_choice = len(self._open) > 1 and self._sticky is None
        is_alone = len(self._open) == 1 == len(self._available) and not self._reserve
        self._only = self._open[0] if is_alone else None
        self._is_unsettled = any(
            endpoint.ejection.until is not None or endpoint.warming_since is not None for endpoint in members
        )
        if self._sticky is not None:
            for endpoint in members:
                endpoint.cookie_id = endpoint.cookie_id or self._sticky.id_of(endpoint)
            self._by_cookie = {endpoint.cookie_id: endpoint for endpoint in members}
        if self._waiting:
            self._waiting.serve(self.try_acquire)

    def on_room(self, endpoint: Endpoint) -> bool:
        """Give the place that became free to the first that waits and wants it."""
        return endpoint in self._open and not endpoint.ejection.half_open and self._waiting.give(endpoint)

    def on_failure(self, endpoint: Endpoint) -> None:
        """Eject an endpoint that fails too often, if it can be spared."""
        outlier = self._outlier
        if outlier is None:
            return
        now = self._clock()
        usable = [other for other in self._members.endpoints if other.is_usable]
        ejected = sum(other.ejection.until is not None for other in usable)
        can_be_spared = ejected < outlier.allowed(len(usable)) and any(
            other.is_up for other in usable if other is not endpoint
        )
        if outlier.failed(endpoint.ejection, now, may_eject=can_be_spared and endpoint.is_usable):
            for_s = (endpoint.ejection.until or now) - now
            logger.warning("endpoint %s of upstream %s is ejected for %g s", endpoint.label, self.settings.name, for_s)
            endpoint.notify()

    def _on_health(self, endpoint: Endpoint) -> None:
        if endpoint.health.healthy:
            self._slow_start.begin(endpoint, self._clock())
        endpoint.notify()

    def _on_taken(self, endpoint: Endpoint) -> None:
        """The last place is taken, or the trial has begun."""
        if endpoint.ejection.half_open and endpoint.ejection.trial_since is None:
            endpoint.ejection.begin_trial(self._clock())
        endpoint.notify()

    def _on_released(self, endpoint: Endpoint) -> None:
        """A full endpoint has room again, one that left has a request less to finish, or somebody keeps account."""
        owners = endpoint.owners
        if not owners:
            self._members.close_idle(endpoint)
            return
        for owner in owners:
            if owner.on_release is not None:
                owner.on_release(endpoint)
        if endpoint.in_flight == endpoint.limit - 1 and not any(owner.on_room(endpoint) for owner in owners):
            endpoint.notify()

    def _on_outcome(self, endpoint: Endpoint, outcome: asyncio.Future[Any]) -> None:
        self.release(endpoint)
        if not outcome.cancelled() and (error := outcome.exception()) is not None:
            self.record(endpoint, ok=False, error=str(error))

    def _advance(self, now: float) -> None:
        changed = []
        for endpoint in self._members.endpoints:
            is_warmer = self._slow_start.advance(endpoint, now)
            outlier, ejection = self._outlier, endpoint.ejection
            if (outlier is not None and outlier.advance(ejection, now, endpoint.in_flight)) or is_warmer:
                changed.append(endpoint)
        notify_owners(changed)

    # Choosing.

    def _choose(self, scope: Scope, tried: Collection[Endpoint]) -> Endpoint | None:
        available = self._available
        if not available:
            if self._open:
                return None
            raise self._nobody()
        if tried:
            left = tuple(endpoint for endpoint in available if endpoint not in tried)
            if left:
                available = left
            elif any(endpoint not in tried for endpoint in self._open):
                # A full endpoint is worth waiting for when all the others have failed this request.
                return None
            else:
                available = self._untried_reserve(tried) or available
        if self._sticky is not None:
            for value in self._sticky.ids_in(scope):
                endpoint = self._by_cookie.get(value)
                if endpoint is not None and endpoint in available:
                    return endpoint
        return available[0] if len(available) == 1 else self._pick(available, scope)

    def _untried_reserve(self, tried: Collection[Endpoint]) -> tuple[Endpoint, ...]:
        return tuple(
            endpoint for endpoint in self._reserve if endpoint.in_flight < endpoint.limit and endpoint not in tried
        )

    def _nobody(self) -> GatewayError:
        reason = f"upstream {self.settings.name}: {self.decision or 'no endpoint'}"
        if not self._members.endpoints and self._members.resolver.failing:
            return ConnectFailed(reason)
        return NoEndpoint(reason, retry_after_s=self._retry_after_s())

    def _retry_after_s(self) -> int:
        """Seconds to the first return that can be foreseen."""
        now = self._clock()
        returns = [
            endpoint.ejection.until - now for endpoint in self._members.endpoints if endpoint.ejection.until is not None
        ]
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(min(returns, default=1.0))))

    @property
    def _is_superseded(self) -> bool:
        """Whether a later upstream does the background work."""
        later = self._successor
        while later is not None and not later._is_running:
            later = later._successor
        return later is not None


def _make_sticky(settings: UpstreamSettings, predecessor: Upstream | None) -> StickyCookie | None:
    if settings.sticky is None:
        return None
    key = settings.sticky.key
    if not key:
        old = predecessor._sticky if predecessor is not None else None
        key = old.key if old is not None else secrets.token_bytes(32)
    return StickyCookie(settings.sticky, settings.name, key)
