"""What the cache costs in process: a hit by number of entries, bytes per entry, expiry, and a hit through Redis.

    python -m benchmarks.cache
    python -m benchmarks.cache --entries 10 1000 100000 1000000 --redis redis://127.0.0.1:6379/0

Hits are in random order, on a thousand of the entries and on all of them. They go through CacheMiddleware as ASGI
messages, without any server; requests per CPU-second of the whole are ``python -m benchmarks hit``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import time
from pathlib import Path

from starlette.types import Receive, Scope, Send

from benchmarks.in_process import request_us, scope
from gateway.http.caching import Freshness
from gateway.http.dates import http_date
from gateway.middleware.cache import Cache, CacheMiddleware
from gateway.stores.base import CacheStore, Entry, key_url
from gateway.stores.memory import MemoryStore

BODY = b"x" * 200
HOST = (b"host", b"example.com")
LIFETIME_S = 86400.0
ROUNDS = 5


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def target(number: int) -> bytes:
    """One of many URLs."""
    return b"/products/%d?lang=en" % number


def entry(number: int, now: float) -> tuple[tuple[str, str, bytes, bytes, tuple[()]], Entry]:
    """A small answer under its key, as the upstream would have brought it."""
    key = ("", "http", HOST[1], target(number), ())
    fields = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"public, max-age=86400"),
        (b"etag", b'"%d"' % number),
        (b"date", http_date(now)),
        (b"content-length", b"%d" % len(BODY)),
    ]
    fresh = Freshness(birth=now, fresh_until=now + LIFETIME_S, for_authorized=True, keep_until=now + LIFETIME_S)
    # Every body is an object of its own, as it is when it comes off the wire.
    body = bytearray(BODY)
    body[:8] = b"%08d" % (number % 100_000_000)
    return key, Entry(200, fields, fresh, bytes(body), len(BODY), key_url(key), requested_at=now, received_at=now)


async def no_upstream(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("not a hit")


async def hits(store: CacheStore, entries: int, count: int, *, asked: int = 0) -> float:
    """Microseconds of CPU for one hit, in random order over all of ``entries`` keys, or over ``asked`` of them."""
    app = CacheMiddleware(no_upstream, cache=Cache(store))
    rng = random.Random(1)
    step = max(1, entries // asked) if asked else 1
    scopes = [scope(target(rng.randrange(0, entries, step))) for _ in range(min(count, 20_000))]
    await request_us(app, scopes[:1000])
    return min([await request_us(app, scopes) for _ in range(ROUNDS)])


async def in_memory(entries: int) -> None:
    now = [time.time()]
    store = MemoryStore(1 << 40, clock=lambda: now[0])
    before, began = resident_bytes(), time.process_time()
    for number in range(entries):
        store.put_now(*entry(number, now[0]), now[0])
    put_us = (time.process_time() - began) / entries * 1e6
    real = (resident_bytes() - before) / entries
    few_us = await hits(store, entries, 20_000, asked=1000)
    hit_us = await hits(store, entries, 20_000)
    line = (
        f"{entries:>9,} {few_us:>8.2f} {hit_us:>8.2f} {put_us:>8.1f} {real:>12.0f} {store.used_bytes / entries:>12.0f}"
    )
    now[0] += LIFETIME_S + 1
    began = time.perf_counter()
    store.sweep(now[0])
    print(f"{line} {(time.perf_counter() - began) / entries * 1e6:>10.2f}")
    assert not len(store)


async def through_redis(url: str) -> None:
    from gateway.stores.redis import RedisStore

    store = RedisStore(url, prefix="bench:", timeout_s=5)
    now = time.time()
    for number in range(1000):
        assert await store.put(*entry(number, now), now)
    began = time.perf_counter()
    hit_us = await hits(store, 1000, 2000)
    each_us = (time.perf_counter() - began) / (ROUNDS * 2000 + 1000) * 1e6
    print(f"hit through Redis: {hit_us:.0f} us CPU, {each_us:.0f} us in all, one by one")
    await Cache(store).purge(everything=True)
    await store.aclose()


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="*", default=[10, 1000, 100_000, 1_000_000])
    parser.add_argument("--redis", default="")
    arguments = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
    columns = [("entries", 9), ("of 1000", 8), ("of all", 8), ("put us", 8), ("bytes/entry", 12), ("accounted", 12)]
    print(" ".join(f"{name:>{width}}" for name, width in [*columns, ("expire us", 10)]))
    for count in arguments.entries:
        await in_memory(count)
    if arguments.redis:
        await through_redis(arguments.redis)


if __name__ == "__main__":
    asyncio.run(main())
