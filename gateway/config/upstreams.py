"""[upstreams.NAME]: named groups of endpoints, and how requests are spread over them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gateway.config.addresses import EndpointText, EndpointUrl, Scheme, parse_endpoint_url
from gateway.config.table import (
    Count,
    Flag,
    FrozenDict,
    Parsed,
    PositiveCount,
    Share,
    Shorthand,
    Switch,
    Table,
    int_from_environment,
)
from gateway.config.units import Duration, PositiveDuration, PositiveSize
from gateway.config.values import File, HeaderMap, Method, Source, StatusRange, Text, Token, parse_text


def parse_origin_form(value: object) -> str:
    """A path with an optional query, as a request line has it."""
    text = parse_text(value)
    if not text.startswith("/") or not text.isascii() or " " in text or "#" in text:
        raise ValueError('must be a path such as "/healthz", percent-encoded')
    return text


class EndpointConfig(Table):
    """One server of an upstream."""

    url: EndpointText
    """http://, https://, unix:/path.sock or asgi:package.module:app; may have a base path."""
    weight: Annotated[int, Field(ge=0, le=65535), int_from_environment] = 1
    """Share of requests against the other endpoints; 0: none."""
    backup: Flag = False
    """Used only when no other endpoint is available."""
    drain: Flag = False
    """Gets no new requests."""

    @property
    def parts(self) -> EndpointUrl:
        """The URL taken apart."""
        return parse_endpoint_url(self.url)

    @property
    def scheme(self) -> Scheme:
        return self.parts.scheme

    @property
    def host(self) -> str:
        """Lower case, an IPv6 address without brackets; ``localhost`` for unix: and asgi:."""
        return self.parts.host

    @property
    def port(self) -> int:
        return self.parts.port

    @property
    def base_path(self) -> str:
        """Empty, or begins with a slash and ends without one."""
        return self.parts.base_path

    @property
    def uds(self) -> str:
        """Path of the socket of a unix: endpoint, else empty."""
        return self.parts.uds

    @property
    def app(self) -> str:
        """``package.module:app`` of an asgi: endpoint, else empty."""
        return self.parts.app


class StickyConfig(Table):
    """A cookie that brings a client back to its endpoint."""

    cookie: Token = "gw_endpoint"
    """Name of the cookie."""
    max_age: Duration = 3600.0
    """How long the browser keeps it."""


class UpstreamTlsConfig(Table):
    """TLS to the endpoints."""

    ca: File | None = None
    """Certificate authorities; absent: those of the system."""
    cert: File | None = None
    """Client certificate."""
    key: File | None = None
    """Its private key."""
    verify: Flag = True
    """Whether the endpoint's certificate is checked."""
    server_name: Text | None = None
    """Name for SNI and the check of the certificate; absent: the host of the URL."""


class HealthConfig(Table):
    """Active health checks."""

    path: Annotated[str, Parsed(parse_origin_form, {"type": "string", "pattern": "^/"})] = "/healthz"
    """Path, and query, of the probe."""
    interval: PositiveDuration = 5.0
    """Time between two probes of an endpoint."""
    timeout: PositiveDuration = 2.0
    """Longest wait for the answer to a probe."""
    rise: PositiveCount = 2
    """Good probes in a row that bring an endpoint back."""
    fall: PositiveCount = 3
    """Bad probes in a row that take an endpoint out."""
    status: Annotated[tuple[StatusRange, ...], Field(min_length=1)] = ((200, 399),)
    """Statuses of a good probe: single ones and ranges."""
    method: Method = "GET"
    """Method of the probe."""
    headers: HeaderMap = FrozenDict()
    """Further fields of the probe."""


class OutlierConfig(Table):
    """Passive health: endpoints that fail real requests are ejected for a while."""

    failures: PositiveCount = 5
    """Failures in a row that eject an endpoint."""
    interval: PositiveDuration = 10.0
    """After this long without a failure the count begins anew, as it does after a success."""
    ejection: PositiveDuration = 10.0
    """First ejection; each further one is longer."""
    max_ejection: PositiveDuration = 300.0
    """Longest ejection."""
    max_ejected: Share = 0.5
    """Largest share of endpoints that may be ejected."""

    @model_validator(mode="after")
    def _in_order(self) -> OutlierConfig:
        if self.max_ejection < self.ejection:
            raise ValueError("max_ejection must be at least as long as ejection")
        return self


class UpstreamConfig(Table):
    """[upstreams.NAME]: a group of endpoints."""

    endpoints: Annotated[tuple[Annotated[EndpointConfig, Shorthand("url")], ...], Field(min_length=1)]
    """URLs, or tables with url, weight, backup and drain."""
    balance: Literal["round-robin", "least-requests", "p2c", "random", "hash", "first"] = "p2c"
    """How an endpoint is chosen; p2c: the less busy of two taken at random."""
    hash_on: Annotated[str, Source(("client-ip", "path"), ("header", "cookie", "query"))] = "client-ip"
    """With balance "hash": what is hashed."""
    sticky: Annotated[StickyConfig | None, Switch(on=False)] = None
    """A cookie that brings a client back to its endpoint."""
    connect_timeout: PositiveDuration = 5.0
    """To an established connection, TLS included."""
    keep_alive: Duration = 4.0
    """How long an idle upstream connection is kept; shorter than the 5 s at which many servers close."""
    max_response_header: PositiveSize = 64 * 1024
    """Larger response heads are 502."""
    max_connections: PositiveCount = 512
    """Connections per endpoint."""
    max_pending: Count = 1024
    """Requests waiting for a connection; beyond: 503."""
    queue_timeout: Duration = 5.0
    """Longest wait for a connection."""
    slow_start: Duration = 0.0
    """An endpoint that comes back gets its share gradually over this time; 0: at once."""
    http2: Flag = False
    """HTTP/2 to the endpoints."""
    resolve: PositiveDuration = 30.0
    """Host names are looked up again this often; every address is an endpoint."""
    tls: UpstreamTlsConfig = UpstreamTlsConfig()
    """TLS to https endpoints."""
    health: Annotated[HealthConfig | None, Switch(on=False)] = None
    """Active health checks."""
    outlier: Annotated[OutlierConfig | None, Switch(on=False)] = OutlierConfig()
    """Passive health checks."""
    panic: Share = 0.0
    """Below this share of healthy endpoints health is ignored and all are used; 0: never."""
