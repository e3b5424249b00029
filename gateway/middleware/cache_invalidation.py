"""Drops from a cache what requests on other routes have changed, RFC 9111 section 4.4.

app.add_middleware(CacheInvalidationMiddleware, cache=cache)
"""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.caching import SAFE_METHODS
from gateway.middleware.asgi3 import asgi3
from gateway.middleware.cache import Cache, public_parts
from gateway.middleware.cache_past import invalidating


class CacheInvalidationMiddleware:
    """For what has no CacheMiddleware itself, beside what has one: ``cache`` is the cache of that.

    After an unsafe request that succeeds its URL is dropped, and those of Location and Content-Location.
    """

    def __init__(self, app: ASGIApp, *, cache: Cache) -> None:
        self.app = app
        self.cache = cache

    # A plain function: most requests are safe, and a coroutine would cost them 0.5 us.
    @asgi3
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            return self.app(scope, receive, send)
        return self.app(scope, receive, invalidating(self.cache, public_parts(scope), send))
