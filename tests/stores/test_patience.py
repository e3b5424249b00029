from __future__ import annotations

import asyncio
import socket
import time

import pytest

from gateway.stores.patience import Patience

pytestmark = pytest.mark.anyio


async def test_silence_ends_the_wait() -> None:
    with pytest.raises(TimeoutError):
        async with Patience(0.01):
            await asyncio.Event().wait()


async def test_an_answer_that_came_while_the_loop_stood_still_is_not_lost() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()

    def stand_still() -> None:
        time.sleep(0.2)
        theirs.send(b"x")

    with ours, theirs:
        ours.setblocking(False)
        async with Patience(0.05):
            loop.call_soon(stand_still)
            assert await loop.sock_recv(ours, 1) == b"x"


async def test_what_is_raised_inside_goes_through_and_nothing_is_cancelled_later() -> None:
    with pytest.raises(LookupError):
        async with Patience(0.01):
            raise LookupError
    async with Patience(0.01):
        pass
    task = asyncio.current_task()
    assert task is not None
    await asyncio.sleep(0.02)
    assert not task.cancelling()


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def wait() -> None:
        async with Patience(60):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
