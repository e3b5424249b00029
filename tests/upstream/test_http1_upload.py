"""Request bodies that stream, with the response coming whenever it does."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import (
    BadRequest,
    BodyTooLarge,
    ClientLeft,
    ConnectionBroken,
    RequestTimeout,
    ResponseBroken,
    UpstreamTimeout,
)
from tests.support.upstream import (
    Script,
    ScriptedConnection,
    ScriptedUpstream,
    chunked,
    respond,
    response,
    silent,
)
from tests.upstream.http1_client import ManualTicker, Pieces, anyio_backend, outbound, read, transport_to, until

__all__ = ["anyio_backend"]
pytestmark = pytest.mark.anyio

HELLO = response(200, body=b"hello")
REFUSED = response(413, [(b"Connection", b"close")], b"too large", reason=b"Content Too Large")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "wire"),
    [
        (Pieces(b"abc", b"", b"de"), b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        (Pieces(), b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        (Pieces(b"abc", b"", b"de", length=5), b"content-length: 5\r\n\r\nabcde"),
        (Pieces(length=0), b"content-length: 0\r\n\r\n"),
        (b"abcde", b"content-length: 5\r\n\r\nabcde"),
    ],
)
async def test_bodies_are_framed_as_their_length_is_known(body: Pieces | bytes, wire: bytes) -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream)
        for _ in range(2):
            answer = await transport.handle_async_request(outbound(b"PUT", body=body))
            assert (answer.whole, answer.request_complete) == (b"hello", True)
        assert upstream.connections[0].received == (b"PUT / HTTP/1.1\r\nhost: upstream.test\r\n" + wire) * 2
        await transport.aclose()


@pytest.mark.parametrize("kind", ["bytes", "measured", "chunked"])
async def test_a_large_body_arrives_as_it_was(kind: str) -> None:
    pieces = [bytes([number]) * 100_000 for number in range(50)]
    whole = b"".join(pieces)
    body = whole if kind == "bytes" else Pieces(*pieces, length=len(whole) if kind == "measured" else None)
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound(b"POST", body=body))
        assert (answer.whole, answer.request_complete) == (b"hello", True)
        assert upstream.requests[0].body == whole
        assert transport.idle_count == 1
        await transport.aclose()


async def test_an_upstream_that_does_not_read_stops_the_client() -> None:
    body = Pieces(*[bytes(100_000)] * 500)
    async with ScriptedUpstream(respond(HELLO), reading=False) as upstream:
        transport = transport_to(upstream)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound(b"POST", body=body)))
        connection = await upstream.connection()
        given = -1
        while given != body.given:
            given = body.given
            for _ in range(500):
                await asyncio.sleep(0)
        assert given < 200
        connection.start_reading()
        assert (await exchange).whole == b"hello"
        assert len(upstream.requests[0].body) == 50_000_000
        await transport.aclose()


async def test_the_body_is_sent_while_the_client_still_gives_it() -> None:
    go_on = asyncio.Event()
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream)
        request = outbound(b"POST", body=Pieces(b"first", go_on, b"second"))
        exchange = asyncio.ensure_future(transport.handle_async_request(request))
        await until(lambda: bool(upstream.connections) and b"first" in upstream.connections[0].received)
        assert b"second" not in upstream.connections[0].received
        go_on.set()
        assert (await exchange).whole == b"hello"
        await transport.aclose()


# Answers before the upload is finished.


def answer_early(raw: bytes, *, then: str) -> Script:
    """Answer as soon as the head is here; then ``close`` with the rest unread, or ``eof`` and read on."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        connection.stop_reading()
        await connection.send(raw)
        if then == "eof":
            connection.send_eof()
            connection.start_reading()
            await connection.wait_eof()

    return script


@pytest.mark.parametrize("then", ["close", "eof"])
@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("round_", range(10))
async def test_an_early_refusal_is_the_answer_and_the_upload_stops(then: str, size: int, round_: int) -> None:
    body = Pieces(*[bytes(size)] * 100, asyncio.Event())
    async with ScriptedUpstream(answer_early(REFUSED, then=then)) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound(b"POST", body=body))
        assert (answer.status_code, answer.request_complete) == (413, False)
        assert await read(answer) == b"too large"
        await until(lambda: transport.connections == 0)
        await body.ended.wait()


async def test_an_early_answer_is_not_lost_when_the_write_after_it_fails() -> None:
    go_on = asyncio.Event()
    body = Pieces(b"a", go_on, *[bytes(100_000)] * 20, asyncio.Event())

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"1\r\na\r\n")
        connection.stop_reading()
        await connection.send(REFUSED)
        connection.reset()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound(b"POST", body=body)))
        await upstream.connection()
        await until(lambda: transport.active_count == 1)
        # As if the event loop came to the write first.
        (connection,) = transport._connections
        connection._transport.pause_reading()
        await upstream.connections[0].closed.wait()
        go_on.set()
        answer = await exchange
        assert (answer.status_code, answer.whole, answer.request_complete) == (413, b"too large", False)
        await until(lambda: transport.connections == 0)


async def test_the_head_of_an_early_answer_comes_at_once_and_both_bodies_flow() -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await connection.send(CHUNKED)
        while (size := int(await connection.read_until(b"\r\n"), 16)) > 0:
            await connection.send(chunked((await connection.read_exactly(size + 2))[:-2].upper(), last=False))
        await connection.read_until(b"\r\n")
        await connection.send(chunked())
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        body = Pieces(b"one", go_on, b"two")
        answer = await transport.handle_async_request(outbound(b"POST", body=body))
        assert not answer.request_complete
        assert await anext(answer.stream) == b"ONE"
        go_on.set()
        assert await read(answer) == b"TWO"
        assert transport.idle_count == 1
        await transport.aclose()


async def test_an_answer_that_ends_before_the_upload_ends_the_upload() -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await connection.send(CHUNKED + chunked(b"part", last=False))
        await go_on.wait()
        await connection.send(chunked())
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        body = Pieces(b"abc", asyncio.Event())
        answer = await transport.handle_async_request(outbound(b"POST", body=body))
        assert await anext(answer.stream) == b"part"
        go_on.set()
        with pytest.raises(StopAsyncIteration):
            await anext(answer.stream)
        await body.ended.wait()
        await until(lambda: transport.connections == 0)


async def test_an_upload_is_complete_with_its_last_announced_byte() -> None:
    body = Pieces(b"abc", asyncio.Event(), length=3)
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound(b"PUT", body=body))
        assert answer.request_complete
        assert body.ended.is_set()
        assert transport.idle_count == 1
        await transport.aclose()


# Bodies that fail.


@pytest.mark.parametrize("error", [ClientLeft, RequestTimeout, BodyTooLarge, BadRequest, KeyError])
@pytest.mark.parametrize("length", [None, 10])
async def test_what_the_body_raises_is_raised_as_it_is(error: type[Exception], length: int | None) -> None:
    raised = error("from the client")
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream)
        with pytest.raises(error) as caught:
            await transport.handle_async_request(outbound(b"POST", body=Pieces(b"abc", raised, length=length)))
        assert caught.value is raised
        await until(lambda: transport.connections == 0)
        await upstream.connections[0].wait_eof()
        assert not upstream.connections[0].received.endswith(b"0\r\n\r\n")


async def test_what_the_body_raises_after_the_head_is_raised_to_the_reader() -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await connection.send(CHUNKED + chunked(b"part", last=False))
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        body = Pieces(b"abc", go_on, ClientLeft("gone"))
        answer = await transport.handle_async_request(outbound(b"POST", body=body))
        assert await anext(answer.stream) == b"part"
        go_on.set()
        with pytest.raises(ClientLeft):
            await anext(answer.stream)
        await until(lambda: transport.connections == 0)


@pytest.mark.parametrize("pieces", [[b"abc"], [b"abc", b"defgh"], [b"abcdefgh"], []])
async def test_a_body_of_another_length_than_announced_is_the_clients_fault(pieces: list[bytes]) -> None:
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream)
        with pytest.raises(BadRequest):
            await transport.handle_async_request(outbound(b"POST", body=Pieces(*pieces, length=5)))
        await until(lambda: transport.connections == 0)
        assert len(upstream.connections[0].received.partition(b"\r\n\r\n")[2]) <= 5


async def test_a_body_whose_source_is_cancelled_does_not_hang_the_exchange() -> None:
    source: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Cancelled(Pieces):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            await source
            yield b""

    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound(b"POST", body=Cancelled())))
        await upstream.connection()
        source.cancel()
        with pytest.raises(ConnectionBroken):
            await exchange


# Time.


async def test_waiting_for_the_client_does_not_count_and_every_piece_starts_the_time_again() -> None:
    ticker = ManualTicker()
    events = [asyncio.Event() for _ in range(3)]
    body = Pieces(b"a", events[0], b"b", events[1], b"c", events[2])
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        request = outbound(b"POST", body=body, timeout={"head": 5.0})
        exchange = asyncio.ensure_future(transport.handle_async_request(request))
        await upstream.connection()
        for given, event in enumerate(events, 1):
            await until(lambda given=given: body.given == given)  # type: ignore[misc]
            ticker.advance(100.0)
            event.set()
        await body.ended.wait()
        await until(lambda: upstream.connections[0].received.endswith(b"0\r\n\r\n"))
        ticker.advance(4.9)
        await asyncio.sleep(0)
        assert not exchange.done()
        ticker.advance(0.2)
        with pytest.raises(UpstreamTimeout):
            await exchange


async def test_an_upstream_that_takes_nothing_is_given_up() -> None:
    ticker = ManualTicker()
    body = Pieces(*[bytes(1_000_000)] * 100)
    async with ScriptedUpstream(silent, reading=False) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        request = outbound(b"POST", body=body, timeout={"head": 1000.0, "write": 5.0})
        exchange = asyncio.ensure_future(transport.handle_async_request(request))
        await upstream.connection()
        given = 0
        while given != body.given or not given:
            given = body.given
            for _ in range(500):
                await asyncio.sleep(0)
        ticker.advance(4.9)
        await asyncio.sleep(0)
        assert not exchange.done()
        ticker.advance(0.2)
        with pytest.raises(UpstreamTimeout):
            await exchange
        await body.ended.wait()


async def test_closing_the_response_ends_the_upload() -> None:
    async with ScriptedUpstream(answer_early(CHUNKED + chunked(b"x", last=False), then="eof")) as upstream:
        transport = transport_to(upstream)
        body = Pieces(b"abc", asyncio.Event())
        try:
            answer = await transport.handle_async_request(outbound(b"POST", body=body))
            answer.stream.close()
        except ResponseBroken:
            pass
        await body.ended.wait()
        await until(lambda: transport.connections == 0)
