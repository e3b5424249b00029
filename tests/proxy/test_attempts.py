from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import ConnectFailed, ConnectionBroken, ConnectPending, UpstreamError
from gateway.proxy.attempts import Attempts
from gateway.proxy.request_body import RequestBody
from gateway.proxy.retry import NO_RETRY, RetryPolicy
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.messages import InboundResponse
from tests.support.messages import http_scope
from tests.upstream.test_endpoint import make_upstream

UNSENT = ConnectFailed("refused")
SENT = ConnectionBroken("reset", request_sent=True)


class Coming:
    """A body that is still to come."""

    def __init__(self) -> None:
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("nobody reads it")

    def close(self) -> None:
        self.closed += 1


class World:
    """The attempts of one exchange at two endpoints."""

    def __init__(self, policy: RetryPolicy, method: str = "GET") -> None:
        self.upstream = make_upstream(balance="first")
        body = RequestBody(self._receive, length=0, max_bytes=None, replay_bytes=0, clock=time.monotonic)
        self.attempts = Attempts(policy, self.upstream, method, body)

    async def _receive(self) -> Any:
        raise AssertionError("there is no body")

    def take(self) -> Endpoint:
        endpoint = self.upstream.try_acquire(http_scope(), self.attempts.tried)
        assert endpoint is not None
        return endpoint


@pytest.mark.parametrize(
    ("policy", "method", "error", "again"),
    [
        pytest.param(RetryPolicy(), "GET", UNSENT, True, id="what was never sent goes on"),
        pytest.param(NO_RETRY, "POST", UNSENT, True, id="without retries too, whatever the method"),
        pytest.param(RetryPolicy(), "GET", SENT, True, id="what was sent is a retry"),
        pytest.param(RetryPolicy(), "POST", SENT, False, id="and not for every method"),
        pytest.param(RetryPolicy(attempts=1), "GET", SENT, False, id="nor beyond the count"),
        pytest.param(RetryPolicy(on=frozenset([502])), "GET", SENT, False, id="nor after every error"),
    ],
)
def test_whether_there_is_another_after_an_error(
    policy: RetryPolicy, method: str, error: UpstreamError, again: bool
) -> None:
    world = World(policy, method)
    endpoint = world.take()

    assert world.attempts.after_error(endpoint, error) is again

    assert (endpoint.in_flight, endpoint.failures) == (0, 1)
    assert world.attempts.tried == [endpoint] * again
    world.attempts.end()
    assert world.upstream.retry_budget.spent == 0


@pytest.mark.parametrize(
    ("method", "response", "again"),
    [
        pytest.param("GET", InboundResponse(200, [], whole=b""), False, id="a good answer is the last"),
        pytest.param("GET", InboundResponse(503, [], whole=b""), True, id="a bad one is not"),
        pytest.param("POST", InboundResponse(503, [], whole=b""), False, id="but for some methods"),
        pytest.param("GET", InboundResponse(500, [], whole=b""), False, id="and some statuses"),
    ],
)
def test_whether_there_is_another_after_an_answer(method: str, response: InboundResponse, again: bool) -> None:
    world = World(RetryPolicy(), method)
    endpoint = world.take()

    assert world.attempts.after_answer(endpoint, response) is again

    assert world.attempts.last == (endpoint, response)
    assert (endpoint.in_flight, endpoint.failures) == (0, int(response.status_code == 503))


def test_an_answer_whose_body_is_to_come_holds_its_endpoint_until_a_better_one_is_there() -> None:
    world, coming = World(RetryPolicy(attempts=3)), Coming()
    first = world.take()
    assert world.attempts.after_answer(first, InboundResponse(503, [], coming))  # type: ignore[arg-type]
    assert (world.attempts.holds_a_place, first.in_flight, coming.closed) == (True, 1, 0)

    second = world.take()
    assert not world.attempts.after_answer(second, InboundResponse(200, [], whole=b""))

    assert second is not first
    assert (world.attempts.holds_a_place, first.in_flight, coming.closed) == (False, 0, 1)


def test_an_upload_that_still_runs_has_no_other_endpoint() -> None:
    world = World(RetryPolicy())
    response = InboundResponse(503, [], Coming(), request_complete=False)  # type: ignore[arg-type]

    assert not world.attempts.after_answer(world.take(), response)

    world.attempts.drop()
    assert world.upstream.in_flight == 0


def test_what_was_never_sent_burdens_nobody_but_an_endpoint_that_had_it() -> None:
    world = World(NO_RETRY)
    first = world.take()
    assert world.attempts.after_error(first, UNSENT)
    second = world.take()
    world.attempts.spend_on(second)
    assert world.attempts.after_error(second, UNSENT)

    again = world.take()
    with pytest.raises(ConnectFailed):
        world.attempts.spend_on(again)
    assert (again.in_flight, again.failures) == (0, 1)


@pytest.mark.anyio
async def test_an_endpoint_that_was_passed_over_is_held_until_the_connection_comes_to_something() -> None:
    world, outcome = World(NO_RETRY), asyncio.get_running_loop().create_future()
    slow = world.take()

    assert world.attempts.after_error(slow, ConnectPending("slow", outcome))
    assert (slow.in_flight, slow.failures, world.attempts.tried) == (1, 0, [slow])

    outcome.set_exception(ConnectFailed("refused"))
    await asyncio.sleep(0)
    assert (slow.in_flight, slow.failures, slow.last_error) == (0, 1, "refused")


@pytest.mark.anyio
@pytest.mark.parametrize("ending", ["connected", "cancelled"])
async def test_a_connection_that_comes_late_is_no_failure(ending: str) -> None:
    world, outcome = World(NO_RETRY), asyncio.get_running_loop().create_future()
    slow = world.take()
    world.attempts.after_error(slow, ConnectPending("slow", outcome))

    outcome.cancel() if ending == "cancelled" else outcome.set_result(None)
    await asyncio.sleep(0)

    assert (slow.in_flight, slow.failures) == (0, 0)


@pytest.mark.anyio
async def test_whoever_was_passed_over_comes_before_whoever_failed_and_is_no_retry() -> None:
    world, outcome = World(NO_RETRY), asyncio.get_running_loop().create_future()
    slow = world.take()
    world.attempts.after_error(slow, ConnectPending("slow", outcome))
    failing = world.take()
    assert world.attempts.after_error(failing, UNSENT)

    assert world.take() is slow
    world.attempts.spend_on(slow)
    outcome.cancel()


@pytest.mark.anyio
async def test_whoever_was_passed_over_is_no_retry_where_all_others_are_gone() -> None:
    world, outcome = World(NO_RETRY), asyncio.get_running_loop().create_future()
    slow = world.take()
    world.attempts.after_error(slow, ConnectPending("slow", outcome))
    world.upstream.drain(world.upstream.endpoints[1].label)

    assert world.take() is slow
    world.attempts.spend_on(slow)
    outcome.cancel()
