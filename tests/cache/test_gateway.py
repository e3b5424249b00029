"""The cache in a whole gateway, with clients and upstreams on sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from gateway.app import Gateway
from gateway.config.load import load_config
from gateway.middleware.cache import Cache
from gateway.stores.base import Entry
from gateway.stores.memory import MemoryStore
from tests.middleware.cache_origin import Clock
from tests.stores.test_memory import entry, key
from tests.support.gateway import (
    GATEWAY,
    UVICORN,
    Answer,
    Client,
    Served,
    make_gateway,
    proxying,
    request,
    serving,
    until,
)
from tests.support.upstream import RecordedRequest, ScriptedConnection, ScriptedUpstream, chunked, response
from tests.wire.support import OWN, STOCK

pytestmark = pytest.mark.anyio

CC = (b"Cache-Control", b"max-age=60")


@pytest.fixture(params=[OWN, STOCK])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(anyio_backend: Any) -> str:
    return GATEWAY if anyio_backend == OWN.values[0] else UVICORN


def cached(*urls: str, **route: Any) -> dict[str, Any]:
    """A table whose only route has a cache."""
    return proxying(*urls, **{"cache": True, **route})


def came_from(answer: Answer) -> str:
    """``hit``, ``collapsed`` or why the upstream was asked."""
    value = answer.values(b"cache-status")[-1]
    if b"; hit" in value:
        return "hit"
    return "collapsed" if b"; collapsed" in value else value.partition(b"fwd=")[2].partition(b";")[0].decode()


class Halves:
    """Answers each request with a body in two halves, the second when it is told to."""

    def __init__(self, *fields: tuple[bytes, bytes], ending: str = "whole") -> None:
        self.fields = fields
        self.ending = ending
        self.go_on = asyncio.Event()
        self.begin = asyncio.Event()
        self.begin.set()

    async def __call__(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await self.begin.wait()
            head = response(200, [CC, *self.fields], length=False)[:-2]
            if self.ending == "no-last-chunk":
                await connection.send(head + b"Transfer-Encoding: chunked\r\n\r\n", chunked(b"first.", last=False))
            else:
                await connection.send(head + b"Content-Length: 12\r\n\r\nfirst.")
            await self.go_on.wait()
            if self.ending == "reset":
                connection.reset()
                return
            if self.ending != "whole":
                return
            await connection.send(b"second")


async def begun(client: Client) -> Answer:
    """A head and the first half of its body."""
    answer = await client.final_head()
    answer.body = (await client.chunk() or b"") if answer.is_chunked else await client.reader.readexactly(6)
    assert answer.body == b"first."
    return answer


async def test_a_hundred_simultaneous_requests_make_one_and_stream_while_it_is_coming(server: str) -> None:
    script = Halves()
    async with ScriptedUpstream(script) as origin, serving(cached(origin.url), server=server) as served:
        clients = [await served.connect() for _ in range(100)]
        try:
            for client in clients:
                client.write(request())
            # The rest has not been written yet.
            heads = [await begun(client) for client in clients]
            assert len(origin.requests) == 1
            late = await served.connect()
            clients.append(late)
            late.write(request())
            heads.append(await begun(late))
            script.go_on.set()
            for client, head in zip(clients, heads, strict=True):
                await client.finish(head)
                assert head.complete and head.body == b"first.second"
            assert sorted(came_from(head) for head in heads) == ["collapsed"] * 100 + ["uri-miss"]
        finally:
            for client in clients:
                await client.close()
        hit = await served.ask(request())
        assert came_from(hit) == "hit" and hit.body == b"first.second"
        assert hit.value(b"content-length") == b"12"
        assert len(origin.requests) == 1


async def test_slow_upstream_is_asked_once_before_it_has_said_anything(server: str) -> None:
    script = Halves()
    script.begin.clear()
    script.go_on.set()
    async with ScriptedUpstream(script) as origin, serving(cached(origin.url), server=server) as served:
        asking = [asyncio.ensure_future(served.ask(request())) for _ in range(100)]
        await until(lambda: len(origin.requests) == 1)
        cache = served.gateway.cache
        await until(lambda: sum(len(flight.body.readers) for flight in cache.flights.values()) == 100)
        script.begin.set()
        answers = await asyncio.gather(*asking)
        assert {answer.body for answer in answers} == {b"first.second"}
        assert len(origin.requests) == 1


async def test_what_cannot_be_shared_is_fetched_by_each_at_the_same_time(server: str) -> None:
    together = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            if len(origin.requests) == 20:
                together.set()
            if len(origin.requests) > 1:
                await together.wait()
            await connection.send(response(200, [(b"Cache-Control", b"private")], b"%d" % len(origin.requests)))

    async with ScriptedUpstream(script) as origin, serving(cached(origin.url), server=server) as served:
        answers = await asyncio.gather(*(served.ask(request()) for _ in range(20)))
        assert all(answer.complete for answer in answers)
        assert len(origin.requests) == 20


@pytest.mark.parametrize("when", ["before the head", "in the body"])
@pytest.mark.parametrize("others", [0, 1])
async def test_leader_that_leaves_does_not_spoil_the_object(server: str, when: str, others: int) -> None:
    script = Halves()
    script.begin.clear()
    async with ScriptedUpstream(script) as origin, serving(cached(origin.url), server=server) as served:
        leader = await served.connect()
        leader.write(request())
        await until(lambda: len(origin.requests) == 1)
        joined = [await served.connect() for _ in range(others)]
        for client in joined:
            client.write(request())
        cache = served.gateway.cache
        await until(lambda: sum(len(flight.body.readers) for flight in cache.flights.values()) == 1 + others)
        if when == "in the body":
            script.begin.set()
            await begun(leader)
        leader.leave()
        if when == "before the head" and not others:
            # Nobody wants it, and nothing of it is there: it is given up.
            await until(lambda: not cache.background)
            script.begin.set()
            script.go_on.set()
            assert came_from(await served.ask(request())) == "uri-miss"
        else:
            await served.ended(1)
            script.begin.set()
            script.go_on.set()
            for client in joined:
                answer = await client.answer()
                assert answer.complete and answer.body == b"first.second"
                await client.close()
            await until(lambda: not cache.background)
            assert came_from(await served.ask(request())) == "hit"
            assert len(origin.requests) == 1
        left = next(exchange for exchange in served.exchanges if exchange.outcome != "done")
        assert left.outcome == "client-left"


@pytest.mark.parametrize("ending", ["short", "reset", "no-last-chunk"])
async def test_broken_transfer_is_never_stored(server: str, ending: str) -> None:
    script = Halves(ending=ending)
    async with (
        ScriptedUpstream(script) as origin,
        serving(cached(origin.url, retry=False), server=server) as served,
    ):
        clients = [await served.connect() for _ in range(3)]
        for client in clients:
            client.write(request())
        heads = [await begun(client) for client in clients]
        script.go_on.set()
        for client, head in zip(clients, heads, strict=True):
            await client.finish(head)
            assert not head.complete
            await client.close()
        assert len(origin.requests) == 1
        script.ending = "whole"
        again = await served.ask(request())
        assert came_from(again) == "uri-miss" and again.body == b"first.second"
        assert came_from(await served.ask(request())) == "hit"


# Nobody gets what is somebody else's.


async def personal(connection: ScriptedConnection) -> None:
    """Everybody gets the credentials that were sent, under a Cache-Control that forgets to say private."""
    while True:
        seen = await connection.read_request()
        names = (b"authorization", b"cookie", b"x-user")
        body = b"|".join(b",".join(seen.values(name)) for name in names)
        await asyncio.sleep(0)
        await connection.send(response(200, [CC], body))


@pytest.mark.parametrize("name", [b"Authorization", b"Cookie"])
async def test_two_users_never_share(server: str, name: bytes) -> None:
    async with ScriptedUpstream(personal) as origin, serving(cached(origin.url), server=server) as served:
        for _ in range(2):
            values = [b"u=%d" % number for number in range(30)]
            asking = [served.ask(request(fields=[(name, value)])) for value in values]
            answers = await asyncio.gather(served.ask(request()), *asking)
            assert answers[0].body == b"||"
            for value, answer in zip(values, answers[1:], strict=True):
                assert answer.body.strip(b"|") == value


async def test_whom_the_gateway_identifies_does_not_share_either(server: str) -> None:
    async def by_key(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(response(200, [CC], b"%d" % len(origin.requests)))

    keys = {f"user-{number}": f"secret-{number}" for number in range(10)}
    async with (
        ScriptedUpstream(by_key) as origin,
        serving(cached(origin.url, auth={"api_key": {"keys": keys}}), server=server) as served,
    ):
        fields = [[(b"X-API-Key", secret.encode())] for secret in keys.values()]
        for round_ in range(1, 3):
            answers = await asyncio.gather(*(served.ask(request(fields=field)) for field in fields))
            assert len({answer.body for answer in answers}) == 10
            assert len(origin.requests) == 10 * round_
        # The credential itself was not what the upstream could have told them apart by.
        assert not any(seen.values(b"x-api-key") for seen in origin.requests)
        assert (await served.ask(request())).status == 401


async def test_what_is_public_is_shared_between_identified_users(server: str) -> None:
    async def public(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(response(200, [(b"Cache-Control", b"public, max-age=60")], b"for all"))

    keys = {"a": "secret-a", "b": "secret-b"}
    async with (
        ScriptedUpstream(public) as origin,
        serving(cached(origin.url, auth={"api_key": {"keys": keys}}), server=server) as served,
    ):
        for secret in keys.values():
            assert (await served.ask(request(fields=[(b"X-API-Key", secret.encode())]))).body == b"for all"
        assert (await served.ask(request())).status == 401
        assert len(origin.requests) == 1


FORGED = [
    (b"X-Forwarded-Host", b"evil.example"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Port", b"666"),
    (b"X-Forwarded-Prefix", b"/evil"),
    (b"X-Forwarded-Scheme", b"evil"),
    (b"X-Forwarded-Server", b"evil.example"),
    (b"X-Forwarded-For", b"6.6.6.6"),
    (b"X-Real-IP", b"6.6.6.6"),
    (b"X-Host", b"evil.example"),
    (b"X-Original-URL", b"/evil"),
    (b"X-Rewrite-URL", b"/evil"),
    (b"X-HTTP-Method-Override", b"DELETE"),
    (b"Forwarded", b"for=6.6.6.6;host=evil.example;proto=evil"),
]


@pytest.mark.parametrize("field", FORGED, ids=lambda field: field[0].decode())
async def test_nobody_chooses_what_others_get(server: str, field: tuple[bytes, bytes]) -> None:
    async def trusting(connection: ScriptedConnection) -> None:
        """Builds its answers of every field that is not for the cache to see."""
        names = [name.lower() for name, _ in FORGED]
        while True:
            seen = await connection.read_request()
            body = b"|".join(b",".join(seen.values(name)) for name in names)
            await connection.send(response(200, [CC], body))

    async with ScriptedUpstream(trusting) as origin, serving(cached(origin.url), server=server) as served:
        await served.ask(request(fields=[field]))
        answer = await served.ask(request())
        assert not any(word in answer.body for word in (b"evil", b"6.6.6.6", b"666", b"DELETE"))
        assert came_from(await served.ask(request())) == "hit"


async def test_what_depends_on_the_clients_address_is_not_shared(server: str) -> None:
    async def local(connection: ScriptedConnection) -> None:
        while True:
            seen = await connection.read_request()
            name = seen.target.strip(b"/")
            await connection.send(response(200, [CC, (b"Vary", name)], b",".join(seen.values(name.lower()))))

    made = {"X-From": "{client_ip}", "X-Zone": "eu"}
    async with ScriptedUpstream(local) as origin:
        table = cached(origin.url, request_headers={"set": made}, server={"trusted_proxies": ["127.0.0.1"]})
        async with serving(table, server=server) as served:
            for name in (b"X-Forwarded-For", b"X-Real-IP", b"Forwarded", b"X-From"):
                bodies = []
                for address in (b"192.0.2.1", b"192.0.2.2"):
                    answer = await served.ask(request(target=b"/" + name, fields=[(b"X-Forwarded-For", address)]))
                    assert address in answer.body
                    bodies.append(answer.body)
                assert len(set(bodies)) == 2
            await served.ask(request(target=b"/X-Zone"))
            assert came_from(await served.ask(request(target=b"/X-Zone"))) == "hit"


async def test_answers_of_the_gateway_itself_say_what_the_cache_did(server: str) -> None:
    async with serving(cached("http://127.0.0.1:1", retry=False), server=server) as served:
        assert (await served.ask(request())).values(b"cache-status") == [b"gateway; fwd=miss"]
        asked = request(fields=[(b"Cookie", b"a=1")])
        assert (await served.ask(asked)).values(b"cache-status") == [b"gateway; fwd=bypass"]
        posted = await served.ask(request("POST", body=b"x"))
        assert posted.status == 502
        assert posted.values(b"cache-status") == [b"gateway; fwd=method"]


# Purging.


def page(seen: RecordedRequest, count: int) -> bytes:
    tag = seen.target.strip(b"/").partition(b"?")[0].replace(b"/", b" ")
    fields = [(b"Cache-Control", b"max-age=60, stale-while-revalidate=60"), (b"Surrogate-Key", tag), (b"ETag", b'"1"')]
    if seen.values(b"if-none-match"):
        return response(304, fields, length=False)
    return response(200, fields, b"%b %d" % (seen.target, count))


async def pages(connection: ScriptedConnection) -> None:
    """Pages that are tagged with the parts of their paths."""
    while True:
        seen = await connection.read_request()
        await connection.send(page(seen, len(connection.requests)))


URLS = [b"/shop/1", b"/shop/1?a=b", b"/shop/2", b"/blog/1", b"/"]


@pytest.mark.parametrize(
    ("what", "gone"),
    [
        ({"url": "http://example.com/shop/1"}, [b"/shop/1"]),
        ({"url": "HTTP://EXAMPLE.COM:80/shop/1?a=b"}, [b"/shop/1?a=b"]),
        ({"url": "http://example.com"}, [b"/"]),
        ({"url": "https://example.com/shop/1"}, []),
        ({"url": "http://other.example/shop/1"}, []),
        ({"prefix": "http://example.com/shop/"}, [b"/shop/1", b"/shop/1?a=b", b"/shop/2"]),
        ({"prefix": "http://example.com/"}, URLS),
        ({"tag": "shop"}, [b"/shop/1", b"/shop/1?a=b", b"/shop/2"]),
        ({"tag": "1"}, [b"/shop/1", b"/shop/1?a=b", b"/blog/1"]),
        ({"tag": "none"}, []),
        ({"everything": True}, URLS),
    ],
    ids=str,
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
async def test_purge(server: str, what: Any, gone: list[bytes], soft: bool) -> None:
    async with ScriptedUpstream(pages) as origin, serving(cached(origin.url), server=server) as served:
        for target in URLS:
            await served.ask(request(target=target))
        assert await served.gateway.cache.purge(**what, soft=soft) == len(gone)
        for target in URLS:
            asked = len(origin.requests)
            answer = await served.ask(request(target=target))
            if target not in gone:
                assert came_from(answer) == "hit" and b"ttl=-" not in answer.values(b"cache-status")[-1]
                assert len(origin.requests) == asked
            elif soft:
                # Given once more, stale, while it is validated behind.
                assert answer.status == 200 and came_from(answer) == "hit"
                await until(lambda asked=asked: len(origin.requests) == asked + 1)  # type: ignore[misc]
                assert origin.requests[-1].values(b"if-none-match") == [b'"1"']
            else:
                assert came_from(answer) == "uri-miss"
        await until(lambda: not served.gateway.cache.background)
        for target in URLS:
            assert came_from(await served.ask(request(target=target))) == "hit"


async def test_purge_while_an_answer_is_coming(server: str) -> None:
    script = Halves((b"Surrogate-Key", b"shop"))
    async with ScriptedUpstream(script) as origin, serving(cached(origin.url), server=server) as served:
        async with served.client() as client:
            client.write(request(target=b"/a"))
            head = await client.final_head()
            await served.gateway.cache.purge(tag="shop")
            script.go_on.set()
            await client.finish(head)
            assert head.complete
        assert came_from(await served.ask(request(target=b"/a"))) == "uri-miss"
        assert came_from(await served.ask(request(target=b"/a"))) == "hit"


async def test_unsafe_request_invalidates_its_url_and_what_its_location_becomes(server: str) -> None:
    async def shop(connection: ScriptedConnection) -> None:
        while True:
            seen = await connection.read_request()
            if seen.method == b"POST":
                await connection.send(response(201, [(b"Location", b"/items/7")]))
            else:
                await connection.send(response(200, [CC], seen.target))

    async with (
        ScriptedUpstream(shop) as origin,
        serving(cached(origin.url, path="/shop/*", strip_prefix="/shop"), server=server) as served,
    ):
        targets = [b"/shop/items", b"/shop/items/7", b"/shop/items/8"]
        for target in targets:
            assert (await served.ask(request(target=target))).body == target.removeprefix(b"/shop")
        created = await served.ask(request("POST", b"/shop/items", body=b"x"))
        assert created.status == 201 and created.value(b"location") == b"/shop/items/7"
        found = [came_from(await served.ask(request(target=target))) for target in targets]
        assert found == ["uri-miss", "uri-miss", "hit"]


# Mounted.


async def redirecting(connection: ScriptedConnection) -> None:
    while True:
        await connection.read_request()
        await connection.send(response(301, [CC, (b"Location", b"/there"), (b"Surrogate-Key", b"here")]))


def twice(gateway: Gateway) -> ASGIApp:
    return Starlette(routes=[Mount("/api", gateway), Mount("/old api", gateway)])


async def test_unsafe_request_on_another_route_invalidates_too(server: str) -> None:
    async with ScriptedUpstream(pages) as origin:
        reading = {"name": "reading", "path": "/*", "methods": ["GET"], "upstream": origin.url, "cache": True}
        writing = {"name": "writing", "path": "/*", "methods": ["POST", "PUT"], "upstream": origin.url}
        async with serving({"routes": [reading, writing]}, server=server) as served:
            for method in ("POST", "PUT"):
                await served.ask(request(target=b"/a"))
                assert came_from(await served.ask(request(target=b"/a"))) == "hit"
                written = await served.ask(request(method, b"/a", body=b"x"))
                assert written.status == 200 and not written.values(b"cache-status")
                assert came_from(await served.ask(request(target=b"/a"))) == "uri-miss"
            # The cached route goes away and comes back: what the other one does follows.
            await served.gateway.reload(load_config({"routes": [writing]}))
            await served.gateway.reload(load_config({"routes": [reading, writing]}))
            assert came_from(await served.ask(request(target=b"/a"))) == "hit"
            await served.ask(request("POST", b"/a", body=b"x"))
            assert came_from(await served.ask(request(target=b"/a"))) == "uri-miss"


async def test_mounted_gateway_is_purged_by_the_urls_that_clients_see(server: str) -> None:
    async with (
        ScriptedUpstream(redirecting) as origin,
        serving(cached(origin.url), server=server, mounted=twice, lifespan=False) as served,
    ):

        async def ask(target: bytes) -> tuple[str, bytes | None]:
            answer = await served.ask(request(target=target))
            return came_from(answer), answer.value(b"location")

        # One gateway under two prefixes: what is stored names the prefix that it was asked under.
        assert await ask(b"/api/here") == ("uri-miss", b"/api/there")
        assert await ask(b"/old%20api/here") == ("uri-miss", b"/old%20api/there")
        assert await ask(b"/api/here") == ("hit", b"/api/there")
        assert await ask(b"/old%20api/here") == ("hit", b"/old%20api/there")
        purge = served.gateway.cache.purge
        assert await purge(url="http://example.com/here") == 0
        assert await purge(url="http://example.com/api/here") == 1
        assert await ask(b"/old%20api/here") == ("hit", b"/old%20api/there")
        assert await ask(b"/api/here") == ("uri-miss", b"/api/there")
        assert await purge(prefix="http://example.com/old api/") == 1
        assert await purge(tag="here") == 1


# The store of a running gateway.


async def test_expired_answers_go_without_any_request() -> None:
    gateway, clock = make_gateway({"routes": [{"path": "/*", "respond": {"status": 204}}]}), Clock()
    store = MemoryStore(clock=clock)
    gateway.runtime.cache = Cache(store, clock=clock)
    stored: Entry = entry()
    assert store.put_now(key(), stored, clock.now)
    await gateway.start()
    clock.now = stored.freshness.keep_until + 1
    try:
        await until(lambda: not store.used_bytes)
    finally:
        await gateway.aclose()


async def test_metrics_tell_what_the_store_takes(server: str) -> None:
    async with ScriptedUpstream(pages) as origin, serving(cached(origin.url), server=server) as served:
        await served.ask(request(target=b"/a"))
        assert store_of(served).used_bytes > 0 and len(store_of(served)) == 1
        assert served.gateway.cache.stats()["entries"] == 1


def store_of(served: Served) -> MemoryStore:
    store = served.gateway.cache.store
    assert isinstance(store, MemoryStore)
    return store
