"""[server], [admin] and [cache]: the process, its admin listener, the store behind the cache."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StringConstraints, model_validator

from gateway.config.addresses import BindAddress, StoreUrl, parse_bind
from gateway.config.environ import EnvironmentString
from gateway.config.table import Count, OneOrMany, Parsed, PositiveCount, Table
from gateway.config.units import Duration, PositiveDuration, PositiveSize, Size
from gateway.config.values import File, HeaderName, OptionalName, OptionalRuleName, Peer, Source


def _parse_workers(value: Any) -> int | str:
    if isinstance(value, EnvironmentString) and value.isdecimal():
        value = int(value)
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return "auto" if isinstance(value, str) else int(value)
    raise ValueError('must be a whole number from 1 up, or "auto"')


Workers = Annotated[
    int | Literal["auto"], Parsed(_parse_workers, {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]})
]


class LimitsConfig(Table):
    """[server.limits]: what a client may take of time and space."""

    header_timeout: PositiveDuration = 10.0
    """From a connection's or a request's first moment to the end of its header section: 408, close."""
    body_timeout: PositiveDuration = 30.0
    """Longest silence inside a request body: 408, close."""
    min_body_rate: Size = 500
    """Bytes a second a request body must average after its first 30 s."""
    send_timeout: PositiveDuration = 60.0
    """A client that takes no byte of its answer for this long is cut."""
    keep_alive: Duration = 75.0
    """How long an idle client connection stays open."""
    max_header_bytes: PositiveSize = 32 * 1024
    """The whole header section: 431."""
    max_headers: PositiveCount = 100
    """Header fields of a request: 431."""
    max_target_bytes: PositiveSize = 8 * 1024
    """The request target: 414."""
    max_body: Size = 64 * 1024 * 1024
    """A request body; a route may set its own: 413."""
    max_connections: PositiveCount = 10_000
    """Client connections; beyond: 503, close."""


class OverloadConfig(Table):
    """[server.overload]: shedding with 503 and Retry-After."""

    max_in_flight: Count = 0
    """Requests in the whole process; 0: no limit."""
    max_loop_lag: Duration = 0.0
    """Lag of the event loop; 0: off."""
    exempt: tuple[str, ...] = ()
    """Names of routes that are never shed."""


class CertificateConfig(Table):
    """A certificate chain and its key, PEM."""

    cert: File
    """File with the certificate and its chain."""
    key: File
    """File with the private key, unencrypted."""


class TlsConfig(Table):
    """[server.tls]: HTTPS for clients."""

    certificates: Annotated[tuple[CertificateConfig, ...], Field(min_length=1)]
    """Chosen by SNI from the names in the certificate; the first is the default. Watched and swapped live."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest TLS version accepted."""
    client_ca: File | None = None
    """Certificate authorities of client certificates; nobody is asked for one while client_auth is "none"."""
    client_auth: Literal["none", "optional", "require"] = "none"
    """Whether clients are asked for a certificate, or must have one."""
    subject_header: OptionalRuleName = ""
    """Request field that carries the subject of the client's certificate; never taken from clients."""
    redirect_from: BindAddress | None = None
    """Plain HTTP address whose requests are redirected to https with 308."""

    @model_validator(mode="after")
    def _client_certificates(self) -> TlsConfig:
        if self.client_auth != "none" and self.client_ca is None:
            raise ValueError(f'client_auth = "{self.client_auth}" needs client_ca')
        if self.client_auth == "none" and self.subject_header:
            raise ValueError('subject_header needs client_auth = "optional" or "require"')
        return self


class ServerConfig(Table):
    """[server]: the process."""

    bind: Annotated[tuple[BindAddress, ...], Field(min_length=1), OneOrMany()] = (parse_bind("127.0.0.1:8080"),)
    """Where the gateway listens: host:port, [IPv6]:port or unix:/path.sock; one or a list."""
    workers: Workers = 1
    """Processes sharing the port; "auto": one per core."""
    trusted_proxies: tuple[Peer, ...] = ()
    """CIDRs (or "unix") of peers whose forwarding fields are believed."""
    client_ip_from: Annotated[str, Source(("x-forwarded-for", "forwarded"), ("header",))] = "x-forwarded-for"
    """The one field that is read from a trusted peer; the others are made anew from it."""
    request_id_header: HeaderName = "X-Request-ID"
    """Taken from a trusted peer if it is well-formed, else made; also on the answer."""
    via: OptionalName = ""
    """Pseudonym in Via; empty: made at start."""
    access_log: Literal["text", "json", "off"] = "text"
    """Form of the access log on standard output."""
    shutdown_timeout: Duration = 30.0
    """On shutdown: stop accepting, finish what runs for this long, then cut."""
    limits: LimitsConfig = LimitsConfig()
    """What a client may take of time and space."""
    overload: OverloadConfig = OverloadConfig()
    """Shedding with 503 and Retry-After."""
    tls: TlsConfig | None = None
    """HTTPS for clients; absent: plain HTTP."""


class AdminConfig(Table):
    """[admin]: a listener of its own for health, metrics, state and actions."""

    bind: BindAddress
    """Where the admin application listens."""
    token: Annotated[SecretStr, Field(min_length=1)] | None = None
    """Bearer token; required when bind is not loopback."""


class CacheStoreConfig(Table):
    """[cache]: the store behind `cache` of the routes."""

    store: Annotated[StoreUrl, Field(repr=False)] = "memory"
    """"memory", or redis://host:6379/0, shared between workers and machines. Not in repr: it may hold a password."""
    max_size: PositiveSize = 256 * 1024 * 1024
    """Space for stored answers; memory only."""
    max_object: PositiveSize = 8 * 1024 * 1024
    """Larger bodies are relayed, not stored."""
    prefix: Annotated[str, StringConstraints(pattern=r"^[!-~]*$")] = "gw:"
    """Of keys in Redis."""
    timeout: PositiveDuration = 0.25
    """Of one Redis operation; past it the request goes on without the cache."""
