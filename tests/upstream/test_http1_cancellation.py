"""Exchanges that are cancelled, at any moment."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.errors import GatewayError
from gateway.ticker import Ticker
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.http1_connect import Patience
from tests.support.upstream import (
    ScriptedConnection,
    ScriptedUpstream,
    chunked,
    respond,
    response,
    silent,
    unanswering_port,
)
from tests.upstream.http1_client import ManualTicker, Pieces, anyio_backend, outbound, read, transport_to, until

__all__ = ["anyio_backend"]
pytestmark = pytest.mark.anyio

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def cancelled(task: asyncio.Task[object]) -> None:
    """Cancel a task and see that it ends so."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_while_connecting() -> None:
    with unanswering_port() as port:
        transport = Http1Transport(ticker=ManualTicker(), host="127.0.0.1", port=port)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound()))
        for _ in range(10):
            await asyncio.sleep(0)
        await cancelled(exchange)
        assert transport.connections == 0


async def test_while_the_head_is_awaited() -> None:
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound()))
        await (await upstream.connection()).read_until(b"\r\n\r\n")
        await cancelled(exchange)
        assert transport.active_count == 0
        await upstream.connections[0].wait_eof()
        await until(lambda: transport.connections == 0)


async def test_while_the_request_body_is_sent() -> None:
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream)
        body = Pieces(b"abc", asyncio.Event())
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound(b"POST", body=body)))
        await until(lambda: body.given == 1)
        await cancelled(exchange)
        await body.ended.wait()
        await (await upstream.connection()).wait_eof()
        await until(lambda: transport.connections == 0)


async def test_while_the_response_body_is_read() -> None:
    async with ScriptedUpstream(respond(CHUNKED)) as upstream:
        transport = transport_to(upstream)
        answer = await transport.handle_async_request(outbound())
        reading = asyncio.ensure_future(read(answer))
        await asyncio.sleep(0)
        await cancelled(reading)
        assert transport.active_count == 0
        await upstream.connections[0].wait_eof()
        await until(lambda: transport.connections == 0)


async def test_in_the_moment_in_which_the_answer_comes_the_connection_is_not_lost_or_shared() -> None:
    async with ScriptedUpstream(respond(response(200, body=b"hello"))) as upstream:
        transport = transport_to(upstream)
        await transport.handle_async_request(outbound())
        (connection,) = transport._connections
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound()))
        await until(lambda: transport.active_count == 1)
        # The answer and the cancellation in one turn of the loop, then another request on the same connection.
        connection.data_received(response(200, body=b"first"))
        exchange.cancel()
        other = asyncio.ensure_future(transport.handle_async_request(outbound()))
        with pytest.raises(asyncio.CancelledError):
            await exchange
        assert (await other).status_code == 200
        transport.abort()
        await until(lambda: transport.connections == 0)


async def test_in_the_moment_before_the_answer_comes() -> None:
    async with ScriptedUpstream(silent) as upstream:
        transport = transport_to(upstream)
        exchange = asyncio.ensure_future(transport.handle_async_request(outbound()))
        await until(lambda: transport.active_count == 1)
        (connection,) = transport._connections
        exchange.cancel()
        connection.data_received(response(200, body=b"late"))
        with pytest.raises(asyncio.CancelledError):
            await exchange
        assert transport.idle_count == 0
        await until(lambda: transport.connections == 0)


@pytest.mark.parametrize("patience", [[], [0.0, 0.0, 0.001, 1.0]], ids=["waiting", "not waiting to be connected"])
async def test_at_random_moments_nothing_leaks(patience: list[float]) -> None:
    rng = random.Random(7)

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(*rng.choice(answers))

    answers = [
        [response(200, body=b"hello")],
        [CHUNKED, chunked(b"a", last=False), chunked(b"b")],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"a", b"b"],
        [response(200, body=bytes(600_000))],
    ]
    bodies = [
        lambda: None,
        lambda: b"abc",
        lambda: Pieces(b"abc", b"def", b"ghi"),
        lambda: Pieces(b"abc", b"def", length=6),
        lambda: Pieces(*[bytes(200_000)] * 5),
    ]

    async def exchange(transport: Http1Transport) -> None:
        body = rng.choice(bodies)()  # type: ignore[no-untyped-call]
        timeout = {"patience": Patience(rng.choice(patience), lambda: True)} if patience else None
        request = outbound(rng.choice([b"PUT", b"POST"]), body=body, timeout=timeout)
        answer = await transport.handle_async_request(request)
        try:
            if answer.whole is None and rng.random() < 0.7:
                await read(answer)
        finally:
            answer.stream.close()

    async with ScriptedUpstream(script) as upstream:
        transport = transport_to(upstream, ticker=Ticker())
        before = asyncio.all_tasks()
        for _ in range(300):
            tasks = [asyncio.ensure_future(exchange(transport)) for _ in range(rng.randint(1, 3))]
            for _ in range(rng.randint(0, 30)):
                await asyncio.sleep(0)
            for task in tasks:
                if rng.random() < 0.7:
                    task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError | GatewayError), outcome
            assert transport.active_count == 0
        await until(lambda: transport.connections == transport.idle_count and not transport._late)
        for _ in range(20):
            await asyncio.sleep(0)
        scripts = set(upstream._tasks)
        assert asyncio.all_tasks() - before - scripts == set()
        assert (await transport.handle_async_request(outbound())).status_code == 200
        transport.abort()
        await until(lambda: transport.connections == 0)
