"""What an upstream is to be: plain frozen values, compared by value, so that a reload keeps what did not change."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

Scheme = Literal["http", "https", "unix", "asgi"]
Balance = Literal["round-robin", "least-requests", "p2c", "random", "hash", "first"]


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """One server as it is configured, or, with ``address``, one of the servers behind a host name.

    ``url`` is the text that identifies it. ``host`` is lower case, an IPv6 address without brackets, ``localhost`` for
    ``unix`` and ``asgi``. ``base_path`` is empty, or begins with a slash and ends without one. ``address`` is the IP
    address to connect to; empty: ``host`` itself. TLS and Host go by ``host`` in any case.
    """

    url: str
    scheme: Scheme
    host: str
    port: int
    base_path: str = ""
    uds: str = ""
    app: str = ""
    weight: int = 1
    backup: bool = False
    drain: bool = False
    address: str = ""

    @property
    def has_host_name(self) -> bool:
        """Whether there is a name to look up."""
        if self.scheme not in ("http", "https"):
            return False
        try:
            ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return True
        return False


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """TLS to https endpoints: paths of PEM files, None where absent.

    ``ca`` None: the authorities of the system. ``server_name`` None: the host of the URL, for SNI and the check.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class StickySettings:
    """A cookie that brings a client back to its endpoint.

    ``max_age_s`` 0 makes it a cookie of the browser session. ``key`` keeps addresses from being guessed from the
    cookie; processes that serve the same clients share it. Empty: a random one, kept over reloads.
    """

    cookie: str = "gw_endpoint"
    max_age_s: float = 3600.0
    key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Active checks; ``status`` has first and last status of each range that counts as good."""

    path: str = "/healthz"
    interval_s: float = 5.0
    timeout_s: float = 2.0
    rise: int = 2
    fall: int = 3
    status: tuple[tuple[int, int], ...] = ((200, 399),)
    method: str = "GET"
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """Passive checks: ``failures`` in a row, none later than ``interval_s`` after the one before, eject an endpoint,
    first for ``ejection_s``."""

    failures: int = 5
    interval_s: float = 10.0
    ejection_s: float = 10.0
    max_ejection_s: float = 300.0
    max_ejected: float = 0.5


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """A named group of endpoints. Times in seconds, sizes in bytes; the defaults are those of routes.toml.

    ``hash_on`` is ``client-ip``, ``path``, ``header:NAME``, ``cookie:NAME`` or ``query:NAME``. ``resolve_s`` 0: a host
    name stays one endpoint, looked up by whoever connects. ``retry_budget`` is the share of requests in flight that
    may be retries.
    """

    name: str
    endpoints: tuple[EndpointSettings, ...]
    balance: Balance = "p2c"
    hash_on: str = "client-ip"
    sticky: StickySettings | None = None
    connect_timeout_s: float = 5.0
    keep_alive_s: float = 4.0
    max_response_header: int = 64 * 1024
    max_connections: int = 512
    max_pending: int = 1024
    queue_timeout_s: float = 5.0
    slow_start_s: float = 0.0
    resolve_s: float = 30.0
    tls: TlsSettings | None = None
    health: HealthSettings | None = None
    outlier: OutlierSettings | None = OutlierSettings()
    panic: float = 0.0
    retry_budget: float = 0.2

    @property
    def transport_key(self) -> object:
        """What an endpoint's transport is made from: equal keys can share connections."""
        return (self.connect_timeout_s, self.keep_alive_s, self.max_response_header, self.tls)
