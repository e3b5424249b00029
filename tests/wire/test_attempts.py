"""Attempts: what fails, what is tried again, and what the client gets in the end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.middleware.access_log import text_line
from tests.support.gateway import Stopwatch, proxying, request, serving, until
from tests.support.upstream import (
    ScriptedConnection,
    ScriptedUpstream,
    chunked,
    refused_port,
    respond,
    response,
    silent,
)

pytestmark = pytest.mark.anyio

OK = response(body=b"ok")
FIRST = {"balance": "first"}
"""The first endpoint that can take it: attempts come in the order of the configuration."""


async def echo(connection: ScriptedConnection) -> None:
    while True:
        seen = await connection.read_request()
        await connection.send(response(body=seen.body or b"ok"))


async def drop(connection: ScriptedConnection) -> None:
    """Take a request and close without an answer."""
    await connection.read_request()


def unavailable(text: bytes = b"busy", status: int = 503) -> bytes:
    return response(status, [(b"X-Failed", b"1")], text, reason=b"Unavailable")


# A reused connection that is gone.


@pytest.mark.parametrize("retry", [False, {"attempts": 2}])
@pytest.mark.parametrize("ending", ["fin", "rst"])
async def test_a_stale_connection_is_no_error_for_the_client(server: str, retry: object, ending: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(OK)
        if connection.index == 0:
            # The next request crosses the end of the connection.
            await connection.read_head()
            if ending == "rst":
                connection.reset()
            return
        await connection.wait_eof()

    async with ScriptedUpstream(script) as origin, serving(proxying(origin.url, retry=retry), server=server) as served:
        for _ in range(2):
            assert (await served.ask(request())).body == b"ok"
        assert len(origin.connections) == 2
        _, exchange = await served.ended(2)
        assert len(exchange.attempts) == 1
        assert served.upstream.snapshot()[0].failures == 0


async def test_a_stale_connection_is_not_tried_again_with_a_method_that_may_have_acted(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(OK)
        await connection.read_request()

    async with ScriptedUpstream(script) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request())).status == 200
        assert (await served.ask(request("POST", body=b"x"))).status == 502
        assert len(origin.connections) == 1


async def test_an_end_on_an_idle_connection_is_noticed_at_once(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK, close=True)) as origin,
        serving(proxying(origin.url), server=server) as served,
    ):
        for _ in range(3):
            assert (await served.ask(request("POST", body=b"x"))).status == 200
            await origin.connections[-1].closed.wait()
        assert [len(connection.requests) for connection in origin.connections] == [1, 1, 1]


async def test_idle_connections_are_closed_before_the_upstream_is_likely_to(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as origin,
        serving(proxying(origin.url, upstream={"keep_alive": "200ms"}), server=server) as served,
    ):
        watch = Stopwatch()
        assert (await served.ask(request())).status == 200
        await origin.connections[0].closed.wait()
        assert watch.seconds >= 0.1


# Failures before the head.


async def test_refused_is_502(server: str) -> None:
    with refused_port() as port:
        async with serving(proxying(f"http://127.0.0.1:{port}"), server=server) as served:
            answer = await served.ask(request())
            assert answer.status == 502
            assert b"%d" % port not in answer.body and b"127.0.0.1" not in answer.body
            (exchange,) = await served.ended(1)
            assert exchange.outcome == "failed"
            assert {attempt.outcome for attempt in exchange.attempts} == {"ConnectFailed"}
            assert len(exchange.attempts) == 2


async def test_a_name_that_is_not_resolved_is_502(server: str) -> None:
    async with serving(proxying("http://nothing.invalid:80"), server=server) as served:
        answer = await served.ask(request())
        assert answer.status == 502 and b"nothing.invalid" not in answer.body


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_every_primary_refuses_goes_to_a_backup(server: str, method: str) -> None:
    with refused_port() as port:
        async with ScriptedUpstream(echo) as backup:
            table = proxying()
            table["upstreams"]["origin"] = {
                "endpoints": [f"http://127.0.0.1:{port}", {"url": backup.url, "backup": True}]
            }
            async with serving(table, server=server) as served:
                answer = await served.ask(request(method, body=b"whole" if method == "POST" else b""))
                assert answer.status == 200
                assert len(backup.connections) == 1


@pytest.mark.parametrize("size", [0, 100, 300_000], ids=["none", "small", "large"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_refused_goes_to_the_next_endpoint_with_its_whole_body(
    server: str, method: str, size: int, framing: str
) -> None:
    body = bytes(index % 251 for index in range(size))
    if framing == "chunked":
        raw = request(method, fields=[(b"Transfer-Encoding", b"chunked")]) + chunked(*([body] if body else []))
    else:
        raw = request(method, body=body)
    with refused_port() as port:
        async with ScriptedUpstream(echo) as origin:
            table = proxying(f"http://127.0.0.1:{port}", origin.url, upstream=FIRST)
            async with serving(table, server=server) as served:
                answer = await served.ask(raw)
                assert answer.status == 200
                assert answer.body == (body or b"ok")


async def test_refused_goes_through_any_number_of_endpoints(server: str) -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(refused_port()) for _ in range(4)]
        async with ScriptedUpstream(echo) as origin:
            urls = [*(f"http://127.0.0.1:{port}" for port in ports), origin.url]
            async with serving(proxying(*urls, upstream=FIRST), server=server) as served:
                assert (await served.ask(request("POST", body=b"x"))).body == b"x"
                (exchange,) = await served.ended(1)
                assert len(exchange.attempts) == 5


async def test_an_upstream_that_resets_every_connection_at_once_is_502(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        connection.reset()

    async with ScriptedUpstream(script) as origin:
        table = proxying(origin.url, retry={"backoff": "1ms"}, upstream={"outlier": False})
        async with serving(table, server=server) as served:
            for method in ("GET", "POST"):
                answers = await asyncio.gather(*(served.ask(request(method, body=b"x" * 1000)) for _ in range(50)))
                assert {answer.status for answer in answers} == {502}


# What was sent.


async def test_an_idempotent_request_goes_to_another_endpoint_when_the_first_drops_it(server: str) -> None:
    async with (
        ScriptedUpstream(drop) as bad,
        ScriptedUpstream(echo) as good,
        serving(proxying(bad.url, good.url, upstream=FIRST), server=server) as served,
    ):
        assert (await served.ask(request("PUT", body=b"body"))).body == b"body"
        assert [seen.body for seen in bad.requests] == [b"body"]


async def test_a_post_is_not_sent_twice(server: str) -> None:
    async with (
        ScriptedUpstream(drop) as bad,
        ScriptedUpstream(echo) as good,
        serving(proxying(bad.url, good.url, upstream=FIRST), server=server) as served,
    ):
        assert (await served.ask(request("POST", body=b"body"))).status == 502
        assert good.connections == []


async def test_a_post_is_sent_twice_where_the_route_says_so(server: str) -> None:
    async with ScriptedUpstream(drop) as bad, ScriptedUpstream(echo) as good:
        table = proxying(bad.url, good.url, upstream=FIRST, retry={"methods": ["POST"]})
        async with serving(table, server=server) as served:
            assert (await served.ask(request("POST", body=b"body"))).body == b"body"


async def test_a_body_above_the_limit_is_not_replayed(server: str) -> None:
    async with ScriptedUpstream(drop) as bad, ScriptedUpstream(echo) as good:
        table = proxying(bad.url, good.url, upstream=FIRST, retry={"max_body": "1KiB"})
        async with serving(table, server=server) as served:
            assert (await served.ask(request("PUT", body=bytes(1025)))).status == 502
            assert (await served.ask(request("PUT", body=bytes(1024)))).status == 200


async def test_nothing_is_tried_again_without_retry(server: str) -> None:
    async with (
        ScriptedUpstream(drop) as bad,
        ScriptedUpstream(echo) as good,
        serving(proxying(bad.url, good.url, upstream=FIRST, retry=False), server=server) as served,
    ):
        assert (await served.ask(request())).status == 502
        assert good.connections == []


async def test_nothing_is_tried_again_after_the_first_byte_went_to_the_client(server: str) -> None:
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    async with (
        ScriptedUpstream(respond(broken, close=True)) as bad,
        ScriptedUpstream(echo) as good,
        serving(proxying(bad.url, good.url, upstream=FIRST), server=server) as served,
    ):
        answer = await served.ask(request())
        assert answer.status == 200 and not answer.complete
        assert good.connections == []


async def test_the_number_of_attempts_is_kept(server: str) -> None:
    async with ScriptedUpstream(drop) as bad:
        for attempts in (1, 2, 3):
            before = len(bad.requests)
            async with serving(
                proxying(bad.url, retry={"attempts": attempts, "backoff": "1ms"}), server=server
            ) as served:
                assert (await served.ask(request())).status == 502
            assert len(bad.requests) - before == attempts


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_the_last_answer_of_the_upstream_is_better_than_the_gateways_own(server: str, streamed: bool) -> None:
    async def busy(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            if streamed:
                await connection.send(response(503, [(b"Transfer-Encoding", b"chunked")], length=False))
                await asyncio.sleep(0)
                await connection.send(chunked(b"busy %d" % connection.index))
            else:
                await connection.send(unavailable(b"busy %d" % connection.index))

    async with (
        ScriptedUpstream(busy) as one,
        ScriptedUpstream(busy) as two,
        serving(proxying(one.url, two.url, upstream=FIRST), server=server) as served,
    ):
        answer = await served.ask(request())
        assert answer.status == 503 and answer.body == b"busy 0" and answer.complete
        assert len(one.requests) == len(two.requests) == 1
    async with (
        ScriptedUpstream(busy) as one,
        ScriptedUpstream(drop) as two,
        serving(proxying(one.url, two.url, upstream=FIRST), server=server) as served,
    ):
        answer = await served.ask(request())
        assert answer.status == 503 and answer.body == b"busy 0" and answer.complete
        assert len(two.requests) == 1


async def test_nothing_of_a_failed_attempt_appears_in_the_answer(server: str) -> None:
    async with (
        ScriptedUpstream(respond(unavailable())) as bad,
        ScriptedUpstream(echo) as good,
        serving(proxying(bad.url, good.url, upstream=FIRST), server=server) as served,
    ):
        answer = await served.ask(request())
        assert answer.status == 200 and answer.body == b"ok"
        assert answer.values(b"x-failed") == []


async def test_a_status_is_tried_again_only_for_methods_that_may_be(server: str) -> None:
    async with (
        ScriptedUpstream(respond(unavailable())) as bad,
        ScriptedUpstream(echo) as good,
        serving(proxying(bad.url, good.url, upstream=FIRST), server=server) as served,
    ):
        assert (await served.ask(request("POST", body=b"x"))).status == 503
        assert good.connections == []


async def test_an_attempt_that_takes_too_long_goes_to_another_endpoint(server: str) -> None:
    async with ScriptedUpstream(silent) as hanging, ScriptedUpstream(echo) as good:
        table = proxying(hanging.url, good.url, upstream=FIRST, retry={"attempt_timeout": "200ms"})
        async with serving(table, server=server) as served:
            watch = Stopwatch()
            assert (await served.ask(request())).status == 200
            assert 0.2 <= watch.seconds < 5
            await hanging.connections[0].closed.wait()


async def test_after_an_error_the_connection_is_not_used_again_and_after_a_whole_answer_it_is(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        for number in range(3):
            await connection.read_request()
            await connection.send(OK if number < 2 else b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
        await connection.wait_eof()

    async with ScriptedUpstream(script) as origin, serving(proxying(origin.url, retry=False), server=server) as served:
        assert [(await served.ask(request())).status for _ in range(4)] == [200, 200, 502, 200]
        assert [len(connection.requests) for connection in origin.connections] == [3, 1]


# Capacity.


async def test_no_endpoint_is_503_at_once_with_retry_after(server: str) -> None:
    async with serving(proxying("http://127.0.0.1:9", upstream={"queue_timeout": "30s"}), server=server) as served:
        served.upstream.drain("127.0.0.1:9")
        watch = Stopwatch()
        answer = await served.ask(request())
        assert answer.status == 503
        assert int(answer.value(b"retry-after") or b"0") >= 1
        assert watch.seconds < 5


async def test_a_weight_of_0_gets_nothing(server: str) -> None:
    async with ScriptedUpstream(echo) as none, ScriptedUpstream(echo) as all_of_it:
        table = proxying()
        table["upstreams"]["origin"] = {"endpoints": [{"url": none.url, "weight": 0}, all_of_it.url]}
        async with serving(table, server=server) as served:
            for _ in range(20):
                assert (await served.ask(request())).status == 200
        assert none.connections == []


async def test_with_all_endpoints_ejected_it_is_503_at_once_and_back_after_the_period(server: str) -> None:
    answers = [drop] * 2

    async def script(connection: ScriptedConnection) -> None:
        await (answers.pop() if answers else echo)(connection)

    async with ScriptedUpstream(script) as origin:
        outlier = {"failures": 2, "ejection": "300ms", "max_ejected": 1.0}
        table = proxying(origin.url, origin.url.replace("127.0.0.1", "localhost"), upstream={"outlier": outlier})
        table["upstreams"]["origin"]["endpoints"] = [origin.url]
        async with serving(table | {"routes": [{**table["routes"][0], "retry": False}]}, server=server) as served:
            statuses = [(await served.ask(request())).status for _ in range(3)]
            if statuses == [502, 502, 503]:
                await until(lambda: served.upstream.snapshot()[0].ejected_until is None or _is_open(served))
            assert statuses[:2] == [502, 502]
            assert (await served.ask(request())).status == 200


def _is_open(served: object) -> bool:
    endpoint = served.upstream.endpoints[0]  # type: ignore[attr-defined]
    return bool(endpoint.is_up)


async def test_a_full_endpoint_is_a_wait_and_then_503(server: str) -> None:
    release = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await release.wait()
            await connection.send(OK)

    async with ScriptedUpstream(script) as origin:
        limits = {"max_connections": 1, "queue_timeout": "200ms", "max_pending": 1}
        async with (
            serving(proxying(origin.url, upstream=limits), server=server) as served,
            served.client() as first,
            served.client() as second,
            served.client() as third,
        ):
            first.write(request())
            await origin.connection()
            watch = Stopwatch()
            second.write(request())
            await until(lambda: served.upstream.pending == 1)
            third.write(request())
            answer = await third.answer()
            assert answer.status == 503 and answer.values(b"retry-after")
            answer = await second.answer()
            assert answer.status == 503 and answer.values(b"retry-after")
            assert 0.2 <= watch.seconds < 5
            release.set()
            assert (await first.answer()).body == b"ok"


async def test_a_waiting_request_gets_the_place_that_becomes_free(server: str) -> None:
    async with ScriptedUpstream(echo) as origin:
        table = proxying(origin.url, upstream={"max_connections": 2, "queue_timeout": "30s"})
        async with serving(table, server=server) as served:
            answers = await asyncio.gather(*(served.ask(request("POST", body=b"%d" % n)) for n in range(30)))
            assert [answer.body for answer in answers] == [b"%d" % n for n in range(30)]
        assert len(origin.connections) <= 2


async def test_the_record_of_an_exchange_tells_every_attempt_and_who_was_out(server: str) -> None:
    with refused_port() as port:
        async with ScriptedUpstream(echo) as good, ScriptedUpstream(echo) as drained:
            table = proxying(upstream={"balance": "first"})
            table["upstreams"]["origin"]["endpoints"] = [
                f"http://127.0.0.1:{port}",
                good.url,
                {"url": drained.url, "drain": True},
            ]
            async with serving(table, server=server) as served:
                assert (await served.ask(request())).status == 200
                (exchange,) = await served.ended(1)
                line = text_line(exchange)
                assert f'tries="127.0.0.1:{port} connect-failed ' in line
                assert f", 127.0.0.1:{good.port} 200 " in line
                assert line.endswith(f' decision="2 of 3 available: 127.0.0.1:{drained.port} drained"')
