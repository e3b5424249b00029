"""Who of several processes fetches an object, where they share a store."""

from __future__ import annotations

import asyncio

from gateway.http.cache_key import CacheKey
from gateway.http.caching import reuse
from gateway.http.vary import Selectors, selects
from gateway.middleware.cache_request import CacheRequest
from gateway.stores.base import CacheStore, Entry

FlightKey = tuple[CacheKey, Selectors]
"""A key, and what is known of the variant."""

_POLL_FIRST_S = 0.01
_POLL_LAST_S = 0.1


class Turn:
    """The turn of one flight, at the latest when the lock timeout is over."""

    __slots__ = ("_held", "_key", "_lock_timeout_s", "_store")

    def __init__(self, store: CacheStore, flight_key: FlightKey, lock_timeout_s: float) -> None:
        key, selectors = flight_key
        # Variants do not wait for each other.
        self._key: CacheKey = (*key[:4], key[4] + tuple(selector.value for selector in selectors)) if selectors else key
        self._store = store
        self._lock_timeout_s = lock_timeout_s
        self._held = False

    async def wait(self) -> bool:
        """Wait for it; whether another process had one meanwhile, so that its answer may be in the store."""
        state = await self._store.lock(self._key, self._lock_timeout_s)
        waited = state == "theirs"
        if waited:
            loop = asyncio.get_running_loop()
            deadline, pause = loop.time() + self._lock_timeout_s, _POLL_FIRST_S
            while state == "theirs" and loop.time() < deadline:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _POLL_LAST_S)
                state = await self._store.lock(self._key, self._lock_timeout_s)
        self._held = state == "ours"
        return waited and state != "alone"

    async def what_came(self, request: CacheRequest, since: float, now: float) -> Entry | None:
        """What another process has stored, with its body, if it is an answer to ``request`` that began at ``since``."""
        for entry in await self._store.get(request.key, now):
            if not selects(entry.selectors, request.headers):
                continue
            is_news = entry.received_at >= since or reuse(entry.freshness, request.directives, now) == "fresh"
            if not is_news or not request.may_use(entry):
                return None
            if entry.body is None:
                entry.body = await self._store.read(entry)
            return entry if entry.body is not None else None
        return None

    async def give_back(self, alone_s: float) -> None:
        """Let others have theirs; with ``alone_s``, tell them that for so long it is no use to wait."""
        if self._held:
            self._held = False
            await self._store.unlock(self._key, alone_s)
