"""[[routes]] and [defaults]: when a route applies, its action, how a request goes out, and the policies on it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.config.access import AuthConfig, CorsConfig, RateLimitConfig
from gateway.config.policies import (
    CacheConfig,
    CompressConfig,
    CookieRules,
    HeaderRules,
    MiddlewareConfig,
    MirrorConfig,
    RetryConfig,
    SecurityHeadersConfig,
    UpstreamReference,
    WebSocketConfig,
)
from gateway.config.table import (
    Count,
    EmptyIsOff,
    Flag,
    FrozenDict,
    Integer,
    OneOrMany,
    Parsed,
    Shorthand,
    Switch,
    Table,
    int_from_environment,
)
from gateway.config.units import SIZE_SCHEMA, PositiveDuration, format_size, parse_positive_size, parse_size
from gateway.config.values import (
    HeaderName,
    HostField,
    Method,
    Network,
    RuleMap,
    Source,
    Text,
    Token,
    parse_text,
)

_RAW_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")


def _parse_max_body(value: Any) -> int | None:
    return None if value == "none" else parse_size(value)


def _show_max_body(value: int | None) -> str:
    return "none" if value is None else format_size(value)


def _parse_buffer(value: Any) -> int | None:
    if value is False or value == "false":
        return None
    if value is True:
        raise ValueError('must be false or a size such as "64KiB"')
    return parse_positive_size(value)


def _show_buffer(value: int | None) -> str | bool:
    return False if value is None else format_size(value)


def _parse_prefix(value: Any) -> str:
    """Empty, or raw path segments without a slash at the end."""
    if value == "":
        return ""
    text = parse_text(value)
    if not text.startswith("/") or not _RAW_PATH.fullmatch(text):
        raise ValueError('must be a path such as "/shop", percent-encoded')
    prefix = text.rstrip("/")
    if not prefix:
        raise ValueError('must have a segment, such as "/shop"; "" means none')
    if "//" in prefix or any(segment in (".", "..") for segment in prefix.split("/")):
        raise ValueError("must not have empty, . or .. segments")
    return prefix


def _parse_rewrite(value: Any) -> str:
    """Empty, or a path template."""
    if value == "":
        return ""
    text = parse_text(value)
    if not text.startswith("/") or not _RAW_PATH.fullmatch(text.replace("{", "").replace("}", "")):
        raise ValueError('must be a path such as "/items/{id}", percent-encoded and without a query')
    return text


def _parse_redirect_target(value: Any) -> str:
    text = parse_text(value)
    if " " in text or not text.isascii() or '"' in text:
        raise ValueError("must be a URL or a path, percent-encoded")
    if not re.match(r"https?://[^/]|/(?!/)|\{scheme\}://[^/]", text):
        raise ValueError("must begin with http://, https://, {scheme}:// or a single /")
    return text


def _parse_condition(value: Any) -> str:
    """``*``: present; ``~regex``; anything else is compared as it is."""
    if not isinstance(value, str):
        raise ValueError('must be a string: a value, "*" for any, or "~regex"')
    if any((character < " " and character != "\t") or character == "\x7f" for character in value):
        raise ValueError("must not contain control characters")
    return str(value)


Condition = Annotated[str, Parsed(_parse_condition, {"type": "string"})]
Prefix = Annotated[str, Parsed(_parse_prefix, {"type": "string", "examples": ["/shop"]})]
MaxBody = Annotated[
    int | None, Parsed(_parse_max_body, {"anyOf": [{"const": "none"}, SIZE_SCHEMA]}, show=_show_max_body)
]
BufferSize = Annotated[int | None, Parsed(_parse_buffer, {"anyOf": [{"const": False}, SIZE_SCHEMA]}, show=_show_buffer)]


class WhenConfig(Table):
    """Further conditions; all must hold. "*": present, "~regex", else the very value."""

    header: FrozenDict[HeaderName, Condition] = FrozenDict()
    """By request header."""
    query: FrozenDict[str, Condition] = FrozenDict()
    """By query parameter."""
    cookie: FrozenDict[Token, Condition] = FrozenDict()
    """By cookie."""
    client: tuple[Network, ...] = ()
    """Networks of the client; one of them must hold it."""


class SplitTarget(Table):
    """One side of a split."""

    upstream: UpstreamReference
    """A name, or an endpoint URL."""
    weight: Annotated[int, Field(ge=0, le=1_000_000), int_from_environment] = 1
    """Share of requests against the other sides; 0: none."""


class RedirectConfig(Table):
    """An answer that sends the client elsewhere."""

    to: Annotated[str, Parsed(_parse_redirect_target, {"type": "string", "minLength": 1})]
    """URL or path; may use {host}, {scheme} and names of the path."""
    status: Annotated[Literal[301, 302, 303, 307, 308], int_from_environment] = 308
    """Its status."""


class RespondConfig(Table):
    """A fixed answer."""

    status: Annotated[int, Field(ge=200, le=599), int_from_environment] = 200
    """Its status."""
    body: str = ""
    """Its body, UTF-8."""
    headers: RuleMap = FrozenDict()
    """Its headers."""


class Policies(Table):
    """[defaults]: any policy key of a route; a route's own value wins."""

    strip_prefix: Prefix = ""
    """Raw segments taken from the front of the path; they must lead every path of the route. Empty: none."""
    add_prefix: Prefix = ""
    """Raw segments put in front of the path. Empty: none."""
    rewrite: Annotated[str, Parsed(_parse_rewrite, {"type": "string", "examples": ["/items/{id}"]})] = ""
    """The path that goes out; names of the path insert the client's raw bytes. Empty: as it came."""
    host_header: HostField = "preserve"
    """Host field for the upstream: "preserve", "upstream" or a literal."""
    timeout: PositiveDuration = 30.0
    """To the response head, all attempts and queueing included: 504."""
    idle_timeout: PositiveDuration = 60.0
    """Longest silence inside a response body."""
    max_body: MaxBody = None
    """Largest request body; "none": no limit. Default: server.limits.max_body, which is filled in when loaded."""
    buffer_request: BufferSize = None
    """Read the body first, up to this size, before choosing an endpoint; false: stream."""
    retry: Annotated[RetryConfig | None, Switch(on=False)] = RetryConfig()
    """Further attempts after a failed one; false: off."""
    websocket: Annotated[WebSocketConfig | None, Switch(on=True)] = WebSocketConfig()
    """WebSocket upgrades; false: 403."""
    mirror: Annotated[MirrorConfig | None, Switch(on=False)] = None
    """A copy of requests whose answer is dropped."""
    cache: Annotated[CacheConfig | None, Switch(on=True)] = None
    """A shared cache in front of the route."""
    compress: Annotated[CompressConfig | None, Switch(on=True)] = CompressConfig()
    """Content coding of answers."""
    decompress_request: Flag = False
    """Whether coded request bodies reach the upstream decoded."""
    request_headers: HeaderRules = HeaderRules()
    """Changes to request headers."""
    response_headers: HeaderRules = HeaderRules()
    """Changes to response headers."""
    hide_headers: tuple[HeaderName, ...] = (
        "Server",
        "X-Powered-By",
        "X-AspNet-Version",
        "X-AspNetMvc-Version",
        "X-Runtime",
        "X-Generator",
    )
    """Response headers that clients do not see."""
    rewrite_location: Flag = True
    """Whether Location, Content-Location and Refresh that name an upstream are made public again."""
    rewrite_cookies: CookieRules = CookieRules()
    """Changes to Set-Cookie."""
    security_headers: Annotated[SecurityHeadersConfig | None, Switch(on=True)] = None
    """Headers that protect browsers."""
    middleware: tuple[Annotated[MiddlewareConfig, Shorthand("use")], ...] = ()
    """Any ASGI middleware, in order, nearest the upstream last."""
    allow: Annotated[tuple[Network, ...], Field(min_length=1)] | None = None
    """Networks that may use the route; absent: everyone."""
    deny: tuple[Network, ...] = ()
    """Networks that may not; wins over allow."""
    auth: Annotated[AuthConfig | None, EmptyIsOff()] = None
    """One of basic, api_key, jwt and forward; {}: none."""
    cors: Annotated[CorsConfig | None, Switch(on=False)] = None
    """Cross-origin requests of browsers."""
    rate_limit: Annotated[RateLimitConfig | None, Switch(on=False)] = None
    """Requests in a unit of time."""
    max_concurrent: Count = 0
    """Requests in flight on the route; 0: no limit; beyond: 503."""


class RouteConfig(Policies):
    """[[routes]]: conditions, exactly one action, policies."""

    name: Text = ""
    """Unique; made from host and path where absent."""
    host: Annotated[tuple[Text, ...], Field(min_length=1), OneOrMany()] = ()
    """Hosts; "*.example.com": any subdomain at any depth. Absent: any host."""
    path: Annotated[tuple[Text, ...], Field(min_length=1), OneOrMany()]
    """Paths: "/a/b", "/a/*", "/users/{id}", "/files/{rest*}", "~regex"."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = ()
    """Methods; GET includes HEAD. Absent: all."""
    when: WhenConfig = WhenConfig()
    """Further conditions."""
    priority: Integer = 0
    """The highest wins, before anything else is compared."""
    upstream: UpstreamReference | None = None
    """Action: forward to this upstream, a name or an endpoint URL."""
    split: Annotated[tuple[SplitTarget, ...], Field(min_length=1)] = ()
    """Action: forward to several upstreams by weight."""
    split_on: Annotated[str, Source(("random", "client-ip"), ("header", "cookie"))] = "random"
    """What decides the side of a split."""
    redirect: RedirectConfig | None = None
    """Action: redirect."""
    respond: RespondConfig | None = None
    """Action: a fixed answer."""

    @property
    def action(self) -> str:
        """``upstream``, ``split``, ``redirect`` or ``respond``."""
        return next(action for action in ACTIONS if getattr(self, action))


ACTIONS = ("upstream", "split", "redirect", "respond")
