"""Many clients, one request to the upstream."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import ClientLeft, ResponseBroken
from gateway.exchange import SCOPE_KEY, Exchange
from gateway.middleware import cache_body, cache_handle
from gateway.middleware.cache import CacheMiddleware
from tests.middleware.cache_origin import (
    HOST,
    Answer,
    Client,
    Clock,
    Origin,
    ask,
    cached,
    get,
    is_hit,
    settle,
    status_of,
)
from tests.support.messages import Sent, call, http_scope

pytestmark = pytest.mark.anyio

FRESH = (b"cache-control", b"max-age=60")
AE = b"accept-encoding"


def client(app: CacheMiddleware, *headers: tuple[bytes, bytes], **scope: Any) -> Client:
    return Client(app, http_scope("GET", b"/", [HOST, *headers], **scope))


@pytest.mark.parametrize("whole", [False, True])
async def test_a_hundred_requests_make_one_upstream_request(whole: bool) -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], gate=gate, whole=whole))
    app = cached(origin, clock)
    requests = [asyncio.ensure_future(get(app)) for _ in range(100)]
    await settle()
    gate.set()
    answers = await asyncio.gather(*requests)
    assert origin.count == 1
    assert {sent.body for sent in answers} == {b"body"}
    statuses = [status_of(sent) for sent in answers]
    assert statuses.count(b"gateway; fwd=uri-miss; fwd-status=200; stored; ttl=60") == 1
    assert statuses.count(b"gateway; fwd=uri-miss; fwd-status=200; collapsed; ttl=60") == 99
    assert not app.cache.flights


async def test_answer_that_cannot_be_shared_lets_everybody_go_on_in_parallel() -> None:
    clock = Clock()
    first, rest = asyncio.Event(), asyncio.Event()
    private = [(b"cache-control", b"private")]
    origin = Origin(clock, Answer(headers=private, gate=first), Answer(headers=private, gate=rest))
    app = cached(origin, clock)
    requests = [asyncio.ensure_future(get(app)) for _ in range(20)]
    await settle()
    assert origin.count == 1
    first.set()
    await settle()
    assert origin.count == 20
    # The key is remembered: nobody waits for anybody.
    more = [asyncio.ensure_future(get(app)) for _ in range(5)]
    await settle()
    assert origin.count == 25
    rest.set()
    await asyncio.gather(*requests, *more)


async def test_memory_of_what_cannot_be_shared_ends() -> None:
    clock = Clock()
    gate = asyncio.Event()
    private = [(b"cache-control", b"private")]
    origin = Origin(clock, Answer(headers=private), Answer(headers=private, gate=gate))
    app = cached(origin, clock)
    await get(app)
    clock.now += 31
    requests = [asyncio.ensure_future(get(app)) for _ in range(5)]
    await settle()
    assert origin.count == 2
    gate.set()
    await asyncio.gather(*requests)


async def test_answer_that_can_be_shared_again_ends_it_at_once() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"private")]), Answer(headers=[FRESH]))
    app = cached(origin, clock)
    await get(app)
    assert app.cache.is_alone(app._key(http_scope()))
    await get(app)
    assert not app.cache.is_alone(app._key(http_scope()))
    assert is_hit(await get(app))


async def test_answer_that_was_fresh_when_it_was_asked_for_is_shared_however_long_it_took() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[(b"cache-control", b"max-age=1")], gate=gate))
    app = cached(origin, clock)
    requests = [asyncio.ensure_future(get(app)) for _ in range(10)]
    await settle()
    clock.now += 5
    gate.set()
    await asyncio.gather(*requests)
    assert origin.count == 1


async def test_waiters_go_alone_after_the_lock_timeout() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], gate=gate), Answer(headers=[FRESH]))
    app = cached(origin, clock, lock_timeout_s=0)
    leading = asyncio.ensure_future(get(app))
    await origin.called.wait()
    assert (await get(app)).body == b"body"
    assert origin.count == 2
    gate.set()
    await leading


async def test_waiters_get_the_body_while_it_is_still_coming() -> None:
    clock = Clock()
    more = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], pieces=[b"first ", b"last"], piece_gate=more))
    app = cached(origin, clock)
    clients = [client(app) for _ in range(3)]
    for waiting in clients:
        await waiting.until(lambda sent: sent.pieces == [b"first "])
    late = client(app)
    await late.until(lambda sent: sent.pieces == [b"first "])
    more.set()
    for waiting in (*clients, late):
        await waiting.task
        assert waiting.sent.body == b"first last"
        assert waiting.sent.complete
    assert origin.count == 1
    assert is_hit(await get(app))


async def test_head_does_not_wait_for_the_body() -> None:
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [FRESH]})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"body"})

    gate = asyncio.Event()
    waiting = client(cached(app, clock))
    await waiting.until(lambda sent: bool(sent.messages))
    assert waiting.sent.status == 200
    gate.set()
    await waiting.task


async def test_slow_leader_does_not_hold_the_others() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[FRESH], pieces=[b"x" * 1000] * 50))
    app = cached(origin, clock)
    slow = client(app)
    slow.writable.clear()
    await origin.called.wait()
    fast = client(app)
    await fast.task
    assert len(fast.sent.body) == 50_000
    assert is_hit(await get(app))
    slow.writable.set()
    await slow.task
    assert len(slow.sent.body) == 50_000


async def test_variants_are_fetched_once_each() -> None:
    clock = Clock()
    gate = asyncio.Event()

    def answer(scope: Scope) -> Answer:
        coding = dict(scope["headers"])[AE]
        return Answer(headers=[FRESH, (b"vary", AE)], pieces=[coding], gate=gate)

    origin = Origin(clock, choose=answer)
    app = cached(origin, clock)
    codings = [b"br", b"gzip", b"zstd"] * 10
    requests = [asyncio.ensure_future(get(app, b"/", (AE, coding))) for coding in codings]
    await settle()
    assert origin.count == 1
    gate.set()
    assert [sent.body for sent in await asyncio.gather(*requests)] == codings
    assert origin.count == 3


async def test_the_authorized_do_not_get_what_others_asked_for() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], gate=gate))
    app = cached(origin, clock)
    requests = [asyncio.ensure_future(get(app))]
    requests += [asyncio.ensure_future(get(app, b"/", (b"authorization", b"%d" % number))) for number in range(3)]
    await settle()
    gate.set()
    await asyncio.gather(*requests)
    assert origin.count == 4


async def test_waiters_get_304_and_head_fields_of_their_own() -> None:
    clock = Clock()
    gate = asyncio.Event()
    fields = [FRESH, (b"etag", b'"1"'), (b"cache-control", b'private="x-user"'), (b"x-user", b"anna")]
    origin = Origin(clock, Answer(headers=fields, gate=gate))
    app = cached(origin, clock)
    leading = asyncio.ensure_future(get(app))
    await origin.called.wait()
    plain, conditional = (asyncio.ensure_future(get(app, b"/", *asked)) for asked in ([], [(b"if-none-match", b'"1"')]))
    await settle()
    gate.set()
    assert (await leading).values(b"x-user") == [b"anna"]
    assert (await plain).values(b"x-user") == []
    assert (await conditional).status == 304
    assert origin.count == 1


async def test_validation_is_shared() -> None:
    clock = Clock()
    gate = asyncio.Event()
    fields = [FRESH, (b"etag", b'"1"')]
    origin = Origin(clock, Answer(headers=fields), Answer(status=304, headers=fields, pieces=[b""], gate=gate))
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    requests = [asyncio.ensure_future(get(app)) for _ in range(10)]
    await settle()
    gate.set()
    assert {(sent.status, sent.body) for sent in await asyncio.gather(*requests)} == {(200, b"body")}
    assert origin.count == 2


@pytest.mark.parametrize("own", [(b"set-cookie", b"a=1"), (b"cache-control", b"private, max-age=60")])
async def test_validation_that_brings_something_personal_is_not_shared(own: tuple[bytes, bytes]) -> None:
    clock = Clock()
    gate = asyncio.Event()
    fields = [FRESH, (b"etag", b'"1"')]
    personal = Answer(status=304, headers=[(b"etag", b'"1"'), own], pieces=[b""], gate=gate)
    origin = Origin(clock, Answer(headers=fields), personal, Answer(headers=fields, pieces=[b"new"]))
    app = cached(origin, clock)
    await get(app)
    clock.now += 61
    requests = [asyncio.ensure_future(get(app)) for _ in range(10)]
    await settle()
    gate.set()
    answers = await asyncio.gather(*requests)
    assert [own in sent.headers for sent in answers] == [True] + [False] * 9


async def test_broken_transfer_is_never_stored() -> None:
    clock = Clock()
    more = asyncio.Event()
    error = ResponseBroken("cut")
    broken = Answer(headers=[FRESH], pieces=[b"a", b"b"], piece_gate=more, error=error)
    origin = Origin(clock, broken, Answer(headers=[FRESH]))
    app = cached(origin, clock)
    clients = [client(app) for _ in range(3)]
    for waiting in clients:
        await waiting.until(lambda sent: sent.pieces == [b"a"])
    more.set()
    results = await asyncio.gather(*(waiting.task for waiting in clients), return_exceptions=True)
    assert results[0] is error
    assert all(isinstance(result, ResponseBroken) for result in results)
    assert not any(waiting.sent.complete for waiting in clients)
    assert app.cache.stats()["entries"] == 0
    assert app.cache.gathered_bytes == 0
    assert (await get(app)).body == b"body"


async def test_answer_is_not_kept_when_the_application_fails_after_it() -> None:
    """As BaseHTTPMiddleware does with an answer that broke off below it."""
    clock = Clock()
    calls = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        await Origin(clock, Answer(headers=[(b"cache-control", b"max-age=60")]))(scope, receive, send)
        raise RuntimeError("half of it was missing")

    middleware = cached(app, clock)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await get(middleware)
    assert calls == 2


async def test_application_that_stops_in_the_middle_is_a_broken_transfer() -> None:
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [FRESH]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    middleware = cached(app, clock)
    with pytest.raises(ResponseBroken):
        await get(middleware)
    assert middleware.cache.stats()["entries"] == 0


async def test_failure_before_anything_was_sent_can_still_be_an_answer() -> None:
    clock = Clock()
    error = ResponseBroken("cut")
    origin = Origin(clock, Answer(headers=[FRESH], pieces=[], error=error, whole=True))
    sent = Sent()
    with pytest.raises(ResponseBroken):
        await cached(origin, clock)(http_scope(), client(cached(origin, clock))._receive, sent)
    assert not sent.messages


# Clients that leave.


async def test_client_that_leaves_does_not_spoil_the_object() -> None:
    clock = Clock()
    more = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], pieces=[b"a", b"b"], piece_gate=more))

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.ensure_future(watched(receive))
        try:
            await origin(scope, receive, send)
        finally:
            watch.cancel()

    async def watched(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise AssertionError("nobody has to know")

    app = cached(watching, clock)
    leading = client(app)
    await leading.until(lambda sent: sent.pieces == [b"a"])
    leading.leave()
    await leading.task
    assert len(app.cache.background) == 1
    more.set()
    await asyncio.gather(*app.cache.background)
    sent = await get(app)
    assert is_hit(sent)
    assert sent.body == b"ab"


@pytest.mark.parametrize("when", ["before-the-head", "in-the-body"])
async def test_cancelled_client_does_not_spoil_what_others_wait_for(when: str) -> None:
    clock = Clock()
    gate, more = asyncio.Event(), asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], pieces=[b"a", b"b"], gate=gate, piece_gate=more))
    app = cached(origin, clock)
    leading, waiting = client(app), client(app)
    await origin.called.wait()
    await settle()
    if when == "in-the-body":
        gate.set()
        await leading.until(lambda sent: sent.pieces == [b"a"])
    leading.task.cancel()
    await settle()
    gate.set()
    more.set()
    await waiting.task
    assert waiting.sent.body == b"ab"
    assert origin.count == 1
    assert is_hit(await get(app))


async def test_disconnect_reaches_the_application_while_nobody_else_waits() -> None:
    clock = Clock()
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()
        raise ClientLeft("left")

    exchange = Exchange("GET", b"/")
    waiting = client(cached(app, clock), **{SCOPE_KEY: exchange})
    waiting.leave()
    with pytest.raises(ClientLeft):
        await waiting.task
    assert told.is_set()
    # Outside the gateway it is no error.
    alone = client(cached(app, clock))
    alone.leave()
    await alone.task


@pytest.mark.parametrize("phase", ["before-the-head", "unshared-body"])
async def test_cancelled_client_ends_what_nobody_else_wants(phase: str) -> None:
    clock = Clock()
    started, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if phase == "unshared-body":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
            started.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    middleware = cached(app, clock)
    leading = client(middleware)
    await started.wait()
    leading.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leading.task
    await ended.wait()
    await settle()
    assert not middleware.cache.background
    assert not middleware.cache.flights


async def test_fetches_without_any_client_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_handle, "MAX_DETACHED", 2)
    clock = Clock()
    more = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], pieces=[b"a", b"b"], piece_gate=more))
    app = cached(origin, clock)
    clients = [Client(app, http_scope("GET", b"/%d" % number)) for number in range(5)]
    for leaving in clients:
        await leaving.until(lambda sent: sent.pieces == [b"a"])
    for leaving in clients:
        leaving.task.cancel()
    await settle()
    assert len(app.cache.background) == 2
    more.set()
    await asyncio.gather(*app.cache.background)
    assert app.cache.stats()["entries"] == 2
    assert app.cache.gathered_bytes == 0


async def test_closing_ends_everything_under_way() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(gate=asyncio.Event()))
    app = cached(origin, clock)
    clients = [client(app) for _ in range(3)]
    await origin.called.wait()
    await settle()
    await app.aclose()
    results = await asyncio.gather(*(waiting.task for waiting in clients), return_exceptions=True)
    assert isinstance(results[0], ResponseBroken)
    assert not app.cache.flights
    assert not app.cache.background


# Large bodies.


async def test_body_that_outgrows_the_limit_is_relayed_at_the_pace_of_the_slowest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_body, "WINDOW_BYTES", 4000)
    monkeypatch.setattr(cache_body, "PIECE_BYTES", 1500)
    clock = Clock()
    gate = asyncio.Event()
    given = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal given
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [FRESH]})
        for number in range(100):
            await send({"type": "http.response.body", "body": b"%03d" % number * 333, "more_body": True})
            given += 999
        await send({"type": "http.response.body", "body": b"end"})

    middleware = cached(app, clock, max_object_bytes=5000)
    slow, fast = client(middleware), client(middleware)
    slow.writable.clear()
    await settle()
    gate.set()
    await settle(200)
    # What was gathered before it grew too large, and the window.
    assert given < 12_000
    slow.writable.set()
    await asyncio.gather(slow.task, fast.task)
    expected = b"".join(b"%03d" % number * 333 for number in range(100)) + b"end"
    assert slow.sent.body == fast.sent.body == expected
    assert max(map(len, slow.sent.pieces)) <= 5000
    assert middleware.cache.stats()["entries"] == 0
    assert middleware.cache.gathered_bytes == 0


async def test_readers_of_an_outgrown_body_that_leave_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_body, "WINDOW_BYTES", 100)
    clock = Clock()
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [FRESH]})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
        finally:
            ended.set()

    middleware = cached(app, clock, max_object_bytes=1000)
    leaving = client(middleware)
    await leaving.until(lambda sent: len(sent.body) >= 1000)
    leaving.task.cancel()
    await ended.wait()
    await asyncio.gather(*middleware.cache.background, return_exceptions=True)
    assert middleware.cache.gathered_bytes == 0


async def test_bodies_under_way_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_handle, "MAX_GATHERED_BYTES", 2000)
    clock = Clock()
    more = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], pieces=[b"x" * 900] * 4, piece_gate=more))
    app = cached(origin, clock)
    clients = [Client(app, http_scope("GET", b"/%d" % number)) for number in range(5)]
    for waiting in clients:
        await waiting.until(lambda sent: len(sent.body) == 900)
    assert app.cache.gathered_bytes <= 2700
    more.set()
    for waiting in clients:
        await waiting.task
        assert len(waiting.sent.body) == 3600
    assert app.cache.gathered_bytes == 0
    assert app.cache.stats()["entries"] < 5


async def test_announced_length_beyond_the_limit_is_relayed_directly() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[FRESH, (b"content-length", b"12")], pieces=[b"abcdef", b"ghijkl"]))
    sent = await get(cached(origin, clock, max_object_bytes=10))
    assert sent.pieces == [b"abcdef", b"ghijkl"]
    assert status_of(sent).endswith(b'detail="too large"')


# What goes past the usual messages.


async def test_interim_answers_reach_the_client_that_leads() -> None:
    clock = Clock()
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": []})
        await gate.wait()
        await origin(scope, receive, send)

    origin = Origin(clock, Answer(headers=[FRESH]))
    middleware = cached(app, clock)
    first, second = client(middleware), client(middleware)
    await settle()
    gate.set()
    await asyncio.gather(first.task, second.task)
    assert first.sent.messages[0]["type"] == "http.response.early_hint"
    assert second.sent.messages[0]["type"] == "http.response.start"


async def test_application_cannot_send_files_past_the_cache() -> None:
    clock = Clock()
    origin = Origin(clock, Answer(headers=[FRESH]))
    extensions: dict[str, Any] = {"http.response.pathsend": {}, "http.response.trailers": {}, "tls": {}}
    scope = http_scope(extensions=extensions)
    await call(cached(origin, clock), scope)
    assert origin.scopes[0]["extensions"] == {"tls": {}}
    assert scope["extensions"] == extensions


async def test_answer_with_trailers_is_not_stored() -> None:
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [FRESH], "trailers": True})
        await send({"type": "http.response.body", "body": b"body"})
        await send({"type": "http.response.trailers", "headers": [(b"x", b"1")]})

    middleware = cached(app, clock)
    for _ in range(2):
        sent = await get(middleware)
        assert [message["type"] for message in sent.messages][-1] == "http.response.trailers"
        assert not is_hit(sent)


async def test_head_passes_beside_a_flight() -> None:
    clock = Clock()
    gate = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], gate=gate), Answer(headers=[FRESH], pieces=[b""]))
    app = cached(origin, clock)
    leading = asyncio.ensure_future(get(app))
    await origin.called.wait()
    assert (await ask(app, "HEAD")).status == 200
    gate.set()
    await leading


async def test_client_that_leaves_in_a_stream_is_told_to_the_gateway() -> None:
    clock = Clock()
    more = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [FRESH]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await receive()
        watch = asyncio.ensure_future(receive())
        await more.wait()
        watch.cancel()
        await send({"type": "http.response.body", "body": b"b"})

    exchange = Exchange("GET", b"/")
    exchange.public_host = b"example.com"
    middleware = cached(app, clock)
    leading = client(middleware, **{SCOPE_KEY: exchange})
    await leading.until(lambda sent: sent.pieces == [b"a"])
    leading.leave()
    with pytest.raises(ClientLeft):
        await leading.task
    more.set()
    await asyncio.gather(*middleware.cache.background)
    assert middleware.cache.stats()["entries"] == 1


async def test_send_that_fails_is_only_that_clients_failure() -> None:
    clock = Clock()
    more = asyncio.Event()
    origin = Origin(clock, Answer(headers=[FRESH], pieces=[b"a", b"b"], piece_gate=more))
    app = cached(origin, clock)

    async def failing(message: Message) -> None:
        raise OSError("gone")

    receive = client(app)._receive
    leading = asyncio.ensure_future(app(http_scope(target=b"/x"), receive, failing))
    with pytest.raises(OSError, match="gone"):
        await leading
    more.set()
    await asyncio.gather(*app.cache.background)
    assert is_hit(await get(app, b"/x"))
