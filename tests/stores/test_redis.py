from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.errors import CapacityError
from gateway.http.cache_key import CacheKey
from gateway.http.caching import Freshness
from gateway.http.vary import Selector
from gateway.stores.base import MAX_VARIANTS, Entry, Purge
from gateway.stores.redis import CHUNK_BYTES, RedisStore
from gateway.stores.redis_format import INLINE_BYTES, dump_entry, key_digest, load_entry, load_purge
from tests.middleware.cache_origin import Answer, Client, Clock, Origin, ask, cached, get, is_hit, status_of
from tests.stores.redis_server import REDIS_SERVER, FailingProxy, running_redis
from tests.support.messages import http_scope

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.redis,
    pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server on PATH"),
]

NOW = 1_700_000_000.0
KEY: CacheKey = ("shop", "https", b"example.com", b"/a?x=1", ())


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_redis(tmp_path_factory.mktemp("redis")) as number:
        yield number


@pytest.fixture
def prefix() -> str:
    return f"t[{secrets.token_hex(4)}]*:"


@pytest.fixture
async def store(port: int, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=5)
    yield store
    await store.aclose()


@pytest.fixture
async def raw(port: int) -> AsyncIterator[Any]:
    client: Any = Redis(host="127.0.0.1", port=port)
    yield client
    await client.aclose()


LARGE = b"large" * INLINE_BYTES
"""A body that is kept apart from its entry."""


def entry(body: bytes = LARGE, **fields: Any) -> Entry:
    values: dict[str, Any] = {
        "status": 200,
        "fields": [(b"etag", b'"1"'), (b"x", b"\xff\x80"), (b"set-cookie", b"a"), (b"set-cookie", b"b")],
        "freshness": Freshness(birth=NOW, fresh_until=NOW + 60, keep_until=NOW + 120),
        "body": body,
        "size": len(body),
        "url": b"https://example.com/a?x=1",
        "received_at": NOW,
        "requested_at": NOW,
    }
    return Entry(**{**values, **fields})


async def test_entry_comes_back_as_it_was(store: RedisStore) -> None:
    stored = entry(
        selectors=(Selector(b"accept-encoding", b"br"), Selector(b"origin", None)),
        tags=frozenset([b"a", b"\xff"]),
        freshness=Freshness(birth=NOW, fresh_until=float("-inf"), may_be_stale=False, keep_until=NOW + 9),
    )
    assert store.get_now(KEY, NOW) is None
    assert await store.put(KEY, stored, NOW)
    (found,) = await store.get(KEY, NOW)
    assert found.body is None
    assert await store.read(found) == LARGE
    for name in Entry.__slots__:
        if name != "body":
            assert getattr(found, name) == getattr(stored, name), name


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES])
async def test_small_bodies_come_with_their_entry(store: RedisStore, raw: Any, prefix: str, size: int) -> None:
    body = (bytes(range(256)) + b"\n{") * 20
    await store.put(KEY, entry(body[:size]), NOW)
    (found,) = await store.get(KEY, NOW)
    assert found.body == body[:size]
    assert not found.body_id
    assert not [name async for name in raw.scan_iter(match=prefix.replace("[", "\\[").replace("*", "\\*") + "b:*")]
    assert await store.put(KEY, found.with_head([(b"etag", b'"2"')], found.freshness), NOW)
    assert await store.purge(Purge(soft=True, at=NOW + 1), NOW + 1) == 1
    (again,) = await store.get(KEY, NOW)
    assert (again.fields, again.body) == ([(b"etag", b'"2"')], body[:size])
    assert await store.put(KEY, entry(requested_at=NOW + 2), NOW + 2)
    assert await store.put(KEY, entry(b"small", requested_at=NOW + 2), NOW + 2)
    assert [found.body for found in await store.get(KEY, NOW + 2)] == [b"small"]


@pytest.mark.parametrize("size", [INLINE_BYTES + 1, CHUNK_BYTES, CHUNK_BYTES + 1, 9 * CHUNK_BYTES + 7])
async def test_bodies_are_kept_in_chunks(store: RedisStore, raw: Any, prefix: str, size: int) -> None:
    body = bytes(index % 251 for index in range(1024)) * (size // 1024 + 1)
    assert await store.put(KEY, entry(body[:size]), NOW)
    (found,) = await store.get(KEY, NOW)
    assert await store.read(found) == body[:size]
    assert await raw.llen(f"{prefix}b:{found.body_id}") == -(-size // CHUNK_BYTES)


async def test_everything_has_a_time_to_live(store: RedisStore, raw: Any, prefix: str) -> None:
    await store.put(KEY, entry(tags=frozenset([b"t"])), NOW)
    await store.purge(Purge(tag=b"other", at=NOW), NOW)
    await store.lock(KEY, 5)
    names = [name async for name in raw.scan_iter(match=prefix.replace("[", "\\[").replace("*", "\\*") + "*")]
    assert len(names) == 6
    for name in names:
        assert 0 < await raw.ttl(name) <= 300, name


async def test_body_that_was_evicted_is_a_miss(store: RedisStore, raw: Any, prefix: str) -> None:
    await store.put(KEY, entry(), NOW)
    (found,) = await store.get(KEY, NOW)
    await raw.delete(f"{prefix}b:{found.body_id}")
    assert await store.read(found) is None


async def test_new_head_keeps_the_body(store: RedisStore) -> None:
    await store.put(KEY, entry(), NOW)
    (found,) = await store.get(KEY, NOW)
    fresh = replace(found.freshness, fresh_until=NOW + 600, keep_until=NOW + 900)
    assert await store.put(KEY, found.with_head([(b"etag", b'"2"')], fresh), NOW)
    (again,) = await store.get(KEY, NOW)
    assert again.fields == [(b"etag", b'"2"')]
    assert again.freshness == fresh
    assert await store.read(again) == LARGE


async def test_new_head_without_a_body_left_is_not_kept(store: RedisStore, raw: Any, prefix: str) -> None:
    await store.put(KEY, entry(), NOW)
    (found,) = await store.get(KEY, NOW)
    await raw.delete(f"{prefix}b:{found.body_id}")
    assert not await store.put(KEY, found, NOW)
    assert not await store.get(KEY, NOW)


async def test_variants_stand_side_by_side_newest_first(store: RedisStore) -> None:
    for index, value in enumerate([b"br", b"gzip", b"br"]):
        variant = entry(selectors=(Selector(b"accept-encoding", value),), received_at=NOW + index, status=200 + index)
        await store.put(KEY, variant, NOW)
    assert [found.status for found in await store.get(KEY, NOW)] == [202, 201]


async def test_variants_are_bounded(store: RedisStore) -> None:
    for index in range(MAX_VARIANTS + 3):
        variant = entry(selectors=(Selector(b"user-agent", b"%d" % index),), received_at=NOW + index)
        await store.put(KEY, variant, NOW)
    found = await store.get(KEY, NOW)
    assert len(found) == MAX_VARIANTS
    assert found[-1].received_at == NOW + 3


async def test_expired_and_foreign_values_are_not_there(store: RedisStore, raw: Any, prefix: str) -> None:
    await store.put(KEY, entry(), NOW)
    assert not await store.get(KEY, NOW + 121)
    await raw.hset(f"{prefix}m:{key_digest(KEY)}", "other", b"{}")
    assert len(await store.get(KEY, NOW)) == 1
    assert load_entry(b"[1]") is None
    assert load_entry(dump_entry(entry()).replace(b'"format":2', b'"format":1')) is None
    assert load_purge(b"nonsense") is None
    assert not await store.put(KEY, entry(), NOW + 500)


async def test_drop_forgets_one_variant(store: RedisStore) -> None:
    await store.put(KEY, entry(), NOW)
    await store.drop(KEY, entry())
    assert not await store.get(KEY, NOW)


@pytest.mark.parametrize(
    ("purge", "count"),
    [
        (Purge(at=NOW), 3),
        (Purge(tag=b"red", at=NOW), 2),
        (Purge(url=b"https://example.com/a?x=1", at=NOW), 1),
        (Purge(url=b"https://example.com/a", at=NOW), 0),
        (Purge(prefix=b"https://example.com/b", at=NOW), 2),
        (Purge(prefix=b"https://example.org/", at=NOW), 0),
        (Purge(url=b"https://example.com/b/2?utm=1&y=2", at=NOW), 1),
    ],
    ids=["everything", "tag", "url", "other-query", "prefix", "other-prefix", "part-of-the-query"],
)
@pytest.mark.parametrize("soft", [False, True])
async def test_purge(store: RedisStore, purge: Purge, count: int, soft: bool) -> None:
    entries = [
        (b"/a?x=1", entry(tags=frozenset([b"red"]))),
        (b"/b/1", entry(tags=frozenset([b"red", b"blue"]), url=b"https://example.com/b/1")),
        (b"/b/2?y=2", entry(url=b"https://example.com/b/2?y=2", filtered=True)),
    ]
    keys: list[CacheKey] = [("shop", "https", b"example.com", target, ()) for target, _ in entries]
    for key, (_, stored) in zip(keys, entries, strict=True):
        assert await store.put(key, stored, NOW)
    assert await store.purge(replace(purge, soft=soft), NOW) == count
    found = [await store.get(key, NOW) for key in keys]
    fresh = [bool(variants) and variants[0].freshness.fresh_until > NOW for variants in found]
    assert fresh.count(False) == count
    assert sum(not variants for variants in found) == (0 if soft else count)


async def test_answer_asked_for_before_a_purge_is_not_kept(store: RedisStore) -> None:
    await store.purge(Purge(tag=b"red", at=NOW + 1), NOW + 1)
    assert not await store.put(KEY, entry(tags=frozenset([b"red"])), NOW + 2)
    assert not await store.get(KEY, NOW + 2)
    assert await store.put(KEY, entry(tags=frozenset([b"blue"])), NOW + 2)
    assert await store.put(KEY, entry(tags=frozenset([b"red"]), requested_at=NOW + 1.5), NOW + 2)


async def test_lock_is_for_one_process(store: RedisStore, port: int, prefix: str) -> None:
    other = RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=5)
    assert await store.lock(KEY, 5) == "ours"
    assert await other.lock(KEY, 5) == "theirs"
    await other.unlock(KEY)
    assert await other.lock(KEY, 5) == "theirs"
    await store.unlock(KEY)
    assert await other.lock(KEY, 5) == "ours"
    await other.unlock(KEY, alone_s=5)
    assert await store.lock(KEY, 5) == "alone"
    await other.aclose()


async def test_two_processes_make_one_upstream_request(port: int, prefix: str) -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60")], gate=gate))
    stores = [RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=5) for _ in range(2)]
    apps = [cached(origin, clock, store=store) for store in stores]
    requests = [asyncio.ensure_future(get(apps[index % 2])) for index in range(20)]
    await origin.called.wait()
    gate.set()
    answers = await asyncio.gather(*requests)
    assert {answer.body for answer in answers} == {b"body"}
    assert origin.count == 1
    assert sum(b"collapsed" in status_of(answer) or is_hit(answer) for answer in answers) == 19
    for app in apps:
        await app.aclose()


async def test_unshareable_answers_are_remembered_across_processes(port: int, prefix: str) -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"private")]))
    apps = [
        cached(origin, clock, store=RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=5))
        for _ in range(2)
    ]
    await get(apps[0])
    # The lock is given back after the answer.
    await asyncio.gather(*apps[0].cache.background)
    await asyncio.gather(*[get(apps[1]) for _ in range(5)])
    assert origin.count == 6
    for app in apps:
        await app.aclose()


async def test_purge_reaches_other_processes(port: int, prefix: str) -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60"), (b"surrogate-key", b"a b")]))
    apps = [
        cached(origin, clock, store=RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=5))
        for _ in range(2)
    ]
    await get(apps[0])
    await asyncio.gather(*apps[0].cache.background)
    assert is_hit(await get(apps[1]))
    assert await apps[1].cache.purge(tag="b") == 1
    assert not is_hit(await get(apps[0]))
    for app in apps:
        await app.aclose()


@pytest.mark.parametrize("failure", ["refused", "silent"])
async def test_requests_go_on_without_redis_and_with_it_again(
    port: int, prefix: str, failure: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.redis.RETRY_S", 0.0 if failure == "refused" else 0.01)
    clock = Clock()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60")]))
    async with FailingProxy(port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix, timeout_s=5)
        app = cached(origin, clock, store=store)
        await get(app)
        await asyncio.gather(*app.cache.background)
        assert is_hit(await get(app))
        if failure == "refused":
            await proxy.close()
        else:
            proxy.silent = True
            store.timeout_s = 0.05
        with caplog.at_level(logging.WARNING, "gateway.cache"):
            answers = [await get(app) for _ in range(3)]
            await asyncio.gather(*app.cache.background)
        assert [answer.status for answer in answers] == [200] * 3
        assert not any(is_hit(answer) for answer in answers)
        assert len([record for record in caplog.records if "is away" in record.message]) == 1
        with pytest.raises(CapacityError):
            await app.cache.purge(everything=True)
        assert (await ask(app, "POST", b"/written")).status == 200
        caplog.clear()
        if failure == "refused":
            await proxy.open()
        else:
            proxy.silent = False
            store.timeout_s = 5
        with caplog.at_level(logging.WARNING, "gateway.cache"):
            await app.cache.purge(tag="wakes it up")
            assert is_hit(await get(app))
        assert [record.message for record in caplog.records] == ["the cache's Redis is back"]
        await app.aclose()


@pytest.mark.parametrize("limit", [100, 2])
async def test_what_was_changed_while_redis_was_away_is_not_served_again(
    port: int, prefix: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.redis.RETRY_S", 0.0)
    monkeypatch.setattr("gateway.stores.redis.MAKE_UP_S", 60.0)
    monkeypatch.setattr("gateway.stores.redis.MAX_MISSED", limit)
    clock = Clock()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60")]))
    async with FailingProxy(port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix, timeout_s=5)
        app = cached(origin, clock, store=store)
        targets = [b"/%d" % number for number in range(4)]
        for target in targets:
            await get(app, target)
        await asyncio.gather(*app.cache.background)
        assert all([is_hit(await get(app, target)) for target in targets])
        await proxy.close()
        for target in targets[:3]:
            assert (await ask(app, "POST", target)).status == 200
        await proxy.open()
        assert [is_hit(await get(app, target)) for target in targets] == [False, False, False, limit > 3]
        await asyncio.gather(*app.cache.background)
        clock.now += 1
        await get(app, b"/0")
        await asyncio.gather(*app.cache.background)
        assert is_hit(await get(app, b"/0"))
        await app.aclose()


async def missed(port: int, prefix: str, proxy: FailingProxy) -> tuple[RedisStore, RedisStore]:
    """A store behind ``proxy`` that could not purge everything, since Redis was away; and one that still can read."""
    near = RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=5)
    far = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix, timeout_s=5)
    assert await near.put(KEY, entry(b"small"), NOW)
    await proxy.close()
    with pytest.raises(CapacityError):
        await far.purge(Purge(url=entry().url, at=NOW + 1, insists=False), NOW + 1)
    assert await near.get(KEY, NOW + 2)
    return near, far


async def test_what_was_missed_is_made_up_for_when_redis_is_back_whoever_reads(
    port: int, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.redis.RETRY_S", 0.0)
    monkeypatch.setattr("gateway.stores.redis.MAKE_UP_S", 0.01)
    async with FailingProxy(port) as proxy:
        near, far = await missed(port, prefix, proxy)

        await proxy.open()
        assert far._making_up is not None
        await far._making_up

        assert not await near.get(KEY, NOW + 2)
        await far.aclose()
        await near.aclose()


async def test_what_was_missed_is_made_up_for_at_the_end_if_redis_is_back(
    port: int, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.stores.redis.RETRY_S", 60.0)
    monkeypatch.setattr("gateway.stores.redis.MAKE_UP_S", 60.0)
    async with FailingProxy(port) as proxy:
        near, far = await missed(port, prefix, proxy)

        await proxy.open()
        await far.aclose()

        assert not await near.get(KEY, NOW + 2)
        assert not [record for record in caplog.records if "never heard" in record.message]
        await near.aclose()


async def test_what_was_missed_for_good_is_said(port: int, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    async with FailingProxy(port) as proxy:
        near, far = await missed(port, prefix, proxy)
        caplog.clear()

        await far.aclose()

        assert [record.message for record in caplog.records] == [
            "the cache's Redis never heard of 1 invalidations: it has answers that are no longer true"
        ]
        await near.aclose()


async def test_server_that_answers_others_is_not_away(store: RedisStore, caplog: pytest.LogCaptureFixture) -> None:
    others_have_answers = asyncio.Event()

    async def time_out() -> None:
        await others_have_answers.wait()
        raise TimeoutError

    waiting = [asyncio.ensure_future(store._do(time_out)) for _ in range(3)]
    await asyncio.sleep(0)
    assert await store.get(KEY, NOW) == []
    others_have_answers.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["_Unavailable"] * 3
    assert not caplog.records
    assert await store.lock(KEY, 1) == "ours"
    await asyncio.gather(store._do(time_out), return_exceptions=True)
    assert [record.message for record in caplog.records] == [
        f"the cache's Redis is away (silent for {store.timeout_s:g} s): requests go on without it"
    ]


async def test_server_that_is_away_is_left_alone(port: int, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.stores.redis.RETRY_S", 3600.0)
    async with FailingProxy(port) as proxy:
        proxy.silent = True
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix, timeout_s=0.05)
        assert await store.get(KEY, NOW) == ()
        connections = proxy.connections
        for _ in range(50):
            assert await store.get(KEY, NOW) == ()
            assert await store.lock(KEY, 1) == "ours"
            assert not await store.put(KEY, entry(), NOW)
            await store.unlock(KEY)
            await store.drop(KEY, entry())
            assert await store.read(entry(body_id="x")) is None
        assert proxy.connections == connections
        await store.aclose()


async def test_many_at_once_are_no_outage(port: int, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    store = RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=20)
    assert await store.put(KEY, entry(), NOW)
    found = await asyncio.gather(*(store.get(KEY, NOW) for _ in range(1000)))
    assert all(len(entries) == 1 for entries in found)
    # Those whose turn does not come in time go on without the store, which is not away for that.
    store.timeout_s = 0.0
    store._turns = asyncio.Semaphore(0)
    assert await store.get(KEY, NOW) == ()
    assert caplog.text == ""
    await store.aclose()


async def test_operation_cut_off_in_the_middle_leaves_no_answer_for_the_next(port: int, prefix: str) -> None:
    async with FailingProxy(port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix, timeout_s=5)
        other: CacheKey = (*KEY[:3], b"/other", ())
        await store.put(KEY, entry(), NOW)
        await store.put(other, entry(url=b"https://example.com/other"), NOW)
        proxy.silent = True
        waiting = asyncio.ensure_future(store.get(KEY, NOW))
        for _ in range(20):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        proxy.silent = False
        assert [found.url for found in await store.get(other, NOW)] == [b"https://example.com/other"]
        await store.aclose()


async def test_full_server_stores_nothing_and_says_so_once(
    tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running_redis(tmp_path, "--maxmemory", "1mb", "--maxmemory-policy", "noeviction") as port:
        store = RedisStore(f"redis://127.0.0.1:{port}/0", prefix=prefix, timeout_s=5)
        clock = Clock()
        origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60")], pieces=[b"x" * 3_000_000]))
        app = cached(origin, clock, store=store)
        with caplog.at_level(logging.WARNING, "gateway.cache"):
            for _ in range(3):
                assert len((await get(app)).body) == 3_000_000
                await asyncio.gather(*app.cache.background)
        assert len([record for record in caplog.records if "refuses" in record.message]) == 1
        await app.aclose()


async def test_slow_store_does_not_hold_back_the_answer(port: int, prefix: str) -> None:
    async with FailingProxy(port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", prefix=prefix, timeout_s=30)
        clock, gate = Clock(), asyncio.Event()
        origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60")], gate=gate))
        app = cached(origin, clock, store=store)
        client = Client(app, http_scope())
        await origin.called.wait()
        proxy.silent = True
        gate.set()
        await client.task
        assert client.sent.body == b"body"
        assert app.cache.background
        proxy.silent = False
        await app.aclose()


async def test_after_an_outage_dead_connections_are_dropped_once_and_before_anything_is_asked(
    store: RedisStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = store._redis.connection_pool
    disconnect, dropping, seen = pool.disconnect, asyncio.Event(), []

    async def slow_disconnect(**options: Any) -> None:
        seen.append("dropping")
        await dropping.wait()
        await disconnect(**options)
        seen.append("dropped")

    async def asked() -> None:
        seen.append("asked")

    store._leave_alone(OSError("gone"))
    monkeypatch.setattr(pool, "disconnect", slow_disconnect)
    tasks = [asyncio.ensure_future(store._do(asked, always=True)) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    dropping.set()
    await asyncio.gather(*tasks)
    monkeypatch.undo()
    assert seen == ["dropping", "dropped", "asked", "asked", "asked"]
    assert [record.message for record in caplog.records][-1] == "the cache's Redis is back"
