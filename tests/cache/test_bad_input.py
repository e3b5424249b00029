"""What no well-behaved client or upstream sends: it costs no answer, and no more time than it deserves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http.cache_control import effective_directives, parse_directives, request_directives
from gateway.http.cache_key import KeyPolicy, covers, same_origin_url
from gateway.http.caching import judge, reuse
from gateway.http.conditional import is_not_modified, parse_etags, range_applies
from gateway.http.content_range import parse_range
from gateway.http.stored_fields import storable_fields, updated_fields
from gateway.http.vary import MAX_NAMES, selectors_of, vary_names
from gateway.stores.memory import MemoryStore
from gateway.stores.redis_format import load_entry, load_purge
from tests.cache.support import Turn, cc, converse
from tests.middleware.cache_origin import Clock
from tests.stores.test_memory import entry, key

MIB = 1024 * 1024
FRESH = cc(b"max-age=60")

DATES = [
    b"Thu, 18 Aug 99999 02:01:18 GMT",
    b"Thu, 18 Aug 9999 02:01:18 GMT",
    b"Thu, 00 Aug 2050 02:01:18 GMT",
    b"Thu, 18 Aug 2050 99:99:99 GMT",
    b"Thu, 18 Aug 2050 23:59:60 GMT",
    b"Monday, 18-Aug-00 02:01:18 GMT",
    b"9" * 100_000,
    b"",
    b"\xff\x00",
]

FIELDS: list[tuple[str, Any]] = [
    *((f"{name.decode()}-{number}", (name, date)) for name in (b"date", b"expires", b"last-modified")
      for number, date in enumerate(DATES)),
    *((f"cache-control-{number}", cc(value)) for number, value in enumerate([
        b"\x00\xff\x80", b'"' * 1001, b'a="' + b"\\" * 10_001, b"," * 100_000, b"=" * 1000, b"max-age=" * 1000,
        b"max-age=1," * 10_000, b'private="' + b"a," * 100_000 + b'"', b"a" * (MIB // 4),
        b'x="' + b"y" * (MIB // 4) + b'"',
        b"no-cache=\xff", b"max-age\x00=1", b'"', b'max-age="1', b" \t \t",
    ])),
    ("cdn", (b"cdn-cache-control", b"\xff" * 1000)),
    ("cdn-deep", (b"cdn-cache-control", b"a=" + b"(" * 10_000)),
    ("cdn-long", (b"cdn-cache-control", b"a=1, " * 10_000 + b"b")),
    ("surrogate", (b"surrogate-control", b"max-age=1+" + b"9" * 10_000)),
    ("age", (b"age", b"9" * 100_000)),
    ("age-sign", (b"age", b"-")),
    ("vary-long", (b"vary", b"x-" + b"a" * MIB)),
    ("vary-many", (b"vary", b",".join(b"x-%d" % number for number in range(100_000)))),
    ("vary-repeated", (b"vary", b"x-field, " * (MIB // 9))),
    ("etag", (b"etag", b"\xff" * 10_000)),
    ("etag-empty", (b"etag", b"")),
    ("connection", (b"connection", b"a," * 10_000)),
    ("surrogate-key", (b"surrogate-key", b"tag " * 10_000)),
    ("location", (b"content-location", b"http://[::")),
    ("content-encoding", (b"content-encoding", b"\xff,,,,gzip")),
]  # fmt: skip

ASKED: list[tuple[bytes, bytes]] = [
    (b"cache-control", b'max-age="'),
    (b"cache-control", b"max-age=" + b"9" * 5000),
    (b"cache-control", b"min-fresh=-1"),
    (b"cache-control", b"\xff\x00,,=,"),
    (b"pragma", b"\xff" * 1000),
    (b"if-none-match", b'"' * 9999),
    (b"if-none-match", b'W/"a", ' * 5000),
    (b"if-none-match", b""),
    *((b"if-modified-since", date) for date in DATES),
    *((b"if-range", date) for date in DATES),
    (b"range", b"bytes=" + b"0-1," * 10_000),
    (b"range", b"bytes=" + b"9" * 10_000 + b"-"),
    (b"range", b"=-,"),
    (b"cookie", b"=;;=\xff;" * 1000),
    (b"authorization", b""),
    (b"accept-encoding", b"gzip;q=1.1, ;;, *;q=nan, br;q=" + b"9" * 1000),
    (b"accept-language", b"," * 10_000),
    (b"host", b"\xff"),
    (b"x-field", b"\x00" * 10_000),
]


@pytest.mark.anyio
@pytest.mark.parametrize("field", [field for _, field in FIELDS], ids=[name for name, _ in FIELDS])
async def test_answers(field: tuple[bytes, bytes]) -> None:
    body = b"0123456789"
    for fields in ([FRESH, field], [field], [FRESH, field, field], [(b"etag", b'"1"'), field]):
        first, second, third = await converse(
            Turn(fields, body=body), Turn(fields, wait_s=1, body=body), Turn(fields, wait_s=3600, body=body)
        )
        assert first.body == second.body == third.body == body


@pytest.mark.anyio
@pytest.mark.parametrize("field", ASKED, ids=lambda field: repr(field)[:40])
async def test_requests(field: tuple[bytes, bytes]) -> None:
    stored = [FRESH, (b"etag", b'"1"'), (b"last-modified", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"vary", b"x-field")]
    ask = [field, (b"range", b"bytes=0-1")] if field[0] == b"if-range" else [field]
    await converse(Turn(stored), Turn(stored, ask=ask, wait_s=1), Turn(stored, ask=[field, field], wait_s=100))


@pytest.mark.anyio
async def test_year_0() -> None:
    date = b"Sat, 01 Jan 0000 00:00:00 GMT"
    await converse(Turn([FRESH, (b"expires", date)]), Turn(ask=[(b"if-modified-since", date)]))
    await converse(Turn([(b"expires", date)]), Turn([(b"date", date)]))


def test_answer_that_depends_on_too_much_is_not_stored() -> None:
    names = [b"x-%d" % number for number in range(MAX_NAMES + 1)]
    assert vary_names([(b"vary", b",".join(names))]) is None
    assert len(vary_names([(b"vary", b",".join(names[1:]))]) or ()) == MAX_NAMES
    assert len(vary_names([(b"vary", b"a, A,") for _ in range(1000)]) or ()) == 1


def test_what_clients_choose_counts_against_the_bound() -> None:
    store = MemoryStore(1 << 20, clock=Clock())
    for number in range(200):
        value = b"%d" % number + b"x" * 60_000
        request = [(b"user-agent", value)]
        stored = entry(selectors=selectors_of([b"user-agent"], request))
        store.put_now(key(b"/%d" % (number % 50)), stored, Clock()())
        extras = (value,)
        store.put_now((*key(b"/x")[:4], extras), entry(), Clock()())
    held = sum(
        sum(len(selector.value or b"") for selector in found.selectors)
        for slot in store._by_key.values()
        for found in slot.variants
    ) + sum(len(extra or b"") for name in store._by_key for extra in name[4])
    assert held <= store.used_bytes <= 1 << 20


LATIN = st.binary(max_size=60)
NAMES = st.sampled_from(
    b"cache-control cdn-cache-control surrogate-control expires date age vary etag last-modified connection set-cookie "
    b"content-encoding content-length".split()
)
WORDS = st.lists(
    st.sampled_from(
        [b"max-age", b"=", b"9", b",", b'"', b"\\", b" ", b"no-cache", b"private", b"*", b";", b"\xff", b"+"]
    ),
    max_size=12,
).map(b"".join)
MESSAGE = st.lists(st.tuples(NAMES, st.one_of(LATIN, WORDS)), max_size=6)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(fields=MESSAGE, update=MESSAGE, asked=st.one_of(LATIN, WORDS), value=st.one_of(LATIN, WORDS))
def test_anything(fields: Any, update: Any, asked: bytes, value: bytes) -> None:
    now = 1.7e9
    judgement = judge(200, fields, requested_at=now, received_at=now + 1)
    reuse(judgement.freshness, request_directives(asked, value), now + 9)
    effective_directives(update)
    parse_directives(value)
    storable_fields(updated_fields(fields, update), judgement.directives, now)
    selectors_of(judgement.vary, update, fields)
    is_not_modified(asked, value, fields, now=now, received_at=now)
    range_applies(value, fields, now)
    parse_etags(value)
    parse_range(b"bytes=" + value, 10)
    same_origin_url(b"http://example.com/a", value)
    covers(b"http://example.com/?" + value, b"http://example.com/?" + asked)
    load_entry(value)
    load_purge(value)
    for query in ({"only": ["a"]}, {"except": ["a"], "sort": False}):
        policy = KeyPolicy("x", query=query, cookies=["a"], vary=["Accept-Encoding"])
        policy.describe("http", value, b"/?" + value, [(b"cookie", asked), (b"accept-encoding", value)])
