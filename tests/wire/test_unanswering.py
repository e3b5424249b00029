"""An address that swallows what is sent to it, as of a network that is only half there: nobody waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.support.gateway import proxying, request, serving, until
from tests.support.upstream import (
    ScriptedConnection,
    ScriptedUpstream,
    refused_port,
    respond,
    response,
    unanswering_port,
)

pytestmark = pytest.mark.anyio

# Beside it, what is waited for here is a moment.
CONNECT = {"connect_timeout": "1s", "balance": "first", "outlier": {"failures": 2}}


@pytest.mark.parametrize(("method", "retry"), [("GET", {}), ("POST", False)])
async def test_no_request_waits_while_there_is_another_endpoint(server: str, method: str, retry: Any) -> None:
    body = b"abc" if method == "POST" else None
    async with ScriptedUpstream(respond(response(body=b"hello"))) as origin:
        with unanswering_port() as port:
            table = proxying(f"http://127.0.0.1:{port}", origin.url, upstream=CONNECT, retry=retry)
            async with serving(table, server=server) as served:
                hanging, _ = served.upstream.endpoints
                answers = await asyncio.gather(*(served.ask(request(method, body=body)) for _ in range(2)))
                assert [(answer.status, answer.body) for answer in answers] == [(200, b"hello")] * 2
                for exchange in await served.ended(2):
                    assert [attempt.outcome for attempt in exchange.attempts] == ["ConnectPending", "ok"]
                # Connecting goes on where it was begun and counts there, until it has come to something.
                await until(lambda: hanging.failures == 2 and hanging.in_flight == 0)
                assert hanging.ejection.until is not None
                assert (await served.ask(request(method, body=body))).status == 200
                assert len(served.exchanges[-1].attempts) == 1


async def test_no_websocket_waits_while_there_is_another_endpoint(server: str) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as origin:
        with unanswering_port() as port:
            good = next(iter(origin.sockets)).getsockname()[1]
            table = proxying(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{good}", upstream=CONNECT)
            async with serving(table, server=server) as served:
                hanging, _ = served.upstream.endpoints
                async with connect(f"ws://127.0.0.1:{served.port}/") as client:
                    await client.send("hello")
                    assert await client.recv() == "hello"
                (exchange,) = await served.ended(1)
                assert [attempt.outcome for attempt in exchange.attempts] == ["ConnectPending", "ok"]
                await until(lambda: hanging.failures == 1 and hanging.in_flight == 0)


@pytest.mark.parametrize("other", ["refuses", "sticks"])
async def test_where_there_is_nobody_else_the_whole_time_is_waited(server: str, other: str) -> None:
    async with ScriptedUpstream(respond(response())) as origin:
        with unanswering_port() as port, refused_port() as refused:
            url = f"http://127.0.0.1:{refused}" if other == "refuses" else origin.url
            upstream = {**CONNECT, "connect_timeout": "400ms", "sticky": {} if other == "sticks" else False}
            table = proxying(url, f"http://127.0.0.1:{port}", upstream=upstream, retry=False)
            if other == "sticks":
                table["upstreams"]["origin"]["endpoints"].reverse()
            async with serving(table, server=server) as served:
                assert (await served.ask(request())).status == 504
                assert served.exchanges[-1].attempts[-1].outcome == "ConnectTimeout"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_is_full_is_nobody_else(server: str, method: str) -> None:
    let_go = asyncio.Event()

    async def busy(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await let_go.wait()
        await connection.send(response(body=b"hello"))

    async with ScriptedUpstream(busy) as origin:
        with unanswering_port() as port:
            upstream = {**CONNECT, "connect_timeout": "400ms", "max_connections": 1, "max_pending": 0}
            table = proxying(f"http://127.0.0.1:{port}", origin.url, upstream=upstream, retry=False)
            async with serving(table, server=server) as served:
                hanging, full = served.upstream.endpoints
                body = b"abc" if method == "POST" else None
                waiting = asyncio.create_task(served.ask(request(method, body=body)))
                await until(lambda: hanging.in_flight == 1)
                taking = asyncio.create_task(served.ask(request()))
                await until(lambda: full.in_flight == 1)
                # It has a place, and there is no other: to send it away would be to have it give up the one it has.
                assert (await waiting).status == 504
                assert [attempt.outcome for attempt in served.exchanges[0].attempts] == ["ConnectTimeout"]
                let_go.set()
                assert (await taking).status == 200
                assert len(origin.requests) == 1
