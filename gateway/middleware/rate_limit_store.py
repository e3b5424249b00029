"""Where rate limits keep their counters: in this process, or in a Redis that several share."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.stores.patience import Patience

if TYPE_CHECKING:
    from throttled import RateLimitResult

logger = logging.getLogger("gateway.rate_limit")

MAX_KEYS = 200_000
"""Counters kept in memory: about 60 MiB when all are used; beyond, the least recently used start anew."""

KEY_PREFIX = "gw:limit"
TIMEOUT_S = 0.25
"""Longest silence of Redis before it counts as away."""
TURN_S = 1.0
"""Longest that a request waits while others are asking."""
RETRY_S = 1.0
"""How long a Redis that failed is not asked again."""
MAX_CONNECTIONS = 16
"""More would not count faster, and a herd of them takes longer to open than the timeout allows."""


class Limiter(NamedTuple):
    """Counts one request under a key. One that exceeds the limit changes nothing."""

    ask: Callable[[str], Awaitable[RateLimitResult | None]]
    """None when the store fails."""
    ask_now: Callable[[str], RateLimitResult] | None
    """The same without waiting; None for a store that has to be waited for."""


class CounterStore:
    """Counters by the generic cell rate algorithm; ``url`` is ``memory`` or a redis:// URL (Redis or Valkey).

    Several limits may share one: then all of them together keep at most MAX_KEYS counters in memory. A Redis that is
    away, or silent for ``timeout_s``, is left alone for a second at a time; of that, and of its return, one line is
    logged. That many requests come at once is no outage: they wait for each other, so that nobody opens the limit by
    asking faster than it counts.
    """

    def __init__(self, url: str = "memory", *, timeout_s: float = TIMEOUT_S) -> None:
        self._store: Any
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(MAX_CONNECTIONS)
        self._errors: tuple[type[Exception], ...] = ()
        self._is_down = False
        self._is_behind = False
        self._retry_at = -math.inf
        if url == "memory":
            from throttled import MemoryStore

            self._store = MemoryStore(options={"MAX_SIZE": MAX_KEYS})
            return
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
        from throttled.asyncio import RedisStore
        from throttled.exceptions import StoreUnavailableError

        self._errors = (StoreUnavailableError, RedisError, OSError, TimeoutError)
        self._store = RedisStore(
            server=url,
            options={
                "CONNECTION_POOL_CLASS": "redis.asyncio.ConnectionPool",
                "CONNECTION_POOL_KWARGS": {
                    # Some to spare: one that is closing after a timeout still counts.
                    "max_connections": 2 * MAX_CONNECTIONS,
                    # Timeouts are _ask's alone: the library's count the time in which nobody listened.
                    "socket_timeout": None,
                    "socket_connect_timeout": None,
                    # The library's own retries would multiply the timeout.
                    "retry": Retry(NoBackoff(), 0),
                },
            },
        )

    def limiter(self, *, count: int, period_s: float, burst: int) -> Limiter:
        """What admits ``burst`` requests at once and ``count`` in ``period_s`` whole seconds then, give or take one.

        Raises ValueError for a rate that cannot be counted.
        """
        import throttled
        import throttled.asyncio

        if count < 1 or burst < 1 or period_s < 1 or not float(period_s).is_integer():
            raise ValueError("a rate is a number of requests in a number of whole seconds, with a burst of at least 1")
        quota = throttled.Quota(throttled.Rate(period=timedelta(seconds=period_s), limit=count), burst=burst)
        settings: dict[str, Any] = {"using": throttled.RateLimiterType.GCRA.value, "quota": quota}
        settings |= {"store": self._store, "key_prefix": KEY_PREFIX}
        if not self._errors:
            # Without the wrapper around it, which waits and calls hooks: six calls less for each request.
            count_now = throttled.Throttled(**settings).limiter.limit

            async def count_at_once(key: str) -> RateLimitResult | None:
                return count_now(key)

            return Limiter(count_at_once, count_now)
        limit = throttled.asyncio.Throttled(**settings).limit

        async def ask(key: str) -> RateLimitResult | None:
            return await self._ask(limit, key)

        return Limiter(ask, None)

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        if self._errors:
            # The library makes the client and offers no way of closing it.
            client = self._store._backend.get_client()
            await client.aclose()
            await client.connection_pool.disconnect()

    async def _ask(self, limit: Callable[[str], Awaitable[RateLimitResult]], key: str) -> RateLimitResult | None:
        turns = self._turns
        if not turns.locked():
            self._is_behind = False
            async with turns:
                return await self._ask_now(limit, key)
        try:
            async with Patience(TURN_S):
                await turns.acquire()
        except TimeoutError:
            if not self._is_behind:
                self._is_behind = True
                logger.warning("more requests come than the rate limits' Redis counts: some are not counted")
            return None
        try:
            return await self._ask_now(limit, key)
        finally:
            turns.release()

    async def _ask_now(self, limit: Callable[[str], Awaitable[RateLimitResult]], key: str) -> RateLimitResult | None:
        clock = asyncio.get_running_loop().time
        if self._is_down:
            if clock() < self._retry_at:
                return None
            # One request finds out; the others do not wait with it.
            self._retry_at = clock() + RETRY_S
        try:
            async with Patience(self._timeout_s):
                result = await limit(key)
        except self._errors as error:
            self._retry_at = clock() + RETRY_S
            if not self._is_down:
                self._is_down = True
                # Of a timeout the cause is only how it ended the wait.
                cause = error if isinstance(error, TimeoutError) else error.__cause__ or error
                reason = str(cause) or f"silent for {self._timeout_s:g} s"
                logger.warning("the rate limits' Redis is away (%s): nothing is counted until it is back", reason)
            return None
        if self._is_down:
            self._is_down = False
            logger.warning("the rate limits' Redis is back")
        return result
