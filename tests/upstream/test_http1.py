"""Exchanges that succeed, and which connections serve them."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.errors import ConnectFailed, ConnectPending, ConnectTimeout
from gateway.http.fields import Fields
from gateway.ticker import Ticker
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.http1_connect import Dialer, Patience
from tests.support.upstream import (
    Script,
    ScriptedConnection,
    ScriptedUpstream,
    chunked,
    refused_port,
    respond,
    respond_in_turn,
    response,
    silent,
    unanswering_port,
)
from tests.upstream.http1_client import ManualTicker, anyio_backend, outbound, read, transport_to, until

__all__ = ["anyio_backend"]
pytestmark = pytest.mark.anyio

KEPT_OPEN = [(b"Connection", b"keep-alive")]
CHUNKED = [(b"Transfer-Encoding", b"chunked")]
HELLO = response(200, [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"X-Raw", b"\xe9")], b"hello")


async def test_a_small_answer_is_whole_and_its_connection_is_given_back_with_it() -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream)
        first = await transport.handle_async_request(outbound(target=b"//x/%2F?"))
        assert (first.status_code, first.whole, first.request_complete) == (200, b"hello", True)
        assert first.raw_fields == [
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"x-raw", b"\xe9"),
            (b"content-length", b"5"),
        ]
        assert (transport.connections, transport.idle_count, transport.active_count) == (1, 1, 0)
        assert [piece async for piece in first.stream] == [b"hello"]
        second = await transport.handle_async_request(outbound())
        assert first.connect_s is not None
        assert second.connect_s is None
        assert upstream.connections[0].received == (
            b"GET //x/%2F? HTTP/1.1\r\nhost: upstream.test\r\n\r\nGET / HTTP/1.1\r\nhost: upstream.test\r\n\r\n"
        )
        await transport.aclose()
        assert transport.connections == 0


@pytest.mark.parametrize(
    ("raw", "body", "kept"),
    [
        pytest.param(response(200, body=b"hello"), b"hello", True, id="length"),
        pytest.param(response(200, body=b""), b"", True, id="length-0"),
        pytest.param(response(200, CHUNKED, length=False) + chunked(b"he", b"llo"), b"hello", True, id="chunked"),
        pytest.param(
            response(200, CHUNKED, length=False) + chunked(b"hello", trailers=[(b"X-Sum", b"1")]),
            b"hello",
            True,
            id="trailers",
        ),
        pytest.param(response(200, CHUNKED, length=False) + chunked(), b"", True, id="chunked-empty"),
        pytest.param(response(204, length=False), b"", True, id="204"),
        pytest.param(response(304, [(b"Content-Length", b"9")], length=False), b"", True, id="304"),
        pytest.param(response(304, CHUNKED, length=False), b"", True, id="304-chunked"),
        pytest.param(response(200, [(b"Connection", b"close")], b"hello"), b"hello", False, id="close"),
        pytest.param(response(200, [(b"Keep-Alive", b"timeout=1")], b"hello"), b"hello", False, id="timeout-1"),
        pytest.param(response(200, body=b"hello", version=b"HTTP/1.0"), b"hello", False, id="1.0"),
        pytest.param(
            response(200, [(b"Connection", b"keep-alive")], b"hello", version=b"HTTP/1.0"),
            b"hello",
            True,
            id="1.0-kept",
        ),
        pytest.param(response(200, body=b"hello") + b"x", b"hello", False, id="excess"),
        pytest.param(response(204, length=False) + b"x", b"", False, id="excess-204"),
        pytest.param(
            response(200, CHUNKED, length=False) + chunked(b"hello") + b"x", b"hello", False, id="excess-chunked"
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + response(200, body=b"hello"), b"hello", True, id="unasked-100"),
        pytest.param(response(599, body=b"hello", reason=b""), b"hello", True, id="unknown-status"),
    ],
)
@pytest.mark.parametrize("size", [None, 1, 7])
async def test_answers_in_every_framing_and_any_pieces(raw: bytes, body: bytes, kept: bool, size: int | None) -> None:
    pieces = [raw] if size is None else [raw[start : start + size] for start in range(0, len(raw), size)]

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(*pieces)

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound())
        assert await read(answer) == body
        await until(lambda: transport.idle_count == 1 if kept else transport.connections == 0)
        assert await read(await transport.handle_async_request(outbound())) == body
        assert len(upstream.connections) == (1 if kept else 2)
        await transport.aclose()


async def test_a_body_that_ends_with_the_connection() -> None:
    raw = response(200, length=False)
    async with ScriptedUpstream(respond(raw + b"hello", close=True)) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound())
        assert answer.whole is None
        assert await read(answer) == b"hello"
        await until(lambda: transport.connections == 0)


@pytest.mark.parametrize("fields", [[(b"Content-Length", b"5")], CHUNKED, []])
async def test_an_answer_to_head_ends_at_its_head(fields: Fields) -> None:
    async with ScriptedUpstream(respond(response(200, fields, length=False))) as upstream:
        transport = transport_to(upstream)
        for _ in range(3):
            answer = await transport.handle_async_request(outbound(b"HEAD"))
            assert answer.whole == b""
        assert len(upstream.connections) == 1
        await transport.aclose()


async def test_interim_answers_are_told_except_100_and_do_not_end_the_exchange() -> None:
    raw = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n"
        b"HTTP/1.1 102 Processing\r\n\r\n" + HELLO
    )
    told: list[tuple[int, Fields]] = []
    async with ScriptedUpstream(respond(raw)) as upstream:
        transport = transport_to(upstream)
        request = outbound(on_interim=lambda status, fields: told.append((status, fields)))
        assert (await transport.handle_async_request(request)).whole == b"hello"
        assert told == [(103, [(b"link", b"</a>"), (b"link", b"</b>")]), (102, [])]
        assert (await transport.handle_async_request(outbound())).whole == b"hello"
        await transport.aclose()


async def test_the_head_does_not_wait_for_the_body_and_pieces_come_as_they_are_sent() -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(response(200, CHUNKED, length=False))
        for piece in (b"one", b"two"):
            await go_on.wait()
            go_on.clear()
            await connection.send(chunked(piece, last=False))
        await connection.send(chunked())
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound())
        assert answer.whole is None
        assert transport.active_count == 1
        for piece in (b"one", b"two"):
            go_on.set()
            assert await anext(answer.stream) == piece
        with pytest.raises(StopAsyncIteration):
            await anext(answer.stream)
        assert transport.idle_count == 1
        await transport.aclose()


async def test_a_large_body_arrives_as_it_was_sent() -> None:
    body = random.Random(1).randbytes(3_000_000)
    raws = response(200, body=body), response(200, CHUNKED, length=False) + chunked(body[:999_999], body[999_999:])
    async with ScriptedUpstream(respond_in_turn(*raws)) as upstream:
        transport = transport_to(upstream)
        for _ in raws:
            assert await read(await transport.handle_async_request(outbound())) == body
            assert transport.idle_count == 1
        await transport.aclose()


async def test_a_reader_that_does_not_read_stops_the_upstream() -> None:
    body = bytes(32 * 1024 * 1024)
    async with ScriptedUpstream(respond(response(200, body=body))) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound())
        connection = await upstream.connection()
        await until(lambda: not connection._writable.is_set())
        for _ in range(1000):
            await asyncio.sleep(0)
        assert connection.transport.get_write_buffer_size() > 1024 * 1024
        assert sum(len(piece) for piece in answer.stream._pieces) < 1024 * 1024  # type: ignore[attr-defined, misc]
        assert await read(answer) == body
        assert transport.idle_count == 1
        await transport.aclose()


async def test_the_connection_used_last_is_used_next() -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream)
        await asyncio.gather(*(transport.handle_async_request(outbound()) for _ in range(3)))
        assert transport.idle_count == 3
        for _ in range(4):
            await transport.handle_async_request(outbound())
        assert sorted(len(connection.requests) for connection in upstream.connections) == [1, 1, 5]
        await transport.aclose()


async def test_no_more_than_max_idle_connections_are_kept() -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream, max_idle=2)
        await asyncio.gather(*(transport.handle_async_request(outbound()) for _ in range(5)))
        await until(lambda: transport.connections == 2)
        assert transport.idle_count == 2
        await transport.aclose()


@pytest.mark.parametrize(
    ("fields", "kept_s"), [([], 4.0), ([(b"Keep-Alive", b"timeout=3, max=100")], 2.0), ([(b"Keep-Alive", b"x")], 4.0)]
)
async def test_idle_connections_are_closed_before_the_upstream_does(fields: Fields, kept_s: float) -> None:
    ticker = ManualTicker()
    async with ScriptedUpstream(respond(response(200, fields, b"x"))) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        await transport.handle_async_request(outbound())
        ticker.advance(kept_s - 0.1)
        assert transport.idle_count == 1
        ticker.advance(0.2)
        assert transport.idle_count == 0
        await until(lambda: transport.connections == 0)
        await upstream.connections[0].closed.wait()


async def test_who_reads_a_body_does_not_touch_the_deadlines_of_what_comes_after_it() -> None:
    ticker = ManualTicker()
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(response(200, CHUNKED, length=False))
        await go_on.wait()
        await connection.send(chunked(b"x"))
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        answer = await transport.handle_async_request(outbound(timeout={"read": 1.0}))
        reading = asyncio.ensure_future(read(answer))
        await asyncio.sleep(0)
        go_on.set()
        assert await reading == b"x"
        assert transport.idle_count == 1
        ticker.advance(4.1)
        assert transport.idle_count == 0
        await until(lambda: transport.connections == 0)


async def test_an_idle_connection_that_is_too_old_is_not_used_even_before_the_sweep() -> None:
    ticker = ManualTicker()
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        await transport.handle_async_request(outbound())
        ticker.seconds += 5
        await transport.handle_async_request(outbound())
        assert len(upstream.connections) == 2
        await transport.aclose()


def idle_then(action: bytes | None) -> tuple[Script, asyncio.Event]:
    """After one answer and the event, sends bytes on the idle connection, or EOF."""
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(HELLO)
        await go_on.wait()
        if action is None:
            connection.send_eof()
        else:
            await connection.send(action)
        await connection.wait_eof()

    return script, go_on


@pytest.mark.parametrize("action", [None, b"x", HELLO, b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
async def test_eof_or_any_byte_on_an_idle_connection_closes_it(action: bytes | None) -> None:
    script, go_on = idle_then(action)
    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        await transport.handle_async_request(outbound())
        assert transport.idle_count == 1
        go_on.set()
        await until(lambda: transport.idle_count == 0)
        await until(lambda: transport.connections == 0)


async def test_a_reset_on_an_idle_connection_removes_it() -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream)
        await transport.handle_async_request(outbound())
        upstream.connections[0].reset()
        await until(lambda: transport.connections == 0)
        assert transport.idle_count == 0


async def test_unix_sockets(tmp_path: Path) -> None:
    async with ScriptedUpstream(respond(HELLO), uds=tmp_path / "upstream.sock") as upstream:
        transport = transport_to(upstream)
        assert (await transport.handle_async_request(outbound())).whole == b"hello"
        await transport.aclose()
    with pytest.raises(ConnectFailed) as caught:
        await transport.handle_async_request(outbound())
    assert not caught.value.request_sent


async def test_names_are_resolved_and_the_address_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        with refused_port() as refused:
            ports = [refused, upstream.port]
            await _resolve_to(monkeypatch, ports)
            transport = Http1Transport(ticker=ManualTicker(), host="upstream.test", port=80)
            assert (await transport.handle_async_request(outbound())).whole == b"hello"
            await transport.aclose()


async def test_a_name_with_an_address_that_does_not_answer_is_reached_at_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.upstream.http1_connect.ATTEMPT_DELAY_S", 0.001)
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        with unanswering_port() as unanswering:
            await _resolve_to(monkeypatch, [unanswering, upstream.port])
            transport = Http1Transport(ticker=ManualTicker(), host="upstream.test", port=80)
            assert (await transport.handle_async_request(outbound())).whole == b"hello"
            await transport.aclose()


async def _resolve_to(monkeypatch: pytest.MonkeyPatch, ports: list[int]) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr("gateway.upstream.http1_connect.lookup", lambda host, port: _given(found))


async def _given(found: object) -> object:
    return found


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "", "a" * 70 + ".invalid", "a..b"])
async def test_a_name_without_an_address_is_a_failure_to_connect(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*args: object, **kwargs: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    transport = Http1Transport(ticker=ManualTicker(), host=host, port=80)
    with pytest.raises(ConnectFailed) as caught:
        await transport.handle_async_request(outbound())
    assert not caught.value.request_sent


async def test_a_refused_connection_is_a_failure_to_connect() -> None:
    with refused_port() as port:
        transport = Http1Transport(ticker=ManualTicker(), host="127.0.0.1", port=port)
        with pytest.raises(ConnectFailed) as caught:
            await transport.handle_async_request(outbound(b"POST", body=b"abc"))
    assert type(caught.value) is ConnectFailed
    assert not caught.value.request_sent
    assert transport.connections == 0


@pytest.mark.parametrize("timeouts", [{"connect": 0.01}, {}])
async def test_a_connection_that_is_not_answered_is_given_up(timeouts: dict[str, float]) -> None:
    with unanswering_port() as port:
        transport = Http1Transport(ticker=ManualTicker(), host="127.0.0.1", port=port, connect_timeout_s=0.01)
        with pytest.raises(ConnectTimeout) as caught:
            await transport.handle_async_request(outbound(timeout=timeouts))
    assert not caught.value.request_sent
    assert transport.connections == 0


class SlowDialer(Dialer):
    """Connects when it is told to."""

    def __init__(self, port: int) -> None:
        super().__init__(host="127.0.0.1", port=port)
        self.go_on = asyncio.Event()
        self.begun = self.cancelled = 0

    async def open(self, protocol_factory: Any, timeout_s: float | None) -> Any:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().open(protocol_factory, timeout_s)


async def test_a_connection_that_its_request_did_not_wait_for_serves_the_next() -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport, dialer = transport_to(upstream), SlowDialer(upstream.port)
        transport._dialer = dialer
        with pytest.raises(ConnectPending) as caught:
            await transport.handle_async_request(outbound(timeout={"patience": Patience(0.0, lambda: True)}))
        assert not caught.value.request_sent

        dialer.go_on.set()
        await caught.value.outcome
        await until(lambda: transport.idle_count == 1)
        answer = await transport.handle_async_request(outbound())

        assert (answer.whole, answer.connect_s, len(upstream.connections)) == (b"hello", None, 1)
        await transport.aclose()


async def test_waiting_goes_on_while_there_is_nobody_else() -> None:
    asked = 0

    def has_other() -> bool:
        nonlocal asked
        asked += 1
        return False

    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport, dialer = transport_to(upstream), SlowDialer(upstream.port)
        transport._dialer = dialer
        timeout = {"patience": Patience(0.0, has_other)}
        asking = asyncio.create_task(transport.handle_async_request(outbound(timeout=timeout)))
        await until(lambda: asked > 2)
        dialer.go_on.set()
        assert (await asking).whole == b"hello"
        await transport.aclose()


async def test_a_raw_connection_that_nobody_waited_for_is_closed() -> None:
    async with ScriptedUpstream(silent) as upstream:
        transport, dialer = transport_to(upstream), SlowDialer(upstream.port)
        transport._dialer = dialer
        with pytest.raises(ConnectPending):
            await transport.open_connection(asyncio.Protocol, patience=Patience(0.0, lambda: True))

        dialer.go_on.set()

        await (await upstream.connection()).closed.wait()
        await transport.aclose()


@pytest.mark.parametrize("who", ["the request is cancelled", "the transport is closed"])
async def test_nothing_goes_on_connecting_when(who: str) -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport, dialer = transport_to(upstream), SlowDialer(upstream.port)
        transport._dialer = dialer
        if who == "the transport is closed":
            with pytest.raises(ConnectPending) as caught:
                await transport.handle_async_request(outbound(timeout={"patience": Patience(0.0, lambda: True)}))
            await transport.aclose()
            await asyncio.wait([caught.value.outcome])
            assert caught.value.outcome.cancelled()
        else:
            asking = asyncio.create_task(
                transport.handle_async_request(outbound(timeout={"patience": Patience(60.0, lambda: True)}))
            )
            await until(lambda: dialer.begun == 1)
            asking.cancel()
            await asyncio.wait([asking])
            await transport.aclose()
        await until(lambda: dialer.cancelled == 1)
        assert not upstream.connections


async def test_a_request_that_is_cancelled_when_it_is_connected_loses_no_connection() -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport, dialer = transport_to(upstream), SlowDialer(upstream.port)
        transport._dialer = dialer
        asking = asyncio.create_task(
            transport.handle_async_request(outbound(timeout={"patience": Patience(60.0, lambda: True)}))
        )
        await until(lambda: dialer.begun == 1)
        dialer.go_on.set()
        await until(lambda: transport.connections == 1)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: transport.idle_count == transport.connections)
        await transport.aclose()


async def test_closing_lets_those_connect_that_are_waited_for() -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport, dialer = transport_to(upstream), SlowDialer(upstream.port)
        transport._dialer = dialer
        asking = asyncio.create_task(
            transport.handle_async_request(outbound(timeout={"patience": Patience(60.0, lambda: True)}))
        )
        await until(lambda: dialer.begun == 1)
        await transport.aclose()
        dialer.go_on.set()
        assert (await asking).whole == b"hello"


async def test_closing_lets_running_exchanges_end_and_drain_waits_for_them() -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            if request.target == b"/slow":
                await go_on.wait()
            await connection.send(HELLO)

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        await transport.handle_async_request(outbound())
        await transport.handle_async_request(outbound())
        slow = asyncio.ensure_future(transport.handle_async_request(outbound(target=b"/slow")))
        await until(lambda: transport.active_count == 1)
        await transport.aclose()
        assert (transport.connections, transport.idle_count, transport.active_count) == (1, 0, 1)
        drained = asyncio.ensure_future(transport.drain())
        await asyncio.sleep(0)
        assert not drained.done()
        go_on.set()
        assert (await slow).whole == b"hello"
        await drained
        assert transport.connections == 0


async def test_a_raw_connection_can_be_opened_for_other_protocols() -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.send(b"hello")
        await connection.wait_eof()

    class Collector(asyncio.Protocol):
        def __init__(self) -> None:
            self.got = asyncio.Event()

        def data_received(self, data: bytes) -> None:
            self.got.set()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream)
        raw, collector = await transport.open_connection(Collector)
        await collector.got.wait()
        assert transport.connections == 0
        raw.abort()
        await upstream.connections[0].wait_eof()


async def test_the_real_ticker_runs_only_while_there_are_connections() -> None:
    ticker = Ticker()
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        transport = transport_to(upstream, ticker=ticker)
        await transport.handle_async_request(outbound())
        assert ticker._timer is not None
        await transport.aclose()
        assert ticker._timer is None


async def test_it_serves_an_httpx_client() -> None:
    async with ScriptedUpstream(respond(HELLO)) as upstream:
        async with httpx.AsyncClient(transport=transport_to(upstream)) as client:
            answer = await client.post(f"{upstream.url}/x?y", content=b"abc")
        assert (answer.status_code, answer.text, answer.http_version) == (200, "hello", "HTTP/1.1")
        assert upstream.requests[0].body == b"abc"
