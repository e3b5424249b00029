from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gateway.exchange import SCOPE_KEY, WHOLE_FOLLOWS, Exchange
from gateway.http.cache_key import KeyPolicy
from gateway.middleware.cache import Cache, CacheMiddleware
from gateway.middleware.cache_request import OVERRIDING_FIELDS
from gateway.middleware.compression import CompressionMiddleware
from gateway.stores.memory import MemoryStore
from tests.middleware.cache_origin import Answer, Clock, Origin, ask, cached, get, is_hit, status_of
from tests.support.messages import call, http_scope

pytestmark = pytest.mark.anyio

AE = b"accept-encoding"


def cc(value: bytes) -> tuple[bytes, bytes]:
    return b"cache-control", value


async def test_second_request_is_answered_from_the_store() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), (b"x", b"1"), (b"x", b"2")], pieces=[b"bo", b"dy"]))
    app = cached(origin, clock)
    first = await get(app)
    assert first.body == b"body"
    assert first.values(b"cache-status") == [b"gateway; fwd=uri-miss; fwd-status=200; stored; ttl=60"]
    assert first.values(b"age") == [b"0"]
    clock.now += 12.7
    second = await get(app)
    assert origin.count == 1
    assert second.body == b"body"
    assert second.values(b"x") == [b"1", b"2"]
    assert second.values(b"age") == [b"12"]
    assert second.values(b"cache-status") == [b"gateway; hit; ttl=47"]
    assert second.values(b"content-length") == [b"4"]
    assert second.values(b"date") == [clock.date(-12.7)]
    assert second.start[WHOLE_FOLLOWS]
    assert len(second.messages) == 2


async def test_stale_answer_is_fetched_again() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    await get(app)
    clock.now += 60
    assert not is_hit(await get(app))
    assert origin.count == 2


@pytest.mark.parametrize(
    ("answer", "asked", "settings", "stored"),
    [
        pytest.param([cc(b"max-age=60")], [], {}, True, id="3-max-age"),
        pytest.param([cc(b"no-store, max-age=60")], [], {}, False, id="5.2.2.5-no-store"),
        pytest.param([cc(b"private, max-age=60")], [], {}, False, id="5.2.2.7-private"),
        pytest.param([cc(b"max-age=60"), (b"vary", b"*")], [], {}, False, id="4.1-vary-star"),
        pytest.param([cc(b"max-age=60"), (b"age", b"60")], [], {}, False, id="4.2.3-arrives-stale"),
        pytest.param([], [], {}, False, id="3-no-freshness"),
        pytest.param([], [], {"ttl_s": 9}, True, id="ttl"),
        pytest.param([cc(b"max-age=0")], [], {"ttl_s": 9}, False, id="ttl-does-not-override"),
        pytest.param([cc(b"max-age=0")], [], {"ttl_s": 9, "override": True}, True, id="override"),
        pytest.param([cc(b"max-age=60")], [(b"authorization", b"x")], {}, False, id="3.5-authorization"),
        pytest.param([cc(b"public, max-age=60")], [(b"authorization", b"x")], {}, True, id="3.5-public"),
        pytest.param([cc(b"max-age=60")], [cc(b"no-store")], {}, False, id="5.2.1.5-request-no-store"),
        pytest.param([cc(b"max-age=60")], [(b"cookie", b"a=1")], {}, False, id="cookie"),
        pytest.param([cc(b"max-age=60")], [(b"cookie", b"a=1")], {"request_cookie": "ignore"}, True, id="ignored"),
        pytest.param([cc(b"max-age=60")], [(b"cookie", b"a=1")], {"cookies": ["a"]}, True, id="cookie-in-the-key"),
        pytest.param([cc(b"max-age=60")], [(b"cookie", b"a=1; b=2")], {"cookies": ["a"]}, False, id="other-cookie"),
        pytest.param([cc(b"max-age=60"), (b"set-cookie", b"a=1")], [], {}, False, id="set-cookie"),
        pytest.param([cc(b"max-age=60"), (b"set-cookie", b"a=1")], [], {"set_cookie": "store"}, True, id="allowed"),
        pytest.param([cc(b"max-age=60"), (b"content-length", b"9")], [], {}, False, id="3.3-shorter-than-announced"),
        pytest.param([cc(b"max-age=60"), (b"content-length", b"3")], [], {}, False, id="3.3-longer-than-announced"),
        pytest.param([cc(b"max-age=60")], [(b"content-length", b"5")], {}, False, id="get-with-a-body"),
        pytest.param([cc(b"max-age=60")], [(b"content-length", b"0")], {}, True, id="get-with-an-empty-body"),
        pytest.param([cc(b"max-age=60")], [(b"transfer-encoding", b"chunked")], {}, False, id="get-with-chunks"),
        pytest.param([cc(b"max-age=60")], [(b"if-match", b'"1"')], {}, False, id="4.3.2-if-match"),
        pytest.param([cc(b"max-age=60")], [], {"max_object_bytes": 4}, True, id="as-large-as-allowed"),
        pytest.param([cc(b"max-age=60")], [], {"max_object_bytes": 3}, False, id="larger-than-allowed"),
        pytest.param([cc(b"max-age=60"), (b"content-length", b"4")], [], {"max_object_bytes": 3}, False, id="said"),
    ],
)
async def test_what_is_stored(answer: Any, asked: Any, settings: dict[str, Any], stored: bool) -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=answer))
    app = cached(origin, clock, **settings)
    for _ in range(2):
        with contextlib.suppress(Exception):
            sent = await get(app, b"/", *asked)
            assert sent.body == b"body"
    assert origin.count == (1 if stored else 2)
    assert len(app.cache.store.get_now(app._key(http_scope()), clock.now) or ()) == (
        1 if stored and not settings.get("cookies") else 0
    )
    await app.aclose()


async def test_answers_that_are_not_stored_pass_as_they_are() -> None:
    clock = Clock()
    fields = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"age", b"7"), cc(b"max-age=60")]
    origin = Origin(clock, Answer(status=203, headers=fields, pieces=[b"a", b"b"]))
    sent = await get(cached(origin, clock))
    assert sent.status == 203
    assert sent.pieces == [b"a", b"b"]
    assert sent.headers[:-2] == fields
    assert status_of(sent) == b"gateway; fwd=uri-miss; fwd-status=203; detail=set-cookie"


@pytest.mark.parametrize(
    ("directive", "wait_s", "hit"),
    [
        pytest.param(b"no-cache", 0, False, id="5.2.1.4"),
        pytest.param(b"max-age=10", 10, True, id="5.2.1.1"),
        pytest.param(b"max-age=10", 11, False, id="5.2.1.1-too-old"),
        pytest.param(b"max-age=0", 1, False, id="5.2.1.1-reload"),
        pytest.param(b"min-fresh=30", 30, True, id="5.2.1.3"),
        pytest.param(b"min-fresh=30", 31, False, id="5.2.1.3-not-enough"),
        pytest.param(b"max-stale=5", 65, True, id="5.2.1.2"),
        pytest.param(b"max-stale=5", 66, False, id="5.2.1.2-too-stale"),
        pytest.param(b"only-if-cached", 0, True, id="5.2.1.7-there"),
        pytest.param(b"no-store", 0, True, id="5.2.1.5-is-not-about-reuse"),
    ],
)
async def test_request_directives(directive: bytes, wait_s: float, hit: bool) -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), (b"etag", b'"1"')]))
    app = cached(origin, clock)
    await get(app)
    clock.now += wait_s
    sent = await get(app, b"/", cc(directive))
    assert is_hit(sent) == hit
    assert origin.count == (1 if hit else 2)


async def test_pragma_counts_without_cache_control() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    await get(app)
    assert not is_hit(await get(app, b"/", (b"pragma", b"no-cache")))


async def test_only_if_cached_is_504_where_nothing_is() -> None:
    clock = Clock()
    origin = Origin(clock)
    sent = await get(cached(origin, clock), b"/", cc(b"only-if-cached"))
    assert sent.status == 504
    assert status_of(sent) == b"gateway; detail=only-if-cached"
    assert origin.count == 0


async def test_answer_for_anonymous_is_not_for_the_authorized_unless_it_says_so() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]), Answer(headers=[cc(b"public, max-age=60")]))
    app = cached(origin, clock)
    await get(app)
    assert not is_hit(await get(app, b"/", (b"authorization", b"x")))
    await app.cache.purge(everything=True)
    await get(app)
    assert is_hit(await get(app, b"/", (b"authorization", b"x")))


def with_exchange(user: str = "", **fields: Any) -> dict[str, Any]:
    exchange = Exchange("GET", fields.pop("target", b"/"))
    exchange.user = user
    exchange.public_host = b"example.com"
    for name, value in fields.items():
        setattr(exchange, name, value)
    return {SCOPE_KEY: exchange}


async def test_whom_the_gateway_identified_counts_as_authorized() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    await get(app, b"/", **with_exchange("anna"))
    await get(app, b"/", **with_exchange("bert"))
    assert origin.count == 2
    await get(app, b"/", **with_exchange())
    assert not is_hit(await get(app, b"/", **with_exchange("anna")))
    assert is_hit(await get(app, b"/", **with_exchange()))


async def test_whoever_shows_a_certificate_counts_as_authorized() -> None:
    clock = Clock()

    def personal(scope: Scope) -> Answer:
        who = scope["extensions"]["tls"]["client_cert_name"]
        return Answer(headers=[cc(b"max-age=60")], pieces=[str(who).encode()])

    app = cached(Origin(clock, choose=personal), clock)
    for name in ("CN=anna", "CN=bert", None, "CN=anna"):
        sent = await get(app, b"/", extensions={"tls": {"client_cert_name": name}})
        assert sent.body == str(name).encode()
    assert is_hit(await get(app, b"/", extensions={"tls": {"client_cert_name": None}}))


async def test_two_users_never_share() -> None:
    clock = Clock()

    def personal(scope: Scope) -> Answer:
        fields = dict(scope["headers"])
        who = fields.get(b"authorization", b"") + fields.get(b"cookie", b"")
        return Answer(headers=[cc(b"max-age=60")], pieces=[who])

    app = cached(Origin(clock, choose=personal), clock)
    for round_ in range(3):
        senders = [(name, b"%d" % number) for number in range(20) for name in (b"authorization", b"cookie")]
        answers = await asyncio.gather(*[get(app, b"/", sender) for sender in senders])
        assert [sent.body for sent in answers] == [value for _, value in senders], round_


async def test_public_scheme_host_and_target_make_the_key() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    facts: list[dict[str, Any]] = [
        {},
        {"scheme": "https"},
        {"public_host": b"other"},
        {"target": b"/?"},
        {"target": b"/%2F"},
        {"target": b"//"},
    ]
    for fact in facts:
        assert not is_hit(await get(app, b"/", **with_exchange(**fact)))
    for fact in facts:
        # What the scope has become on the way here does not matter.
        assert is_hit(await get(app, b"/rewritten", **with_exchange(**fact)))


async def test_key_without_the_gateway() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    scopes = [
        http_scope("GET", b"/a"),
        http_scope("GET", b"/a?b"),
        http_scope("GET", b"/a", scheme="https"),
        http_scope("GET", b"/a", [(b"host", b"other")]),
        {**http_scope("GET", b"/\xc3\xa4"), "raw_path": None, "path": "/\u00e4"},
    ]
    for scope in scopes:
        assert not is_hit(await call(app, scope))
    for scope in scopes:
        assert is_hit(await call(app, scope))


@pytest.mark.parametrize("name", [b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix", b"forwarded"])
async def test_without_the_gateway_nobody_chooses_the_links_of_others(name: bytes) -> None:
    clock = Clock()

    def linking(scope: Scope) -> Answer:
        return Answer(headers=[cc(b"max-age=60")], pieces=[dict(scope["headers"]).get(name, b"mine")])

    app = cached(Origin(clock, choose=linking), clock)
    assert (await get(app, b"/", (name, b"host=evil"))).body == b"host=evil"
    assert (await get(app)).body == b"mine"
    assert is_hit(await get(app))
    assert is_hit(await get(app, b"/", (name, b"host=evil")))
    assert await app.cache.purge(url="http://example.com/") == 2


@pytest.mark.parametrize("name", sorted(OVERRIDING_FIELDS))
async def test_requests_for_another_url_than_their_own_pass_the_store(name: bytes) -> None:
    clock = Clock()

    def overridden(scope: Scope) -> Answer:
        return Answer(headers=[cc(b"max-age=60")], pieces=[dict(scope["headers"]).get(name, b"mine")])

    app = cached(Origin(clock, choose=overridden), clock)
    for _ in range(2):
        sent = await get(app, b"/", (name, b"/evil"))
        assert sent.body == b"/evil"
        assert status_of(sent) == b"gateway; fwd=bypass; fwd-status=200; detail=override"
        assert (await get(app)).body == b"mine"
    assert is_hit(await get(app))


async def test_what_depends_on_a_field_made_for_each_client_is_not_stored() -> None:
    clock = Clock()
    for value in (b"X-Forwarded-For", b"accept-encoding, X-FORWARDED-FOR"):
        origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), (b"vary", value)]))
        app = cached(origin, clock, per_client_fields=["X-Forwarded-For"])
        assert b"detail=" in status_of(await get(app))
        assert not is_hit(await get(app))


async def test_routes_do_not_share_unless_they_have_one_namespace() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    cache = Cache(MemoryStore(clock=clock), clock=clock)
    first, second = (cached(origin, clock, cache=cache, namespace=name) for name in ("a", "b"))
    await get(first)
    assert not is_hit(await get(second))
    assert is_hit(await get(first))


async def test_chosen_parts_of_the_query_cookies_and_fields() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock, query={"except": ["utm"]}, cookies=["lang"], vary=["X-Device"])
    await get(app, b"/?b=1&a=1&utm=x", (b"cookie", b"lang=de"), (b"x-device", b"tv"))
    assert is_hit(await get(app, b"/?a=1&b=1", (b"cookie", b"lang=de"), (b"x-device", b"tv")))
    assert not is_hit(await get(app, b"/?a=1&b=1", (b"cookie", b"lang=en"), (b"x-device", b"tv")))
    assert not is_hit(await get(app, b"/?a=1&b=1", (b"cookie", b"lang=de"), (b"x-device", b"car")))
    assert not is_hit(await get(app, b"/?a=2&b=1", (b"cookie", b"lang=de"), (b"x-device", b"tv")))
    # The upstream gets what the client sent.
    assert origin.scopes[0]["query_string"] == b"b=1&a=1&utm=x"
    assert origin.asked(0)[b"cookie"] == b"lang=de"


async def test_variants() -> None:
    clock = Clock()

    def by_language(scope: Scope) -> Answer:
        language = dict(scope["headers"]).get(b"accept-language", b"none")
        return Answer(headers=[cc(b"max-age=60"), (b"vary", b"Accept-Language")], pieces=[language])

    app = cached(Origin(clock, choose=by_language), clock)
    for language in (b"de", b"en"):
        sent = await get(app, b"/", (b"accept-language", language))
        assert sent.body == language
    assert b"fwd=vary-miss" in status_of(sent)
    assert b"fwd=vary-miss" in status_of(await get(app))
    for language in (b"de", b"en", b"EN"):
        sent = await get(app, b"/", (b"accept-language", language))
        assert is_hit(sent)
        assert sent.body == language.lower()
    assert (await get(app)).body == b"none"


async def test_answers_are_stored_as_they_were_coded() -> None:
    clock = Clock()
    text = b"All work and no play. " * 200
    origin = Origin(
        clock, Answer(headers=[cc(b"max-age=60"), (b"content-type", b"text/plain"), (b"etag", b'"1"')], pieces=[text])
    )
    app = cached(CompressionMiddleware(origin), clock)
    browsers = [b"gzip, deflate, br", b"br,gzip", b"gzip", b"gzip, deflate", b"identity"]
    codings = [b"br", b"br", b"gzip", b"gzip", None]
    for accept, coding in zip(browsers, codings, strict=True):
        sent = await get(app, b"/", (AE, accept))
        assert sent.values(b"content-encoding") == ([coding] if coding else [])
        assert sent.values(b"content-length") in ([], [b"%d" % len(sent.body)])
    assert origin.count == 3
    for accept in browsers:
        assert is_hit(await get(app, b"/", (AE, accept)))
    sent = await get(app, b"/", (AE, b"br, gzip"), (b"if-none-match", b'W/"1"'))
    assert sent.status == 304
    # Positions in a body that was coded here mean nothing to another copy of it.
    assert (await get(app, b"/", (AE, b"br, gzip"), (b"range", b"bytes=0-3"))).status == 200


@pytest.mark.parametrize(
    ("tag", "media_type", "asked"),
    [
        pytest.param(b'W/"1"', b"image/png", b'W/"1"', id="9111-4.3.1-the-upstreams-own-weak-tag"),
        pytest.param(b'"1"', b"text/plain", b'W/"1", "1"', id="9110-8.8.1-weakened-by-coding"),
    ],
)
async def test_validation_names_the_tag_that_the_upstream_knows(tag: bytes, media_type: bytes, asked: bytes) -> None:
    clock = Clock()
    fields = [cc(b"max-age=60"), (b"content-type", media_type), (b"etag", tag)]
    origin = Origin(clock, Answer(headers=fields, pieces=[b"All work and no play. " * 200]))
    app = cached(CompressionMiddleware(origin), clock)
    await get(app, b"/", (AE, b"gzip"))
    clock.now += 61
    await get(app, b"/", (AE, b"gzip"))
    assert origin.asked()[b"if-none-match"] == asked


async def test_field_names_in_any_case_are_understood() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[(b"Cache-Control", b"max-age=60"), (b"Set-Cookie", b"a=1")]))
    app = cached(origin, clock)
    await get(app)
    assert not is_hit(await get(app))


async def test_private_fields_reach_only_the_first_client() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b'max-age=60, private="x-user"'), (b"x-user", b"anna")]))
    app = cached(origin, clock)
    assert (await get(app)).values(b"x-user") == [b"anna"]
    assert (await get(app)).values(b"x-user") == []


async def test_head_is_answered_from_a_stored_get() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    await get(app)
    sent = await ask(app, "HEAD")
    assert is_hit(sent)
    assert sent.body == b""
    assert sent.values(b"content-length") == [b"4"]
    assert origin.count == 1


async def test_head_alone_is_not_stored() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")], pieces=[b""]))
    app = cached(origin, clock)
    for _ in range(2):
        sent = await ask(app, "HEAD")
    assert status_of(sent) == b"gateway; fwd=uri-miss; fwd-status=200"
    assert origin.count == 2
    assert origin.scopes[0]["method"] == "HEAD"


@pytest.mark.parametrize(
    ("head", "hit"),
    [
        pytest.param([cc(b"max-age=90"), (b"etag", b'"1"'), (b"x", b"new")], True, id="4.3.5-same"),
        pytest.param([cc(b"max-age=90"), (b"etag", b'"2"')], False, id="4.3.5-other-etag"),
        pytest.param([cc(b"max-age=90"), (b"content-length", b"5")], False, id="4.3.5-other-length"),
        pytest.param([cc(b"max-age=90"), (b"etag", b'"1"'), (b"set-cookie", b"a")], False, id="sets-a-cookie"),
    ],
)
async def test_head_refreshes_a_stored_get(head: Any, hit: bool) -> None:
    clock = Clock()
    origin = Origin(
        clock,
        Answer(headers=[cc(b"max-age=60"), (b"etag", b'"1"'), (b"x", b"old")]),
        Answer(headers=head, pieces=[b""]),
        Answer(headers=[cc(b"max-age=60")], pieces=[b"new"]),
    )
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    await ask(app, "HEAD")
    sent = await get(app)
    assert is_hit(sent) == hit
    assert sent.body == (b"body" if hit else b"new")
    if hit:
        assert sent.values(b"x") == [b"new"]
        assert sent.values(b"content-length") == [b"4"]


async def test_head_that_finds_another_object_makes_the_stored_one_stale() -> None:
    clock = Clock()
    origin = Origin(
        clock, Answer(headers=[cc(b"max-age=60"), (b"etag", b'"1"')]), Answer(headers=[(b"etag", b'"2"')], pieces=[b""])
    )
    app = cached(origin, clock)
    await get(app)
    await ask(app, "HEAD", b"/", cc(b"no-cache"))
    assert not is_hit(await get(app))


@pytest.mark.parametrize("method", ["OPTIONS", "PROPFIND"])
async def test_other_safe_methods_pass(method: str) -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    await get(app)
    assert status_of(await ask(app, method)) == b"gateway; fwd=method; fwd-status=200"
    assert is_hit(await get(app))


@pytest.mark.parametrize(
    ("method", "status", "fields", "gone"),
    [
        pytest.param("POST", 200, [], {b"/a"}, id="4.4-post"),
        pytest.param("PUT", 204, [], {b"/a"}, id="4.4-put"),
        pytest.param("DELETE", 303, [], {b"/a"}, id="4.4-redirect"),
        pytest.param("FROB", 200, [], {b"/a"}, id="4.4-unknown-method"),
        pytest.param("POST", 400, [], set(), id="4.4-client-error"),
        pytest.param("POST", 500, [], set(), id="4.4-server-error"),
        pytest.param("POST", 201, [(b"Location", b"/b")], {b"/a", b"/b"}, id="4.4-location"),
        pytest.param("POST", 201, [(b"location", b"http://EXAMPLE.com/b")], {b"/a", b"/b"}, id="4.4-absolute"),
        pytest.param("POST", 200, [(b"content-location", b"b")], {b"/a", b"/b"}, id="4.4-content-location"),
        pytest.param("POST", 201, [(b"location", b"http://other/b")], {b"/a"}, id="4.4-other-host"),
    ],
)
async def test_unsafe_methods_invalidate(method: str, status: int, fields: Any, gone: set[bytes]) -> None:
    clock = Clock()

    def answer(scope: Scope) -> Answer:
        if scope["method"] == "GET":
            return Answer(headers=[cc(b"max-age=60"), (b"vary", AE)])
        return Answer(status=status, headers=fields)

    app = cached(Origin(clock, choose=answer), clock)
    for target in (b"/a", b"/b", b"/c"):
        for accept in (b"br", b"gzip"):
            await get(app, target, (AE, accept))
    clock.now += 1
    await ask(app, method, b"/a")
    for target in (b"/a", b"/b", b"/c"):
        for accept in (b"br", b"gzip"):
            assert is_hit(await get(app, target, (AE, accept))) == (target not in gone)


async def test_answer_asked_for_before_an_unsafe_request_is_not_stored() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")], gate=gate), Answer(headers=[cc(b"max-age=60")]))
    app = cached(origin, clock)
    reading = asyncio.ensure_future(get(app))
    await origin.called.wait()
    clock.now += 1
    await ask(app, "POST")
    clock.now += 1
    gate.set()
    await reading
    assert not is_hit(await get(app))


async def test_upstream_cache_status_is_kept() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60"), (b"cache-status", b"inner; hit")]))
    app = cached(origin, clock)
    await get(app)
    assert (await get(app)).values(b"cache-status") == [b"inner; hit", b"gateway; hit; ttl=60"]


async def test_status_can_be_off_named_and_with_the_key() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[cc(b"max-age=60")]))
    silent = cached(origin, clock, status_header=False)
    for method in ("GET", "GET", "HEAD", "POST"):
        assert (await ask(silent, method)).values(b"cache-status") == []
    assert (await get(silent, b"/", cc(b"only-if-cached"))).values(b"cache-status") == []
    named = cached(origin, clock, cache_name="edge 1", status_key=True)
    assert b'key="http://example.com/a"' in status_of(await get(named, b"/a"))
    assert status_of(await get(named, b"/a")) == b'"edge 1"; hit; ttl=60; key="http://example.com/a"'


@pytest.mark.parametrize(
    ("asked", "result", "detail"),
    [
        ([], "hit", ""),
        ([cc(b"no-cache")], "revalidated", ""),
        ([(b"cookie", b"a=1")], "bypass", "cookie"),
        ([(b"authorization", b"x")], "miss", "authorization"),
    ],
)
async def test_exchange_says_what_the_cache_did(asked: Any, result: str, detail: str) -> None:
    clock = Clock()

    def answer(scope: Scope) -> Answer:
        status = 304 if b"if-none-match" in dict(scope["headers"]) else 200
        return Answer(status=status, headers=[cc(b"max-age=60"), (b"etag", b'"1"')], pieces=[b""])

    app = cached(Origin(clock, choose=answer), clock)
    first = with_exchange()
    await get(app, b"/", **first)
    assert first[SCOPE_KEY].cache == "miss"
    second = with_exchange()
    await get(app, b"/", *asked, **second)
    assert (second[SCOPE_KEY].cache, second[SCOPE_KEY].cache_detail) == (result, detail)


async def test_key_can_be_explained() -> None:
    app = cached(Origin(Clock()), Clock(), namespace="shop", query="none")
    assert isinstance(app.keys, KeyPolicy)
    assert app.keys.describe("https", b"example.com", b"/a?b") == "https://example.com/a"


async def test_lists_of_fields_are_not_shared_between_answers() -> None:
    clock = Clock()
    app = cached(Origin(clock, Answer(headers=[cc(b"max-age=60")])), clock)
    for _ in range(3):
        sent = await get(app)
        assert sent.values(b"x") == []
        sent.start["headers"].append((b"x", b"of one client"))


async def test_scopes_of_other_types_pass() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(message: Message | None = None) -> Any:
        raise AssertionError

    await CacheMiddleware(app)({"type": "lifespan"}, nothing, nothing)
    await CacheMiddleware(app)({"type": "websocket"}, nothing, nothing)
    assert seen == ["lifespan", "websocket"]


async def test_cache_and_store_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        CacheMiddleware(Origin(Clock()), cache=Cache(), store=MemoryStore())


async def test_alone_in_a_starlette_application() -> None:
    calls = 0

    async def page(request: Request) -> PlainTextResponse:
        nonlocal calls
        calls += 1
        return PlainTextResponse(f"call {calls}", headers={"Cache-Control": "max-age=60", "Surrogate-Key": "page"})

    cache = Cache()
    starlette = Starlette(routes=[Route("/", page)], middleware=[Middleware(CacheMiddleware, cache=cache)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(starlette), base_url="http://test") as client:
        assert (await client.get("/")).text == "call 1"
        answer = await client.get("/")
        assert answer.text == "call 1"
        assert answer.headers["cache-status"].startswith("gateway; hit; ttl=")
        assert (await client.get("/missing")).status_code == 404
        assert await cache.purge(tag="page") == 1
        assert (await client.get("/")).text == "call 2"
    await cache.aclose()
