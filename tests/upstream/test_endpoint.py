from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.ticker import Ticker
from gateway.upstream.endpoint import Endpoint, label_of, open_endpoints, state_of, why_out
from gateway.upstream.pool import Upstream
from gateway.upstream.resolve import Lookup
from gateway.upstream.settings import EndpointSettings, Scheme, UpstreamSettings

Answer = Callable[[httpx.Request], Any]
"""Gives the response to a request, or awaits it."""


class FakeTransport(httpx.AsyncBaseTransport):
    """Answers without a wire, remembers the requests and counts how often it was closed."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer or (lambda request: httpx.Response(200))
        self.requests: list[httpx.Request] = []
        self.closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        response = self.answer(request)
        if not isinstance(response, httpx.Response):
            response = await response
        assert isinstance(response, httpx.Response)
        return response

    async def aclose(self) -> None:
        self.closed += 1


class Clock:
    """A time that moves only when a test moves it, and the ticker that goes by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ticker = Ticker(interval_s=3600.0, clock=self)

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.ticker.tick()


def at(
    port: int = 9001, host: str = "127.0.0.1", scheme: Scheme = "http", *, weight: int = 1, **more: Any
) -> EndpointSettings:
    """One configured endpoint."""
    shown = f"[{host}]" if ":" in host else host
    return EndpointSettings(f"{scheme}://{shown}:{port}", scheme, host, port, weight=weight, **more)


def endpoints_of(*weights: int, **more: Any) -> tuple[Endpoint, ...]:
    """Endpoints on the ports 9001 and up."""
    return tuple(
        Endpoint(at(9001 + index, weight=weight, **more), FakeTransport()) for index, weight in enumerate(weights)
    )


def make_upstream(
    *endpoints: EndpointSettings,
    clock: Clock | None = None,
    seed: int = 1,
    resolver: Lookup | None = None,
    transport: Callable[[EndpointSettings], httpx.AsyncBaseTransport] | None = None,
    **settings: Any,
) -> Upstream:
    """An upstream without I/O; two endpoints unless others are given."""
    clock = clock or Clock()
    made = transport or (lambda endpoint: FakeTransport())
    return Upstream(
        UpstreamSettings("shop", endpoints or (at(9001), at(9002)), **settings),
        transport_factory=lambda upstream, endpoint: made(endpoint),
        ticker=clock.ticker,
        rng=random.Random(seed),
        clock=clock,
        resolver=resolver,
    )


@pytest.mark.parametrize(
    ("settings", "label", "url", "authority"),
    [
        (at(9001), "127.0.0.1:9001", "http://127.0.0.1:9001", b"127.0.0.1:9001"),
        (at(80, "shop.internal"), "shop.internal:80", "http://shop.internal", b"shop.internal"),
        (at(443, "shop.internal", "https"), "shop.internal:443", "https://shop.internal", b"shop.internal"),
        (at(80, "shop.internal", "https"), "shop.internal:80", "https://shop.internal:80", b"shop.internal:80"),
        (at(9001, "::1"), "[::1]:9001", "http://[::1]:9001", b"[::1]:9001"),
        (
            at(80, "shop.internal", address="10.0.0.7"),
            "shop.internal:80/10.0.0.7",
            "http://shop.internal",
            b"shop.internal",
        ),
        (at(9001, base_path="/v1"), "127.0.0.1:9001/v1", "http://127.0.0.1:9001", b"127.0.0.1:9001"),
        (
            EndpointSettings("unix:/run/shop.sock", "unix", "localhost", 80, uds="/run/shop.sock"),
            "unix:/run/shop.sock",
            "http://localhost",
            b"localhost",
        ),
        (
            EndpointSettings("asgi:shop.main:app", "asgi", "localhost", 80, app="shop.main:app"),
            "asgi:shop.main:app",
            "http://localhost",
            b"localhost",
        ),
    ],
)
def test_an_endpoint_has_a_label_an_origin_and_a_host_value(
    settings: EndpointSettings, label: str, url: str, authority: bytes
) -> None:
    endpoint = Endpoint(settings, FakeTransport())

    assert (endpoint.label, str(endpoint.url), endpoint.authority) == (label, url, authority)
    assert endpoint.base_path == settings.base_path.encode()


@pytest.mark.parametrize(
    ("settings", "has_host_name"),
    [
        (at(host="shop.internal"), True),
        (at(host="localhost"), True),
        (at(host="127.0.0.1"), False),
        (at(host="::1"), False),
        (at(host="fe80::1%eth0"), False),
        (EndpointSettings("unix:/run/shop.sock", "unix", "localhost", 80, uds="/run/shop.sock"), False),
    ],
)
def test_only_names_are_looked_up(settings: EndpointSettings, has_host_name: bool) -> None:
    assert settings.has_host_name is has_host_name


def test_settings_compare_by_value_and_can_be_keys() -> None:
    assert {UpstreamSettings("shop", (at(9001),))} == {UpstreamSettings("shop", (at(9001),))}
    assert UpstreamSettings("shop", (at(9001),)) != UpstreamSettings("shop", (at(9001, weight=2),))


def test_primaries_come_before_backups() -> None:
    primary, backup = Endpoint(at(9001), FakeTransport()), Endpoint(at(9002, backup=True), FakeTransport())

    assert open_endpoints((primary, backup), 0.0) == (primary,)
    primary.health.healthy = False
    assert open_endpoints((primary, backup), 0.0) == (backup,)
    backup.health.healthy = False
    assert open_endpoints((primary, backup), 0.0) == ()


@pytest.mark.parametrize(
    ("panic", "unhealthy", "expected"),
    [(0.0, 4, 0), (0.5, 1, 3), (0.5, 2, 2), (0.5, 3, 4), (0.5, 4, 4), (0.1, 3, 1)],
)
def test_below_the_panic_threshold_health_is_ignored(panic: float, unhealthy: int, expected: int) -> None:
    endpoints = endpoints_of(1, 1, 1, 1)
    for endpoint in endpoints[:unhealthy]:
        endpoint.health.healthy = False

    assert len(open_endpoints(endpoints, panic)) == expected


def test_panic_brings_back_neither_drained_nor_weightless_endpoints() -> None:
    drained, weightless, sick = endpoints_of(1, 0, 1)
    drained.drain = True
    sick.health.healthy = False

    assert open_endpoints((drained, weightless, sick), 1.0) == (sick,)


def test_every_reason_to_be_out_has_a_word() -> None:
    drained, weightless, sick, ejected, trial, full, fine = endpoints_of(1, 0, 1, 1, 1, 1, 1)
    drained.drain = True
    sick.health.healthy = False
    ejected.ejection.until = trial.ejection.until = 1.0
    trial.ejection.half_open = True
    trial.ejection.begin_trial(1.0)
    full.in_flight = full.limit

    words = [why_out(endpoint) for endpoint in (drained, weightless, sick, ejected, trial, full, fine)]

    assert words == [
        "127.0.0.1:9001 drained",
        "127.0.0.1:9002 weight 0",
        "127.0.0.1:9003 unhealthy",
        "127.0.0.1:9004 ejected",
        "127.0.0.1:9005 on trial",
        "127.0.0.1:9006 full",
        "",
    ]


def test_a_reading_is_a_copy() -> None:
    endpoint = endpoints_of(3)[0]
    endpoint.in_flight = 2
    state = state_of(endpoint)
    endpoint.in_flight = 5

    assert (state.label, state.weight, state.in_flight, state.healthy) == (label_of(endpoint.settings), 3, 2, True)
