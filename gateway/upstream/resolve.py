"""Discovery: which servers an upstream has.

``Resolver`` looks host names up again and again; ``Members`` keeps the endpoints in step with the configuration, the
answers, and what is changed at run time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import httpx

from gateway.upstream.endpoint import Endpoint, EndpointOwner, label_of, notify_owners
from gateway.upstream.settings import EndpointSettings, UpstreamSettings

TransportFactory = Callable[[UpstreamSettings, EndpointSettings], httpx.AsyncBaseTransport]
"""Makes the transport of one endpoint; a transport may have ``async start()``, called before the first request."""

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the IP addresses, A and AAAA, of a host name and port. Raises OSError or UnicodeError."""

OnAnswer = Callable[[EndpointSettings, list[str]], None]

_JITTER = 0.1
_FIRST_RETRY_S = 1.0

logger = logging.getLogger("gateway.upstream")


async def lookup_host(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver gives, in its order (RFC 6724)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for _, _, _, _, address in found]


class Resolver:
    """Looks the names of one upstream up every ``interval_s`` seconds, and each within ``timeout_s``.

    ``on_answer`` gets every good answer. A lookup that fails or finds nothing is logged once and leaves the last answer
    as it is. ``sweep`` starts what is due, on every tick; times are late by at most one tick.
    """

    def __init__(
        self,
        lookup: Lookup,
        on_answer: OnAnswer,
        *,
        upstream: str,
        interval_s: float,
        timeout_s: float,
        rng: random.Random,
    ) -> None:
        self._lookup = lookup
        self._on_answer = on_answer
        self._upstream = upstream
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._rng = rng
        self._names: dict[str, _Name] = {}
        self.failing_count = 0
        """How many of the names are failing: asked for every request."""
        self._lookups: set[asyncio.Task[None]] = set()

    @property
    def failing(self) -> list[str]:
        """The host names whose last lookup failed."""
        return [name.endpoint.host for name in self._names.values() if name.is_failing]

    def track(self, endpoint: EndpointSettings, *, is_known: bool = False) -> None:
        """Look the host of ``endpoint`` up from now on: at once, or in its turn when its addresses are known."""
        self._names[endpoint.url] = _Name(endpoint, is_known)

    def forget(self, url: str) -> None:
        """Look an endpoint up no longer."""
        name = self._names.pop(url, None)
        if name is not None and name.is_failing:
            self.failing_count -= 1
        if name is not None and name.task is not None:
            name.task.cancel()

    def update(self, endpoint: EndpointSettings) -> None:
        """Give addresses that come later the weight, and all else, of ``endpoint``."""
        name = self._names.get(endpoint.url)
        if name is not None:
            name.endpoint = endpoint

    async def first(self, now: float) -> None:
        """Look up what has no answer yet; returns when all is known, or after the timeout while lookups go on."""
        unknown = [name for name in self._names.values() if not name.is_known]
        for name in unknown:
            self._begin(name, now)
        tasks = [name.task for name in unknown if name.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self._timeout_s)

    def sweep(self, now: float) -> None:
        """Start the lookups that are due, and end those that take too long."""
        for name in list(self._names.values()):
            if name.task is not None:
                if now >= name.deadline and not name.is_expired:
                    name.is_expired = True
                    name.task.cancel()
            elif name.due is None:
                # Spread, so that gateways that started together do not ask together for ever.
                name.due = now + self._interval_s * self._rng.random() if name.is_known else now
            if name.task is None and name.due is not None and now >= name.due:
                self._begin(name, now)

    async def aclose(self) -> None:
        """End every lookup."""
        self._names.clear()
        for task in self._lookups:
            task.cancel()
        await asyncio.gather(*self._lookups, return_exceptions=True)

    def _begin(self, name: _Name, now: float) -> None:
        usual = self._interval_s * self._rng.uniform(1.0 - _JITTER, 1.0 + _JITTER)
        # Without any address there is nothing to lose by asking soon again.
        name.due = now + (usual if name.is_known else min(usual, _FIRST_RETRY_S))
        name.deadline = now + self._timeout_s
        name.is_expired = False
        name.task = asyncio.create_task(self._run(name))
        self._lookups.add(name.task)
        name.task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._lookups.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("looking up a host of upstream %s failed", self._upstream, exc_info=error)

    async def _run(self, name: _Name) -> None:
        endpoint = name.endpoint
        reason = ""
        addresses: list[str] = []
        try:
            addresses = list(dict.fromkeys(await self._lookup(endpoint.host, endpoint.port)))
            reason = "" if addresses else "no address"
        except asyncio.CancelledError:
            if not name.is_expired:
                raise
            reason = f"no answer within {self._timeout_s:g} s"
        except (OSError, UnicodeError) as error:
            reason = str(error) or type(error).__name__
        finally:
            name.task = None
        if self._names.get(endpoint.url) is not name:
            return
        if reason:
            self._keep(name, reason)
            return
        if name.is_failing:
            logger.info("host %s of upstream %s is resolved again", endpoint.host, self._upstream)
            name.is_failing = False
            self.failing_count -= 1
        if not name.is_known:
            name.is_known = True
            name.due = None
        self._on_answer(name.endpoint, addresses)

    def _keep(self, name: _Name, reason: str) -> None:
        if not name.is_failing:
            kept = "its last addresses stay" if name.is_known else "it has no address yet"
            host = name.endpoint.host
            logger.warning("host %s of upstream %s is not resolved, %s: %s", host, self._upstream, kept, reason)
            name.is_failing = True
            self.failing_count += 1


class _Name:
    """One endpoint whose host is looked up."""

    __slots__ = ("deadline", "due", "endpoint", "is_expired", "is_failing", "is_known", "task")

    def __init__(self, endpoint: EndpointSettings, is_known: bool) -> None:
        self.endpoint = endpoint
        self.is_known = is_known
        """Whether there is an answer, from this resolver or from the one before a reload."""
        self.is_failing = False
        self.is_expired = False
        self.due: float | None = None
        self.deadline = 0.0
        self.task: asyncio.Task[None] | None = None


class Members:
    """The endpoints of one upstream, in the order of the configuration, and their lives.

    ``on_change`` hears that endpoints came or went, ``on_join`` of each one that came while others were serving. An
    endpoint that left is closed when its last request has ended, unless another upstream shares it.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        owner: EndpointOwner,
        *,
        transport_factory: TransportFactory,
        lookup: Lookup,
        rng: random.Random,
        on_change: Callable[[], None],
        on_join: Callable[[Endpoint], None],
    ) -> None:
        self.settings = settings
        self.endpoints: tuple[Endpoint, ...] = ()
        self.leaving: set[Endpoint] = set()
        """Endpoints without an owner that have requests to finish."""
        self.resolver = Resolver(
            lookup,
            self._on_answer,
            upstream=settings.name,
            interval_s=settings.resolve_s,
            timeout_s=settings.connect_timeout_s,
            rng=rng,
        )
        self._owner = owner
        self._transport_factory = transport_factory
        self._on_change = on_change
        self._on_join = on_join
        self._sources: dict[str, _Source] = {}
        self._removed: set[str] = set()
        """Labels of single addresses that were taken out at run time."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._before: dict[Endpoint, tuple[int, bool, bool, int]] = {}
        """Weight, backup, drain and limit of the endpoints before the start."""
        self._follows = False
        self._holds = True
        """Whether the endpoints know their owner."""
        self._is_running = False

    def found(self) -> None:
        """Make the configured endpoints; those behind names come with the first answer."""
        for configured in self.settings.endpoints:
            if configured.url not in self._sources:
                self._new_source(configured)
        self._collect()

    def adopt(self, old: Members) -> None:
        """Make the configured endpoints out of those of ``old``, by difference.

        Where the configuration says nothing new, what was changed at run time stays. ``old`` and its endpoints stay
        as they are until the start, so that a reload that fails leaves nothing behind.
        """
        self._follows = True
        self._holds = False
        self._removed = set(old._removed)
        before = {configured.url: configured for configured in old.settings.endpoints}
        for configured in self.settings.endpoints:
            is_same = before.get(configured.url) == configured
            was = old._sources.get(configured.url)
            if configured.url in self._sources or (is_same and was is None):
                continue
            if was is None or was.is_resolved != self._is_resolved(configured):
                self._new_source(configured)
            elif is_same:
                self._inherit(was, was.settings, old.settings)
            else:
                self._inherit(was, configured, old.settings).is_changed = True
        for url, was in old._sources.items():
            if url not in before and url not in self._sources:
                self._inherit(was, was.settings, old.settings)
        self._collect()

    async def start(self, now: float) -> None:
        """Start the transports and look the names up; raises what the start of a transport raises."""
        if not self._holds:
            self._hold()
        for source in self._sources.values():
            for endpoint in source.endpoints:
                self._before[endpoint] = _values(endpoint)
                if source.is_changed:
                    settings = source.settings
                    _set_values(endpoint, (settings.weight, settings.backup, settings.drain, endpoint.limit))
                endpoint.limit = self.settings.max_connections
                if self._follows and not endpoint.is_started:
                    self._on_join(endpoint)
                await _start(endpoint)
        await self.resolver.first(now)
        self._is_running = True

    async def aclose(self) -> None:
        """Stop looking up, and close the transports that no other upstream shares."""
        self._is_running = False
        self._sources.clear()
        await self.resolver.aclose()
        for endpoint in self.endpoints:
            self._detach(endpoint)
        for endpoint in self.leaving:
            self._close(endpoint)
        self.leaving.clear()
        self.endpoints = ()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def close_idle(self, endpoint: Endpoint) -> None:
        """The last request of an endpoint without an owner may have ended."""
        if not endpoint.in_flight:
            self.leaving.discard(endpoint)
            self._close(endpoint)

    def add(self, settings: EndpointSettings) -> None:
        """Take in another endpoint; a host name joins with its first answer. Raises ValueError when it is known."""
        if settings.url in self._sources:
            raise ValueError(f"upstream {self.settings.name} has {label_of(settings)} already")
        source = self._sources[settings.url] = _Source(settings, self._is_resolved(settings))
        if source.is_resolved:
            self.resolver.track(settings)
        else:
            self._admit(source, settings)
        self._collect()

    def remove(self, label: str) -> None:
        """Send nothing more to an endpoint, or to all addresses of a name. Raises LookupError for an unknown label."""
        source, endpoints = self._labelled(label)
        if source.label == label:
            del self._sources[source.settings.url]
            self.resolver.forget(source.settings.url)
            self._removed = {removed for removed in self._removed if not removed.startswith(label + "/")}
        else:
            self._removed.add(label)
        for endpoint in list(endpoints):
            source.endpoints.remove(endpoint)
            self._detach(endpoint)
        self._collect()

    def change(self, label: str, **changes: Any) -> None:
        """Set ``weight`` or ``drain`` of an endpoint, or of all addresses of a name. Raises LookupError."""
        source, endpoints = self._labelled(label)
        if source.label == label:
            source.settings = replace(source.settings, **changes)
            self.resolver.update(source.settings)
        for endpoint in endpoints:
            for name, value in changes.items():
                setattr(endpoint, name, value)
        notify_owners(endpoints)

    def _labelled(self, label: str) -> tuple[_Source, list[Endpoint]]:
        for source in self._sources.values():
            if source.label == label:
                return source, source.endpoints
            for endpoint in source.endpoints:
                if endpoint.label == label:
                    return source, [endpoint]
        raise LookupError(f"upstream {self.settings.name} has no endpoint {label}")

    def _is_resolved(self, settings: EndpointSettings) -> bool:
        return self.settings.resolve_s > 0 and settings.has_host_name

    def _new_source(self, settings: EndpointSettings) -> None:
        source = self._sources[settings.url] = _Source(settings, self._is_resolved(settings))
        if source.is_resolved:
            self.resolver.track(settings)
        else:
            self._attach(source, self._make(settings))

    def _inherit(self, was: _Source, settings: EndpointSettings, old: UpstreamSettings) -> _Source:
        """A source with the endpoints of ``was``; where transports are made otherwise now, with its health alone."""
        source = self._sources[settings.url] = _Source(settings, was.is_resolved)
        shares = settings.scheme == "asgi" or old.transport_key == self.settings.transport_key
        for endpoint in was.endpoints:
            self._attach(source, endpoint if shares else self._make_like(endpoint))
        if source.is_resolved:
            self.resolver.track(settings, is_known=bool(source.endpoints))
        return source

    def _on_answer(self, settings: EndpointSettings, addresses: list[str]) -> None:
        source = self._sources[settings.url]
        known = {endpoint.settings.address for endpoint in source.endpoints}
        for address in addresses:
            found = replace(settings, address=address)
            if address not in known and label_of(found) not in self._removed:
                self._admit(source, found)
        for endpoint in [gone for gone in source.endpoints if gone.settings.address not in addresses]:
            logger.info("endpoint %s of upstream %s is gone", endpoint.label, self.settings.name)
            source.endpoints.remove(endpoint)
            self._detach(endpoint)
        self._collect()

    def _make(self, settings: EndpointSettings) -> Endpoint:
        transport = self._transport_factory(self.settings, settings)
        limit, connect_timeout_s = self.settings.max_connections, self.settings.connect_timeout_s
        return Endpoint(settings, transport, limit=limit, connect_timeout_s=connect_timeout_s)

    def _make_like(self, endpoint: Endpoint) -> Endpoint:
        made = self._make(endpoint.settings)
        for name in ("health", "ejection", "weight", "backup", "drain", "requests", "failures", "last_error"):
            setattr(made, name, getattr(endpoint, name))
        return made

    def _admit(self, source: _Source, settings: EndpointSettings) -> None:
        """Take in an endpoint that comes later than the others; one with a start to run joins after it."""
        endpoint = self._make(settings)
        if self._is_running:
            self._on_join(endpoint)
        if hasattr(endpoint.transport, "start"):
            self._spawn(self._start_and_attach(source, endpoint))
        else:
            self._attach(source, endpoint)

    async def _start_and_attach(self, source: _Source, endpoint: Endpoint) -> None:
        try:
            await _start(endpoint)
        except Exception:
            self._sources.pop(source.settings.url, None)
            self._close(endpoint)
            raise
        self._attach(source, endpoint)
        if self._sources.get(source.settings.url) is not source:
            source.endpoints.remove(endpoint)
            self._detach(endpoint)
        self._collect()

    def _attach(self, source: _Source, endpoint: Endpoint) -> None:
        source.endpoints.append(endpoint)
        if self._holds:
            endpoint.join(self._owner)

    def _hold(self) -> None:
        self._holds = True
        for source in self._sources.values():
            # The upstream before may have lost one in the meantime.
            source.endpoints = [endpoint for endpoint in source.endpoints if not endpoint.is_closed]
            for endpoint in source.endpoints:
                endpoint.join(self._owner)
        self._collect()

    def _detach(self, endpoint: Endpoint) -> None:
        is_newest = bool(endpoint.owners) and endpoint.owners[-1] is self._owner
        endpoint.leave(self._owner)
        before = self._before.pop(endpoint, None)
        if endpoint.owners:
            if is_newest and before is not None:
                # A reload that was given up: the upstream before it goes on with what it had.
                _set_values(endpoint, before)
                endpoint.notify()
        elif endpoint.in_flight:
            self.leaving.add(endpoint)
        else:
            self._close(endpoint)

    def _close(self, endpoint: Endpoint) -> None:
        if not endpoint.is_closed:
            endpoint.is_closed = True
            self._spawn(endpoint.transport.aclose())

    def _collect(self) -> None:
        self.endpoints = tuple(endpoint for source in self._sources.values() for endpoint in source.endpoints)
        self._on_change()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a transport of upstream %s failed to start or close", self.settings.name, exc_info=error)


class _Source:
    """An endpoint as it is configured, and the servers behind it: several for a host name."""

    __slots__ = ("endpoints", "is_changed", "is_resolved", "label", "settings")

    def __init__(self, settings: EndpointSettings, is_resolved: bool) -> None:
        self.settings = settings
        self.label = label_of(settings)
        self.is_resolved = is_resolved
        self.is_changed = False
        """Whether the endpoints get other values than those they had before a reload."""
        self.endpoints: list[Endpoint] = []


def _values(endpoint: Endpoint) -> tuple[int, bool, bool, int]:
    return endpoint.weight, endpoint.backup, endpoint.drain, endpoint.limit


def _set_values(endpoint: Endpoint, values: tuple[int, bool, bool, int]) -> None:
    endpoint.weight, endpoint.backup, endpoint.drain, endpoint.limit = values


async def _start(endpoint: Endpoint) -> None:
    if not endpoint.is_started:
        start = getattr(endpoint.transport, "start", None)
        if start is not None:
            await start()
        endpoint.is_started = True
