from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConnectFailed, NoEndpoint
from gateway.upstream.endpoint import HealthState
from gateway.upstream.health import note
from gateway.upstream.pool import Upstream
from gateway.upstream.settings import HealthSettings, UpstreamSettings
from gateway.upstream.transports import transport_for
from tests.support.messages import http_scope
from tests.upstream.test_endpoint import Clock, FakeTransport, at, make_upstream

pytestmark = pytest.mark.anyio

BOTH = {"127.0.0.1:9001", "127.0.0.1:9002"}


class Fleet:
    """An upstream with health checks whose endpoints answer as the test says."""

    def __init__(self, **health: Any) -> None:
        self.clock = Clock()
        self.answers: dict[int, Callable[[httpx.Request], Any]] = {}
        self.transports: dict[int, FakeTransport] = {}
        self.upstream = make_upstream(
            at(9001),
            at(9002),
            clock=self.clock,
            health=HealthSettings(**health),
            transport=lambda endpoint: self._transport(endpoint.port),
        )

    def _transport(self, port: int) -> FakeTransport:
        found = FakeTransport(lambda request: self.answers.get(port, answer(200))(request))
        return self.transports.setdefault(port, found)

    async def rounds(self, count: int, interval_s: float = 5.0) -> None:
        for _ in range(count):
            self.clock.advance(interval_s * 1.2)
            await settle()

    def up(self, upstream: Upstream | None = None) -> set[str]:
        upstream = upstream or self.upstream
        labels = set()
        for _ in range(30):
            try:
                endpoint = upstream.try_acquire(http_scope())
            except NoEndpoint:
                return set()
            assert endpoint is not None
            labels.add(endpoint.label)
            upstream.release(endpoint)
        return labels


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def refuse(request: httpx.Request) -> httpx.Response:
    raise ConnectFailed("connection refused")


def answer(status: int) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status)


@pytest.mark.parametrize(
    ("results", "changes"),
    [
        ("bbb", [2]),
        ("bbgbb", []),
        ("bbgbbb", [5]),
        ("bbbgg", [2, 4]),
        ("bbbgbgg", [2, 6]),
        ("gggg", []),
        ("bbbbbb", [2]),
    ],
)
def test_a_state_changes_after_results_in_a_row(results: str, changes: list[int]) -> None:
    health = HealthState()

    assert [i for i, result in enumerate(results) if note(health, result == "g", rise=2, fall=3)] == changes


@given(st.lists(st.booleans()), st.integers(1, 4), st.integers(1, 4))
def test_only_enough_results_in_a_row_decide(results: list[bool], rise: int, fall: int) -> None:
    health = HealthState()
    for index, ok in enumerate(results):
        if note(health, ok, rise=rise, fall=fall):
            needed = rise if ok else fall
            assert results[index + 1 - needed : index + 1] == [ok] * needed
            assert health.healthy is ok


async def test_endpoints_count_as_healthy_until_checked() -> None:
    fleet = Fleet()
    fleet.answers = {9001: refuse, 9002: refuse}
    await fleet.upstream.start()

    assert fleet.up() == BOTH
    await fleet.upstream.aclose()


async def test_an_endpoint_falls_and_rises(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.upstream")
    fleet = Fleet(rise=2, fall=3)
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    fleet.answers[9001] = refuse

    await fleet.rounds(2)
    assert fleet.up() == BOTH
    await fleet.rounds(3)
    assert fleet.up() == {"127.0.0.1:9002"}
    assert fleet.upstream.decision == "1 of 2 available: 127.0.0.1:9001 unhealthy"
    assert fleet.upstream.snapshot()[0].last_error == "health check: connection refused"

    del fleet.answers[9001]
    await fleet.rounds(1)
    assert fleet.up() == {"127.0.0.1:9002"}
    await fleet.rounds(3)
    assert fleet.up() == BOTH
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    await fleet.upstream.aclose()


@pytest.mark.parametrize(
    ("status", "accepted", "is_up"),
    [
        (200, ((200, 399),), True),
        (399, ((200, 399),), True),
        (302, ((200, 399),), True),
        (302, ((200, 299),), False),
        (400, ((200, 399),), False),
        (503, ((200, 399),), False),
        (404, ((200, 200), (404, 404)), True),
        (403, ((200, 200), (404, 404)), False),
    ],
)
async def test_the_status_decides_and_redirects_are_not_followed(
    status: int, accepted: tuple[tuple[int, int], ...], is_up: bool
) -> None:
    fleet = Fleet(status=accepted, fall=1)
    fleet.answers[9001] = lambda request: httpx.Response(status, headers={"location": "http://127.0.0.1:9002/"})
    fleet.answers[9002] = lambda request: httpx.Response(accepted[0][0])
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    await fleet.rounds(1)

    assert ("127.0.0.1:9001" in fleet.up()) is is_up
    assert len(fleet.transports[9002].requests) == 1
    await fleet.upstream.aclose()


async def test_the_probe_is_what_the_settings_say() -> None:
    fleet = Fleet(path="/up?deep=1", method="HEAD", timeout_s=1.5, headers=((b"host", b"shop"), (b"x-probe", b"1")))
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    await fleet.rounds(1)

    request = fleet.transports[9001].requests[0]
    assert request.method == "HEAD"
    assert str(request.url) == "http://127.0.0.1:9001/up?deep=1"
    assert request.extensions["target"] == b"/up?deep=1"
    assert request.extensions["timeout"]["head"] == 1.5
    assert [pair for pair in request.headers.raw if pair[0] == b"host"] == [(b"host", b"shop")]
    assert request.headers["x-probe"] == "1"
    assert request.headers["user-agent"] == "gateway-health-check"
    await fleet.upstream.aclose()


async def test_a_probe_without_an_answer_fails_after_its_own_timeout() -> None:
    fleet = Fleet(timeout_s=2.0, fall=1)
    never = asyncio.Event()

    async def hang() -> httpx.Response:
        await never.wait()
        return httpx.Response(200)

    fleet.answers[9001] = lambda request: hang()
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    fleet.clock.advance(1.2)
    await settle()
    fleet.clock.advance(1.9)
    await settle()
    assert fleet.up() == BOTH

    fleet.clock.advance(0.2)
    await settle()

    assert fleet.up() == {"127.0.0.1:9002"}
    assert fleet.upstream.snapshot()[0].last_error == "health check: no answer within 2 s"
    await fleet.upstream.aclose()


async def test_a_transport_that_breaks_in_a_new_way_is_a_failed_probe() -> None:
    fleet = Fleet(fall=1)

    def explode(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    fleet.answers[9001] = explode
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    await fleet.rounds(1)

    assert fleet.up() == {"127.0.0.1:9002"}
    assert fleet.upstream.snapshot()[0].last_error == "health check: ZeroDivisionError"
    await fleet.upstream.aclose()


async def test_probes_come_once_an_interval_and_not_in_step() -> None:
    fleet = Fleet(interval_s=10.0)
    await fleet.upstream.start()
    times: dict[int, list[float]] = {9001: [], 9002: []}
    for port, seen in times.items():
        fleet.answers[port] = lambda request, seen=seen: seen.append(fleet.clock.now) or httpx.Response(200)  # type: ignore[misc]
    for _ in range(1000):
        fleet.clock.advance(0.1)
        await asyncio.sleep(0)

    for seen in times.values():
        assert 1000.0 < seen[0] <= 1001.3
        assert all(9.0 <= later - earlier <= 11.2 for earlier, later in itertools.pairwise(seen))
    assert times[9001] != times[9002]
    await fleet.upstream.aclose()


async def test_all_out_is_refused_at_once_and_comes_back() -> None:
    fleet = Fleet(fall=1, rise=1)
    fleet.answers = {9001: answer(500), 9002: answer(500)}
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    await fleet.rounds(1)
    assert fleet.up() == set()

    fleet.answers.clear()
    await fleet.rounds(1)

    assert fleet.up() == BOTH
    await fleet.upstream.aclose()


async def test_health_survives_a_reload_and_one_checker_goes_on() -> None:
    fleet = Fleet(fall=1)
    fleet.answers[9001] = refuse
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    await fleet.rounds(1)
    settings = fleet.upstream.settings

    later = fleet.upstream.successor(UpstreamSettings("shop", settings.endpoints, health=settings.health, panic=0.1))
    await later.start()
    asked = len(fleet.transports[9002].requests)
    await fleet.rounds(4)

    assert fleet.up(later) == {"127.0.0.1:9002"}
    assert len(fleet.transports[9002].requests) == asked + 4
    await fleet.upstream.aclose()
    await later.aclose()


async def test_without_checks_nothing_stays_unhealthy() -> None:
    fleet = Fleet(fall=1)
    fleet.answers[9001] = refuse
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    await fleet.rounds(1)

    later = fleet.upstream.successor(UpstreamSettings("shop", fleet.upstream.settings.endpoints))
    await later.start()

    assert fleet.up(later) == BOTH
    await fleet.upstream.aclose()
    await later.aclose()


async def test_closing_ends_probes_that_hang() -> None:
    fleet = Fleet()
    tasks = asyncio.all_tasks()
    ended = []

    async def hang() -> httpx.Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)
        return httpx.Response(200)

    fleet.answers = {9001: lambda request: hang(), 9002: lambda request: hang()}
    await fleet.upstream.start()
    fleet.clock.advance(0.1)
    await fleet.rounds(1)

    await fleet.upstream.aclose()

    assert len(ended) == 2
    assert all(transport.closed == 1 for transport in fleet.transports.values())
    assert asyncio.all_tasks() == tasks


async def test_probes_go_over_real_connections() -> None:
    heads = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ndown")
        await writer.drain()
        await reader.read()
        writer.close()

    clock = Clock()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = make_upstream(
        at(port),
        clock=clock,
        health=HealthSettings(path="/up?deep=1", fall=1),
        transport=lambda endpoint: transport_for(
            endpoint.scheme, ticker=clock.ticker, host=endpoint.host, port=endpoint.port
        ),
    )
    await upstream.start()
    clock.advance(0.1)
    clock.advance(1.2)
    assert upstream._checker is not None
    probe = upstream._checker._probes[upstream.endpoints[0]].task
    assert probe is not None
    await probe

    assert upstream.snapshot()[0].last_error == "health check: status 503"
    assert not upstream.snapshot()[0].healthy
    assert heads[0].startswith(b"GET /up?deep=1 HTTP/1.1\r\n")
    assert heads[0].lower().count(b"host: 127.0.0.1:%d\r\n" % port) == 1
    await upstream.aclose()
    server.close()
    await server.wait_closed()
