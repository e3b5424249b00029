from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Scope

from gateway.middleware.cache import Cache
from gateway.stores.memory import MemoryStore
from tests.middleware.cache_origin import Answer, Clock, Origin, cached, get, is_hit, settle, status_of

pytestmark = pytest.mark.anyio

TARGETS = [b"/", b"/a?x=1", b"/a?x=2", b"/b/1", b"/b/2"]


def tagged(scope: Scope) -> Answer:
    tags = {b"/b/1": b"one  both", b"/b/2": b"two both"}.get(scope["raw_path"], b"")
    fields = [(b"cache-control", b"max-age=60"), (b"etag", b'"1"'), (b"surrogate-key", tags), (b"vary", b"accept")]
    return Answer(headers=fields)


@pytest.mark.parametrize(
    ("what", "gone"),
    [
        ({"everything": True}, TARGETS),
        ({"tag": "one"}, [b"/b/1"]),
        ({"tag": "both"}, [b"/b/1", b"/b/2"]),
        ({"tag": "on"}, []),
        ({"url": "http://example.com"}, [b"/"]),
        ({"url": "HTTP://EXAMPLE.com:80/a?x=1#part"}, [b"/a?x=1"]),
        ({"url": "https://example.com/a?x=1"}, []),
        ({"prefix": "http://example.com/b/"}, [b"/b/1", b"/b/2"]),
        ({"prefix": "http://example.com"}, TARGETS),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
async def test_purge(what: Any, gone: list[bytes], soft: bool) -> None:
    clock = Clock()
    cache = Cache(MemoryStore(clock=clock), clock=clock)
    origin = Origin(clock, choose=tagged)
    apps = [cached(origin, clock, cache=cache, namespace=name) for name in ("a", "b")]
    everything = [(app, target, accept) for app in apps for target in TARGETS for accept in (b"a/b", b"c/d")]
    for app, target, accept in everything:
        await get(app, target, (b"accept", accept))
    clock.now += 1
    assert await cache.purge(**what, soft=soft) == len(gone) * 4
    clock.now += 1
    for app, target, accept in everything:
        sent = await get(app, target, (b"accept", accept))
        assert is_hit(sent) == (target not in gone)
        if target in gone:
            assert (b"fwd=stale" in status_of(sent)) == soft
            assert (b"if-none-match" in origin.asked()) == soft
    await cache.close()


async def test_soft_purge_lets_stale_answers_be_used() -> None:
    clock = Clock()
    fields = [(b"cache-control", b"max-age=60, stale-while-revalidate=10")]
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=fields), Answer(headers=fields, pieces=[b"new"], gate=gate))
    app = cached(origin, clock)
    await get(app)
    clock.now += 1
    await app.cache.purge(everything=True, soft=True)
    clock.now += 5
    sent = await get(app)
    assert sent.body == b"body"
    assert status_of(sent) == b"gateway; hit; ttl=-5"
    gate.set()
    await asyncio.gather(*app.cache.background)
    assert (await get(app)).body == b"new"


async def test_what_is_under_way_and_has_other_tags_is_stored() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60"), (b"surrogate-key", b"t")], gate=gate))
    app = cached(origin, clock)
    before = asyncio.ensure_future(get(app))
    await origin.called.wait()
    await app.cache.purge(tag="other")
    await app.cache.purge(url="http://example.com/other")
    gate.set()
    await before
    assert is_hit(await get(app))


@pytest.mark.parametrize("what", [{"tag": "t"}, {"everything": True}, {"url": "http://example.com/"}])
async def test_what_is_under_way_is_purged_too(what: Any) -> None:
    clock = Clock()
    gate = asyncio.Event()
    fields = [(b"cache-control", b"max-age=60"), (b"surrogate-key", b"t")]
    origin = Origin(clock, Answer(headers=fields, pieces=[b"old"], gate=gate), Answer(headers=fields, pieces=[b"new"]))
    app = cached(origin, clock)
    before = asyncio.ensure_future(get(app))
    await origin.called.wait()
    await app.cache.purge(**what)
    after = await get(app)
    assert after.body == b"new"
    gate.set()
    assert (await before).body == b"old"
    sent = await get(app)
    assert is_hit(sent)
    assert sent.body == b"new"


async def test_another_field_can_name_the_tags() -> None:
    clock = Clock()
    fields = [(b"cache-control", b"max-age=60"), (b"cache-tag", b"a, b,c"), (b"surrogate-key", b"d")]
    app = cached(Origin(clock, Answer(headers=fields)), clock, tags_header="Cache-Tag")
    await get(app)
    assert await app.cache.purge(tag="d") == 0
    assert await app.cache.purge(tag="b") == 1
    untagged = cached(Origin(clock, Answer(headers=fields)), clock, tags_header="")
    await get(untagged)
    assert await untagged.cache.purge(tag="b") == 0


async def test_purge_by_url_finds_what_is_stored_under_a_part_of_the_query() -> None:
    clock = Clock()
    app = cached(Origin(clock, choose=tagged), clock, query={"only": ["x"]})
    await get(app, b"/a?x=1&utm=1")
    assert await app.cache.purge(url="http://example.com/a?x=2&utm=1") == 0
    assert await app.cache.purge(url="http://example.com/a?utm=5&x=1") == 1


@pytest.mark.parametrize(
    "what", [{}, {"tag": "a", "everything": True}, {"url": "/path"}, {"prefix": "example.com"}, {"soft": True}]
)
async def test_purge_that_says_nothing_clear_is_refused(what: Any) -> None:
    with pytest.raises(ValueError):
        await Cache().purge(**what)


async def test_stats() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60")]), Answer(gate=gate))
    app = cached(origin, clock)
    await get(app)
    assert app.cache.stats()["entries"] == 1
    assert 0 < app.cache.stats()["bytes"] < app.cache.stats()["max_bytes"]
    waiting = asyncio.ensure_future(get(app, b"/other"))
    await settle()
    assert app.cache.stats()["fetching"] == 1
    gate.set()
    await waiting
    await settle()
    assert app.cache.stats()["fetching"] == 0
    assert app.cache.stats()["gathered_bytes"] == 0
