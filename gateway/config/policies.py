"""What a route does beyond forwarding: retries, WebSockets, mirroring, caching, coding, header rules, middleware."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gateway.config.addresses import looks_like_url, parse_endpoint_url
from gateway.config.table import Flag, FrozenDict, Parsed, PositiveCount, Share, Table, WordOrTable, kind_of
from gateway.config.units import Duration, PositiveDuration, PositiveSize, Size
from gateway.config.values import (
    HeaderName,
    HeaderValue,
    MediaType,
    Method,
    ModuleAttribute,
    OptionalName,
    RetryCause,
    RuleMap,
    RuleName,
    Token,
    parse_text,
)


def parse_upstream_reference(value: Any) -> str:
    """The name of an upstream, or an endpoint URL in its canonical spelling."""
    text = parse_text(value)
    return parse_endpoint_url(text).text if looks_like_url(text) else text


UpstreamReference = Annotated[str, Parsed(parse_upstream_reference, {"type": "string", "minLength": 1})]


class RetryConfig(Table):
    """Further attempts after a failed one."""

    attempts: PositiveCount = 2
    """All attempts, the first included."""
    attempt_timeout: Duration = 0.0
    """To the response head of one attempt; 0: only the route's timeout."""
    on: tuple[RetryCause, ...] = ("connect", "reset", "timeout", 502, 503, 504)
    """What is tried again: connect, reset, timeout and statuses."""
    methods: tuple[Method, ...] = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
    """Methods that are tried again."""
    max_body: Size = 64 * 1024
    """Request bodies up to this size are kept for another attempt."""
    backoff: Duration = 0.025
    """Pause before the second attempt; it grows with each further one."""
    budget: Share = 0.2
    """Retries as a share of the requests in flight, at least 3."""


class WebSocketConfig(Table):
    """How upgraded connections are relayed."""

    idle_timeout: PositiveDuration = 300.0
    """Longest silence on both sides."""
    ping: Duration = 20.0
    """Time between pings; 0: none."""
    max_message: PositiveSize = 16 * 1024 * 1024
    """Largest message."""


class MirrorConfig(Table):
    """A copy of requests whose answer is dropped."""

    upstream: UpstreamReference
    """Where the copy goes: a name, or an endpoint URL."""
    share: Share = 0.1
    """Share of requests that are copied."""
    max_body: Size = 64 * 1024
    """Requests with larger bodies are not copied."""
    timeout: PositiveDuration = 5.0
    """Longest time for a copy."""


class CacheQueryConfig(Table):
    """Which query parameters enter the cache key."""

    only: tuple[str, ...] | None = None
    """These alone."""
    except_: Annotated[tuple[str, ...] | None, Field(alias="except")] = None
    """All but these."""
    sort: Flag = True
    """Whether their order is ignored."""

    @model_validator(mode="after")
    def _one_of(self) -> CacheQueryConfig:
        if (self.only is None) == (self.except_ is None):
            raise ValueError("needs only or except, and not both")
        return self


class CacheConfig(Table):
    """A shared cache, RFC 9111, in front of the route."""

    ttl: Duration = 0.0
    """Freshness of answers that say nothing about it."""
    override: Flag = False
    """Whether ttl wins over what the upstream says."""
    stale_while_revalidate: Duration = 0.0
    """How long a stale answer is served while it is fetched anew."""
    stale_if_error: Duration = 0.0
    """How long a stale answer is served when the upstream fails."""
    vary: tuple[HeaderName, ...] = ()
    """Request headers that enter the key."""
    query: Annotated[Literal["all", "none"] | CacheQueryConfig, WordOrTable("all", "none")] = "all"
    """Query parameters that enter the key."""
    cookies: tuple[Token, ...] = ()
    """Cookies that enter the key."""
    request_cookie: Literal["pass", "ignore"] = "pass"
    """"ignore": a Cookie does not keep a request from the cache."""
    set_cookie: Literal["pass", "store"] = "pass"
    """"store": answers with Set-Cookie are stored as RFC 9111 allows."""
    tags_header: OptionalName = "Surrogate-Key"
    """Response header with tags to purge by; empty: none."""
    lock_timeout: Duration = 5.0
    """Longest wait for another request that fetches the same object."""
    status_header: Flag = True
    """Whether Cache-Status (RFC 9211) is sent."""


class CompressConfig(Table):
    """Content coding of answers."""

    codings: Annotated[tuple[Literal["zstd", "br", "gzip"], ...], Field(min_length=1)] = ("zstd", "br", "gzip")
    """In order of preference among what the client weighs equally."""
    min_size: Size = 1024
    """Smaller answers are left alone."""
    types: tuple[MediaType, ...] | None = None
    """Media types that are coded, text/* for a whole tree; absent: those known to gain from it."""
    level: Literal["fast", "balanced", "best"] = "fast"
    """Effort."""


class HeaderRules(Table):
    """Changes to headers. In requests, values may use {client_ip} {host} {scheme} {request_id} {route} and names of
    the path."""

    set: RuleMap = FrozenDict()
    """Replace, or add what is absent."""
    add: RuleMap = FrozenDict()
    """Add beside what is there."""
    remove: tuple[RuleName, ...] = ()
    """Remove."""


class CookieRules(Table):
    """Changes to Set-Cookie."""

    domain: FrozenDict[str, str] = FrozenDict()
    """From the upstream's domain to the public one; an empty one drops the attribute."""
    path: FrozenDict[str, str] = FrozenDict()
    """From the upstream's path to the public one."""
    secure: Literal["keep", "always", "never"] = "keep"
    """The Secure attribute."""
    same_site: Literal["keep", "strict", "lax", "none"] = "keep"
    """The SameSite attribute."""


class SecurityHeadersConfig(Table):
    """Headers for browsers; an empty one is not sent, none replaces what the upstream set."""

    hsts: HeaderValue = "max-age=31536000"
    """Strict-Transport-Security, on https only."""
    content_type_options: HeaderValue = "nosniff"
    """X-Content-Type-Options."""
    frame_options: HeaderValue = "DENY"
    """X-Frame-Options."""
    referrer_policy: HeaderValue = "strict-origin-when-cross-origin"
    """Referrer-Policy."""
    permissions_policy: HeaderValue = ""
    """Permissions-Policy."""
    content_security_policy: HeaderValue = ""
    """Content-Security-Policy."""
    cross_origin_opener_policy: HeaderValue = "same-origin"
    """Cross-Origin-Opener-Policy."""


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return FrozenDict({key: _freeze(item) for key, item in value.items()})
    return tuple(map(_freeze, value)) if isinstance(value, tuple) else value


def _thaw(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _thaw(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_thaw(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"must be a table, not {kind_of(value)}")
    return _freeze(value)


class MiddlewareConfig(Table):
    """Any ASGI middleware."""

    use: ModuleAttribute
    """package.module:Class."""
    args: Annotated[FrozenDict[str, Any], Parsed(_plain, {"type": "object"}, show=_thaw)] = FrozenDict()
    """Its keyword arguments."""

    def arguments(self) -> dict[str, Any]:
        """A fresh copy of ``args`` in plain dicts and lists, as TOML has them."""
        return {key: _thaw(item) for key, item in self.args.items()}
