"""What the cache has to know about one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Message, Receive, Scope, Send

from gateway.exchange import BEGUN_KEY, SCOPE_KEY, TAGS_AS_GIVEN, Exchange
from gateway.http.cache_control import NO_DIRECTIVES, RequestDirectives, request_directives
from gateway.http.cache_key import CacheKey
from gateway.http.cookies import cookie_pairs
from gateway.http.fields import Fields, get_first, get_joined, without
from gateway.stores.base import Entry

# Some frameworks take another URL or method from these than the one that the key is made of.
OVERRIDING_FIELDS = frozenset(
    [
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-host",
        b"x-original-host",
        b"x-original-uri",
        b"x-original-url",
        b"x-rewrite-url",
    ]
)

# Fields that decide whether and how the store is used; a request without any of them takes the short way.
DECIDING_FIELDS = OVERRIDING_FIELDS | frozenset(
    [
        b"authorization",
        b"cache-control",
        b"content-length",
        b"cookie",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"pragma",
        b"range",
        b"transfer-encoding",
    ]
)
CONDITIONS = frozenset([b"if-none-match", b"if-modified-since"])
"""Fields that ask whether the answer is another one than the client has."""

_NOT_FOR_ALL = CONDITIONS | {b"if-range", b"range"}

Conditions = tuple[bytes | None, bytes | None]
"""If-None-Match and If-Modified-Since."""

NO_CONDITIONS: Conditions = None, None

# What an application would do with the client's connection alone, past everybody else who gets the same answer.
_UNSHARED_EXTENSIONS = ("http.response.pathsend", "http.response.zerocopysend", "http.response.trailers")


def conditions_of(headers: Fields) -> Conditions:
    """What ``headers`` say of the answer that the client has."""
    return get_joined(headers, b"if-none-match"), get_joined(headers, b"if-modified-since")


def deciding_fields(headers: Fields) -> frozenset[bytes]:
    """Which of the fields that decide how the store may be used are there."""
    return DECIDING_FIELDS.intersection([name for name, _ in headers])


def bypass_of(headers: Fields, present: frozenset[bytes], *, ignore_cookies: bool, key_cookies: Sequence[bytes]) -> str:
    """Why the store is neither read nor written for a request with these fields; empty: it is used.

    ``present`` are those among them that decide.
    """
    if b"transfer-encoding" in present or (
        b"content-length" in present and get_first(headers, b"content-length") != b"0"
    ):
        return "body"
    if b"if-match" in present or b"if-unmodified-since" in present:
        # Only the upstream can tell, RFC 9111 section 4.3.2.
        return "precondition"
    if not present.isdisjoint(OVERRIDING_FIELDS):
        return "override"
    if (
        b"cookie" in present
        and not ignore_cookies
        and any(name not in key_cookies for name, _ in cookie_pairs(headers))
    ):
        return "cookie"
    return ""


class CacheRequest:
    """A GET or HEAD that asks the cache: its key, and the fields that decide how the store may be used."""

    __slots__ = (
        "authorized",
        "bypass",
        "conditions",
        "directives",
        "exchange",
        "headers",
        "if_range",
        "key",
        "method",
        "range",
        "receive",
        "scope",
        "send",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        key: CacheKey,
        *,
        identified: bool,
        ignore_cookies: bool,
        key_cookies: Sequence[bytes],
    ) -> None:
        headers: Fields = scope["headers"]
        self.scope = scope
        self.receive = receive
        self.send = send
        self.key = key
        self.headers = headers
        self.method: str = scope["method"]
        self.exchange: Exchange | None = scope.get(SCOPE_KEY)
        present = deciding_fields(headers)
        self.authorized = identified or b"authorization" in present
        self.directives: RequestDirectives = NO_DIRECTIVES
        if b"cache-control" in present or b"pragma" in present:
            self.directives = request_directives(get_joined(headers, b"cache-control"), get_joined(headers, b"pragma"))
        self.conditions = NO_CONDITIONS if present.isdisjoint(CONDITIONS) else conditions_of(headers)
        self.range = get_joined(headers, b"range") if b"range" in present and self.method == "GET" else None
        self.if_range = get_joined(headers, b"if-range") if b"if-range" in present else None
        self.bypass = bypass_of(headers, present, ignore_cookies=ignore_cookies, key_cookies=key_cookies)
        """Why the store is neither read nor written for this request; empty: it is used."""

    @property
    def is_conditional(self) -> bool:
        """Whether a 304 can answer it."""
        return self.conditions is not NO_CONDITIONS

    def may_use(self, entry: Entry) -> bool:
        """Whether a stored answer is for this sender as well."""
        return not self.authorized or entry.freshness.for_authorized

    def inner_scope(self, stale: Entry | None, *, unchanged: bool = False) -> Scope:
        """The scope with which the answer is fetched: for everybody, not for this client's own copy or range.

        With ``stale`` it asks whether that still holds, RFC 9111 section 4.3.1. ``unchanged`` leaves the fields be.
        """
        scope = self.scope
        extensions = scope.get("extensions")
        if extensions and any(name in extensions for name in _UNSHARED_EXTENSIONS):
            kept = {name: value for name, value in extensions.items() if name not in _UNSHARED_EXTENSIONS}
            scope = {**scope, "extensions": kept}
        if unchanged or (stale is None and not self.is_conditional and self.range is None):
            return scope
        headers = without(self.headers, _NOT_FOR_ALL)
        if stale is not None:
            for condition, validator in ((b"if-none-match", b"etag"), (b"if-modified-since", b"last-modified")):
                value = get_first(stale.fields, validator)
                if value is not None:
                    headers.append((condition, value))
            if get_first(stale.fields, b"content-encoding") is None:
                return {**scope, "headers": headers, TAGS_AS_GIVEN: True}
        return {**scope, "headers": headers}

    def without_client(self) -> CacheRequest:
        """The same request with nobody waiting for its answer."""
        twin = CacheRequest.__new__(CacheRequest)
        for name in CacheRequest.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.exchange = None
        scope = {**self.scope, "state": dict(self.scope.get("state") or {})}
        # What was begun for the client is the client's, to its end.
        scope.pop(BEGUN_KEY, None)
        extensions = self.scope.get("extensions") or {}
        scope["extensions"] = {name: value for name, value in extensions.items() if not callable(value)}
        if self.exchange is not None:
            scope[SCOPE_KEY] = twin.exchange = _exchange_like(self.exchange)
        twin.scope = scope
        twin.receive = _nobody()
        return twin


def _nobody() -> Receive:
    """A request without a body, from a client that stays."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


def _exchange_like(original: Exchange) -> Exchange:
    exchange = Exchange(original.method, original.target)
    for name in ("client", "host", "params", "peer", "peer_trusted", "public_host", "request_id", "route", "scheme"):
        setattr(exchange, name, getattr(original, name))
    return exchange
