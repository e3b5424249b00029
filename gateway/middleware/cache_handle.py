"""The cache as a whole: its store, what is under way to fill it, and the handle to purge it with."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from cachetools import TLRUCache

from gateway.errors import CapacityError
from gateway.http.cache_key import CacheKey, parse_public_url, with_root
from gateway.middleware.cache_flight import Flight
from gateway.middleware.cache_turn import FlightKey
from gateway.stores.base import CacheStore, Purge
from gateway.stores.memory import MemoryStore

logger = logging.getLogger("gateway.cache")

MAX_BEHIND = 64
"""Validations under way behind stale answers; beyond it the stale answer is given and nothing started."""

MAX_DETACHED = 64
"""Fetches that go on without any client."""

MAX_ALONE = 10_000
"""Keys remembered as not shareable."""

MAX_GATHERED_BYTES = 128 * 1024 * 1024
"""Bodies under way to the store, together; beyond it answers are relayed and not stored."""


class Cache:
    """A store, and all that several CacheMiddlewares do with it.

    ``clock`` gives seconds since the epoch. ``aclose`` ends what is under way; it is for whoever made the cache.
    """

    def __init__(self, store: CacheStore | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.store: CacheStore = MemoryStore(clock=clock) if store is None else store
        self.clock = clock
        self.flights: dict[FlightKey, Flight] = {}
        """What others can join."""
        self.background: set[asyncio.Task[None]] = set()
        """Every fetch under way."""
        self.gathered_bytes = 0
        self._under_way: set[Flight] = set()
        # By path, for purges by URL: every unsafe request is one.
        self._by_path: dict[bytes, set[Flight]] = {}
        # By hash: keys are as long as clients like, and a collision only lets a request go by itself.
        self._alone: TLRUCache[int, float] = TLRUCache(MAX_ALONE, ttu=_until, timer=clock)
        self._missed: dict[int, float] = {}

    async def purge(
        self,
        *,
        url: str | None = None,
        prefix: str | None = None,
        tag: str | None = None,
        everything: bool = False,
        soft: bool = False,
    ) -> int:
        """Drop stored answers and return how many.

        Exactly one of: ``url``, the public URL, all its variants on all routes; ``prefix`` of such URLs; ``tag`` from
        the tags header; ``everything``. ``soft`` marks them stale instead, so that they may be validated or served
        while that happens. Raises ValueError for anything else.
        """
        if sum((url is not None, prefix is not None, tag is not None, everything)) != 1:
            raise ValueError("purge needs exactly one of url, prefix, tag and everything")
        purge = Purge(
            url=with_root(parse_public_url(url)) if url is not None else None,
            prefix=parse_public_url(prefix) if prefix is not None else None,
            tag=tag.encode("utf-8") if tag is not None else None,
            soft=soft,
            at=self.clock(),
        )
        return await self._purge(purge)

    async def invalidate(self, url: bytes) -> int:
        """Drop what is stored for ``url``, in the form of ``public_url``, as unsafe methods do.

        Does not raise when the store is away: the request that changed something has succeeded.
        """
        try:
            return await self._purge(Purge(url=url, at=self.clock(), insists=False))
        except CapacityError as error:
            logger.debug("%s was not invalidated: %s", url.decode("latin-1"), error)
            return 0

    async def _purge(self, purge: Purge) -> int:
        if purge.url is None:
            flights = list(self._under_way)
        else:
            flights = list(self._by_path.get(purge.url.partition(b"?")[0], ()))
        # The tags of what is under way are not known yet: nobody joins what may be outdated.
        tags = frozenset() if purge.tag is None else frozenset([purge.tag])
        for flight in flights:
            if purge.matches(flight.url, tags, filtered=flight.plan.filtered):
                flight.purge(purge)
        return await self.store.purge(purge, purge.at)

    def stats(self) -> dict[str, Any]:
        """Numbers of this process: ``entries`` and ``bytes`` of a memory store, ``fetching``, ``gathered_bytes``."""
        numbers: dict[str, Any] = {"fetching": len(self.background), "gathered_bytes": self.gathered_bytes}
        if isinstance(self.store, MemoryStore):
            numbers |= {"entries": len(self.store), "bytes": self.store.used_bytes, "max_bytes": self.store.max_bytes}
        return numbers

    async def aclose(self) -> None:
        """Cancel what is under way and close the store."""
        tasks = list(self.background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.store.aclose()

    close = aclose

    # For flights.

    def start(self, flight: Flight) -> None:
        """Send a flight on its way; others can join it unless it is solo."""
        if not flight.solo:
            self.flights[flight.key] = flight
        task = flight.task = asyncio.get_running_loop().create_task(flight.run())
        self.background.add(task)
        self._under_way.add(flight)
        self._by_path.setdefault(flight.url.partition(b"?")[0], set()).add(flight)
        task.add_done_callback(lambda done: self._ended(flight, done))

    def _ended(self, flight: Flight, task: asyncio.Task[None]) -> None:
        self.background.discard(task)
        self._under_way.discard(flight)
        path = flight.url.partition(b"?")[0]
        self._by_path[path].discard(flight)
        if not self._by_path[path]:
            del self._by_path[path]
        self.land(flight)
        # A task that was cancelled before its first step has told nobody.
        flight.give_up()

    def land(self, flight: Flight) -> None:
        """Let nobody else join ``flight``."""
        if self.flights.get(flight.key) is flight:
            del self.flights[flight.key]

    def may_start_behind(self) -> bool:
        """Whether one more validation may run behind a stale answer."""
        return sum(not flight.led for flight in self._under_way) < MAX_BEHIND

    def may_detach(self) -> bool:
        """Whether one more fetch may go on without any client."""
        return sum(flight.led and not flight.body.readers for flight in self._under_way) <= MAX_DETACHED

    def may_gather(self) -> bool:
        """Whether there is room for more bodies under way."""
        return self.gathered_bytes < MAX_GATHERED_BYTES

    def is_alone(self, key: CacheKey) -> bool:
        """Whether answers under ``key`` were found not to be shareable."""
        return hash(key) in self._alone

    def remember_alone(self, key: CacheKey, for_s: float) -> None:
        """Answers under ``key`` cannot be shared: for a while nobody waits for another's."""
        self._alone[hash(key)] = for_s

    def forget_alone(self, key: CacheKey) -> None:
        """They can."""
        self._alone.pop(hash(key), None)

    def remember_missed(self, key: CacheKey, until: float) -> None:
        """An answer under ``key`` could have been stored and was not: up to ``until`` the next ones are to be."""
        if len(self._missed) >= MAX_ALONE:
            self._missed.clear()
        self._missed[hash(key)] = until

    def has_missed(self, key: CacheKey, now: float) -> bool:
        """Whether the next answer under ``key`` is to be stored if it may be, whatever others were like."""
        return self._missed.get(hash(key), 0.0) > now


def _until(key: int, for_s: float, now: float) -> float:
    return now + for_s
