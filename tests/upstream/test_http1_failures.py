"""Upstreams that break off, speak badly or are silent."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from gateway.errors import (
    BadUpstreamResponse,
    ConnectFailed,
    ConnectionBroken,
    GatewayError,
    ResponseBroken,
    UpstreamTimeout,
)
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.messages import RequestStream
from gateway.upstream.tls import client_context
from tests.support.upstream import (
    Script,
    ScriptedConnection,
    ScriptedUpstream,
    chunked,
    respond,
    response,
    silent,
)
from tests.upstream.http1_client import (
    ManualTicker,
    Pieces,
    RewindablePieces,
    anyio_backend,
    outbound,
    read,
    transport_to,
    until,
)

__all__ = ["anyio_backend"]
pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = response(200, body=b"hello")


def send_then(raw: bytes, end: str) -> Script:
    """Send ``raw`` after each request, then ``close`` or ``reset`` or ``stay``."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        if raw:
            await connection.send(raw)
        if end == "reset":
            connection.reset()
        elif end == "stay":
            await connection.wait_eof()

    return script


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33 + HELLO,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 33 + HELLO,
        b"HTTP/1.1 600 X\r\n\r\n",
        b"HTTP/1.1 99 X\r\n\r\n",
        b"HTTP/1.1 000 X\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"220 smtp.test ESMTP\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\r\n" + HELLO,
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\r\n\r\nhello",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        OK + b"Content-Length: 5, 5\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
        OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        OK + b"A : b\r\nContent-Length: 0\r\n\r\n",
        OK + b"A: b\x00\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"x\r\n",
        CHUNKED + b"5;" + b"e" * 5000 + b"\r\n",
        CHUNKED + b"0\r\n" + b"T: t\r\n" * 200 + b"\r\n",
        OK + b"A: " + b"x" * 1000 + b"\r\n\r\n",
        OK + b"A: " + b"x" * 1000,
    ],
)
async def test_bad_heads_are_refused_at_once_and_the_connection_is_cut(raw: bytes) -> None:
    async with ScriptedUpstream(send_then(raw, "stay")) as upstream:
        transport = transport_to(upstream, max_response_header=1000)
        with pytest.raises(BadUpstreamResponse) as caught:
            await transport.handle_async_request(outbound())
        assert caught.value.request_sent
        await until(lambda: transport.connections == 0)
        assert transport.idle_count == 0


@pytest.mark.parametrize("size", [1000, 1001])
@pytest.mark.parametrize("pieces", [1, 2, 1000])
async def test_the_limit_of_a_head_holds_at_the_byte(size: int, pieces: int) -> None:
    start, end = OK + b"A: ", b"\r\nContent-Length: 0\r\n\r\n"
    head = start + b"x" * (size - len(start) - len(end)) + end
    step = -(-len(head) // pieces)

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(*(head[at : at + step] for at in range(0, len(head), step)))
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream, max_response_header=1000)
        if size <= 1000:
            assert (await transport.handle_async_request(outbound())).whole == b""
        else:
            with pytest.raises(BadUpstreamResponse):
                await transport.handle_async_request(outbound())
        await transport.aclose()


async def test_thirty_two_interim_answers_are_allowed() -> None:
    async with ScriptedUpstream(respond(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 32 + HELLO)) as upstream:
        transport = transport_to(upstream)
        for _ in range(2):
            assert (await transport.handle_async_request(outbound())).whole == b"hello"
        await transport.aclose()


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 2", OK + b"Content-Length: 5\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_connection_that_ends_before_the_head_does(raw: bytes, end: str) -> None:
    async with ScriptedUpstream(send_then(raw, end)) as upstream:
        transport = transport_to(upstream)
        with pytest.raises(ConnectionBroken) as caught:
            await transport.handle_async_request(outbound())
        assert caught.value.request_sent
        assert len(upstream.connections) == 1
        await until(lambda: transport.connections == 0)


@pytest.mark.parametrize(
    ("raw", "end", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhel", "close", b"hel"),
        (OK + b"Content-Length: 5\r\n\r\nhel", "reset", b"hel"),
        (OK + b"Content-Length: 5\r\n\r\n", "close", b""),
        (CHUNKED + b"5\r\nhello\r\n", "close", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "close", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n", "reset", b"hello"),
        (CHUNKED + b"5\r\nhel", "close", b"hel"),
        (CHUNKED, "close", b""),
        (OK + b"\r\nhello", "reset", b"hello"),
    ],
)
async def test_a_truncated_body_is_never_taken_for_a_whole_one(raw: bytes, end: str, body: bytes) -> None:
    async with ScriptedUpstream(send_then(raw, end)) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound())
        assert answer.whole is None
        got = b""
        with pytest.raises(ResponseBroken):
            async for piece in answer.stream:
                got += piece
        assert got == body
        with pytest.raises(ResponseBroken):
            await anext(answer.stream)
        await until(lambda: transport.connections == 0)


@pytest.mark.parametrize("bad", [b"x\r\n", b"5\r\nhello!\r\n", b"0\r\nT : t\r\n\r\n", b"0\r\n" + b"T: t\r\n" * 20000])
async def test_bad_chunks_after_the_head_break_the_response(bad: bytes) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(CHUNKED + chunked(b"one", last=False))
        await go_on.wait()
        await connection.send(bad)
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound())
        assert await anext(answer.stream) == b"one"
        go_on.set()
        with pytest.raises(ResponseBroken):
            await read(answer)
        await until(lambda: transport.connections == 0)


# Connections that were closed while they were idle.


def closes_on_second_request(raw: bytes = b"", end: str = "close") -> Script:
    """The first connection answers once and, when the next request comes, sends ``raw`` and ends."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(HELLO)
        if connection.index == 0:
            await connection.read_some()
            if raw:
                await connection.send(raw)
            if end == "reset":
                connection.reset()
            return
        await connection.wait_eof()

    return script


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    ("method", "body"),
    [
        (b"GET", None),
        (b"HEAD", None),
        (b"OPTIONS", None),
        (b"TRACE", None),
        (b"DELETE", None),
        (b"PUT", b"abc"),
        (b"PUT", bytes(200_000)),
        (b"PUT", RewindablePieces(b"abc", b"def")),
        (b"PUT", RewindablePieces(b"abc", b"def", length=6)),
    ],
)
async def test_a_request_on_a_closed_reused_connection_is_sent_once_more(
    method: bytes, body: bytes | RequestStream | None, end: str
) -> None:
    async with ScriptedUpstream(closes_on_second_request(end=end)) as upstream:
        transport = transport_to(upstream)
        await transport.handle_async_request(outbound())
        answer = await transport.handle_async_request(outbound(method, body=body))
        assert answer.status_code == 200
        assert answer.connect_s is not None
        assert len(upstream.connections) == 2
        sent = upstream.connections[1].requests[0]
        assert sent.method == method
        assert sent.body == (b"abcdef" if isinstance(body, RewindablePieces) else body or b"")
        transport.abort()


@pytest.mark.parametrize(
    ("method", "body", "raw"),
    [
        pytest.param(b"POST", None, b"", id="not-idempotent"),
        pytest.param(b"PATCH", b"abc", b"", id="not-idempotent-body"),
        pytest.param(b"PUT", Pieces(b"abc"), b"", id="cannot-rewind"),
        pytest.param(b"GET", None, b"H", id="answered"),
        pytest.param(b"GET", None, b"HTTP/1.1 100 Continue\r\n\r\n", id="interim"),
    ],
)
async def test_a_request_that_may_have_been_acted_on_is_not_sent_again(
    method: bytes, body: bytes | RequestStream | None, raw: bytes
) -> None:
    async with ScriptedUpstream(closes_on_second_request(raw)) as upstream:
        transport = transport_to(upstream)
        await transport.handle_async_request(outbound())
        with pytest.raises(ConnectionBroken) as caught:
            await transport.handle_async_request(outbound(method, body=body))
        assert caught.value.request_sent
        assert len(upstream.connections) == 1
        await until(lambda: transport.connections == 0)


async def test_a_request_is_sent_again_once_only_and_on_a_new_connection() -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        if connection.index < 3:
            await connection.send(HELLO)
            await connection.read_some()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        await asyncio.gather(*(transport.handle_async_request(outbound()) for _ in range(3)))
        with pytest.raises(ConnectionBroken):
            await transport.handle_async_request(outbound())
        assert len(upstream.connections) == 4
        assert transport.idle_count == 2
        await transport.aclose()


# Time.


async def test_a_head_that_does_not_come_in_time_is_a_timeout_and_not_before() -> None:
    ticker = ManualTicker()
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound(timeout={"head": 5.0, "read": 60.0})))
        await (await upstream.connection()).read_until(b"\r\n\r\n")
        ticker.advance(4.99)
        await asyncio.sleep(0)
        assert not exchange.done()
        ticker.advance(0.02)
        with pytest.raises(UpstreamTimeout) as caught:
            await exchange
        assert caught.value.request_sent
        await until(lambda: transport.connections == 0)


async def test_a_slow_head_and_interim_answers_do_not_move_the_deadline() -> None:
    ticker = ManualTicker()
    more = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 ")
        more.set()
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound(timeout={"head": 5.0})))
        await more.wait()
        ticker.advance(5.01)
        with pytest.raises(UpstreamTimeout):
            await exchange


async def test_the_read_timeout_is_that_of_the_head_when_nothing_else_is_said() -> None:
    ticker = ManualTicker()
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound(timeout={"read": 2.0})))
        await (await upstream.connection()).read_until(b"\r\n\r\n")
        ticker.advance(2.01)
        with pytest.raises(UpstreamTimeout):
            await exchange


async def test_silence_inside_a_body_breaks_it_and_every_piece_starts_the_time_again() -> None:
    ticker = ManualTicker()
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(CHUNKED)
        while True:
            await go_on.wait()
            go_on.clear()
            await connection.send(chunked(b"x", last=False))

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        answer = await transport.handle_async_request(outbound(timeout={"head": 1.0, "read": 5.0}))
        for _ in range(3):
            piece = asyncio.ensure_future(anext(answer.stream))
            await asyncio.sleep(0)
            ticker.advance(4.9)
            go_on.set()
            assert await piece == b"x"
        piece = asyncio.ensure_future(anext(answer.stream))
        await asyncio.sleep(0)
        ticker.advance(5.1)
        with pytest.raises(ResponseBroken):
            await piece
        await until(lambda: transport.connections == 0)


async def test_a_slow_reader_is_not_a_silent_upstream() -> None:
    ticker = ManualTicker()
    async with ScriptedUpstream(respond(response(200, body=bytes(16 * 1024 * 1024)))) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        answer = await transport.handle_async_request(outbound(timeout={"head": 1.0, "read": 1.0}))
        for _ in range(3):
            assert await anext(answer.stream)
            ticker.advance(100.0)
        assert len(await read(answer)) > 1024 * 1024
        await transport.aclose()


async def test_cutting_ends_every_exchange() -> None:
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream)
        waiting = [asyncio.ensure_future(transport.handle_async_request(outbound())) for _ in range(3)]
        await upstream.connection(2)
        await until(lambda: transport.active_count == 3)
        upstream.script = respond(OK + b"Content-Length: 9\r\n\r\nx")
        answer = await transport.handle_async_request(outbound())
        transport.abort()
        for exchange in waiting:
            with pytest.raises(ConnectionBroken):
                await exchange
        with pytest.raises(ResponseBroken):
            await read(answer)
        await until(lambda: transport.connections == 0)


async def test_what_was_cut_on_a_reused_connection_is_not_sent_again() -> None:
    async with ScriptedUpstream(closes_on_second_request()) as upstream:
        transport = transport_to(upstream)
        await transport.handle_async_request(outbound())
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound()))
        await until(lambda: transport.active_count == 1)
        transport.abort()
        with pytest.raises(ConnectionBroken):
            await exchange
        assert len(upstream.connections) == 1


@pytest.mark.parametrize("consumed", [0, 1])
async def test_closing_an_unfinished_body_closes_the_connection_at_once(consumed: int) -> None:
    async with ScriptedUpstream(respond(CHUNKED + chunked(b"one", last=False))) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound())
        for _ in range(consumed):
            await anext(answer.stream)
        answer.stream.close()
        await answer.stream.aclose()
        assert transport.active_count == 0
        await until(lambda: transport.connections == 0)
        with pytest.raises(ResponseBroken):
            await anext(answer.stream)
        await upstream.connections[0].wait_eof()


# TLS.


def tls(ca: trustme.CA, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server with a certificate for ``name``, and of a client that trusts ``ca``."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(server)
    client = client_context()
    ca.configure_trust(client)
    return server, client


def tls_transport(upstream: ScriptedUpstream, context: ssl.SSLContext, name: str | None = None) -> Http1Transport:
    return transport_to(upstream, ssl_context=context, server_hostname=name)


async def test_requests_over_tls() -> None:
    server, client = tls(trustme.CA(), "shop.internal")
    async with ScriptedUpstream(respond(response(200, body=bytes(300_000))), ssl_context=server) as upstream:
        transport = tls_transport(upstream, client, "shop.internal")
        for _ in range(3):
            assert len(await read(await transport.handle_async_request(outbound()))) == 300_000
            answer = await transport.handle_async_request(outbound(b"PUT", body=Pieces(*[bytes(50_000)] * 5)))
            assert len(await read(answer)) == 300_000
        assert len(upstream.connections) == 1
        assert upstream.connections[0].transport.get_extra_info("ssl_object").selected_alpn_protocol() is None
        await transport.aclose()
        assert transport.connections == 0


async def test_a_tls_connection_whose_end_is_not_answered_is_cut_after_a_second() -> None:
    ticker = ManualTicker()
    server, client = tls(trustme.CA(), "shop.internal")

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(HELLO)
        connection.stop_reading()
        await asyncio.Event().wait()

    async with ScriptedUpstream(script, ssl_context=server) as upstream:
        transport = transport_to(upstream, ticker=ticker, ssl_context=client, server_hostname="shop.internal")
        await transport.handle_async_request(outbound())
        closing = asyncio.ensure_future(transport.aclose())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not closing.done()
        ticker.advance(1.1)
        await closing
        assert transport.connections == 0


@pytest.mark.parametrize("name", ["other.internal", None])
async def test_a_certificate_for_another_name_is_a_failure_to_connect(name: str | None) -> None:
    server, client = tls(trustme.CA(), "shop.internal")
    async with ScriptedUpstream(silent, ssl_context=server) as upstream:
        transport = tls_transport(upstream, client, name)
        with pytest.raises(ConnectFailed) as caught:
            await transport.handle_async_request(outbound(b"POST", body=b"x"))
        assert not caught.value.request_sent
        assert transport.connections == 0


async def test_tls_to_a_server_without_it_is_a_failure_to_connect() -> None:
    _, client = tls(trustme.CA(), "shop.internal")

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_some()
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with ScriptedUpstream(script) as upstream:
        transport = tls_transport(upstream, client, "shop.internal")
        with pytest.raises(ConnectFailed):
            await transport.handle_async_request(outbound())


@pytest.mark.parametrize("proper", [True, False])
async def test_a_body_until_the_end_of_a_tls_connection_needs_a_proper_end(proper: bool) -> None:
    server, client = tls(trustme.CA(), "shop.internal")
    read_all = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(OK + b"\r\nhello")
        await read_all.wait()
        if not proper:
            connection.transport.abort()

    async with ScriptedUpstream(script, ssl_context=server) as upstream:
        transport = tls_transport(upstream, client, "shop.internal")
        answer = await transport.handle_async_request(outbound())
        assert await anext(answer.stream) == b"hello"
        read_all.set()
        expected: type[BaseException] = StopAsyncIteration if proper else ResponseBroken
        with pytest.raises(expected):
            await anext(answer.stream)
        await until(lambda: transport.connections == 0)


async def test_every_error_says_that_the_upstream_was_at_fault() -> None:
    async with ScriptedUpstream(send_then(b"", "close")) as upstream:
        transport = transport_to(upstream)
        with pytest.raises(GatewayError) as caught:
            await transport.handle_async_request(outbound())
        assert (caught.value.fault, caught.value.status) == ("upstream", 502)
        assert str(upstream.port) not in caught.value.detail
