"""What an exchange on the short way comes to when something happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import pytest

from tests.express.support import Ways, warm
from tests.support.gateway import UVICORN, make_gateway, proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio

OK = response(200, body=b"hello")


def first_ok_then(*pieces: bytes, then: str = "hold") -> Any:
    """A script: of all its requests the second gets ``pieces`` and then what ``then`` says; the others are answered.

    They are counted across connections: a slow machine may have let the first run into a time limit.
    """
    numbers = itertools.count()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            if next(numbers) == 1:
                break
            await connection.send(OK)
        await connection.send(*pieces)
        if then == "hold":
            await connection.wait_eof()
        elif then == "reset":
            connection.reset()

    return script


def waiting_second(go_on: asyncio.Event) -> Any:
    """A script: every request of a connection is answered, the second once ``go_on`` is set."""

    async def script(connection: ScriptedConnection) -> None:
        for number in itertools.count():
            await connection.read_request()
            if number == 1:
                await go_on.wait()
            await connection.send(OK)

    return script


async def test_a_client_that_leaves_is_recorded_and_frees_everything(server: str) -> None:
    async with (
        ScriptedUpstream(first_ok_then()) as upstream,
        warm(proxying(upstream.url, retry=False), server=server) as (served, _, client),
    ):
        client.write(request())
        await until(lambda: len(upstream.requests) == 2)
        client.leave()
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)
        exchange = (await served.ended(2))[1]
        assert (exchange.status, exchange.outcome) == (499, "client-left")
        (endpoint,) = served.upstream.endpoints
        assert (endpoint.in_flight, endpoint.failures) == (0, 0)


@pytest.mark.parametrize("retry", [False, True])
async def test_a_reset_before_the_head_is_for_the_retry_policy(retry: bool, server: str) -> None:
    async with (
        ScriptedUpstream(first_ok_then(b"HTTP/1.1 2", then="reset")) as upstream,
        warm(proxying(upstream.url, retry={"attempts": 2} if retry else False), server=server) as (
            served,
            ways,
            client,
        ),
    ):
        client.write(request())
        answer = await client.answer()
        exchange = (await served.ended(2))[1]
        assert ways.short == 0
        assert answer.status == (200 if retry else 502)
        outcomes = [attempt.outcome for attempt in exchange.attempts]
        assert outcomes == (["ConnectionBroken", "ok"] if retry else ["ConnectionBroken"])


async def test_a_connection_that_was_closed_already_is_no_failure_even_without_retries(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(OK)
        if connection.index == 0:
            await connection.read_until(b"\r\n\r\n")
            connection.reset()
        else:
            await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as upstream,
        warm(proxying(upstream.url, retry=False), server=server) as (served, _, client),
    ):
        client.write(request())
        assert (await client.answer()).body == b"hello"
        exchange = (await served.ended(2))[1]
        assert [attempt.outcome for attempt in exchange.attempts] == ["ok"]
        assert len(upstream.connections) == 2
        assert served.upstream.endpoints[0].failures == 0


async def test_an_upstream_that_does_not_answer_in_time_is_504(server: str) -> None:
    async with (
        ScriptedUpstream(first_ok_then()) as upstream,
        warm(proxying(upstream.url, timeout="300ms", retry=False), server=server) as (served, _, client),
    ):
        client.write(request())
        assert (await client.answer()).status == 504
        exchange = (await served.ended(2))[1]
        assert exchange.finished - exchange.started >= 0.3


async def test_an_attempt_that_takes_too_long_goes_on_to_the_other_endpoint(server: str) -> None:
    async with (
        ScriptedUpstream(first_ok_then()) as slow,
        ScriptedUpstream(respond(OK)) as fast,
        warm(
            proxying(slow.url, fast.url, upstream={"balance": "first"}, retry={"attempts": 2, "attempt_timeout": "1s"}),
            server=server,
        ) as (served, _, client),
    ):
        client.write(request())
        assert (await client.answer()).body == b"hello"
        exchange = (await served.ended(2))[1]
        assert [attempt.outcome for attempt in exchange.attempts] == ["UpstreamTimeout", "ok"]
        assert len(fast.requests) == 1


async def test_what_is_no_http_is_502(server: str) -> None:
    async with (
        ScriptedUpstream(
            first_ok_then(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
        ) as upstream,
        warm(proxying(upstream.url, retry=False), server=server) as (_, _, client),
    ):
        client.write(request())
        assert (await client.answer()).status == 502


async def test_a_body_that_comes_later_is_relayed_as_it_comes(server: str) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(OK)
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await go_on.wait()
        await connection.send(b"world")
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as upstream,
        warm(proxying(upstream.url), server=server) as (_, _, client),
    ):
        client.write(request())
        answer = await client.final_head()
        answer.body = await client.reader.readexactly(5)
        go_on.set()
        await client.finish(answer)
        assert answer.body == b"helloworld" and answer.complete


async def test_a_body_that_breaks_off_is_broken_for_the_client_too(server: str) -> None:
    async with (
        ScriptedUpstream(
            first_ok_then(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", then="close")
        ) as upstream,
        warm(proxying(upstream.url), server=server) as (_, _, client),
    ):
        client.write(request())
        answer = await client.final_head()
        await client.finish(answer)
        assert not answer.complete


async def test_an_interim_answer_passes_where_the_server_can_send_it(server: str) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nServer: hidden\r\n\r\n"
    async with (
        ScriptedUpstream(first_ok_then(early, OK)) as upstream,
        warm(proxying(upstream.url), server=server) as (_, _, client),
    ):
        client.write(request())
        answer = await client.head()
        if server == "gateway":
            assert (answer.status, answer.fields) == (103, [(b"link", b"</a.css>")])
            answer = await client.head()
        assert answer.status == 200
        await client.finish(answer)


async def test_an_answer_longer_than_announced_ends_the_connection_to_the_upstream(server: str) -> None:
    async with (
        ScriptedUpstream(first_ok_then(OK + b"HTTP/1.1 200 OK\r\n")) as upstream,
        warm(proxying(upstream.url), server=server) as (_, ways, client),
    ):
        client.write(request())
        assert (await client.answer()).body == b"hello"
        assert ways.short == 1
        await asyncio.wait_for(upstream.connections[0].closed.wait(), 5)


async def test_pipelined_requests_are_answered_in_order(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        while True:
            asked = await connection.read_request()
            await connection.send(response(200, body=asked.target))

    async with (
        ScriptedUpstream(script) as upstream,
        warm(proxying(upstream.url), server=server) as (_, ways, client),
    ):
        client.write(b"".join(request(target=b"/%d" % number) for number in range(50)))
        assert [(await client.answer()).body for _ in range(50)] == [b"/%d" % number for number in range(50)]
        assert ways.short == 50


async def test_pipelined_hits_are_answered_in_order_and_others_have_their_turn(server: str) -> None:
    fresh = response(200, [(b"Cache-Control", b"max-age=600"), (b"Date", b"Sat, 28 Nov 2026 00:00:00 GMT")], b"hello")
    async with (
        ScriptedUpstream(respond(fresh.replace(b"max-age=600", b"max-age=999999999"))) as upstream,
        warm(proxying(upstream.url, cache=True), server=server) as (served, ways, client),
    ):
        client.write(request() * 1000)
        for _ in range(1000):
            answer = await client.answer()
            assert answer.body == b"hello"
            assert (answer.value(b"cache-status") or b"").startswith(b"gateway; hit")
        exchanges = await served.ended(1001)
        assert {exchange.cache for exchange in exchanges[1:]} == {"hit"}
        assert len(upstream.requests) == 1
        assert ways.short > 900


async def test_a_reload_leaves_what_was_begun_on_its_generation(server: str) -> None:
    go_on = asyncio.Event()
    async with ScriptedUpstream(waiting_second(go_on)) as upstream:
        gateway = make_gateway(proxying(upstream.url, response_headers={"set": {"X-Table": "old"}}))
        async with serving(gateway, server=server) as served, served.client() as client:
            client.write(request())
            await client.answer()
            client.write(request())
            await until(lambda: len(upstream.requests) == 2)
            new = make_gateway(proxying(upstream.url, response_headers={"set": {"X-Table": "new"}})).config
            await gateway.reload(new)
            assert gateway.live.retired == 1
            go_on.set()
            assert (await client.answer()).value(b"x-table") == b"old"
            await until(lambda: not gateway.live.retired)
            ways = Ways(served)
            client.write(request())
            assert (await client.answer()).value(b"x-table") == b"new"
            assert ways.short == 1


async def test_the_last_exchange_of_a_connection_closes_it(server: str) -> None:
    closing = request(fields=[(b"Connection", b"close")])
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url), server=server) as (_, ways, client),
    ):
        client.write(closing)
        answer = await client.answer()
        assert (answer.body, answer.keeps_alive, ways.short) == (b"hello", False, 1)
        assert await client.rest() == b""


async def test_a_loop_and_a_forged_host_are_refused_whatever_is_known(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as upstream,
        warm(proxying(upstream.url, server={"via": "gw-me"}), server=server) as (_, _, client),
    ):
        client.write(request(fields=[(b"Via", b"1.1 gw-me")]))
        assert (await client.answer()).status == 508
    assert len(upstream.requests) == 1


async def test_conditions_of_routes_are_asked_for_every_header_section(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as one, ScriptedUpstream(respond(OK)) as other:
        config = {
            "routes": [
                {"name": "beta", "path": "/*", "upstream": other.url, "when": {"header": {"X-Beta": "1"}}},
                {"name": "all", "path": "/*", "upstream": one.url},
            ]
        }
        async with warm(config, server=server) as (served, ways, client):
            for fields in ([(b"X-Beta", b"1")], [], [(b"X-Beta", b"1")], []):
                client.write(request(fields=fields))
                await client.answer()
            routes = [exchange.route for exchange in await served.ended(5)]
            assert routes == ["all", "beta", "all", "beta", "all"]
            assert ways.short == 3


@pytest.mark.parametrize("count", [2, 3])
async def test_endpoints_get_their_even_share(count: int, server: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(ScriptedUpstream(respond(OK))) for _ in range(count)]
        urls = [upstream.url for upstream in upstreams]
        async with warm(proxying(*urls, upstream={"balance": "round-robin"}), server=server) as (_, _, client):
            for _ in range(count * 10 - 1):
                client.write(request())
                await client.answer()
        assert [len(upstream.requests) for upstream in upstreams] == [10] * count


async def test_hash_balancing_sees_the_request(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as one, ScriptedUpstream(respond(OK)) as other:
        config = proxying(one.url, other.url, upstream={"balance": "hash", "hash_on": "query:user"})
        async with warm(config, server=server) as (_, _, client):
            for number in range(40):
                client.write(request(target=b"/?user=%d" % (number % 20)))
                await client.answer()
    seen = [{asked.target for asked in upstream.requests if asked.target != b"/"} for upstream in (one, other)]
    assert not seen[0] & seen[1]
    assert seen[0] and seen[1]


async def test_load_is_shed_on_either_way(server: str) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            asked = await connection.read_request()
            if asked.target == b"/slow":
                await go_on.wait()
            await connection.send(OK)

    async with ScriptedUpstream(script) as upstream:
        config = proxying(upstream.url, server={"overload": {"max_in_flight": 2}})
        async with (
            warm(config, server=server) as (served, ways, client),
            served.client() as one,
            served.client() as other,
        ):
            client.write(request())
            assert (await client.answer()).status == 200
            assert ways.short == 1
            for busy in (one, other):
                busy.write(request(target=b"/slow"))
            await until(lambda: served.upstream.in_flight == 2)
            client.write(request())
            refused = await client.answer()
            assert (refused.status, refused.values(b"retry-after") != []) == (503, True)
            go_on.set()
            for busy in (one, other):
                assert (await busy.answer()).status == 200


@pytest.mark.parametrize(("ticks", "is_short"), [(1, True), (2, False)])
async def test_under_another_server_the_layers_get_what_is_under_way_at_two_ticks(ticks: int, is_short: bool) -> None:
    go_on = asyncio.Event()
    async with ScriptedUpstream(waiting_second(go_on)) as upstream:
        gateway = make_gateway(proxying(upstream.url))
        gateway.runtime.ticker.interval_s = 3600.0
        async with serving(gateway, server=UVICORN) as served, served.client() as client:
            client.write(request())
            await client.answer()
            ways = Ways(served)
            client.write(request())
            await until(lambda: len(upstream.requests) == 2)
            for _ in range(ticks):
                gateway.runtime.ticker.tick()
            await asyncio.sleep(0)
            go_on.set()
            assert (await client.answer()).body == b"hello"
            await served.ended(2)
            assert bool(ways.short) == is_short
