"""One server of an upstream: its address, its transport, and how it is doing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import httpx

from gateway.upstream.outlier import Ejection
from gateway.upstream.settings import EndpointSettings

_DEFAULT_PORTS = {"http": 80, "https": 443, "unix": 80, "asgi": 80}


class EndpointOwner(Protocol):
    """An upstream that an endpoint belongs to; during a reload there are two."""

    on_release: Callable[[Endpoint], None] | None
    """Is to hear of every request that has ended at the endpoint."""

    def on_change(self) -> None:
        """Something that decides where requests may go has changed."""

    def on_room(self, endpoint: Endpoint) -> bool:
        """A full endpoint has room for one more request; True when that place was taken at once."""

    def on_failure(self, endpoint: Endpoint) -> None:
        """An attempt at the endpoint has failed."""


class HealthState:
    """What active checks found out."""

    __slots__ = ("due", "failed", "healthy", "passed")

    def __init__(self) -> None:
        self.healthy = True
        self.passed = 0
        """Good checks in a row."""
        self.failed = 0
        """Bad checks in a row."""
        self.due: float | None = None
        """Time of the next check; None before the first was planned."""


class Endpoint:
    """A server that requests go to.

    ``label`` names it in log and metrics. ``url`` is its origin, built once; ``authority`` the Host value that goes
    with it. ``limit`` is the number of requests it may have in flight.
    """

    __slots__ = (
        "authority",
        "backup",
        "base_path",
        "connect_timeout_s",
        "cookie_id",
        "drain",
        "ejection",
        "failures",
        "hash_seed",
        "health",
        "in_flight",
        "is_closed",
        "is_followed",
        "is_started",
        "label",
        "last_error",
        "limit",
        "owners",
        "requests",
        "settings",
        "transport",
        "turn",
        "url",
        "warming_since",
        "warmth",
        "weight",
    )

    def __init__(
        self,
        settings: EndpointSettings,
        transport: httpx.AsyncBaseTransport,
        *,
        limit: int = 512,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.settings = settings
        self.transport = transport
        self.limit = limit
        self.connect_timeout_s = connect_timeout_s
        self.label = label_of(settings)
        authority = authority_of(settings)
        self.authority = authority.encode("ascii")
        self.url = httpx.URL(f"{'https' if settings.scheme == 'https' else 'http'}://{authority}")
        self.base_path = settings.base_path.encode("ascii")
        self.weight = settings.weight
        self.backup = settings.backup
        self.drain = settings.drain
        self.in_flight = 0
        self.requests = 0
        self.failures = 0
        """Failed attempts, all told."""
        self.last_error = ""
        self.health = HealthState()
        self.ejection = Ejection()
        self.warming_since: float | None = None
        self.warmth = 1.0
        """The part of its weight that a slow start grants."""
        self.turn = 0.0
        """How far a weighted round-robin owes it a request, when the endpoints it chooses from last changed."""
        self.hash_seed = int.from_bytes(hashlib.blake2b(self.identity.encode(), digest_size=8).digest(), "big")
        self.cookie_id = b""
        self.owners: list[EndpointOwner] = []
        """The upstreams that send requests here, the newest last; see ``join`` and ``leave``."""
        self.is_followed = True
        """Whether every request that ends is news: to an owner that keeps account, or where no owner is left."""
        self.is_started = False
        self.is_closed = False

    def __repr__(self) -> str:
        return f"<Endpoint {self.label}>"

    @property
    def identity(self) -> str:
        """What tells it from every other endpoint of the upstream, in every process and after every restart."""
        return f"{self.settings.url}\n{self.settings.address}"

    @property
    def share(self) -> float:
        """Its weight as balancing sees it now."""
        return self.weight * self.warmth

    @property
    def is_usable(self) -> bool:
        """Whether it is meant to get requests."""
        return self.weight > 0 and not self.drain

    @property
    def is_up(self) -> bool:
        """Whether neither active nor passive checks keep requests away."""
        return self.health.healthy and self.ejection.lets_in

    def join(self, owner: EndpointOwner) -> None:
        """Belong to ``owner`` too."""
        self.owners.append(owner)
        self._follow()

    def leave(self, owner: EndpointOwner) -> None:
        """Belong to ``owner`` no longer."""
        if owner in self.owners:
            self.owners.remove(owner)
            self._follow()

    def _follow(self) -> None:
        self.is_followed = not self.owners or any(owner.on_release is not None for owner in self.owners)

    def notify(self) -> None:
        """Tell the owners that something has changed."""
        notify_owners([self])


@dataclass(frozen=True, slots=True)
class EndpointState:
    """A reading of one endpoint; ``ejected_until`` is monotonic, None while in service."""

    label: str
    weight: int
    backup: bool
    drain: bool
    healthy: bool
    ejected_until: float | None
    ejections: int
    in_flight: int
    failures: int
    last_error: str
    requests: int


def state_of(endpoint: Endpoint) -> EndpointState:
    """How ``endpoint`` is doing now."""
    return EndpointState(
        label=endpoint.label,
        weight=endpoint.weight,
        backup=endpoint.backup,
        drain=endpoint.drain,
        healthy=endpoint.health.healthy,
        ejected_until=endpoint.ejection.until,
        ejections=endpoint.ejection.total,
        in_flight=endpoint.in_flight,
        failures=endpoint.failures,
        last_error=endpoint.last_error,
        requests=endpoint.requests,
    )


def open_endpoints(members: tuple[Endpoint, ...], panic: float) -> tuple[Endpoint, ...]:
    """The endpoints that get requests: primaries before backups, and all of a group when too few of it are up."""
    usable = [endpoint for endpoint in members if endpoint.is_usable]
    groups = [
        group for backup in (False, True) if (group := [endpoint for endpoint in usable if endpoint.backup is backup])
    ]
    for group in groups:
        up = [endpoint for endpoint in group if endpoint.is_up]
        if up:
            return tuple(up if len(up) >= panic * len(group) else group)
    return tuple(groups[0]) if groups and panic > 0 else ()


def why_out(endpoint: Endpoint) -> str:
    """Why an endpoint gets no requests; empty when it gets some."""
    if endpoint.drain:
        reason = "drained"
    elif endpoint.weight <= 0:
        reason = "weight 0"
    elif not endpoint.health.healthy:
        reason = "unhealthy"
    elif not endpoint.ejection.lets_in:
        reason = "on trial" if endpoint.ejection.half_open else "ejected"
    elif endpoint.in_flight >= endpoint.limit:
        reason = "full"
    else:
        return ""
    return f"{endpoint.label} {reason}"


def notify_owners(endpoints: Iterable[Endpoint]) -> None:
    """Tell every owner of ``endpoints``, each once, that something has changed."""
    for owner in dict.fromkeys(owner for endpoint in endpoints for owner in endpoint.owners):
        owner.on_change()


def authority_of(settings: EndpointSettings) -> str:
    """Host, in brackets when it is an IPv6 address, and the port unless it is the scheme's own."""
    host = _bracketed(settings.host)
    return host if settings.port == _DEFAULT_PORTS[settings.scheme] else f"{host}:{settings.port}"


def label_of(settings: EndpointSettings) -> str:
    """``127.0.0.1:9001``, ``shop.internal:80/10.0.0.7``, ``unix:/run/shop.sock`` or ``asgi:shop.main:app``."""
    if settings.scheme == "unix":
        return f"unix:{settings.uds}"
    if settings.scheme == "asgi":
        return f"asgi:{settings.app}"
    label = f"{_bracketed(settings.host)}:{settings.port}{settings.base_path}"
    return f"{label}/{settings.address}" if settings.address else label


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
