"""Servers that are not the gateway's own cancel a request at any moment, or fail to send its answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from gateway.exchange import Exchange
from gateway.upstream.http1 import Http1Transport
from tests.express.wires import Origin
from tests.support.gateway import RecordingRuntime, Served, make_gateway, proxying, until

SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/2",
    "raw_path": b"/2",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"example.com")],
    "client": ("192.0.2.1", 1234),
    "server": ("192.0.2.2", 80),
}


GUARDED: dict[str, Any] = {"max_concurrent": 1, "rate_limit": {"rate": "1/h", "burst": 5}}


async def _never() -> Any:
    await asyncio.Event().wait()


async def _run(turns: int, *, warm: bool, answers_after: int, fails: bool, **route: Any) -> list[Exchange]:
    """What is recorded of a request that is cancelled, or whose sending fails, after ``turns`` of the event loop."""
    gateway = make_gateway(proxying("http://127.0.0.1:9", retry=False, **route))
    origins: list[Origin] = []
    sent: list[Any] = []

    async def open_connection(factory: Any, timeout_s: float | None = None) -> Any:
        origin = Origin()
        origins.append(origin)
        origin.connect(factory())
        await asyncio.sleep(0)
        return origin, origin.protocol

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        if fails and len(sent) >= 2:
            raise OSError("the client is gone")
        sent.append(message)

    def answer() -> None:
        for origin in origins:
            origin.work()
            if origin.deliver(origin.answer):
                origin.answer = b""

    async with gateway.lifespan():
        (endpoint,) = gateway.generation.upstreams["origin"].endpoints
        assert isinstance(endpoint.transport, Http1Transport)
        endpoint.transport.open_connection = open_connection  # type: ignore[assignment,method-assign]
        if warm:
            first = asyncio.create_task(gateway({**SCOPE}, _never, send))
            await until(lambda: answer() or first.done())  # type: ignore[func-returns-value]
            await first
        task = asyncio.create_task(gateway({**SCOPE}, _never, send))
        for turn in range(turns):
            if turn >= answers_after:
                answer()
            await asyncio.sleep(0)
        if fails:
            await until(lambda: answer() or task.done())  # type: ignore[func-returns-value]
        else:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await task
        await asyncio.sleep(0)
        served = Served(gateway, None, None)  # type: ignore[arg-type]
        assert served.in_use() == {}
        assert gateway.runtime.in_flight.count == gateway.runtime.in_flight_on("all").count == 0
        assert not gateway.runtime.mounted._waiting
        assert isinstance(gateway.runtime, RecordingRuntime)
        for origin in origins:
            origin.reset()
        return gateway.runtime.exchanges[int(warm) :]


@pytest.mark.parametrize("route", [{}, GUARDED, {"cache": True}], ids=["open", "guarded", "cached"])
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("answers_after", [0, 3, 100])
@pytest.mark.parametrize("turns", range(12))
def test_a_request_that_is_cancelled_is_recorded_once_and_leaves_nothing(
    turns: int, answers_after: int, warm: bool, route: dict[str, Any]
) -> None:
    exchanges = asyncio.run(_run(turns, warm=warm, answers_after=answers_after, fails=False, **route))
    assert len(exchanges) == (1 if turns else 0)
    assert {exchange.outcome for exchange in exchanges} <= {"aborted", "done"}


@pytest.mark.parametrize("route", [{}, GUARDED, {"cache": True}], ids=["open", "guarded", "cached"])
def test_an_answer_that_cannot_be_sent_is_recorded_once_and_leaves_nothing(route: dict[str, Any]) -> None:
    (exchange,) = asyncio.run(_run(1, warm=True, answers_after=0, fails=True, **route))
    assert exchange.outcome == "aborted"
