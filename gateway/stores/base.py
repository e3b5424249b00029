"""What a store of answers has to do: one small protocol for memory and for what several processes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from gateway.http.cache_key import CacheKey, covers, public_url
from gateway.http.caching import Freshness
from gateway.http.fields import Fields
from gateway.http.vary import Selectors

ENTRY_OVERHEAD_BYTES = 1024
"""What an entry costs beside its body and fields: objects, index places, key."""

FIELD_OVERHEAD_BYTES = 128
TAG_OVERHEAD_BYTES = 256

MAX_VARIANTS = 32
"""Answers kept under one key; the oldest goes first."""

LockState = Literal["ours", "theirs", "alone"]
"""Who fetches an object: this process, another one, or everybody, since its answers cannot be shared."""


@dataclass(slots=True, eq=False)
class Entry:
    """One stored answer, complete. ``fields`` have no Age; ``body`` is None where it stays with the store."""

    status: int
    fields: Fields
    freshness: Freshness
    body: bytes | None
    size: int
    """Bytes of the body."""
    url: bytes
    """The public URL of its key."""
    selectors: Selectors = ()
    tags: frozenset[bytes] = frozenset()
    filtered: bool = False
    """Whether ``url`` has only a part of the query that clients send."""
    requested_at: float = 0.0
    """When it was asked for: a purge after that moment may mean it."""
    received_at: float = 0.0
    body_id: str = ""
    """Where a store keeps the body apart."""
    sent_as: object = None
    """For whoever sends the answer out, to keep what it made of the fields."""

    @property
    def stored_bytes(self) -> int:
        """What it takes of a store's space."""
        head = sum([len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in self.fields])
        # What clients choose counts too, or long requests could fill memory with short answers.
        chosen = sum([len(selector.value or b"") + FIELD_OVERHEAD_BYTES for selector in self.selectors])
        tags = sum([len(tag) + TAG_OVERHEAD_BYTES for tag in self.tags])
        return self.size + head + chosen + 2 * len(self.url) + tags + ENTRY_OVERHEAD_BYTES

    def with_head(self, fields: Fields, freshness: Freshness) -> Entry:
        """The same body under fields and freshness of a later answer."""
        return replace(self, fields=fields, freshness=freshness, sent_as=None)


@dataclass(frozen=True, slots=True)
class Purge:
    """What is to go: all conditions that are set have to hold; none is everything.

    ``soft`` marks answers stale, so that they can still be validated, or served while that happens.
    """

    url: bytes | None = None
    prefix: bytes | None = None
    tag: bytes | None = None
    soft: bool = False
    at: float = field(default=0.0, compare=False)
    insists: bool = field(default=True, compare=False)
    """Whether a store that is away is asked all the same."""

    def matches(self, url: bytes, tags: frozenset[bytes], *, filtered: bool = False) -> bool:
        """Whether an answer stored under ``url`` with ``tags`` is meant."""
        if self.url is not None and self.url != url and not (filtered and covers(self.url, url)):
            return False
        if self.prefix is not None and not url.startswith(self.prefix):
            return False
        return self.tag is None or self.tag in tags


def key_url(key: CacheKey) -> bytes:
    """The public URL of a key."""
    _, scheme, host, target, _ = key
    return public_url(scheme, host, target)


def insert_variant(variants: Sequence[Entry], entry: Entry) -> list[Entry]:
    """``variants`` with ``entry`` first.

    Those that the same requests would have got go, and those that depended on other fields: what the newest answer
    says in Vary holds for all.
    """
    names = _names(entry)
    kept = [other for other in variants if other.selectors != entry.selectors and _names(other) == names]
    return [entry, *kept[: MAX_VARIANTS - 1]]


def _names(entry: Entry) -> list[bytes]:
    return [selector.name for selector in entry.selectors]


class CacheStore(Protocol):
    """Keeps answers by key, several per key where they vary. Only ``purge`` raises for an outage."""

    max_object_bytes: int | None
    """Bodies beyond it cannot be kept; None: the store does not say."""

    def get_now(self, key: CacheKey, now: float) -> Sequence[Entry] | None:
        """The answers under ``key``, newest first, if that can be said without waiting; else None: ask ``get``."""
        ...

    async def get(self, key: CacheKey, now: float) -> Sequence[Entry]:
        """The answers under ``key``, newest first."""
        ...

    async def read(self, entry: Entry) -> bytes | None:
        """The whole body of an entry whose ``body`` is None; None when it is gone."""
        ...

    def put_now(self, key: CacheKey, entry: Entry, now: float) -> bool | None:
        """``put`` where that needs no waiting; None: ask ``put``."""
        ...

    async def put(self, key: CacheKey, entry: Entry, now: float) -> bool:
        """Keep an answer, or one with a new head; whether it is kept."""
        ...

    async def drop(self, key: CacheKey, entry: Entry) -> None:
        """Forget one answer."""
        ...

    async def purge(self, purge: Purge, now: float) -> int:
        """Drop answers, or mark them stale; how many. Raises CapacityError when that cannot be done.

        A store that others write to also refuses what was asked for before the purge and comes after it.
        """
        ...

    async def lock(self, key: CacheKey, ttl_s: float) -> LockState:
        """Try to become the one of all processes that fetches ``key``, for at most ``ttl_s``."""
        ...

    async def unlock(self, key: CacheKey, alone_s: float = 0.0) -> None:
        """Let others fetch ``key``; with ``alone_s`` everybody by himself for so long."""
        ...

    async def aclose(self) -> None:
        """Give up connections and memory."""
        ...
