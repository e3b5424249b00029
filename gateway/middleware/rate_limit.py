"""Bounds how often each client may ask, by the generic cell rate algorithm.

app.add_middleware(RateLimitMiddleware, count=100, period_s=1.0, burst=50)
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import CapacityError, TooManyRequests
from gateway.exchange import exchange_of
from gateway.http.fields import get_first
from gateway.middleware.refusal import refuse

if TYPE_CHECKING:
    from throttled.asyncio import RateLimitResult

logger = logging.getLogger("gateway.rate_limit")

MAX_KEYS = 200_000
"""Counters kept in memory: about 60 MiB when all are used; beyond, the least recently used start anew."""

REDIS_TIMEOUT_S = 0.25

_IPV6_PREFIX = 64


class RateLimitMiddleware:
    """Answers 429 with Retry-After to a key that exceeds ``count`` requests in ``period_s`` seconds.

    ``burst`` requests may come at once. ``key`` is ``client-ip`` (an IPv6 network of 64 bits counts as one client),
    ``user`` (the name that authentication gave, else the address) or ``header:NAME`` (requests without it share one
    counter). ``store`` is ``memory`` or a redis:// URL; when that fails requests pass (``on_error`` open) or get 503
    (closed). Every answer carries RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers). ``namespace``
    keeps the counters of several instances in one store apart.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        count: int,
        period_s: float = 1.0,
        burst: int = 50,
        key: str = "client-ip",
        store: str = "memory",
        on_error: Literal["open", "closed"] = "open",
        namespace: str = "",
    ) -> None:
        self.app = app
        self.on_error = on_error
        self._namespace = namespace
        self._key = key_maker(key)
        self._limit = _limiter(count, period_s, burst, store)
        self._policy = f'"default";q={count};w={max(1, round(period_s))}'.encode("ascii")
        self._store_failed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        result = await self._ask(f"{self._namespace}:{self._key(scope)}")
        if result is None:
            if self.on_error == "closed":
                await refuse(CapacityError("the store of the rate limit does not answer"), scope, send)
                return
            await self.app(scope, receive, send)
            return
        state = result.state
        fields = [
            (b"ratelimit-policy", self._policy),
            (b"ratelimit", b'"default";r=%d;t=%d' % (state.remaining, math.ceil(state.reset_after))),
        ]
        if result.limited:
            wait_s = max(1, math.ceil(state.retry_after))
            error = TooManyRequests("the rate limit is used up", headers=[(b"retry-after", b"%d" % wait_s), *fields])
            await refuse(error, scope, send)
            return
        exchange = exchange_of(scope)
        if exchange is not None:
            exchange.response_fields += fields
            await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, _adding(fields, send))

    async def _ask(self, key: str) -> RateLimitResult | None:
        """Count one request; None when the store fails, of which one line is logged until it works again."""
        try:
            result = await self._limit(key)
        except Exception as error:  # The store's client raises errors of many families.
            if not self._store_failed:
                self._store_failed = True
                logger.warning("rate limits fail %s until their store answers again: %s", self.on_error, error)
            return None
        self._store_failed = False
        return result


def key_maker(key: str) -> Callable[[Scope], str]:
    """What of a request is counted together; ValueError for a form that is not known."""
    if key == "client-ip":
        return _client
    if key == "user":
        return _user
    kind, _, name = key.partition(":")
    if kind != "header" or not name:
        raise ValueError(f"unknown rate limit key {key!r}")
    field = name.lower().encode("ascii")
    return lambda scope: "header:" + (get_first(scope["headers"], field) or b"").decode("latin-1")


def _client(scope: Scope) -> str:
    exchange = exchange_of(scope)
    address = exchange.client if exchange is not None else (scope.get("client") or ("",))[0]
    return "client:" + client_network(address)


def _user(scope: Scope) -> str:
    exchange = exchange_of(scope)
    return f"user:{exchange.user}" if exchange is not None and exchange.user else _client(scope)


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
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))


def _limiter(count: int, period_s: float, burst: int, store: str) -> Callable[[str], Awaitable[RateLimitResult]]:
    from throttled.asyncio import MemoryStore, Quota, Rate, RateLimiterType, RedisStore, Throttled

    backend: Any
    if store == "memory":
        backend = MemoryStore(options={"MAX_SIZE": MAX_KEYS})
    else:
        backend = RedisStore(
            server=store,
            options={"SOCKET_TIMEOUT": REDIS_TIMEOUT_S, "SOCKET_CONNECT_TIMEOUT": REDIS_TIMEOUT_S},
        )
    quota = Quota(Rate(period=timedelta(seconds=period_s), limit=count), burst=burst)
    throttled = Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=backend)

    def limit(key: str) -> Awaitable[RateLimitResult]:
        return throttled.limit(key)

    return limit


def _adding(fields: list[tuple[bytes, bytes]], send: Send) -> Send:
    async def send_with_fields(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *fields]}
        await send(message)

    return send_with_fields
