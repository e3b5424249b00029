"""What is read back from Redis: the same, or nothing where somebody else wrote it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.cache_control import RequestDirectives
from gateway.http.caching import Freshness, may_answer_error, reuse
from gateway.http.vary import Selector, selects
from gateway.stores.base import Entry, Purge
from gateway.stores.redis_format import INLINE_BYTES, dump_entry, dump_purge, load_entry, load_purge

NOW = 1_700_000_000.0

ENTRY = Entry(
    status=200,
    fields=[(b"etag", b'"\xe9"'), (b"vary", b"x")],
    freshness=Freshness(birth=NOW, fresh_until=-math.inf, stale_if_error_s=5, keep_until=NOW + 60),
    body=None,
    size=3,
    url=b"http://example.com/",
    selectors=(Selector(b"x", None), Selector(b"y", b"1", True)),
    tags=frozenset([b"a", b"b"]),
    requested_at=NOW - 1,
    received_at=NOW,
    body_id="id",
)

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def test_an_entry_comes_back_as_it_was() -> None:
    loaded = load_entry(dump_entry(ENTRY))
    assert loaded is not None
    assert asdict(loaded) == asdict(ENTRY)


@pytest.mark.parametrize("body", [b"", b"abc", b"\n\n{\xff", b"x" * INLINE_BYTES])
def test_a_small_body_comes_with_its_entry(body: bytes) -> None:
    written = dump_entry(replace(ENTRY, body=body, size=len(body), body_id=""))
    loaded = load_entry(written)
    assert loaded is not None
    assert loaded.body == body
    assert load_entry(written + b"x") is None
    assert load_entry(dump_entry(replace(ENTRY, body=body, size=INLINE_BYTES + 1, body_id=""))) is not None


def test_a_purge_comes_back_as_it_was() -> None:
    purge = Purge(url=b"http://example.com/\xe9", tag=b"a", at=NOW)
    loaded = load_purge(dump_purge(purge))
    assert loaded == purge
    assert loaded is not None and loaded.at == purge.at


@given(st.data())
def test_an_entry_with_junk_in_it_is_not_there_or_can_be_used(data: st.DataObject) -> None:
    written: Any = json.loads(dump_entry(ENTRY))
    place, name = written, data.draw(st.sampled_from(sorted(written)))
    while isinstance(place[name], list) and place[name] and data.draw(st.booleans()):
        place, name = place[name], data.draw(st.integers(0, len(place[name]) - 1))
    place[name] = data.draw(JUNK)
    loaded = load_entry(json.dumps(written).encode())
    if loaded is None:
        return
    assert 200 <= loaded.status <= 599
    assert int(loaded.freshness.age_s(NOW)) >= 0
    int(loaded.freshness.ttl_s(NOW))
    reuse(loaded.freshness, RequestDirectives(max_stale_s=1), NOW)
    may_answer_error(loaded.freshness, RequestDirectives(), NOW)
    selects(loaded.selectors, [(b"x", b"1")])
    assert loaded.stored_bytes > 0
    dump_entry(loaded)


@pytest.mark.parametrize("value", [b"", b"[1]", b"[" * 100_000, b'{"format":1}', b"\xff", b"1e999", b"{}", b"null"])
def test_junk_is_not_there(value: bytes) -> None:
    assert load_entry(value) is None
    assert load_purge(value) is None
