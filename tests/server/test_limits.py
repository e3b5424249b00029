"""What a client may take of time and space, and how it hears so."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send

from gateway.errors import BadRequest
from gateway.exchange import BODY_FAILURE
from gateway.server.limits import Limits, SendWatch
from gateway.server.protocol import GatewayProtocol
from tests.server.serving import Client, Echo, Served, read_body, serving, status_of, until
from tests.support.messages import answering

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"


async def settled(served: Served, phase: int) -> None:
    """Wait until the only connection is in ``phase``."""
    await until(lambda: [getattr(one, "_phase", None) for one in served.connections._open] == [phase])


async def gone(served: Served) -> None:
    """Wait until no connection is left."""
    await until(lambda: not len(served.connections))


HEAD, EXCHANGE, IDLE = 1, 2, 3


# Refusals.


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 200), 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * 400), 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 5 + b"\r\n", 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (b"GET /" + b"x" * 200, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 400, 431),
    ],
)
async def test_refused_request_never_reaches_the_application(data: bytes, status: int) -> None:
    app = Echo()
    async with serving(app, Limits(max_target_bytes=100, max_header_bytes=300, max_headers=5)) as served:
        answer = await served.ask(data)
        assert status_of(answer) == status
        assert answer.count(b"connection: close") == 1
        assert b"date: " in answer
        head, _, body = answer.partition(b"\r\n\r\n")
        document = json.loads(body)
        assert b"content-length: %d" % len(body) in head
        assert document["status"] == status
        (refusal,) = served.refusals
        assert refusal.error.status == status
        assert refusal.client == "127.0.0.1"
        assert refusal.answered
        assert document["request_id"] == refusal.request_id
        assert b"\r\nx-rid: %b\r\n" % refusal.request_id.encode() in head
    assert app.scopes == []


async def test_refusal_of_a_head_request_has_no_body() -> None:
    async with serving(Echo()) as served:
        answer = await served.ask(b"HEAD / HTTP/1.1\r\nHost : a\r\n\r\n")
    assert status_of(answer) == 400
    assert answer.endswith(b"\r\n\r\n")


async def test_refusal_is_not_reset_away_by_what_the_client_still_sends() -> None:
    async with serving(Echo()) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost : a\r\nContent-Length: 500000\r\n\r\n")
        client.write(b"x" * 500_000)
        assert status_of(await client.rest()) == 400
        await client.close()


async def test_bad_chunk_after_the_application_has_started_is_400_and_a_disconnect() -> None:
    messages = []
    started, over = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages.append(await receive())
        started.set()
        messages.append(await receive())
        over.set()

    async with serving(app) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await started.wait()
        client.write(b"zz\r\n")
        assert status_of(await client.rest()) == 400
        await over.wait()
        await client.close()
    assert messages[1]["type"] == "http.disconnect"
    assert isinstance(messages[1][BODY_FAILURE], BadRequest)


async def test_an_application_answers_itself_what_became_of_the_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        failure = (await receive())[BODY_FAILURE]
        await send({"type": "http.response.start", "status": failure.status, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": b"own words"})

    async with serving(app) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await settled(served, EXCHANGE)
        client.write(b"zz\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.rest()
        assert status_of(answer) == 400 and b"x-own: 1" in answer and b"own words" in answer
        assert b"connection: close" in answer
        assert served.refusals == []
        await client.close()


async def test_a_client_that_ends_its_side_inside_a_body_still_hears_400() -> None:
    async with serving(Echo()) as served:
        client = await served.connect()
        client.write(POST + b"x")
        await settled(served, EXCHANGE)
        client.writer.write_eof()
        assert status_of(await client.rest()) == 400
        await client.close()


async def test_bad_chunk_after_the_answer_began_cuts_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await read_body(receive)

    async with serving(app) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await client.head()
        client.write(b"zz\r\n")
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        assert [refusal.answered for refusal in served.refusals] == [False]
        await client.close()


# Times.


async def test_connection_that_never_sends_is_closed_without_an_answer() -> None:
    async with serving(Echo(), Limits(header_timeout_s=10)) as served:
        client = await served.connect()
        await until(lambda: len(served.connections) == 1)
        served.pass_time(9)
        assert len(served.connections) == 1
        served.pass_time(2)
        assert await client.rest() == b""
        assert served.refusals == []
        await client.close()


async def test_slow_head_is_408_counted_from_the_connections_first_moment() -> None:
    async with serving(Echo(), Limits(header_timeout_s=10)) as served:
        client = await served.connect()
        client.write(b"GET / HT")
        await settled(served, HEAD)
        served.pass_time(6)
        client.write(b"TP/1.1\r\nHost: a\r\n")
        await asyncio.sleep(0.01)
        served.pass_time(3)
        assert served.refusals == []
        served.pass_time(2)
        assert status_of(await client.rest()) == 408
        await client.close()


async def test_head_of_a_later_request_has_its_own_time() -> None:
    async with serving(Echo(), Limits(header_timeout_s=10, keep_alive_s=1000)) as served:
        client = await served.connect()
        client.write(GET)
        await client.answer()
        await settled(served, IDLE)
        served.pass_time(500)
        client.write(b"GET /")
        await settled(served, HEAD)
        served.pass_time(9)
        assert served.refusals == []
        served.pass_time(2)
        assert status_of(await client.rest()) == 408
        await client.close()


async def test_idle_connection_is_closed_after_keep_alive() -> None:
    async with serving(Echo(), Limits(keep_alive_s=75)) as served:
        client = await served.connect()
        client.write(GET)
        await client.answer()
        await settled(served, IDLE)
        served.pass_time(74)
        client.write(GET)
        await client.answer()
        await settled(served, IDLE)
        served.pass_time(76)
        assert await client.rest() == b""
        await client.close()


async def test_empty_lines_do_not_keep_an_idle_connection() -> None:
    async with serving(Echo(), Limits(keep_alive_s=75)) as served:
        client = await served.connect()
        client.write(GET)
        await client.answer()
        await settled(served, IDLE)
        served.pass_time(70)
        client.write(b"\r\n\r\n")
        await asyncio.sleep(0.01)
        served.pass_time(6)
        assert await client.rest() == b""
        await client.close()


async def test_exchange_without_a_body_has_no_deadline() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await answering(200, [(b"content-length", b"2")], [b"ok"])(scope, receive, send)

    async with serving(app) as served:
        client = await served.connect()
        client.write(GET)
        await settled(served, EXCHANGE)
        served.pass_time(10_000)
        go_on.set()
        assert (await client.answer())[1] == b"ok"
        await client.close()


async def test_silence_inside_a_body_is_408() -> None:
    async with serving(Echo(), Limits(body_timeout_s=10)) as served:
        client = await served.connect()
        client.write(POST + b"x" * 20_000)
        await settled(served, EXCHANGE)
        served.pass_time(9)
        client.write(b"x" * 20_000)
        await asyncio.sleep(0.01)
        served.pass_time(9)
        assert served.refusals == []
        served.pass_time(2)
        assert status_of(await client.rest()) == 408
        await client.close()


async def test_body_below_the_rate_is_cut_after_its_first_30_s() -> None:
    async with serving(Echo(), Limits(body_timeout_s=20, min_body_rate=500)) as served:
        client = await served.connect()
        client.write(POST)
        await settled(served, EXCHANGE)
        for _ in range(3):
            served.pass_time(9)
            client.write(b"x")
            await asyncio.sleep(0.01)
        assert served.refusals == []
        served.pass_time(4)
        assert status_of(await client.rest()) == 408
        await client.close()


async def test_body_at_the_rate_goes_on() -> None:
    async with serving(Echo(), Limits(body_timeout_s=20, min_body_rate=500)) as served:
        client = await served.connect()
        client.write(POST)
        await settled(served, EXCHANGE)
        for _ in range(8):
            client.write(b"x" * 6000)
            await asyncio.sleep(0.01)
            served.pass_time(10)
        assert served.refusals == []
        await client.close()


async def test_body_that_waits_for_100_owes_nothing_yet() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await Echo()(scope, receive, send)

    async with serving(app, Limits(body_timeout_s=10)) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        await settled(served, EXCHANGE)
        served.pass_time(100)
        go_on.set()
        assert b"100 Continue" in await client.head()
        client.write(b"hi")
        assert (await client.answer())[1] == b"hi"
        await client.close()


async def stalled_download(served: Served) -> Client:
    client = await served.connect()
    client.write(GET)
    await client.head()
    await until(lambda: any(connection.is_sending for connection in served.connections._open))
    await asyncio.sleep(0.05)
    served.pass_time(0)
    return client


async def test_client_that_takes_nothing_is_cut() -> None:
    over = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        over.set()

    async with serving(app, Limits(send_timeout_s=60)) as served:
        client = await stalled_download(served)
        served.pass_time(59)
        assert len(served.connections) == 1
        served.pass_time(2)
        await gone(served)
        await over.wait()
        await client.close()


async def test_finished_answer_that_nobody_takes_is_cut_too() -> None:
    async with serving(answering(200, (), [b"x" * 20_000_000]), Limits(send_timeout_s=60)) as served:
        client = await stalled_download(served)
        served.pass_time(61)
        await gone(served)
        await client.close()


def test_send_watch_counts_from_the_last_change() -> None:
    class Transport(asyncio.WriteTransport):
        unsent = 0

        def get_write_buffer_size(self) -> int:
            return self.unsent

    transport, watch = Transport(), SendWatch()
    seen = []
    for now, unsent in [(0, 0), (100, 9), (109, 9), (110, 9), (111, 8), (120, 8), (121, 8), (122, 0), (200, 0)]:
        transport.unsent = unsent
        seen.append(watch.is_stalled(transport, now, 10))
    assert seen == [False, False, False, True, False, False, True, False, False]


# Numbers.


async def test_connection_beyond_the_limit_is_503() -> None:
    app = Echo()
    async with serving(app, Limits(max_connections=2)) as served:
        first, second = await served.connect(), await served.connect()
        for client in (first, second):
            client.write(GET)
            await client.answer()
        answer = await served.ask(b"")
        assert status_of(answer) == 503
        assert b"retry-after: " in answer
        await first.close()
        while len(served.connections) > 1:
            served.pass_time(3)
            await asyncio.sleep(0)
        third = await served.connect()
        third.write(GET)
        assert b"200" in (await third.answer())[0]
        for client in (second, third):
            await client.close()


@contextlib.asynccontextmanager
async def taking_nothing(raw: bytes, limits: Limits) -> AsyncIterator[Served]:
    """A server that has given all of a long answer to its transport, for a client that reads only the head."""
    async with serving(answering(200, (), [b"x" * 20_000_000]), limits) as served:
        client = await served.connect()
        client.write(raw)
        await client.head()
        await until(lambda: served.state.total_requests == 1)
        try:
            yield served
        finally:
            client.writer.transport.abort()


@contextlib.asynccontextmanager
async def having_ended_its_side(raw: bytes, limits: Limits) -> AsyncIterator[Served]:
    """The same for a client that sends nothing more, and an answer too short for the application to have waited."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    def connection() -> GatewayProtocol:
        (found,) = served.connections._open
        assert isinstance(found, GatewayProtocol)
        return found

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not connection().transport.get_write_buffer_size():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        assert connection().write_paused is None
        begun.set()
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"end"})

    async with serving(app, limits) as served:
        client = await served.connect()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.write(raw)
        await begun.wait()
        client.writer.write_eof()
        await until(connection().transport.is_closing)
        go_on.set()
        await until(lambda: served.state.total_requests == 1)
        try:
            yield served
        finally:
            client.writer.transport.abort()


async def all_are_cut(served: Served) -> None:
    async with asyncio.timeout(5):
        await until(lambda: not len(served.connections))


LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
UNFINISHED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"


async def test_the_last_answer_that_nobody_takes_is_cut_too() -> None:
    async with taking_nothing(LAST, Limits(send_timeout_s=60)) as served:
        served.pass_time(0)
        served.pass_time(61)
        await all_are_cut(served)


async def test_an_idle_connection_whose_answer_is_not_taken_is_cut() -> None:
    async with taking_nothing(GET, Limits(send_timeout_s=60, keep_alive_s=5)) as served:
        for seconds in (0, 6, 61, 61):
            served.pass_time(seconds)
        await all_are_cut(served)


async def test_the_end_of_a_drain_cuts_what_is_closing() -> None:
    async with taking_nothing(LAST, Limits(send_timeout_s=60)) as served:
        served.connections.cut_all()
        await all_are_cut(served)


async def test_what_a_client_that_ended_its_side_does_not_take_is_cut() -> None:
    """No pause of the writer, no next request: nobody had begun to look at whether it takes anything."""
    async with having_ended_its_side(GET, Limits(send_timeout_s=60)) as served:
        for seconds in (0, 61, 61):
            served.pass_time(seconds)
        await all_are_cut(served)


async def test_a_body_that_is_no_longer_awaited_is_never_late(caplog: pytest.LogCaptureFixture) -> None:
    async with having_ended_its_side(UNFINISHED, Limits(body_timeout_s=30, send_timeout_s=1000)) as served:
        served.pass_time(31)
        assert len(served.connections) == 1
        assert not caplog.records


async def test_a_connection_that_cannot_be_timed_is_cut_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever of the two the sweep comes to first."""
    on_deadline = GatewayProtocol.on_deadline
    broken: list[GatewayProtocol] = []

    def breaking(self: GatewayProtocol, now: float) -> None:
        if not broken:
            broken.append(self)
            raise ValueError("this always fails")
        on_deadline(self, now)

    monkeypatch.setattr(GatewayProtocol, "on_deadline", breaking)
    async with serving(answering(200), Limits(keep_alive_s=5)) as served:
        clients = [await served.connect() for _ in range(2)]
        for client in clients:
            client.write(GET)
        await until(lambda: served.state.total_requests == 2)
        served.pass_time(6)
        await all_are_cut(served)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        for client in clients:
            await client.close()
