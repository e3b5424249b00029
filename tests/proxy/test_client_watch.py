"""Clients that leave or fall silent end their exchanges; others are not touched."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from gateway.errors import ClientLeft, RequestTimeout
from gateway.proxy.client_watch import ClientWatch
from gateway.proxy.request_body import RequestBody
from gateway.ticker import Ticker

pytestmark = pytest.mark.anyio


class Client:
    """Leaves, or sends, when told to."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.asked = 0

    async def receive(self) -> Message:
        self.asked += 1
        return await self.messages.get()

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def body_of(client: Client, clock: Clock) -> RequestBody:
    return RequestBody(client.receive, length=None, max_bytes=None, replay_bytes=0, clock=clock)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_exchange_whose_client_leaves_ends_as_client_left() -> None:
    client, clock = Client(), Clock()
    ticker = Ticker(3600, clock)
    watch = ClientWatch(ticker, body_timeout_s=30)

    async def exchange() -> None:
        with watch.watch(body_of(client, clock), holds_back=False):
            await asyncio.Event().wait()

    task = asyncio.create_task(exchange())
    await settle()
    assert len(watch) == 1
    assert client.asked == 0, "nothing is asked of the server before the first tick"
    ticker.tick()
    client.leave()
    with pytest.raises(ClientLeft):
        await task
    assert len(watch) == 0
    assert task.cancelling() == 0
    watch.close()


async def test_a_client_that_holds_its_body_back_is_not_asked_for_it() -> None:
    client, clock = Client(), Clock()
    ticker = Ticker(3600, clock)
    watch = ClientWatch(ticker, body_timeout_s=30)
    with watch.watch(body_of(client, clock), holds_back=True):
        ticker.tick()
        await settle()
        assert client.asked == 0
    watch.close()


async def test_silence_inside_a_body_is_a_request_timeout() -> None:
    client, clock = Client(), Clock()
    ticker = Ticker(3600, clock)
    watch = ClientWatch(ticker, body_timeout_s=30)
    body = body_of(client, clock)

    async def exchange() -> None:
        with watch.watch(body, holds_back=False):
            await anext(body)

    task = asyncio.create_task(exchange())
    await settle()
    clock.now = 30.0
    ticker.tick()
    await settle()
    assert not task.done()
    clock.now = 30.1
    ticker.tick()
    with pytest.raises(RequestTimeout):
        await task
    watch.close()


async def test_an_outer_cancellation_stays_one() -> None:
    before = asyncio.all_tasks()
    client, clock = Client(), Clock()
    ticker = Ticker(3600, clock)
    watch = ClientWatch(ticker, body_timeout_s=30)

    async def exchange() -> None:
        with watch.watch(body_of(client, clock), holds_back=False):
            await asyncio.Event().wait()

    task = asyncio.create_task(exchange())
    await settle()
    ticker.tick()
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(watch) == 0
    await settle()
    assert asyncio.all_tasks() == before
    watch.close()
