"""Bounds how often each client may ask, by the generic cell rate algorithm.

app.add_middleware(RateLimitMiddleware, count=100, period_s=1, burst=50)
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import CapacityError, TooManyRequests
from gateway.exchange import exchange_of
from gateway.http.fields import Fields, get_all
from gateway.middleware.rate_limit_store import CounterStore
from gateway.middleware.refusal import refuse

if TYPE_CHECKING:
    from throttled import RateLimitState

_IPV6_PREFIX = 64
_MAX_PLAIN_CHARS = 64


class RateLimitMiddleware:
    """Answers 429 with Retry-After to a key that exceeds ``count`` requests in ``period_s`` seconds.

    ``burst`` requests may come at once. ``key`` is ``client-ip`` (an IPv6 network of 64 bits counts as one client),
    ``user`` (the name that authentication gave, else the address) or ``header:NAME`` (requests without it share one
    counter). ``store`` is a CounterStore, which several limits may share, ``memory`` or a redis:// URL; when it fails
    requests pass (``on_error`` open) or get 503 (closed). Every answer carries RateLimit and RateLimit-Policy
    (draft-ietf-httpapi-ratelimit-headers). ``namespace`` keeps the counters of several limits in one store apart.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        count: int,
        period_s: float = 1.0,
        burst: int = 50,
        key: str = "client-ip",
        store: CounterStore | str = "memory",
        on_error: Literal["open", "closed"] = "open",
        namespace: str = "",
    ) -> None:
        self.app = app
        self.on_error = on_error
        # A limit that was changed starts anew: what the old one counted would be misread.
        self._prefix = f"{namespace}:{count}/{period_s:g}+{burst}:"
        self._key = key_maker(key)
        store = CounterStore(store) if isinstance(store, str) else store
        self._limiter = store.limiter(count=count, period_s=period_s, burst=burst)
        self._policy = (b"ratelimit-policy", f'"default";q={count};w={period_s:g}'.encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        exchange = exchange_of(scope)
        result = await self._limiter.ask(self.key(*sender_of(scope), scope["headers"]))
        if result is None:
            if self.on_error == "closed":
                await refuse(CapacityError("the store of the rate limit does not answer"), scope, send)
                return
            await self.app(scope, receive, send)
            return
        fields = self._fields(result.state)
        if result.limited:
            wait_s = max(1, math.ceil(result.state.retry_after))
            error = TooManyRequests("the rate limit is used up", headers=[(b"retry-after", b"%d" % wait_s), *fields])
            await refuse(error, scope, send)
            return
        if exchange is not None:
            exchange.response_fields += fields
            await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, _adding(fields, send))

    @property
    def counts_at_once(self) -> bool:
        """Whether the store need not be waited for."""
        return self._limiter.ask_now is not None

    def key(self, address: str, user: str, headers: Fields) -> str:
        """What a request is counted under; ``user`` is empty for nobody."""
        return self._prefix + self._key(address, user, headers)

    def count_now(self, key: str) -> Fields | None:
        """Count a request and return the fields of its answer; None, and nothing is counted, for one beyond the limit.

        Only where the store counts at once.
        """
        assert self._limiter.ask_now is not None
        result = self._limiter.ask_now(key)
        return None if result.limited else self._fields(result.state)

    def _fields(self, state: RateLimitState) -> Fields:
        remaining = b'"default";r=%d;t=%d' % (state.remaining, math.ceil(state.reset_after))
        return [self._policy, (b"ratelimit", remaining)]


def sender_of(scope: Scope) -> tuple[str, str]:
    """Address and name of whoever sent a request; the name is empty for nobody."""
    exchange = exchange_of(scope)
    return (exchange.client, exchange.user) if exchange is not None else ((scope.get("client") or ("",))[0], "")


def key_maker(key: str) -> Callable[[str, str, Fields], str]:
    """What of a request is counted together: of its address, user and fields. ValueError for an unknown form."""
    if key == "client-ip":
        return _client
    if key == "user":
        return _user
    kind, _, name = key.partition(":")
    if kind != "header" or not name:
        raise ValueError(f"unknown rate limit key {key!r}")
    field = name.lower().encode("ascii")
    # Hashed: a value may be long, and it may be a secret that has no place in a shared store.
    return lambda address, user, headers: "header:" + _hashed(b", ".join(get_all(headers, field)))


def _client(address: str, user: str, headers: Fields) -> str:
    return "client:" + client_network(address)


def _user(address: str, user: str, headers: Fields) -> str:
    if not user:
        return _client(address, user, headers)
    return "user:" + user if len(user) <= _MAX_PLAIN_CHARS else "user#" + _hashed(user.encode("utf-8"))


def _hashed(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=16).hexdigest()


@lru_cache(maxsize=4096)
def client_network(address: str) -> str:
    """The address, or its network of 64 bits for IPv6: one subscriber has all of that."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), _IPV6_PREFIX), strict=False))


def _adding(fields: Fields, send: Send) -> Send:
    async def send_with_fields(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            message = {**message, "headers": [*message.get("headers", ()), *fields]}
        await send(message)

    return send_with_fields
