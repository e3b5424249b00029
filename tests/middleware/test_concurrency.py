from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from gateway.errors import Overloaded
from gateway.middleware.concurrency import ConcurrencyMiddleware, InFlight
from tests.middleware.auth_support import inside, request
from tests.support.messages import call

pytestmark = pytest.mark.anyio


class Held:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.go_on.wait()
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})


async def test_what_exceeds_the_bound_is_503_with_retry_after_until_there_is_room() -> None:
    held = Held()
    middleware = ConcurrencyMiddleware(held, max_concurrent=2)
    running = [asyncio.create_task(call(middleware, request())) for _ in range(2)]
    await asyncio.sleep(0)
    sent = await call(middleware, request())
    assert sent.status == 503
    assert sent.values(b"retry-after") == [b"1"]
    held.go_on.set()
    assert [sent.status for sent in await asyncio.gather(*running)] == [200, 200]
    assert (await call(middleware, request())).status == 200
    assert middleware.in_flight.count == 0


async def test_inside_the_gateway_it_raises() -> None:
    middleware = ConcurrencyMiddleware(Held(), max_concurrent=1)
    middleware.in_flight.count = 1
    scope = request()
    inside(scope)
    with pytest.raises(Overloaded):
        await call(middleware, scope)
    assert middleware.in_flight.count == 1


async def test_failures_and_cancellations_give_their_place_back() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError

    middleware = ConcurrencyMiddleware(failing, max_concurrent=1)
    with pytest.raises(RuntimeError):
        await call(middleware, request())
    middleware.app = Held()
    task = asyncio.create_task(call(middleware, request()))
    await asyncio.sleep(0)
    assert middleware.in_flight.count == 1
    task.cancel()
    await asyncio.wait([task])
    assert middleware.in_flight.count == 0


async def test_instances_that_share_a_count_share_the_bound() -> None:
    held, in_flight = Held(), InFlight()
    old, new = (ConcurrencyMiddleware(held, max_concurrent=1, in_flight=in_flight) for _ in range(2))
    running = asyncio.create_task(call(old, request()))
    await asyncio.sleep(0)
    assert (await call(new, request())).status == 503
    held.go_on.set()
    await running
    assert (await call(new, request())).status == 200


async def test_open_websockets_count_and_lifespans_do_not() -> None:
    held = Held()
    middleware = ConcurrencyMiddleware(held, max_concurrent=1)
    lifespan = asyncio.create_task(call(middleware, {"type": "lifespan"}))
    socket = asyncio.create_task(call(middleware, {**request(), "type": "websocket"}))
    await asyncio.sleep(0)
    assert (await call(middleware, request())).status == 503
    held.go_on.set()
    await asyncio.gather(lifespan, socket)


def test_a_bound_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ConcurrencyMiddleware(Held(), max_concurrent=0)
