"""Stored answers in this process: bounded by bytes, the least recently used go first, the expired do not stay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from cachetools import TLRUCache

from gateway.http.cache_key import CacheKey
from gateway.stores.base import Entry, LockState, Purge, insert_variant

# Moving a key to the young end costs more than all the rest of a hit (1.6 of 2.0 us): once a second is fine enough.
TOUCH_S = 1.0


PURGED_AT_ONCE = 500
"""Keys that a purge looks at before others have their turn."""


class _Slot:
    """The answers under one key."""

    __slots__ = ("keep_until", "size", "touched", "variants")

    def __init__(self, key: CacheKey, variants: list[Entry], now: float) -> None:
        self.variants = variants
        extras = sum([len(extra) for extra in key[4] if extra is not None])
        self.size = extras + sum([entry.stored_bytes for entry in variants])
        self.keep_until = max([entry.freshness.keep_until for entry in variants])
        self.touched = now


class _Slots(TLRUCache[CacheKey, _Slot]):
    """The bound: tells when a slot goes."""

    def __init__(self, max_bytes: int, clock: Callable[[], float], gone: Callable[[CacheKey, _Slot], None]) -> None:
        super().__init__(max_bytes, ttu=lambda key, slot, now: slot.keep_until, timer=clock, getsizeof=_size_of)
        self._gone = gone

    def popitem(self) -> tuple[CacheKey, _Slot]:
        key, slot = super().popitem()
        self._gone(key, slot)
        return key, slot

    def expire(self, time: float | None = None) -> list[tuple[CacheKey, _Slot]]:
        expired = list(super().expire(time))
        for key, slot in expired:
            self._gone(key, slot)
        return expired


def _size_of(slot: _Slot) -> int:
    return slot.size


class MemoryStore:
    """A CacheStore for one process.

    ``max_bytes`` bounds bodies, fields and an allowance for each entry. ``clock`` gives seconds since the epoch.
    """

    def __init__(self, max_bytes: int = 256 * 1024 * 1024, *, clock: Callable[[], float] = time.time) -> None:
        self.max_bytes = max_bytes
        self.max_object_bytes: int | None = max_bytes
        self._clock = clock
        self._slots = _Slots(max_bytes, clock, self._forget)
        # A hit reads this, not the bound itself.
        self._by_key: dict[CacheKey, _Slot] = {}
        self._by_url: dict[bytes, set[CacheKey]] = {}
        self._by_tag: dict[bytes, set[CacheKey]] = {}

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def used_bytes(self) -> int:
        """Space taken."""
        return int(self._slots.currsize)

    def get_now(self, key: CacheKey, now: float) -> Sequence[Entry]:
        slot = self._by_key.get(key)
        if slot is None:
            self._slots.expire(now)
            return ()
        if now - slot.touched > TOUCH_S:
            slot.touched = now
            # Looking it up is what makes it recently used; nothing comes back when it has just expired.
            if self._slots.get(key) is None:
                self._slots.expire()
                return ()
        return slot.variants

    def sweep(self, now: float) -> None:
        """Drop what has expired by ``now``: lookups that miss do so too, but somebody has to when none come."""
        self._slots.expire(now)

    async def get(self, key: CacheKey, now: float) -> Sequence[Entry]:
        return self.get_now(key, now)

    async def read(self, entry: Entry) -> bytes | None:
        return entry.body

    def put_now(self, key: CacheKey, entry: Entry, now: float) -> bool:
        slot = self._by_key.get(key)
        kept = [] if slot is None else [other for other in slot.variants if other.freshness.keep_until > now]
        if not self._replace(key, slot, insert_variant(kept, entry), now):
            # All variants together are too much for the store: the newest alone may not be.
            return bool(kept) and self._replace(key, self._by_key.get(key), [entry], now)
        return True

    async def put(self, key: CacheKey, entry: Entry, now: float) -> bool:
        return self.put_now(key, entry, now)

    async def drop(self, key: CacheKey, entry: Entry) -> None:
        slot = self._by_key.get(key)
        if slot is not None:
            kept = [other for other in slot.variants if other.selectors != entry.selectors]
            self._replace(key, slot, kept, self._clock())

    async def purge(self, purge: Purge, now: float) -> int:
        count = 0
        for index, key in enumerate(self._candidates(purge), 1):
            if index % PURGED_AT_ONCE == 0:
                # What is put meanwhile was asked for after the purge: flights from before it are told of it.
                await asyncio.sleep(0)
            slot = self._by_key.get(key)
            if slot is None:
                continue  # It expired while others were being replaced.
            kept: list[Entry] = []
            hit = 0
            for entry in slot.variants:
                if not purge.matches(entry.url, entry.tags, filtered=entry.filtered):
                    kept.append(entry)
                    continue
                hit += 1
                if purge.soft:
                    kept.append(entry.with_head(entry.fields, entry.freshness.outdated(now)))
            if hit:
                count += hit
                self._replace(key, slot, kept, now)
        return count

    async def lock(self, key: CacheKey, ttl_s: float) -> LockState:
        return "ours"

    async def unlock(self, key: CacheKey, alone_s: float = 0.0) -> None:
        pass

    async def aclose(self) -> None:
        self._slots.clear()
        self._by_key.clear()
        self._by_url.clear()
        self._by_tag.clear()

    def _candidates(self, purge: Purge) -> list[CacheKey]:
        if purge.tag is not None:
            return list(self._by_tag.get(purge.tag, ()))
        if purge.url is not None:
            # Entries under a part of the query stand under their path as well.
            path = purge.url.partition(b"?")[0]
            return list(self._by_url.get(purge.url, set()) | self._by_url.get(_filtered(path), set()))
        return list(self._by_key)

    def _replace(self, key: CacheKey, slot: _Slot | None, variants: list[Entry], now: float) -> bool:
        if slot is not None:
            self._forget(key, slot)
            self._slots.pop(key, None)
        if not variants:
            return True
        slot = _Slot(key, variants, now)
        if slot.keep_until <= self._clock():
            return False
        try:
            self._slots[key] = slot
        except ValueError:
            return False
        if key not in self._slots:
            return False
        self._by_key[key] = slot
        for entry in variants:
            self._by_url.setdefault(entry.url, set()).add(key)
            if entry.filtered:
                self._by_url.setdefault(_filtered(entry.url.partition(b"?")[0]), set()).add(key)
            for tag in entry.tags:
                self._by_tag.setdefault(tag, set()).add(key)
        return True

    def _forget(self, key: CacheKey, slot: _Slot) -> None:
        self._by_key.pop(key, None)
        for entry in slot.variants:
            _discard(self._by_url, entry.url, key)
            if entry.filtered:
                _discard(self._by_url, _filtered(entry.url.partition(b"?")[0]), key)
            for tag in entry.tags:
                _discard(self._by_tag, tag, key)


def _filtered(path: bytes) -> bytes:
    # No URL ends so: a space never stands in one.
    return path + b" "


def _discard(index: dict[bytes, set[CacheKey]], name: bytes, key: CacheKey) -> None:
    keys = index.get(name)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[name]
