"""Clients that leave, at every phase: what was busy for them is free again, and nobody is blamed."""

from __future__ import annotations

import asyncio

import pytest

from gateway.server.protocol import GatewayProtocol
from gateway.upstream.http1 import Http1Transport
from tests.support.gateway import Client, Served, proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, chunked, response, silent, unanswering_port
from tests.wire.support import own_server

pytestmark = pytest.mark.anyio


async def _is_noted_as_left(served: Served, *, attempts: int = 1) -> None:
    (exchange,) = await served.ended(1)
    assert exchange.outcome == "client-left"
    assert exchange.status == 499
    assert len(exchange.attempts) == attempts
    await served.at_rest()
    assert [state.failures for state in served.upstream.snapshot()] == [0]


async def _leave(client: Client, how: str) -> None:
    if how == "rst":
        client.leave()
    else:
        await client.close()


both_ways = pytest.mark.parametrize("how", ["fin", "rst"])


@both_ways
async def test_before_the_head(server: str, how: str) -> None:
    async with (
        ScriptedUpstream(silent) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request())
        connection = await origin.connection()
        await until(lambda: connection.received.endswith(b"\r\n\r\n"))
        await _leave(client, how)
        await _is_noted_as_left(served)
        await connection.closed.wait()


@both_ways
async def test_while_a_connection_is_made(server: str, how: str) -> None:
    with unanswering_port() as port:
        async with serving(proxying(f"http://127.0.0.1:{port}"), server=server) as served, served.client() as client:
            client.write(request())
            await until(lambda: served.upstream.in_flight == 1)
            await _leave(client, how)
            await _is_noted_as_left(served)


@both_ways
async def test_while_it_waits_for_a_place(server: str, how: str) -> None:
    async with ScriptedUpstream(silent) as origin:
        table = proxying(origin.url, upstream={"max_connections": 1, "queue_timeout": "30s"})
        async with serving(table, server=server) as served, served.client() as first, served.client() as client:
            first.write(request())
            await until(lambda: served.upstream.in_flight == 1)
            client.write(request())
            await until(lambda: served.upstream.pending == 1)
            await _leave(client, how)
            await until(lambda: served.upstream.pending == 0)
            first.leave()
            exchanges = await served.ended(2)
            assert {exchange.outcome for exchange in exchanges} == {"client-left"}
            await served.at_rest()
        assert len(origin.connections) == 1


@both_ways
async def test_in_the_middle_of_the_upload(server: str, how: str) -> None:
    async with (
        ScriptedUpstream(silent) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Content-Length", b"1000")]) + b"some")
        connection = await origin.connection()
        await until(lambda: connection.received.endswith(b"some"))
        await _leave(client, how)
        await _is_noted_as_left(served)
        await connection.closed.wait()


@own_server
@both_ways
@pytest.mark.parametrize("where", ["a piece waits", "nothing more is read", "the kernel moves it"])
async def test_while_the_upstream_takes_nothing_of_the_upload(server: str, how: str, where: str) -> None:
    is_moved = where == "the kernel moves it"
    piece = b"x" * 16 * 1024 if is_moved else chunked(b"x" * 16 * 1024, last=False)
    framing = (b"Content-Length", b"60000000") if is_moved else (b"Transfer-Encoding", b"chunked")
    async with (
        ScriptedUpstream(silent, reading=False) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[framing]))
        await origin.connection()
        assert served.connections is not None
        (connection,) = served.connections._open
        assert isinstance(connection, GatewayProtocol)
        transport = served.upstream.endpoints[0].transport
        assert isinstance(transport, Http1Transport)
        await until(lambda: transport.connections == 1)
        (upstream,) = transport._connections

        def is_stuck() -> bool:
            if where == "a piece waits":
                return upstream._transport.get_write_buffer_size() > 0
            if where == "nothing more is read":
                return connection.is_read_paused
            moving = None if connection.body is None else connection.body._splice
            return moving is not None and moving._splice is not None and moving._splice._is_waiting_to_write

        sent = 0
        while not is_stuck():
            client.write(piece)
            sent += len(piece)
            # Each piece is read before the next: what waits in the client's own buffers would hold its end back.
            await until(lambda total=sent: connection.body is not None and connection.body._body._bytes == total)  # type: ignore[misc]
        for _ in range(3):
            # The watch asks for a disconnect, and gets a piece of the body.
            served.gateway.runtime.ticker.tick()
            await asyncio.sleep(0.001)
        await _leave(client, how)
        await _is_noted_as_left(served)
        await until(lambda: not len(served.connections or ()))
        assert not len(served.connections.hang_ups)


@both_ways
async def test_after_the_upload(server: str, how: str) -> None:
    async with (
        ScriptedUpstream(silent) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        head = request("POST", fields=[(b"Transfer-Encoding", b"chunked")])
        client.write(head + chunked(b"some"))
        connection = await origin.connection()
        await until(lambda: connection.received.endswith(b"0\r\n\r\n"))
        await _leave(client, how)
        await _is_noted_as_left(served)
        await connection.closed.wait()


@both_ways
@pytest.mark.parametrize("pieces", [0, 1], ids=["after the head", "inside the body"])
async def test_in_the_middle_of_the_answer(server: str, how: str, pieces: int) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", *[b"piece"] * pieces)
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request())
        await client.head()
        await client.reader.readexactly(5 * pieces)
        await _leave(client, how)
        (exchange,) = await served.ended(1)
        assert exchange.outcome == "client-left"
        await served.at_rest()
        await origin.connections[0].closed.wait()
        assert served.upstream.snapshot()[0].failures == 0


async def test_while_it_reads_nothing_of_a_large_answer(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await connection.send(bytes(64 * 1024))

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.write(request())
        connection = await origin.connection()
        await until(lambda: connection.transport.get_write_buffer_size() > 0)
        client.leave()
        await served.ended(1)
        await served.at_rest()
        await connection.closed.wait()
        assert served.upstream.snapshot()[0].failures == 0


async def test_between_two_attempts(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        if connection.index == 0:
            await connection.read_request()
            await connection.send(response(503, [(b"Transfer-Encoding", b"chunked")], length=False))
            await connection.send(chunked(b"busy", last=False))
        await connection.wait_eof()

    async with ScriptedUpstream(script) as origin, ScriptedUpstream(script) as other:
        table = proxying(origin.url, upstream={"max_connections": 2})
        async with serving(table, server=server) as served, served.client() as client:
            client.write(request())
            second = await origin.connection(1)
            await until(lambda: b"\r\n\r\n" in second.received)
            await _leave(client, "fin")
            await until(lambda: len(served.exchanges) == 1)
            assert served.exchanges[0].outcome == "client-left"
            await served.at_rest()
            await until(lambda: not origin.open_connections)
        assert other.connections == []


@own_server
async def test_a_part_of_a_body_that_the_watch_got_is_not_lost(server: str) -> None:
    """The upstream takes nothing for a while; the watch asks for a disconnect and gets a piece of the body."""
    size = 8 * 1024 * 1024
    body = bytes(range(256)) * (size // 256)

    async def script(connection: ScriptedConnection) -> None:
        seen = await connection.read_request()
        await connection.send(response(body=b"same" if seen.body == body else b"different"))
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script, reading=False) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Content-Length", b"%d" % size)]))
        upload = asyncio.create_task(client.send(body))
        connection = await origin.connection()
        for _ in range(100):
            served.gateway.runtime.ticker.tick()
            await asyncio.sleep(0.001)
        connection.start_reading()
        assert (await client.answer("POST")).body == b"same"
        await upload


async def test_a_client_that_leaves_a_fixed_answer_breaks_nothing(server: str) -> None:
    table = {"routes": [{"path": "/*", "respond": {"body": "x" * 100}}]}
    async with serving(table, server=server) as served:
        for _ in range(10):
            client = await served.connect()
            client.write(request())
            client.leave()
        assert (await served.ask(request())).status == 200
