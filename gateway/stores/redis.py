"""Stored answers in Redis (from 7.0) or Valkey, shared by workers and machines.

    {prefix}m:KEY    hash of a key's variants: everything but the bodies, unless they are small
    {prefix}b:ID     list of a body's chunks
    {prefix}u:PATH   set of the keys of one path, for purging by URL
    {prefix}t:TAG    set of the keys with a tag
    {prefix}l:KEY    who fetches a key, or that everybody does
    {prefix}p        sorted set of recent purges, for answers that were asked for before them and arrive after

Everything has a time to live. A server that is away or slow is left alone for a second at a time, and requests go on
without the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.errors import CapacityError
from gateway.http.cache_key import CacheKey
from gateway.stores.base import MAX_VARIANTS, Entry, LockState, Purge, key_url
from gateway.stores.patience import Patience
from gateway.stores.redis_format import (
    digest,
    dump_entry,
    dump_purge,
    is_inline,
    key_digest,
    load_entry,
    load_purge,
    path_digest,
    variant_digest,
)

CHUNK_BYTES = 256 * 1024
CHUNKS_AT_ONCE = 4
RETRY_S = 1.0
"""How long a server that failed is not asked again."""

REPLACED_BODY_S = 60
"""How long a body stays for those who are reading it."""

PURGES_REMEMBERED_S = 300
MAX_MISSED = 100
"""Invalidations remembered while the server is away; beyond it everything goes when it is back."""

MAKE_UP_S = 1.0
"""How often making up for them is tried."""
MAKE_UP_AT_END_S = 2.0
"""How long it may hold up the end."""

MAX_CONNECTIONS = 32
"""Operations at a time. More would not be faster, and a herd takes longer to connect than the timeout allows."""
MAX_TTL_S = 366 * 86400

_ALONE = b"alone"
_UNLOCK = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], 'alone', 'PX', ARGV[2])
return 1
"""
_REPLACE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

logger = logging.getLogger("gateway.cache")

T = TypeVar("T")


_NONSENSE = (TypeError, ValueError, AttributeError, LookupError, RecursionError, NotImplementedError)
"""What comes of a server whose replies are of no form or type that was asked for."""


class _Unavailable(Exception):
    """The server did not answer in time, or not at all."""


class _Refused(_Unavailable):
    """It answered with an error: out of memory, a read-only replica."""


class RedisStore:
    """A CacheStore in Redis. ``timeout_s`` is the longest that one operation takes before a request goes on without it.

    As long may a request wait for its turn before that: many at once are no outage, but each of them has its limit.

    The url is ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it.
    """

    max_object_bytes: int | None = None

    def __init__(self, url: str, *, prefix: str = "gw:", timeout_s: float = 0.25) -> None:
        self.prefix = prefix
        self.timeout_s = timeout_s
        pool = ConnectionPool.from_url(
            url,
            # Some to spare: one that is closing after a timeout still counts.
            max_connections=2 * MAX_CONNECTIONS,
            # Timeouts are _do's alone: the library's count the time in which nobody listened.
            socket_timeout=None,
            socket_connect_timeout=None,
            # The library's own retries would multiply the timeout.
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Redis = Redis(connection_pool=pool)
        self._turns = asyncio.Semaphore(MAX_CONNECTIONS)
        self._token = secrets.token_hex(12)
        self._is_down = False
        self._holds_dead = False
        self._dropping = asyncio.Lock()
        self._retry_at = -math.inf
        self._answered_at = -math.inf
        self._missed: list[Purge] = []
        self._is_catching_up = False
        self._making_up: asyncio.Task[None] | None = None
        self._refuses = False

    def get_now(self, key: CacheKey, now: float) -> Sequence[Entry] | None:
        return None

    def put_now(self, key: CacheKey, entry: Entry, now: float) -> bool | None:
        return None

    async def get(self, key: CacheKey, now: float) -> Sequence[Entry]:
        return await self._or(self._get(key, now), ())

    async def _get(self, key: CacheKey, now: float) -> Sequence[Entry]:
        name = self._name("m", key_digest(key))
        found = await self._do(lambda: self._redis.hgetall(name))
        if self._missed:
            await self._catch_up()
            found = await self._do(lambda: self._redis.hgetall(name))
        loaded, url = (load_entry(value) for value in found.values()), key_url(key)
        # The digest names the key; that the entry says the same guards against a server that mixes up its answers.
        entries = [entry for entry in loaded if entry and entry.url == url and entry.freshness.keep_until > now]
        entries.sort(key=lambda entry: entry.received_at, reverse=True)
        # What the newest says about Vary holds for all.
        return [entry for entry in entries if _selector_names(entry) == _selector_names(entries[0])]

    async def read(self, entry: Entry) -> bytes | None:
        return await self._or(self._read(entry), None)

    async def _read(self, entry: Entry) -> bytes | None:
        name, chunks, size = self._name("b", entry.body_id), list[bytes](), 0
        while size < entry.size:
            last = len(chunks) + CHUNKS_AT_ONCE - 1
            found = await self._do(partial(self._redis.lrange, name, len(chunks), last))
            if not found:
                return None
            chunks.extend(found)
            size += sum(map(len, found))
        return b"".join(chunks) if size == entry.size else None

    async def put(self, key: CacheKey, entry: Entry, now: float) -> bool:
        ttl_s = math.ceil(min(entry.freshness.keep_until - now, MAX_TTL_S))
        return ttl_s > 0 and await self._or(self._put(key, entry, ttl_s), False)

    async def _put(self, key: CacheKey, entry: Entry, ttl_s: int) -> bool:
        if not entry.body_id and (entry.body is None or not (is_inline(entry) or await self._write_body(entry, ttl_s))):
            return False
        return await self._write_head(key, entry, ttl_s)

    async def _write_body(self, entry: Entry, ttl_s: int) -> bool:
        body = entry.body
        if body is None:
            return False
        body_id = secrets.token_hex(12)
        name = self._name("b", body_id)
        for start in range(0, len(body), CHUNK_BYTES):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.rpush(name, body[start : start + CHUNK_BYTES])
            # From the first chunk on: a writer that dies must not leave anything for ever.
            pipeline.expire(name, ttl_s)
            await self._do(pipeline.execute)
        entry.body_id = body_id
        return True

    async def _write_head(self, key: CacheKey, entry: Entry, ttl_s: int) -> bool:
        name, field = self._name("m", key_digest(key)), variant_digest(entry.selectors)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hget(name, field)
        pipeline.hset(name, field, dump_entry(entry))
        pipeline.hlen(name)
        pipeline.zrangebyscore(self.prefix + "p", f"({entry.requested_at!r}", "+inf")
        pipeline.expire(self._name("b", entry.body_id), ttl_s)
        _keep(pipeline, name, ttl_s)
        for index in (
            self._name("u", path_digest(entry.url)),
            *(self._name("t", digest([tag])) for tag in entry.tags),
        ):
            pipeline.sadd(index, key_digest(key))
            _keep(pipeline, index, ttl_s)
        old, _, variants, purges, has_body, *_ = await self._do(pipeline.execute)
        self._refuses = False
        # Purges are logged before they look for entries: whichever is later sees the other.
        purged = any(_means(load_purge(value), entry) for value in purges)
        if purged or (entry.body_id and not has_body):
            await self._do(lambda: self._redis.hdel(name, field))
            return False
        replaced = load_entry(old) if old else None
        if replaced is not None and replaced.body_id and replaced.body_id != entry.body_id:
            await self._do(lambda: self._redis.expire(self._name("b", replaced.body_id), REPLACED_BODY_S))
        if variants > MAX_VARIANTS:
            await self._drop_oldest(name)
        return True

    async def _drop_oldest(self, name: str) -> None:
        found = await self._do(lambda: self._redis.hgetall(name))
        ages = sorted(
            (entry.received_at if (entry := load_entry(value)) else 0.0, field) for field, value in found.items()
        )
        surplus = [field for _, field in ages[: max(0, len(ages) - MAX_VARIANTS)]]
        if surplus:
            await self._do(lambda: self._redis.hdel(name, *surplus))

    async def drop(self, key: CacheKey, entry: Entry) -> None:
        name, field = self._name("m", key_digest(key)), variant_digest(entry.selectors)
        await self._or(self._do(lambda: self._redis.hdel(name, field)), None)

    async def purge(self, purge: Purge, now: float) -> int:
        """As in CacheStore; raises CapacityError when the server is away: whoever purges has to know.

        One that does not insist is made up for when the server is back, before this process reads anything again.
        """
        try:
            return await self._purge(purge, now)
        except (_Unavailable, *_NONSENSE) as error:
            if not purge.insists:
                self._missed = [*self._missed, purge] if len(self._missed) < MAX_MISSED else [replace(purge, url=None)]
                if self._making_up is None or self._making_up.done():
                    self._making_up = asyncio.create_task(self._make_up())
            raise CapacityError("the cache's Redis did not purge", detail="The cache is not available.") from error

    async def _make_up(self) -> None:
        """Purge what was missed as soon as the server is back: other processes read from it, whether this one does."""
        while self._missed:
            await asyncio.sleep(MAKE_UP_S)
            with contextlib.suppress(_Unavailable, *_NONSENSE):
                await self._catch_up()

    async def _end_making_up(self) -> None:
        """Try once more; what this process has missed nobody else knows."""
        if self._making_up is not None:
            self._making_up.cancel()
            await asyncio.wait([self._making_up])
        if not self._missed:
            return
        self._missed = [replace(purge, insists=True) for purge in self._missed]
        with contextlib.suppress(_Unavailable, TimeoutError, *_NONSENSE):
            async with asyncio.timeout(MAKE_UP_AT_END_S):
                await self._catch_up()
        if self._missed:
            logger.warning(
                "the cache's Redis never heard of %d invalidations: it has answers that are no longer true",
                len(self._missed),
            )

    async def _catch_up(self) -> None:
        """Purge what could not be purged while the server was away; meanwhile others go on without it."""
        if self._is_catching_up:
            raise _Unavailable
        self._is_catching_up = True
        try:
            while self._missed:
                missed = self._missed[0]
                await self._purge(missed, missed.at)
                self._missed = [purge for purge in self._missed if purge is not missed]
        finally:
            self._is_catching_up = False

    async def _purge(self, purge: Purge, now: float) -> int:
        log = self.prefix + "p"
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.zadd(log, {dump_purge(purge): purge.at})
        pipeline.zremrangebyscore(log, "-inf", purge.at - PURGES_REMEMBERED_S)
        pipeline.expire(log, PURGES_REMEMBERED_S)
        await self._do(pipeline.execute, always=purge.insists)
        count = 0
        async for name, variants in self._candidates(purge):
            for field, value in variants.items():
                entry = load_entry(value)
                if entry is not None and purge.matches(entry.url, entry.tags, filtered=entry.filtered):
                    await self._purge_variant(name, field, value, entry, purge, now)
                    count += 1
        return count

    async def _purge_variant(
        self, name: str, field: bytes, value: bytes, entry: Entry, purge: Purge, now: float
    ) -> None:
        if purge.soft:
            outdated = dump_entry(entry.with_head(entry.fields, entry.freshness.outdated(now)))
            await self._do(lambda: self._eval(_REPLACE, name, field, value, outdated), always=purge.insists)
            return
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hdel(name, cast(str, field))
        pipeline.expire(self._name("b", entry.body_id), REPLACED_BODY_S)
        await self._do(pipeline.execute, always=purge.insists)

    async def _candidates(self, purge: Purge) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
        """Names and variants of the keys that a purge may mean."""
        index = None
        if purge.tag is not None:
            index = self._name("t", digest([purge.tag]))
        elif purge.url is not None:
            index = self._name("u", path_digest(purge.url))
        if index is not None:
            members = await self._do(lambda: self._redis.smembers(index), always=purge.insists)
            for found in await self._variants([self._name("m", member.decode("ascii")) for member in members], purge):
                yield found
            return
        cursor = 0
        pattern = "".join(f"\\{char}" if char in "*?[]\\^" else char for char in self.prefix) + "m:*"
        while True:
            scan = partial(self._redis.scan, cursor, match=pattern, count=500)
            cursor, names = await self._do(scan, always=purge.insists)
            for found in await self._variants([name.decode("utf-8") for name in names], purge):
                yield found
            if not cursor:
                return

    async def _variants(self, names: Sequence[str], purge: Purge) -> list[tuple[str, dict[bytes, bytes]]]:
        found: list[tuple[str, dict[bytes, bytes]]] = []
        for start in range(0, len(names), 100):
            batch = names[start : start + 100]
            pipeline = self._redis.pipeline(transaction=False)
            for name in batch:
                pipeline.hgetall(name)
            found.extend(zip(batch, await self._do(pipeline.execute, always=purge.insists), strict=True))
        return found

    async def lock(self, key: CacheKey, ttl_s: float) -> LockState:
        return await self._or(self._lock(self._name("l", key_digest(key)), ttl_s), "ours")

    async def _lock(self, name: str, ttl_s: float) -> LockState:
        if await self._do(lambda: self._redis.set(name, self._token, nx=True, px=max(1, int(ttl_s * 1000)))):
            return "ours"
        return "alone" if await self._do(lambda: self._redis.get(name)) == _ALONE else "theirs"

    async def unlock(self, key: CacheKey, alone_s: float = 0.0) -> None:
        name = self._name("l", key_digest(key))
        await self._or(self._do(lambda: self._eval(_UNLOCK, name, self._token, str(int(alone_s * 1000)))), None)

    async def aclose(self) -> None:
        await self._end_making_up()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _name(self, kind: str, rest: str) -> str:
        return f"{self.prefix}{kind}:{rest}"

    def _eval(self, script: str, name: str, *arguments: Any) -> Awaitable[Any]:
        return self._redis.eval(script, 1, name, *arguments)

    async def _do(self, operation: Callable[[], Any], *, always: bool = False) -> Any:
        """One operation within the timeout. Raises _Unavailable, also at once while the server is left alone.

        ``always``: ask it all the same.
        """
        turns = self._turns
        if turns.locked():
            try:
                async with Patience(self.timeout_s):
                    await turns.acquire()
            except TimeoutError as error:
                raise _Unavailable from error
        else:
            await turns.acquire()
        try:
            return await self._do_now(operation, always)
        finally:
            turns.release()

    async def _do_now(self, operation: Callable[[], Any], always: bool) -> Any:
        clock = asyncio.get_running_loop().time
        began = clock()
        if self._is_down and not always:
            if clock() < self._retry_at:
                raise _Unavailable
            # One request finds out; the others do not wait with it.
            self._retry_at = clock() + RETRY_S
        try:
            async with Patience(self.timeout_s):
                if self._holds_dead:
                    await self._drop_dead()
                result = await operation()
        except ResponseError as error:
            if not self._refuses:
                self._refuses = True
                logger.warning("the cache's Redis refuses: %s", error)
            raise _Refused(str(error)) from error
        except (TimeoutError, RedisTimeoutError) as error:
            # One that has answered others meanwhile is not away: there are more requests than it can take.
            if self._answered_at < began:
                self._leave_alone(error)
            raise _Unavailable from error
        except (RedisError, OSError, *_NONSENSE) as error:
            self._leave_alone(error)
            raise _Unavailable from error
        self._answered_at = clock()
        if self._is_down:
            self._is_down = False
            logger.warning("the cache's Redis is back")
        return result

    async def _drop_dead(self) -> None:
        """Close what idles since before the outage: each would look like another one.

        All that comes meanwhile waits: it could be given a connection that is about to be closed.
        """
        async with self._dropping:
            if self._holds_dead:
                await self._redis.connection_pool.disconnect(inuse_connections=False)
                self._holds_dead = False

    def _leave_alone(self, error: Exception) -> None:
        self._retry_at = asyncio.get_running_loop().time() + RETRY_S
        if not self._is_down:
            self._is_down = self._holds_dead = True
            reason = str(error)[:200] or f"silent for {self.timeout_s:g} s"
            logger.warning("the cache's Redis is away (%s): requests go on without it", reason)

    async def _or(self, work: Awaitable[T], otherwise: T) -> T:
        """What ``work`` gives, or ``otherwise`` where the server is away or its answers make no sense."""
        try:
            return await work
        except _Unavailable:
            pass
        except _NONSENSE as error:
            self._leave_alone(error)
        return otherwise


def _keep(pipeline: Any, name: str, ttl_s: int) -> None:
    """Let a key live at least so long."""
    pipeline.expire(name, ttl_s, nx=True)
    pipeline.expire(name, ttl_s, gt=True)


def _selector_names(entry: Entry) -> list[bytes]:
    return [selector.name for selector in entry.selectors]


def _means(purge: Purge | None, entry: Entry) -> bool:
    return purge is not None and purge.matches(entry.url, entry.tags, filtered=entry.filtered)
