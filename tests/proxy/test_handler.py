"""The steps of one exchange, on a real upstream with a transport that a test controls."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.errors import (
    BodyTooLarge,
    ConnectFailed,
    ConnectionBroken,
    GatewayError,
    ResponseBroken,
    UpstreamTimeout,
)
from gateway.exchange import SCOPE_KEY, WHOLE_FOLLOWS, Exchange
from gateway.http.target import TargetRewrite
from gateway.proxy.client_watch import ClientWatch
from gateway.proxy.handler import ProxyHandler
from gateway.proxy.outbound import Outbound
from gateway.proxy.retry import RetryPolicy
from gateway.ticker import Ticker
from gateway.upstream.messages import InboundResponse, OutboundRequest
from gateway.upstream.pool import Upstream
from gateway.upstream.settings import EndpointSettings, UpstreamSettings
from tests.support.gateway import until
from tests.support.messages import Sent, body_of, call, http_scope

pytestmark = pytest.mark.anyio

HOST = (b"host", b"example.com")


class Body(httpx.AsyncByteStream):
    """A streamed body that says whether it was closed."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = list(pieces)
        self._error = error
        self.is_closed = False

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.close()


class Transport(httpx.AsyncBaseTransport):
    """Gives what the test has prepared, one for each request, and keeps the requests."""

    def __init__(self, *results: Any) -> None:
        self._results = list(results)
        self.requests: list[OutboundRequest] = []
        self.bodies: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> InboundResponse:
        assert isinstance(request, OutboundRequest)
        self.requests.append(request)
        result = self._results.pop(0)
        if isinstance(result, ConnectFailed):
            raise result
        body = request.body
        self.bodies.append(
            b"" if body is None else body if isinstance(body, bytes) else b"".join([x async for x in body])
        )
        if isinstance(result, Exception):
            raise result
        if isinstance(result, asyncio.Event):
            await result.wait()
            return InboundResponse(200, [], whole=b"")
        assert isinstance(result, InboundResponse)
        return result


def whole(status: int = 200, body: bytes = b"ok", *fields: tuple[bytes, bytes]) -> InboundResponse:
    return InboundResponse(status, [(b"content-length", b"%d" % len(body)), *fields], whole=body)


class Bench:
    """A handler over endpoints with these transports, which are tried in order."""

    def __init__(self, *transports: Transport, **settings: Any) -> None:
        self.ticker = Ticker(interval_s=3600.0)
        self.watch = ClientWatch(self.ticker, body_timeout_s=30.0)
        names = {f"http://host-{index}": transport for index, transport in enumerate(transports)}
        limit = settings.pop("max_connections", 512)
        self.upstream = Upstream(
            UpstreamSettings(
                name="origin",
                endpoints=tuple(EndpointSettings(url=url, scheme="http", host=url[7:], port=80) for url in names),
                balance="first",
                resolve_s=0.0,
                max_connections=limit,
            ),
            transport_factory=lambda settings, endpoint: names[endpoint.url],
            ticker=self.ticker,
            rng=random.Random(1),
        )
        settings.setdefault("retry", RetryPolicy(backoff_s=0.0))
        self.handler = ProxyHandler(
            self.upstream,
            outbound=Outbound(make_rewrite=lambda base: TargetRewrite(base_path=base)),
            client_watch=self.watch,
            **settings,
        )
        self.exchange = Exchange("GET", b"/")

    async def ask(self, method: str = "GET", *pieces: bytes, headers: Any = (HOST,), **extra: Any) -> Sent:
        self.exchange = Exchange(method, b"/")
        extra[SCOPE_KEY] = self.exchange
        scope = http_scope(method, b"/", headers, **extra)
        return await call(self.handler, scope, *pieces)

    async def __aenter__(self) -> Bench:
        await self.upstream.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self.upstream.in_flight == 0
        assert self.upstream.retry_budget.spent == 0
        assert len(self.watch) == 0
        self.watch.close()
        await self.upstream.aclose()
        self.ticker.close()

    @property
    def failures(self) -> list[int]:
        return [state.failures for state in self.upstream.snapshot()]


def sized(body: bytes) -> list[tuple[bytes, bytes]]:
    return [HOST, (b"content-length", b"%d" % len(body))]


async def test_a_whole_answer_lets_go_of_the_endpoint_before_the_client_takes_it() -> None:
    async with Bench(Transport(whole())) as bench:
        seen: list[int] = []

        async def send(message: Any) -> None:
            seen.append(bench.upstream.in_flight)

        await bench.handler(http_scope(), body_of(), send)
        assert seen == [0, 0]


async def test_a_whole_answer_is_announced_as_one() -> None:
    async with Bench(Transport(whole(200, b"hello"))) as bench:
        sent = await bench.ask()
        assert sent.start[WHOLE_FOLLOWS] and sent.pieces == [b"hello"]
        (attempt,) = bench.exchange.attempts
        assert (attempt.status, attempt.outcome, attempt.endpoint) == (200, "ok", "host-0:80")
        assert bench.exchange.upstream == "origin"


async def test_a_streamed_answer_holds_the_endpoint_to_its_end() -> None:
    body = Body(b"a", b"b")
    async with Bench(Transport(InboundResponse(200, [], body))) as bench:
        seen: list[int] = []

        async def send(message: Any) -> None:
            seen.append(bench.upstream.in_flight)

        await bench.handler(http_scope(), body_of(), send)
        assert set(seen) == {1}
        assert body.is_closed


async def test_an_answer_that_breaks_off_counts_against_the_endpoint() -> None:
    body = Body(b"a", error=ResponseBroken("gone"))
    async with Bench(Transport(InboundResponse(200, [], body))) as bench:
        with pytest.raises(ResponseBroken):
            await bench.ask()
        assert bench.failures == [1] and body.is_closed


@pytest.mark.parametrize("phase", ["start", "body"])
async def test_a_failure_of_whoever_takes_the_answer_closes_the_upstreams_body(phase: str) -> None:
    """What an outer layer makes of an answer may fail: the connection must not be left behind."""
    body = Body(b"a", b"b")
    async with Bench(Transport(InboundResponse(200, [], body))) as bench:

        async def send(message: Any) -> None:
            if message["type"] == f"http.response.{phase}":
                raise ValueError("a transformation failed")

        with pytest.raises(ValueError, match="a transformation failed"):
            await bench.handler(http_scope(), body_of(), send)
        assert body.is_closed and bench.failures == [0]


async def test_a_failing_rule_closes_the_upstreams_body() -> None:
    def rule(scope: Any, message: Any) -> None:
        raise ValueError("a rule failed")

    body = Body(b"a")
    async with Bench(Transport(InboundResponse(302, [(b"location", b"/")], body)), answer_rules=(rule,)) as bench:
        with pytest.raises(ValueError, match="a rule failed"):
            await bench.ask()
        assert body.is_closed


async def test_an_early_answer_closes_the_clients_connection() -> None:
    early = InboundResponse(413, [], whole=b"", request_complete=False)
    async with Bench(Transport(early)) as bench:
        assert (await bench.ask("POST", b"x", headers=sized(b"x"))).values(b"connection") == [b"close"]


async def test_hidden_fields_and_the_length_of_a_204_go() -> None:
    answer = InboundResponse(204, [(b"content-length", b"0"), (b"server", b"x"), (b"x-a", b"1")], whole=b"")
    async with Bench(Transport(answer), hidden=frozenset([b"server"])) as bench:
        assert (await bench.ask()).headers == [(b"x-a", b"1")]


async def test_a_body_that_announces_too_much_asks_nobody() -> None:
    transport = Transport()
    async with Bench(transport, max_body=3) as bench:
        with pytest.raises(BodyTooLarge):
            await bench.ask("POST", headers=sized(b"four"))
        assert transport.requests == []


async def test_a_body_at_hand_goes_whole_and_another_streams() -> None:
    transport = Transport(whole(), whole())
    async with Bench(transport) as bench:
        await bench.ask("POST", b"body", headers=sized(b"body"))
        await bench.ask("POST", b"bo", b"dy", headers=[HOST, (b"transfer-encoding", b"chunked")])
        assert isinstance(transport.requests[0].body, bytes)
        assert not isinstance(transport.requests[1].body, bytes)
        assert transport.bodies == [b"body", b"body"]
        assert bench.exchange.body_bytes_in == 4


async def test_a_buffered_request_is_read_before_an_endpoint_is_chosen() -> None:
    transport = Transport(whole())
    async with Bench(transport, buffer_bytes=100) as bench:
        in_flight: list[int] = []
        pieces = body_of(b"a", b"b", b"c")

        async def receive() -> Any:
            in_flight.append(bench.upstream.in_flight)
            return await pieces()

        scope = http_scope("POST", b"/", sized(b"abc"))
        await bench.handler(scope, receive, Sent())
        assert in_flight[:3] == [0, 0, 0]
        assert transport.bodies == [b"abc"]


Failure = Callable[[], GatewayError]


@pytest.mark.parametrize(
    ("error", "method", "attempts"),
    [
        (ConnectFailed, "POST", 2),
        (ConnectionBroken, "GET", 2),
        (ConnectionBroken, "POST", 1),
        (UpstreamTimeout, "PUT", 2),
    ],
)
async def test_a_failed_attempt_goes_to_the_next_endpoint(error: Failure, method: str, attempts: int) -> None:
    bad, good = Transport(error()), Transport(whole(200, b"good"))
    async with Bench(bad, good) as bench:
        if attempts == 1:
            with pytest.raises(ConnectionBroken):
                await bench.ask(method, b"body", headers=sized(b"body"))
        else:
            assert (await bench.ask(method, b"body", headers=sized(b"body"))).body == b"good"
            assert good.bodies == [b"body"]
        assert len(bench.exchange.attempts) == attempts
        assert bench.failures == [1, 0]


async def test_attempts_are_counted_where_there_is_nobody_else() -> None:
    bad = Transport(*[ConnectFailed("refused")] * 9)
    for attempts in (1, 2, 4):
        async with Bench(bad, retry=RetryPolicy(attempts=attempts, backoff_s=0.0)) as bench:
            bad.requests.clear()
            with pytest.raises(ConnectFailed):
                await bench.ask()
            assert len(bad.requests) == attempts


async def test_the_budget_of_the_upstream_bounds_what_was_sent_and_not_what_was_not() -> None:
    good = Transport(whole(), whole())
    async with Bench(Transport(ConnectFailed("x"), ConnectionBroken("x")), good) as bench:
        bench.upstream.retry_budget.minimum = 0
        assert (await bench.ask()).status == 200
        with pytest.raises(ConnectionBroken):
            await bench.ask()
        bench.upstream.retry_budget.spent = 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_with_a_status_to_retry_is_dropped_for_a_better_one(streamed: bool) -> None:
    body = Body(b"busy")
    busy = InboundResponse(503, [], body) if streamed else whole(503, b"busy")
    async with Bench(Transport(busy), Transport(whole(200, b"good"))) as bench:
        assert (await bench.ask()).body == b"good"
        assert body.is_closed is streamed


@pytest.mark.parametrize("error", [ConnectFailed("x"), ConnectionBroken("x")])
async def test_the_last_answer_is_given_when_the_next_attempt_fails(error: GatewayError) -> None:
    body = Body(b"busy")
    async with Bench(Transport(InboundResponse(503, [], body)), Transport(error)) as bench:
        sent = await bench.ask()
        assert sent.status == 503 and sent.body == b"busy"


async def test_an_answer_that_is_held_back_does_not_keep_its_own_retry_waiting() -> None:
    """With one place at one endpoint, the answer that waits for a better one must not hold that place."""
    busy = InboundResponse(503, [], Body(b"busy"))
    async with Bench(Transport(busy, whole(200, b"good")), max_connections=1) as bench:
        async with asyncio.timeout(2.0):
            sent = await bench.ask()
        assert sent.status in (200, 503)


async def test_a_cancelled_exchange_lets_go_of_everything() -> None:
    busy = Body(b"busy")
    async with Bench(Transport(InboundResponse(503, [], busy)), Transport(asyncio.Event())) as bench:
        task = asyncio.ensure_future(bench.ask())
        await until(lambda: len(bench.exchange.attempts) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert busy.is_closed


class Wave(Transport):
    """Takes requests and fails all of them at one moment."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> InboundResponse:
        assert isinstance(request, OutboundRequest)
        self.requests.append(request)
        await self.breaks.wait()
        raise ConnectionBroken("all at once")


async def test_requests_that_fail_together_still_count_as_in_flight_when_the_budget_is_asked() -> None:
    wave = Wave()
    async with Bench(wave, Transport(*[whole() for _ in range(8)])) as bench:
        bench.upstream.retry_budget.minimum = 0
        bench.upstream.retry_budget.share = 1.0
        asked = [asyncio.create_task(bench.ask()) for _ in range(8)]
        await until(lambda: len(wave.requests) == 8)
        wave.breaks.set()
        assert [(await task).status for task in asked] == [200] * 8
