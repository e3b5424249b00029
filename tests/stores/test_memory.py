from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.cache_key import CacheKey
from gateway.http.caching import Freshness
from gateway.http.vary import Selector
from gateway.stores.base import (
    ENTRY_OVERHEAD_BYTES,
    FIELD_OVERHEAD_BYTES,
    MAX_VARIANTS,
    Entry,
    Purge,
    insert_variant,
    key_url,
)
from gateway.stores.memory import TOUCH_S, MemoryStore

pytestmark = pytest.mark.anyio

NOW = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def key(target: bytes = b"/a") -> CacheKey:
    return ("shop", "https", b"Example.com:443", target, ())


def entry(target: bytes = b"/a", body: bytes = b"body", *, keep_s: float = 100, **fields: Any) -> Entry:
    values: dict[str, Any] = {
        "status": 200,
        "fields": [(b"etag", b'"1"')],
        "freshness": Freshness(birth=NOW, fresh_until=NOW + 60, keep_until=NOW + keep_s),
        "body": body,
        "size": len(body),
        "url": key_url(key(target)),
        "received_at": NOW,
        "requested_at": NOW,
    }
    return Entry(**{**values, **fields})


def test_put_and_get() -> None:
    store = MemoryStore(clock=Clock())
    stored = entry()
    assert store.get_now(key(), NOW) == ()
    assert store.put_now(key(), stored, NOW)
    assert list(store.get_now(key(), NOW)) == [stored]
    assert stored.url == b"https://example.com/a"
    assert (
        store.used_bytes
        == stored.stored_bytes
        == ENTRY_OVERHEAD_BYTES + 4 + FIELD_OVERHEAD_BYTES + 7 + 2 * len(stored.url)
    )


async def test_waiting_forms_do_the_same() -> None:
    store = MemoryStore(clock=Clock())
    stored = entry()
    assert await store.put(key(), stored, NOW)
    assert list(await store.get(key(), NOW)) == [stored]
    assert await store.read(stored) == b"body"
    assert await store.lock(key(), 1) == "ours"
    await store.unlock(key())
    await store.drop(key(), stored)
    await store.drop(key(b"/other"), stored)
    assert len(store) == 0
    await store.put(key(), stored, NOW)
    await store.aclose()
    assert len(store) == 0
    assert not store.get_now(key(), NOW)


def test_same_selectors_replace_others_stay() -> None:
    store = MemoryStore(clock=Clock())
    for status, value in [(201, b"br"), (202, b"gzip"), (203, b"br")]:
        variant = entry(status=status, selectors=(Selector(b"accept-encoding", value),))
        store.put_now(key(), variant, NOW)
    assert [variant.status for variant in store.get_now(key(), NOW)] == [203, 202]
    assert len(store) == 1


def test_new_vary_makes_older_variants_go() -> None:
    old = entry(selectors=(Selector(b"accept-encoding", b"br"),))
    new = entry(selectors=(Selector(b"origin", b"a"),))
    assert insert_variant([old], new) == [new]


def test_variants_are_bounded() -> None:
    variants: list[Entry] = []
    for index in range(MAX_VARIANTS + 5):
        variants = insert_variant(variants, entry(status=index, selectors=(Selector(b"x", b"%d" % index),)))
    assert [variant.status for variant in variants] == list(range(MAX_VARIANTS + 4, 4, -1))


def test_least_recently_used_go_first() -> None:
    clock = Clock()
    size = entry(b"/0").stored_bytes
    store = MemoryStore(size * 3, clock=clock)
    for index in range(3):
        store.put_now(key(b"/%d" % index), entry(b"/%d" % index), clock.now)
    clock.now += TOUCH_S * 2
    assert store.get_now(key(b"/0"), clock.now)
    store.put_now(key(b"/3"), entry(b"/3"), clock.now)
    left = [index for index in range(4) if store.get_now(key(b"/%d" % index), clock.now)]
    assert left == [0, 2, 3]
    assert store.used_bytes <= size * 3


def test_too_large_is_not_kept_and_pushes_nothing_out() -> None:
    store = MemoryStore(10_000, clock=Clock())
    store.put_now(key(b"/small"), entry(b"/small"), NOW)
    assert not store.put_now(key(), entry(body=b"x" * 10_000), NOW)
    assert len(store) == 1


def test_variants_together_too_large_leave_the_newest() -> None:
    store = MemoryStore(10_000, clock=Clock())
    for value in (b"br", b"gzip"):
        variant = entry(body=b"x" * 6000, selectors=(Selector(b"accept-encoding", value),))
        assert store.put_now(key(), variant, NOW)
    assert [variant.selectors[0].value for variant in store.get_now(key(), NOW)] == [b"gzip"]


@pytest.mark.parametrize("trigger", ["miss", "put", "sweep", "get"])
def test_expired_entries_do_not_linger(trigger: str) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    store.put_now(key(), entry(tags=frozenset([b"t"])), NOW)
    store.put_now(key(b"/long"), entry(b"/long", keep_s=1000), NOW)
    clock.now += 101
    if trigger == "miss":
        store.get_now(key(b"/other"), clock.now)
    elif trigger == "put":
        store.put_now(key(b"/long"), entry(b"/long", keep_s=1000), clock.now)
    elif trigger == "sweep":
        store.sweep(clock.now)
    else:
        assert store.get_now(key(), clock.now) == ()
    assert list(store._by_key) == [key(b"/long")]
    assert list(store._by_url) == [b"https://example.com/long"]
    assert not store._by_tag


def test_expired_is_not_put() -> None:
    store = MemoryStore(clock=Clock())
    assert not store.put_now(key(), entry(keep_s=0), NOW)
    assert not store.get_now(key(), NOW)


def stock() -> MemoryStore:
    store = MemoryStore(clock=Clock())
    store.put_now(key(b"/a?x=1"), entry(b"/a?x=1", tags=frozenset([b"red"])), NOW)
    store.put_now(key(b"/b/1"), entry(b"/b/1", tags=frozenset([b"red", b"blue"])), NOW)
    store.put_now(key(b"/b/2?y=2"), entry(b"/b/2?y=2", filtered=True), NOW)
    other: CacheKey = ("other route", "https", b"example.com", b"/b/1", (b"cookie",))
    store.put_now(other, entry(b"/b/1"), NOW)
    return store


@pytest.mark.parametrize(
    ("purge", "count"),
    [
        pytest.param(Purge(), 4, id="everything"),
        pytest.param(Purge(tag=b"red"), 2, id="tag"),
        pytest.param(Purge(tag=b"green"), 0, id="unknown-tag"),
        pytest.param(Purge(url=b"https://example.com/a?x=1"), 1, id="url"),
        pytest.param(Purge(url=b"https://example.com/b/1"), 2, id="url-of-two-routes"),
        pytest.param(Purge(url=b"https://example.com/a"), 0, id="url-without-its-query"),
        pytest.param(Purge(url=b"https://example.com/b/2?utm=1&y=2"), 1, id="url-with-more-than-the-key-has"),
        pytest.param(Purge(url=b"https://example.com/b/2?y=3"), 0, id="url-with-another-value"),
        pytest.param(Purge(prefix=b"https://example.com/b/"), 3, id="prefix"),
        pytest.param(Purge(prefix=b"http://example.com/"), 0, id="prefix-of-another-scheme"),
    ],
)
@pytest.mark.parametrize("soft", [False, True])
async def test_purge(purge: Purge, count: int, soft: bool) -> None:
    store = stock()
    before = {name: slot.variants[0] for name, slot in store._by_key.items()}
    assert await store.purge(replace(purge, soft=soft), NOW) == count
    left = {name: slot.variants[0] for name, slot in store._by_key.items()}
    assert len(left) == (4 if soft else 4 - count)
    assert sum(variant.freshness.fresh_until == NOW for variant in left.values()) == (count if soft else 0)
    assert all(variant.body == before[name].body for name, variant in left.items())


async def test_purge_of_everything_leaves_no_index() -> None:
    store = stock()
    await store.purge(Purge(), NOW)
    assert not store._by_key
    assert not store._by_url
    assert not store._by_tag
    assert store.used_bytes == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "drop", "wait"]), st.integers(0, 5), st.integers(0, 4000)), max_size=60
    )
)
async def test_bound_and_indexes_hold_whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    store = MemoryStore(10_000, clock=clock)
    for step, number, size in steps:
        target = b"/%d" % number
        if step == "put":
            fresh = Freshness(birth=clock.now, fresh_until=clock.now, keep_until=clock.now + size / 100)
            selectors = (Selector(b"x", b"%d" % (size % 3)),)
            stored = entry(target, b"x" * size, freshness=fresh, selectors=selectors, tags=frozenset([target]))
            store.put_now(key(target), stored, clock.now)
        elif step == "get":
            store.get_now(key(target), clock.now)
        elif step == "drop":
            await store.drop(key(target), entry(target, selectors=(Selector(b"x", b"1"),)))
        else:
            clock.now += size / 200
    store.sweep(clock.now)
    slots = store._by_key
    assert len(store) == len(slots)
    assert store.used_bytes == sum(variant.stored_bytes for slot in slots.values() for variant in slot.variants)
    assert store.used_bytes <= 10_000
    assert set(store._by_url) == {variant.url for slot in slots.values() for variant in slot.variants}
    assert {name for names in store._by_tag.values() for name in names} == set(slots)
