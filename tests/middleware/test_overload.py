from __future__ import annotations

import asyncio

import pytest

from gateway.errors import Overloaded
from gateway.middleware.concurrency import InFlight
from gateway.middleware.overload import OverloadMiddleware
from tests.middleware.auth_support import inside, request
from tests.middleware.test_concurrency import Held
from tests.support.messages import answering, call

pytestmark = pytest.mark.anyio


async def test_alone_it_counts_what_passes_and_sheds_the_rest() -> None:
    held = Held()
    middleware = OverloadMiddleware(held, max_in_flight=2)
    running = [asyncio.create_task(call(middleware, request())) for _ in range(2)]
    await asyncio.sleep(0)
    sent = await call(middleware, request())
    assert (sent.status, sent.values(b"retry-after")) == (503, [b"1"])
    held.go_on.set()
    await asyncio.gather(*running)
    assert middleware.in_flight.count == 0
    assert (await call(middleware, request())).status == 200


@pytest.mark.parametrize(("count", "status"), [(1, 200), (5, 200), (6, 503), (100, 503)])
async def test_a_count_that_is_kept_elsewhere_includes_the_request_at_hand(count: int, status: int) -> None:
    in_flight = InFlight()
    in_flight.count = count
    middleware = OverloadMiddleware(answering(200), max_in_flight=5, in_flight=in_flight)
    assert (await call(middleware, request())).status == status
    assert in_flight.count == count


@pytest.mark.parametrize(("lag_s", "status"), [(0.0, 200), (0.1, 200), (0.1001, 503), (3.0, 503)])
async def test_it_sheds_while_the_event_loop_is_late(lag_s: float, status: int) -> None:
    middleware = OverloadMiddleware(answering(200), max_loop_lag_s=0.1, loop_lag=lambda: lag_s)
    assert (await call(middleware, request())).status == status


async def test_bounds_of_zero_are_off() -> None:
    in_flight = InFlight()
    in_flight.count = 10**6
    middleware = OverloadMiddleware(answering(200), in_flight=in_flight, loop_lag=lambda: 99.0)
    assert (await call(middleware, request())).status == 200


async def test_inside_the_gateway_it_raises() -> None:
    scope = request()
    inside(scope)
    with pytest.raises(Overloaded):
        await call(OverloadMiddleware(answering(200), max_loop_lag_s=0.1, loop_lag=lambda: 1.0), scope)


async def test_lifespans_pass() -> None:
    middleware = OverloadMiddleware(answering(200), max_loop_lag_s=0.1, loop_lag=lambda: 1.0)
    assert (await call(middleware, {"type": "lifespan"})).status == 200


def test_a_bound_on_a_lag_that_nobody_measures_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs loop_lag"):
        OverloadMiddleware(answering(200), max_loop_lag_s=0.1)
