"""Validation, updates, Vary, request directives, stale answers and invalidation, as RFC 9111 has them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from gateway.errors import ResponseBroken
from tests.cache.support import Conversation, Turn, at, cc, converse
from tests.middleware.cache_origin import settle

pytestmark = pytest.mark.anyio

FRESH = cc(b"max-age=60")
ETAG, OTHER_ETAG, WEAK = (b"etag", b'"1"'), (b"etag", b'"2"'), (b"etag", b'W/"1"')
LM, OLDER_LM = (b"last-modified", at(-3000)), (b"last-modified", at(-6000))
INM, IMS = b"if-none-match", b"if-modified-since"
SHORT = cc(b"max-age=2")


# Conditional requests of clients.


@pytest.mark.parametrize(
    ("stored", "asked", "status"),
    [
        ([ETAG], [(INM, b'"1"')], 304),
        ([ETAG], [(INM, b'"2"')], 200),
        ([ETAG], [(INM, b'W/"1"')], 304),
        ([WEAK], [(INM, b'W/"1"')], 304),
        ([WEAK], [(INM, b'"1"')], 304),
        ([ETAG], [(INM, b'"1", "2", "3"')], 304),
        ([ETAG], [(INM, b'"2", "1", "3"')], 304),
        ([ETAG], [(INM, b'"2","3",,"1"')], 304),
        ([ETAG], [(INM, b'"2"'), (INM, b'"1"')], 304),
        ([ETAG], [(INM, b"*")], 304),
        ([], [(INM, b"*")], 304),
        ([], [(INM, b'"1"')], 200),
        ([ETAG], [(INM, b"1")], 200),
        ([ETAG], [(INM, b'"1')], 200),
        ([(b"etag", b"1")], [(INM, b"1")], 200),
        ([(b"etag", b"1")], [(INM, b'"1"')], 200),
        ([(b"etag", b'w/"1"')], [(INM, b'w/"1"')], 200),
        ([(b"etag", b'"\xfc"')], [(INM, b'"\xfc"')], 304),
        ([(b"etag", b'"a,b"')], [(INM, b'"x", "a,b"')], 304),
        ([(b"etag", b'"a"')], [(INM, b'"x\\", "a"')], 304),
        ([LM], [(IMS, LM[1])], 304),
        ([LM], [(IMS, at(-2000))], 304),
        ([LM], [(IMS, at(-4000))], 200),
        ([LM], [(IMS, b"Sunday, 06-Nov-94 08:49:37 GMT")], 200),
        ([LM], [(IMS, b"never")], 200),
        ([LM], [(IMS, LM[1]), (IMS, at(-4000))], 200),
        ([LM], [(IMS, b"Thu, 18 Aug 99999 02:01:18 GMT")], 200),
        ([], [(IMS, at(5))], 304),
        ([], [(IMS, at(-3000))], 200),
        ([(b"last-modified", b"x")], [(IMS, at(5))], 304),
        ([ETAG, LM], [(INM, b'"2"'), (IMS, LM[1])], 200),
        ([ETAG, LM], [(INM, b'"1"'), (IMS, at(-9000))], 304),
    ],
)
async def test_conditions_of_clients(stored: Any, asked: Any, status: int) -> None:
    conversation = Conversation()
    await conversation.take(Turn([FRESH, *stored]))
    sent = await conversation.take(Turn(ask=asked, wait_s=1, comes="store", gives=status))
    if status == 304:
        assert sent.body == b""
        for name, value in stored:
            assert sent.values(name) == [value]
        assert sent.values(b"cache-control") and sent.values(b"date") and sent.values(b"age") == [b"1"]
        assert not sent.values(b"content-length")
    # HEAD is the same without a body.
    head = await conversation.take(Turn(ask=asked, method="HEAD", comes="store", gives=status))
    assert head.body == b""


async def test_conditions_are_for_200_alone() -> None:
    for status in (404, 410, 301, 203):
        await converse(Turn([FRESH, ETAG], status), Turn(ask=[(INM, b'"1"')], comes="store", gives=status))


@pytest.mark.parametrize("field", [b"if-match", b"if-unmodified-since"])
async def test_conditions_that_only_the_upstream_can_judge(field: bytes) -> None:
    asked = [(field, b'"1"')]
    await converse(Turn([FRESH, ETAG]), Turn(ask=asked, comes="upstream", asked_with=asked), Turn(comes="store"))


# Validation.


@pytest.mark.parametrize(
    ("stored", "sent", "unsent"),
    [
        ([ETAG], [(INM, b'"1"')], [IMS]),
        ([WEAK], [(INM, b'W/"1"')], [IMS]),
        ([LM], [(IMS, LM[1])], [INM]),
        ([ETAG, LM], [(INM, b'"1"'), (IMS, LM[1])], []),
    ],
)
async def test_stale_answers_are_validated(stored: Any, sent: Any, unsent: Any) -> None:
    fields = [SHORT, *stored]
    await converse(
        Turn(fields),
        Turn(fields, wait_s=3, comes="validated", gives=200, text=b"answer 1", asked_with=sent, asked_without=unsent),
        Turn(wait_s=1, comes="store", text=b"answer 1", has=[(b"age", b"1")]),
    )


async def test_condition_of_the_client_gives_way_to_that_of_the_cache() -> None:
    await converse(
        Turn([SHORT, ETAG]),
        Turn([SHORT, ETAG], ask=[(INM, b'"0"')], wait_s=3, comes="validated", gives=200, asked_with=[(INM, b'"1"')]),
        Turn([SHORT, ETAG], ask=[(INM, b'"1"')], wait_s=3, comes="validated", gives=304),
        Turn([SHORT, OTHER_ETAG], ask=[(INM, b'"2"')], wait_s=3, comes="upstream", gives=304),
    )


async def test_what_must_not_be_used_unvalidated_is_validated_each_time() -> None:
    for value in (b"no-cache", b"no-cache, max-age=10000", b"max-age=0, must-revalidate", b"s-maxage=0"):
        turn = Turn([cc(value), ETAG], comes="validated", gives=200, text=b"answer 1")
        await converse(Turn([cc(value), ETAG]), turn, turn, turn)


async def test_validator_of_another_variant_is_not_used() -> None:
    await converse(
        Turn([cc(b"max-age=9000"), ETAG, (b"vary", b"Abc")], ask=[(b"abc", b"123")]),
        Turn(ask=[(b"abc", b"456")], comes="upstream", asked_without=[INM]),
    )


async def test_fields_that_select_are_sent_with_a_validation() -> None:
    fields = [SHORT, ETAG, (b"vary", b"Abc")]
    asked = [(b"abc", b"123")]
    await converse(Turn(fields, ask=asked), Turn(fields, ask=asked, wait_s=3, comes="validated", asked_with=asked))


@pytest.mark.parametrize("dated", [True, False])
async def test_confirmed_answer_is_fresh_again(dated: bool) -> None:
    fields = [cc(b"max-age=10"), ETAG]
    await converse(
        Turn(fields),
        Turn(fields, wait_s=100, comes="validated"),
        Turn(wait_s=9, comes="store", text=b"answer 1", has=[(b"age", b"9")]),
        Turn(fields, wait_s=100, comes="validated"),
        Turn(wait_s=9, comes="store", text=b"answer 1"),
        dated=dated,
    )


@pytest.mark.parametrize("validator", [ETAG, LM])
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (b"test-header", b"a", b"b"),
        (b"x-content-foo", b"a", b"b"),
        (b"content-location", b"/foo", b"/bar"),
        (b"content-security-policy", b"default-src 'self'", b"default-src 'self' cdn.example.com"),
        (b"x-frame-options", b"deny", b"sameorigin"),
        (b"clear-site-data", b"cache", b"cookies"),
        (b"expires", at(1), at(3600)),
        (b"content-language", b"de", b"en"),
        (b"content-type", b"text/plain", b"text/plain;charset=utf-8"),
    ],
)
async def test_304_updates_what_is_stored(validator: Any, name: bytes, old: bytes, new: bytes) -> None:
    lasts = [] if name == b"expires" else [cc(b"max-age=3600")]
    first = [] if name == b"expires" else [SHORT]
    _, second, third = await converse(
        Turn([*first, validator, (name, old)]),
        Turn([validator], update=[*lasts, validator, (name, new)], wait_s=3, comes="validated", has=[(name, new)]),
        Turn(wait_s=9, comes="store", has=[(name, new)]),
    )
    assert second.values(name) == third.values(name) == [new]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (b"content-encoding", b"gzip", b"identity"),
        (b"content-length", b"8", b"0"),
    ],
)
async def test_304_leaves_alone_what_describes_the_bytes(name: bytes, old: bytes, new: bytes) -> None:
    asked = [(b"accept-encoding", b"gzip")]
    await converse(
        Turn([SHORT, ETAG, (name, old)], ask=asked),
        Turn([ETAG], update=[FRESH, ETAG, (name, new)], ask=asked, wait_s=3, comes="validated", has=[(name, old)]),
        Turn(ask=asked, comes="store", has=[(name, old)]),
    )


async def test_304_keeps_what_it_does_not_mention() -> None:
    kept = (b"test-header", b"a")
    turn = Turn([LM], update=[FRESH, LM], wait_s=3, comes="validated", has=[kept])
    await converse(Turn([SHORT, LM, kept]), turn, Turn(comes="store", has=[kept]))


@pytest.mark.parametrize(
    ("stored", "update", "followed"),
    [
        ([ETAG], [OTHER_ETAG], False),
        ([ETAG, LM], [OTHER_ETAG, LM], False),
        ([LM], [OLDER_LM], False),
        ([ETAG, LM], [OLDER_LM], False),
        ([ETAG, LM], [ETAG, OLDER_LM], True),
        ([ETAG], [WEAK], True),
        ([WEAK], [ETAG], True),
        ([ETAG], [], True),
        ([LM], [], True),
        ([LM], [ETAG, LM], True),
        ([ETAG], [LM], True),
    ],
)
async def test_304_about_another_version_confirms_nothing(stored: Any, update: Any, followed: bool) -> None:
    conversation = Conversation()
    await conversation.take(Turn([SHORT, *stored]))
    turn = Turn(stored, update=[FRESH, *update], wait_s=3, gives=200)
    sent = await conversation.take(turn)
    assert len(conversation.seen) == (1 if followed else 2)
    if not followed:
        # Whoever went back to another version is asked for it without conditions.
        assert INM not in conversation.seen[1] and IMS not in conversation.seen[1]
    assert (sent.body == b"answer 1") == followed


# HEAD.


async def test_head_goes_through_when_what_is_stored_is_stale() -> None:
    kept = (b"template-a", b"1")
    await converse(
        Turn([SHORT, kept]),
        Turn([kept], method="HEAD", wait_s=3, comes="upstream", has=[kept]),
    )


async def test_head_refreshes_what_is_stored() -> None:
    stored, update = [SHORT, ETAG, (b"a", b"1")], [cc(b"max-age=1000"), ETAG, (b"a", b"2")]
    for dated in (True, False):
        await converse(
            Turn(stored),
            Turn(update, method="HEAD", wait_s=30, comes="upstream"),
            Turn(wait_s=990, comes="store", text=b"answer 1", has=[(b"a", b"2")]),
            dated=dated,
        )
    await converse(Turn(stored), Turn(update, 410, method="HEAD", wait_s=3), Turn([ETAG], comes="validated"))


async def test_head_can_say_that_an_answer_depends_on_more() -> None:
    fields = [SHORT, ETAG]
    await converse(
        Turn(fields, ask=[(b"x", b"1")]),
        Turn([FRESH, ETAG, (b"vary", b"X")], method="HEAD", ask=[(b"x", b"1")], wait_s=3),
        Turn(ask=[(b"x", b"1")], comes="store"),
        Turn(ask=[(b"x", b"2")], comes="upstream"),
    )


@pytest.mark.parametrize("value", [b"private", b"no-store"])
async def test_head_can_end_the_storage(value: bytes) -> None:
    await converse(
        Turn([FRESH, ETAG]),
        Turn([cc(value), ETAG], method="HEAD", ask=[cc(b"no-cache")], comes="upstream"),
        Turn([FRESH, ETAG], comes="validated"),
    )


async def test_head_does_not_bring_back_what_was_purged_meanwhile() -> None:
    conversation = Conversation()
    await conversation.take(Turn([SHORT, ETAG]))
    inner = conversation.cache._past._app

    async def purging(scope: Any, receive: Any, send: Any) -> None:
        await conversation.cache.cache.purge(everything=True)
        await inner(scope, receive, send)

    conversation.cache._past._app = purging
    await conversation.take(Turn([FRESH, ETAG], method="HEAD", wait_s=3, comes="upstream"))
    await conversation.take(Turn([FRESH, ETAG], comes="upstream"))


# Fields that are not stored.


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ],
)
async def test_fields_of_one_connection_are_not_stored(name: bytes) -> None:
    await converse(Turn([FRESH, (name, b"x")]), Turn(comes="store", lacks=[name]))


async def test_fields_that_are_listed_are_not_stored() -> None:
    fields = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    for listing in [
        (b"connection", b"a, B"),
        cc(b'no-cache="a, b"'),
        cc(b'private="A,b"'),
        cc(b'no-cache="a", private="b"'),
    ]:
        await converse(
            Turn([FRESH, listing, *fields], has=fields if listing[0] != b"connection" else []),
            Turn(comes="store", has=[(b"c", b"3")], lacks=[b"a", b"b"]),
        )


@pytest.mark.parametrize(
    "field",
    [
        (b"x-frame-options", b"deny"),
        (b"clear-site-data", b"cookies"),
        (b"strict-transport-security", b"max-age=1"),
        (b"www-authenticate", b"Basic"),
        (b"content-type", b"text/plain"),
        (b"public-key-pins", b"x"),
    ],
)
async def test_other_fields_are_stored(field: Any) -> None:
    await converse(Turn([FRESH, field]), Turn(comes="store", has=[field]))


# Vary.


@pytest.mark.parametrize(
    ("vary", "first", "second", "hit"),
    [
        ([b"Foo"], [(b"foo", b"1")], [(b"foo", b"1")], True),
        ([b"FOO"], [(b"foo", b"1")], [(b"foo", b"1")], True),
        ([b"Foo"], [(b"foo", b"1")], [(b"foo", b"2")], False),
        ([b"Foo"], [(b"foo", b"1")], [], False),
        ([b"Foo"], [], [(b"foo", b"")], False),
        ([b"Foo"], [(b"foo", b"1")], [(b"foo", b"1"), (b"other", b"3")], True),
        ([b"Foo, Bar"], [(b"foo", b"1"), (b"bar", b"a")], [(b"bar", b"a"), (b"foo", b"1")], True),
        ([b"Foo, Bar"], [(b"foo", b"1"), (b"bar", b"a")], [(b"foo", b"1"), (b"bar", b"b")], False),
        ([b"Foo, Bar"], [(b"foo", b"1"), (b"bar", b"a")], [(b"foo", b"1")], False),
        ([b"Foo", b"Bar"], [(b"foo", b"1"), (b"bar", b"a")], [(b"foo", b"1"), (b"bar", b"b")], False),
        ([b"Foo, Bar, Baz"], [(b"foo", b"1"), (b"baz", b"7")], [(b"foo", b"1"), (b"baz", b"7")], True),
        ([b"Foo"], [(b"foo", b"1, 2")], [(b"foo", b"1"), (b"foo", b"2")], True),
        ([b"Foo"], [(b"foo", b"1")], [(b"foo", b" 1 ")], True),
        ([b"Foo"], [(b"foo", b"a")], [(b"foo", b"A")], False),
        ([b""], [(b"foo", b"1")], [(b"foo", b"2")], True),
        ([b" , ,"], [(b"foo", b"1")], [(b"foo", b"2")], True),
        ([b"*"], [], [], False),
        ([b"*, *"], [], [], False),
        ([b"*", b"*"], [], [], False),
        ([b", *"], [], [], False),
        ([b"", b"*"], [], [], False),
        ([b"*, Foo"], [], [], False),
        ([b"Foo, *"], [], [], False),
        ([b"Foo Bar"], [], [], False),
        ([b'"Foo"'], [], [], False),
        ([b"Foo;q=1"], [], [], False),
        ([b"Accept-Language"], [(b"accept-language", b"EN,  de")], [(b"accept-language", b"en,de")], True),
        ([b"Accept-Language"], [(b"accept-language", b"en, de")], [(b"accept-language", b"de, en")], False),
        ([b"Accept"], [(b"accept", b'a/b;c="d, e"')], [(b"accept", b'a/b;c="d,e"')], False),
        ([b"Accept-Encoding"], [(b"accept-encoding", b"gzip, br")], [(b"accept-encoding", b"br,gzip,deflate")], True),
        ([b"Accept-Encoding"], [(b"accept-encoding", b"gzip")], [(b"accept-encoding", b"gzip;q=0")], False),
        ([b"Accept-Encoding"], [], [(b"accept-encoding", b"")], False),
        ([b"Cookie"], [], [], True),
        ([b"Accept-Encoding, *"], [], [], False),
    ],
)
async def test_vary(vary: Any, first: Any, second: Any, hit: bool) -> None:
    fields = [FRESH, *((b"vary", value) for value in vary)]
    await converse(Turn(fields, ask=first), Turn(fields, ask=second, comes="store" if hit else "upstream"))


async def test_variants_do_not_push_each_other_out() -> None:
    fields = [FRESH, (b"vary", b"Foo")]
    one, two = [(b"foo", b"1")], [(b"foo", b"2")]
    await converse(
        Turn(fields, ask=one, body=b"one"),
        Turn(fields, ask=two, body=b"two", comes="upstream"),
        Turn(ask=one, comes="store", text=b"one"),
        Turn(ask=two, comes="store", text=b"two"),
    )


async def test_answer_that_says_more_about_vary_holds_for_all() -> None:
    one, two = [(b"foo", b"1")], [(b"foo", b"2")]
    await converse(
        Turn([SHORT], ask=one),
        Turn([FRESH, (b"vary", b"Foo")], ask=one, wait_s=3),
        Turn([FRESH, (b"vary", b"Foo")], ask=two, comes="upstream"),
    )


# What clients ask of caches.


@pytest.mark.parametrize(
    ("stored", "asked", "wait_s", "comes"),
    [
        ([FRESH], [cc(b"max-age=0")], 1, "upstream"),
        ([FRESH], [cc(b"max-age=0")], 0, "store"),
        ([FRESH], [cc(b"max-age=1")], 2, "upstream"),
        ([cc(b"max-age=3600"), (b"age", b"1800")], [cc(b"max-age=600")], 0, "upstream"),
        ([FRESH], [cc(b"max-age=x")], 1, "upstream"),
        ([cc(b"max-age=60, immutable")], [cc(b"max-age=0")], 1, "store"),
        ([FRESH, ETAG], [cc(b"max-stale=10")], 69, "store"),
        ([FRESH, ETAG], [cc(b"max-stale=10")], 71, "validated"),
        ([FRESH], [cc(b"max-stale")], 10_000, "upstream"),
        ([FRESH], [cc(b"max-stale")], 119, "store"),
        ([FRESH], [cc(b"max-stale=10")], 71, "upstream"),
        ([FRESH], [], 61, "upstream"),
        ([cc(b"max-age=86400")], [cc(b"max-stale")], 86400 + 3599, "store"),
        ([cc(b"max-age=86400")], [cc(b"max-stale")], 86400 + 3601, "upstream"),
        ([cc(b"max-age=60, must-revalidate")], [cc(b"max-stale")], 61, "upstream"),
        ([cc(b"max-age=1500"), (b"age", b"2000")], [cc(b"max-stale=1000")], 0, "upstream"),
        ([FRESH, ETAG], [cc(b"max-stale")], 3000, "store"),
        ([FRESH, ETAG], [cc(b"max-stale=x")], 61, "asked"),
        ([cc(b"max-age=1500"), (b"age", b"2000"), ETAG], [cc(b"max-stale=1000")], 0, "store"),
        ([cc(b"max-age=60, must-revalidate"), ETAG], [cc(b"max-stale=100")], 70, "asked"),
        ([cc(b"max-age=60, proxy-revalidate"), ETAG], [cc(b"max-stale=100")], 70, "asked"),
        ([cc(b"s-maxage=60"), ETAG], [cc(b"max-stale=100")], 70, "asked"),
        ([cc(b"no-cache, max-age=60"), ETAG], [cc(b"max-stale=100")], 0, "asked"),
        ([cc(b"max-age=1500")], [cc(b"min-fresh=2000")], 0, "upstream"),
        ([cc(b"max-age=1500"), (b"age", b"1000")], [cc(b"min-fresh=1000")], 0, "upstream"),
        ([cc(b"max-age=1500")], [cc(b"min-fresh=1000")], 0, "store"),
        ([FRESH], [cc(b"no-cache")], 0, "upstream"),
        ([FRESH, LM], [cc(b"no-cache")], 0, "validated"),
        ([FRESH, ETAG], [cc(b"no-cache")], 0, "validated"),
        ([FRESH], [cc(b"NO-CACHE")], 0, "upstream"),
        ([FRESH], [cc(b'x="no-cache"')], 0, "store"),
        ([FRESH], [cc(b"no-store")], 0, "store"),
        ([FRESH], [cc(b"only-if-cached")], 0, "store"),
        ([FRESH], [(b"pragma", b"no-cache")], 0, "upstream"),
        ([FRESH], [(b"pragma", b"extension")], 0, "store"),
        ([FRESH], [(b"pragma", b"no-cache"), cc(b"max-age=60")], 0, "store"),
        ([FRESH], [cc(b"no-transform")], 0, "store"),
        ([FRESH], [cc(b"&&& ,=, 7;")], 0, "store"),
    ],
)
async def test_request_directives(stored: Any, asked: Any, wait_s: float, comes: Any) -> None:
    fields = [*stored]
    await converse(Turn(fields), Turn(fields, ask=asked, wait_s=wait_s, comes=comes))


async def test_only_if_cached_is_504_where_nothing_is() -> None:
    oic = [cc(b"only-if-cached")]
    await converse(
        Turn(ask=oic, gives=504, comes="store", text=b""),
        Turn([SHORT], comes="upstream"),
        Turn(ask=oic, wait_s=3, gives=504, comes="store"),
        Turn(ask=oic, method="HEAD", gives=504, comes="store"),
    )


@pytest.mark.parametrize("field", [(b"cookie", b"a=1"), (b"if-match", b'"1"'), (b"content-length", b"3")])
async def test_only_if_cached_is_504_where_the_store_is_not_asked(field: tuple[bytes, bytes]) -> None:
    await converse(Turn([FRESH]), Turn(ask=[field, cc(b"only-if-cached")], comes="store", gives=504))


async def test_what_was_asked_for_with_no_store_is_not_stored() -> None:
    await converse(Turn([FRESH], ask=[cc(b"no-store")]), Turn(comes="upstream"))


@pytest.mark.parametrize("newer", [b"no-store", b"no-store, max-age=0", b"private"])
async def test_newer_answer_that_is_not_stored_replaces_the_older(newer: bytes) -> None:
    await converse(
        Turn([FRESH, ETAG]),
        Turn([cc(newer)], ask=[cc(b"no-cache")], comes="upstream", text=b"answer 2"),
        Turn([cc(newer)], comes="upstream", text=b"answer 3"),
    )


# Authorization.


@pytest.mark.parametrize(
    ("value", "shared"),
    [
        (b"max-age=60", False),
        (b"max-age=60, public", True),
        (b"max-age=60, must-revalidate", True),
        (b"s-maxage=60", True),
        (b"max-age=60, proxy-revalidate", False),
        (b"max-age=60, private, public", False),
        (b"max-age=60, s-maxage=0", False),
        (b"max-age=60, public=x", False),
        (b"max-age=60, immutable", False),
    ],
)
async def test_authorization(value: bytes, shared: bool) -> None:
    fields, asked = [cc(value)], [(b"authorization", b"Basic Zm9v")]
    comes: Any = "store" if shared else "upstream"
    await converse(Turn(fields, ask=asked, asked_with=asked), Turn(fields, comes=comes))
    await converse(Turn(fields, ask=asked), Turn(fields, ask=[(b"authorization", b"Basic YmFy")], comes=comes))
    await converse(Turn(fields), Turn(fields, ask=asked, comes=comes))


@pytest.mark.parametrize(("cookie", "settings"), [(True, {}), (False, {"request_cookie": "ignore"})])
async def test_cookies_of_requests(cookie: bool, settings: Any) -> None:
    asked = [(b"cookie", b"a=b")]
    comes: Any = "upstream" if cookie else "store"
    await converse(Turn([FRESH]), Turn([FRESH], ask=asked, comes=comes), **settings)
    await converse(Turn([FRESH], ask=asked), Turn([FRESH], comes=comes), **settings)


async def test_ignored_cookies_still_select_where_an_answer_depends_on_them() -> None:
    fields = [FRESH, (b"vary", b"Cookie")]
    await converse(
        Turn(fields, ask=[(b"cookie", b"a=1")]),
        Turn(fields, ask=[(b"cookie", b"a=2")], comes="upstream"),
        Turn(fields, comes="upstream"),
        Turn(fields, ask=[(b"cookie", b"a=1")], comes="store"),
        request_cookie="ignore",
    )


# Stale answers.


@pytest.mark.parametrize(
    ("value", "settings", "asked", "stale"),
    [
        (b"max-age=2", {}, [], False),
        (b"max-age=2, stale-if-error=60", {}, [], True),
        (b"max-age=2, stale-if-error=1", {}, [], False),
        (b"max-age=2, stale-if-error=x", {}, [], False),
        (b"max-age=2", {"stale_if_error_s": 60}, [], True),
        (b"max-age=2, stale-if-error=0", {"stale_if_error_s": 60}, [], False),
        (b"max-age=2, stale-if-error=0", {"stale_if_error_s": 60, "ttl_s": 2, "override": True}, [], True),
        (b"max-age=2", {}, [cc(b"stale-if-error=60")], True),
        (b"max-age=2, must-revalidate, stale-if-error=60", {}, [], False),
        (b"max-age=2, proxy-revalidate", {"stale_if_error_s": 60}, [], False),
        (b"max-age=2, no-cache", {"stale_if_error_s": 60}, [], False),
        (b"max-age=2, no-cache", {}, [cc(b"stale-if-error=60")], False),
        (b"s-maxage=2", {}, [], False),
        (b"s-maxage=2", {}, [cc(b"stale-if-error=60")], False),
        (b"s-maxage=2, stale-if-error=60", {}, [], True),
        (b"s-maxage=2", {"stale_if_error_s": 60}, [], True),
    ],
)
@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_stale_if_error(value: bytes, settings: Any, asked: Any, stale: bool, status: int) -> None:
    await converse(
        Turn([cc(value), ETAG]),
        Turn(status=status, ask=asked, wait_s=5, comes="upstream", gives=200 if stale else status),
        **settings,
    )


@pytest.mark.parametrize(
    ("value", "settings", "stale"),
    [
        (b"max-age=2", {}, False),
        (b"max-age=2, stale-while-revalidate=60", {}, True),
        (b"max-age=2, stale-while-revalidate=1", {}, False),
        (b"max-age=2, stale-while-revalidate=60, must-revalidate", {}, False),
        (b"max-age=2, stale-while-revalidate=60, proxy-revalidate", {}, False),
        (b"no-cache, stale-while-revalidate=60", {}, False),
        (b"s-maxage=2, stale-while-revalidate=60", {}, True),
        (b"max-age=2", {"stale_while_revalidate_s": 60}, True),
        (b"max-age=2, must-revalidate", {"stale_while_revalidate_s": 60}, False),
    ],
)
async def test_stale_while_revalidate(value: bytes, settings: Any, stale: bool) -> None:
    conversation = Conversation(settings)
    await conversation.take(Turn([cc(value), ETAG]))
    fields = [cc(value), OTHER_ETAG]
    sent = await conversation.take(Turn(fields, wait_s=4))
    assert (sent.body == b"answer 1") == stale
    await settle()
    # Behind the answer the upstream was asked.
    assert len(conversation.seen) == 1
    assert conversation.seen[0][INM] == b'"1"'
    if stale:
        await conversation.take(Turn(comes="store", text=b"answer 2"))
    await conversation.cache.aclose()


# Invalidation.


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "NONSENSE"])
async def test_unsafe_methods_invalidate(method: str) -> None:
    other = (b"content-location", b"/other")
    await converse(
        Turn([FRESH]),
        Turn([FRESH], target=b"/other"),
        Turn(status=500, method=method, comes="upstream"),
        Turn(status=404, method=method, comes="upstream"),
        Turn(comes="store"),
        Turn(method=method, comes="upstream"),
        Turn([FRESH], comes="upstream"),
        Turn(target=b"/other", comes="store"),
        Turn([other], method=method),
        Turn([FRESH], target=b"/other", comes="upstream"),
        Turn([(b"location", b"http://example.com/other")], 303, method=method),
        Turn([FRESH], target=b"/other", comes="upstream"),
        Turn([(b"location", b"http://elsewhere.example/other")], 303, method=method),
        Turn([FRESH], target=b"/other", comes="store"),
    )


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PROPFIND", "QUERY"])
async def test_safe_methods_do_not(method: str) -> None:
    await converse(Turn([FRESH]), Turn([FRESH], method=method, comes="upstream"), Turn(comes="store"))


async def test_answers_to_other_methods_are_not_stored() -> None:
    fields = [(b"expires", at(90000)), (b"content-location", b"/")]
    await converse(Turn(fields, method="POST"), Turn(comes="upstream"))


async def test_queries_are_part_of_the_key() -> None:
    await converse(
        Turn([FRESH], target=b"/?test=1"),
        Turn([FRESH], target=b"/?test=2", comes="upstream"),
        Turn(target=b"/?test=1", comes="store"),
    )


# Parts.


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        (b"bytes=0-1", 206, b"01"),
        (b"bytes=1-", 206, b"123456789A"),
        (b"bytes=-1", 206, b"A"),
        (b"bytes=-99", 206, b"0123456789A"),
        (b"bytes=9-99999999999999999", 206, b"9A"),
        (b"bytes=11-", 416, b""),
        (b"bytes=-0", 416, b""),
        (b"bytes=2-1", 200, b"0123456789A"),
        (b"bytes=" + b"9" * 5000 + b"-", 200, b"0123456789A"),
        (b"bytes=a-b", 200, b"0123456789A"),
        (b"bytes=0-1,", 206, b"01"),
        (b"items=0-1", 200, b"0123456789A"),
        (b"bytes=" + b"0-0," * 5000, 200, b"0123456789A"),
        (b"bytes=0-1,1-3", 206, b"0123"),
    ],
)
async def test_parts_of_what_is_stored(asked: bytes, status: int, text: bytes) -> None:
    await converse(
        Turn([FRESH], body=b"0123456789A"),
        Turn(ask=[(b"range", asked)], comes="store", gives=status, text=text),
    )


@pytest.mark.parametrize(
    ("stored", "condition", "status"),
    [
        ([ETAG], [(b"if-range", b'"1"')], 206),
        ([ETAG], [(b"if-range", b'"2"')], 200),
        ([WEAK], [(b"if-range", b'W/"1"')], 200),
        ([LM], [(b"if-range", LM[1])], 206),
        ([LM], [(b"if-range", at(-2999))], 200),
        ([LM], [(b"if-range", LM[1]), (b"if-range", LM[1])], 200),
        ([], [(b"if-range", b'"1"')], 200),
        ([ETAG], [(b"if-none-match", b'"1"')], 304),
        ([ETAG], [(b"if-none-match", b'"2"')], 206),
    ],
)
async def test_parts_under_a_condition(stored: Any, condition: Any, status: int) -> None:
    asked = [(b"range", b"bytes=0-1"), *condition]
    await converse(Turn([FRESH, *stored]), Turn(ask=asked, comes="store", gives=status))


async def test_parts_of_what_is_not_stored_are_the_upstreams() -> None:
    part = Turn([FRESH, (b"content-range", b"bytes 0-1/9")], 206, ask=[(b"range", b"bytes=0-1")], body=b"01")
    await converse(
        part, Turn([FRESH], comes="upstream", gives=200), Turn(ask=[(b"range", b"bytes=0-1")], comes="store")
    )


async def test_part_of_what_is_stale_comes_from_what_was_validated() -> None:
    asked = [(b"range", b"bytes=0-1")]
    await converse(
        Turn([SHORT, ETAG]),
        Turn([SHORT, ETAG], ask=asked, wait_s=3, comes="validated", gives=206, text=b"an", asked_without=[b"range"]),
    )


# Bodies.


@pytest.mark.parametrize("announced", [b"9", b"11", b"99999999999999999999999"])
async def test_body_of_another_length_than_announced_is_not_stored(announced: bytes) -> None:
    conversation = Conversation()
    # One that is too large to be stored goes straight to whoever asked, and its framing is the server's matter.
    with contextlib.suppress(ResponseBroken):
        await conversation.take(Turn([FRESH, (b"content-length", announced)], pieces=[b"01234", b"56789"]))
    await conversation.take(Turn([FRESH], pieces=[b"01234", b"56789"], comes="upstream", text=b"0123456789"))
    await conversation.take(Turn(comes="store", text=b"0123456789", has=[(b"content-length", b"10")]))
    await conversation.cache.aclose()


async def test_body_that_breaks_off_is_not_stored() -> None:
    conversation = Conversation()
    with pytest.raises(ConnectionResetError):
        await conversation.take(Turn([FRESH], pieces=[b"01234", b"56789"], breaks=True))
    await conversation.take(Turn([FRESH], comes="upstream"))
    await conversation.cache.aclose()
