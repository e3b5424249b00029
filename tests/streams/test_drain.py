"""A real ``gateway run`` that is told to stop: WebSockets hear 1001 on both sides, well within shutdown_timeout."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from tests.streams.events import EventSource
from tests.streams.support import origin, raw_client, websocket_origin
from tests.support.gateway import Answer, Stopwatch
from tests.wire.processes import Process, gateway_process

pytestmark = pytest.mark.anyio

CONFIG = """
[server]
bind = "127.0.0.1:0"
access_log = "off"
shutdown_timeout = "{timeout}"
[upstreams.origin]
endpoints = ["{url}"]
max_connections = 5000
[[routes]]
path = "/*"
upstream = "origin"
"""


@asynccontextmanager
async def process(url: str, folder: Path, limit: str = "20s") -> AsyncIterator[tuple[Process, int]]:
    manager = gateway_process(CONFIG.format(url=url, timeout=limit), folder)
    started, port = await asyncio.to_thread(manager.__enter__)
    try:
        yield started, port
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


async def end_of(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    return None if closed.value.rcvd is None else closed.value.rcvd.code


async def test_on_sigterm_both_sides_are_told_1001(tmp_path: Path) -> None:
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)
        codes.put_nowait(connection.close_code)

    async with websocket_origin(handler) as (url, _), process(url, tmp_path) as (gateway, port):
        clients = [await connect(f"ws://127.0.0.1:{port}/", proxy=None) for _ in range(20)]
        for client in clients:
            await client.send("hello")
            assert await client.recv() == "hello"
        watch = Stopwatch()
        stopping = asyncio.create_task(asyncio.to_thread(gateway.kill, signal.SIGTERM))
        assert [await end_of(client) for client in clients] == [1001] * 20
        assert [await codes.get() for _ in range(20)] == [1001] * 20
        await stopping
        assert watch.seconds < 10
        assert "Traceback" not in gateway.output


async def test_those_who_do_not_answer_are_cut_within_shutdown_timeout(tmp_path: Path) -> None:
    async with (
        websocket_origin() as (url, _),
        process(url, tmp_path, "3s") as (gateway, port),
        raw_client(port) as client,
    ):
        watch = Stopwatch()
        await asyncio.to_thread(gateway.kill, signal.SIGTERM)
        # Nothing was read, and no close frame answered.
        assert watch.seconds < 5
        received = await client.frame()
        assert received is not None and received[2][:2] == b"\x03\xe9"
        assert await client.frame() is None


async def test_a_stream_of_events_is_finished_or_cut_at_shutdown_timeout(tmp_path: Path) -> None:
    source = EventSource()
    async with origin(source) as url, process(url, tmp_path, "1s") as (gateway, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        assert Answer(await reader.readuntil(b"\r\n\r\n")).status == 200
        stream = await source.opened()
        await stream.send("first")
        await reader.readuntil(b"data: first\n\n")
        watch = Stopwatch()
        await asyncio.to_thread(gateway.kill, signal.SIGTERM)
        assert 1 <= watch.seconds < 4
        # A clean end would be taken for the whole stream.
        try:
            rest = await reader.read()
        except ConnectionError:
            rest = b""
        assert not rest.endswith(b"0\r\n\r\n")
        await stream.left()
        writer.close()
