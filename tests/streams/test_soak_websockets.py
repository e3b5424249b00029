"""A thousand WebSockets at rest, and many at work, through a real ``gateway run``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.streams.support import BINARY, PING, PONG, TEXT, RawClient, frame, raw_client, websocket_origin
from tests.streams.test_drain import process

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(300)]

IDLE = 1000
MAX_BYTES_EACH = 64 * 1024


@contextlib.asynccontextmanager
async def clients(port: int, count: int) -> AsyncIterator[list[RawClient]]:
    async with contextlib.AsyncExitStack() as stack:
        found: list[RawClient] = []
        while len(found) < count:
            several = (stack.enter_async_context(raw_client(port)) for _ in range(min(50, count - len(found))))
            found += await asyncio.gather(*several)
        yield found


async def message_of(client: RawClient) -> bytes:
    """The next message, pings answered."""
    message = b""
    while True:
        received = await client.frame()
        assert received is not None
        fin, opcode, payload = received
        if opcode == PING:
            await client.send(frame(PONG, payload))
            continue
        assert opcode <= BINARY
        message += payload
        if fin:
            return message


async def test_a_thousand_idle_websockets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with websocket_origin() as (url, _), process(url, tmp_path) as (gateway, port):
        async with clients(port, 50) as warm:
            await asyncio.gather(*(client.send(frame(TEXT, b"warm")) for client in warm))
            await asyncio.gather(*(message_of(client) for client in warm))
        before = gateway.rss_bytes()
        async with clients(port, IDLE) as idle:
            each = (gateway.rss_bytes() - before) / IDLE
            for number, client in enumerate(idle):
                await client.send(frame(TEXT, b"client %d" % number))
            answers = await asyncio.gather(*(message_of(client) for client in idle))
            assert answers == [b"client %d" % number for number in range(IDLE)]
        with capsys.disabled():
            print(f"\n{IDLE} idle WebSockets: {each / 1024:.1f} KiB each", end="")
        assert each < MAX_BYTES_EACH


async def test_websockets_that_are_gone_leave_no_memory_behind(tmp_path: Path) -> None:
    async with websocket_origin() as (url, _), process(url, tmp_path) as (gateway, port):
        sizes = []
        for _ in range(6):
            async with clients(port, IDLE) as found:
                await asyncio.gather(*(client.send(frame(TEXT, b"one")) for client in found))
                await asyncio.gather(*(message_of(client) for client in found))
                sizes.append(gateway.rss_bytes())
        # The first thousand makes the room that the others use.
        assert max(sizes[3:]) - sizes[1] < 4 * 1024 * IDLE


async def test_many_messages_of_many_clients_arrive_in_order(tmp_path: Path) -> None:
    async with websocket_origin() as (url, _), process(url, tmp_path) as (_, port), clients(port, 50) as busy:

        async def talk(client: RawClient, seed: int) -> None:
            rng = random.Random(seed)
            messages = [os.urandom(rng.choice((0, 10, 200, 5000, 70_000))) for _ in range(300)]

            async def write() -> None:
                for message in messages:
                    await client.send(frame(BINARY, message))

            writing = asyncio.ensure_future(write())
            for message in messages:
                assert await message_of(client) == message
            await writing

        await asyncio.gather(*(talk(client, number) for number, client in enumerate(busy)))


async def test_large_messages_both_ways(tmp_path: Path) -> None:
    async with websocket_origin() as (url, _), process(url, tmp_path) as (_, port), clients(port, 4) as few:

        async def talk(client: RawClient) -> None:
            for _ in range(5):
                message = os.urandom(16 * 1024 * 1024)
                sending = asyncio.ensure_future(client.send(frame(BINARY, message)))
                assert await message_of(client) == message
                await sending

        await asyncio.gather(*(talk(client) for client in few))
