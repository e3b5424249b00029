"""Generations: which one serves, how one takes over, and when the old one ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.document import Config
from gateway.config.load import load_config
from gateway.generation import Generation
from gateway.live import Live
from tests.support.gateway import until
from tests.support.messages import Sent, body_of, http_scope

pytestmark = pytest.mark.anyio

CONFIG = load_config({"routes": [{"path": "/*", "respond": {"body": "x"}}]})


class FakeGeneration:
    """What Live asks of a generation."""

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.events: list[str] = []
        self.release = asyncio.Event()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.in_flight = 0
        self.express = None
        self.on_idle: Callable[[], None] | None = None
        self._fails = fails
        self.successor: object = None

    @property
    def app(self) -> ASGIApp:
        return self._serve

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_flight += 1
        try:
            await self.release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-name", self.name.encode())]})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.in_flight -= 1
            if not self.in_flight and self.on_idle is not None:
                self.on_idle()

    async def start(self) -> None:
        if self._fails:
            raise OSError("it cannot start")
        await self.may_start.wait()
        self.events.append("started")

    async def abandon(self) -> None:
        self.events.append("abandoned")

    async def aclose(self, successor: object) -> None:
        self.successor = successor
        self.events.append("closed")


class Bench:
    def __init__(self, *generations: FakeGeneration) -> None:
        self._waiting = list(generations)
        self.previous: list[object] = []
        self.live = Live(self._build)

    def _build(self, config: Config, previous: Generation | None) -> Generation:
        self.previous.append(previous)
        return cast(Generation, self._waiting.pop(0))

    async def next(self) -> None:
        await self.live.replace(CONFIG)

    def ask(self) -> asyncio.Task[bytes]:
        async def run() -> bytes:
            sent = Sent()
            await self.live.serve(http_scope(), body_of(), sent)
            return sent.values(b"x-name")[0]

        return asyncio.create_task(run())


async def test_before_the_first_nothing_is_up() -> None:
    bench = Bench()
    assert not bench.live.is_up
    with pytest.raises(RuntimeError, match="not been started"):
        _ = bench.live.current


async def test_an_exchange_stays_on_its_generation_which_is_closed_after_it() -> None:
    old, new = FakeGeneration("old"), FakeGeneration("new")
    bench = Bench(old, new)
    await bench.next()
    running = bench.ask()
    await until(lambda: old.in_flight == 1)
    await bench.next()
    assert bench.previous == [None, old]
    later = bench.ask()
    await until(lambda: new.in_flight == 1)
    assert bench.live.retired == 1 and old.events == ["started"]
    old.release.set()
    new.release.set()
    assert await running == b"old" and await later == b"new"
    await until(lambda: bench.live.retired == 0)
    assert old.events == ["started", "closed"] and old.successor is new
    await bench.live.aclose(1.0)
    assert new.events == ["started", "closed"] and new.successor is None


async def test_an_idle_generation_is_closed_at_once() -> None:
    old, new = FakeGeneration("old"), FakeGeneration("new")
    bench = Bench(old, new)
    await bench.next()
    await bench.next()
    await until(lambda: old.events == ["started", "closed"])
    await bench.live.aclose(1.0)


async def test_a_generation_that_cannot_start_is_abandoned_and_the_old_one_stays() -> None:
    old, bad = FakeGeneration("old"), FakeGeneration("bad", fails=True)
    bench = Bench(old, bad)
    await bench.next()
    with pytest.raises(OSError, match="cannot start"):
        await bench.next()
    assert bench.live.current is cast(Any, old)
    assert bad.events == ["abandoned"] and old.events == ["started"]
    await bench.live.aclose(1.0)


async def test_the_end_waits_for_what_runs_and_cuts_it_when_the_time_is_over() -> None:
    for patience_s in (30.0, 0.0):
        only = FakeGeneration("only")
        bench = Bench(only)
        await bench.next()
        running = bench.ask()
        await until(lambda only=only: only.in_flight == 1)  # type: ignore[misc]
        closing = asyncio.create_task(bench.live.aclose(patience_s))
        if patience_s:
            await asyncio.sleep(0)
            assert "closed" not in only.events and not bench.live.is_up
            only.release.set()
        await closing
        assert only.events == ["started", "closed"]
        only.release.set()
        await running


async def test_the_end_does_not_wait_for_older_generations_beyond_its_time() -> None:
    old, new = FakeGeneration("old"), FakeGeneration("new")
    bench = Bench(old, new)
    await bench.next()
    running = bench.ask()
    await until(lambda: old.in_flight == 1)
    await bench.next()
    await bench.live.aclose(0.0)
    assert old.events == ["started", "closed"] and new.events == ["started", "closed"]
    old.release.set()
    await running


async def test_exchanges_of_older_generations_have_the_same_time_to_end() -> None:
    old, new = FakeGeneration("old"), FakeGeneration("new")
    bench = Bench(old, new)
    await bench.next()
    running = bench.ask()
    await until(lambda: old.in_flight == 1)
    await bench.next()
    closing = asyncio.create_task(bench.live.aclose(30.0))
    for _ in range(10):
        await asyncio.sleep(0)
    assert old.events == ["started"]
    old.release.set()
    await running
    await closing
    assert old.events == ["started", "closed"] and new.events == ["started", "closed"]


async def test_a_reload_that_is_under_way_is_closed_too() -> None:
    old, new = FakeGeneration("old"), FakeGeneration("new")
    new.may_start.clear()
    bench = Bench(old, new)
    await bench.next()
    reloading = asyncio.create_task(bench.next())
    await until(lambda: len(bench.previous) == 2)
    closing = asyncio.create_task(bench.live.aclose(1.0))
    await asyncio.sleep(0)
    new.may_start.set()
    await reloading
    await closing
    assert old.events == ["started", "closed"] and new.events == ["started", "closed"]
    assert not bench.live.is_up


async def test_a_request_while_it_closes_is_refused() -> None:
    bench = Bench(FakeGeneration("only"))
    await bench.next()
    await bench.live.aclose(1.0)
    sent = Sent()
    await bench.live.serve(http_scope(), body_of(), sent)
    assert sent.status == 503 and sent.values(b"retry-after") == [b"1"]
    sent = Sent()
    await bench.live.serve({"type": "websocket"}, body_of(), sent)
    assert sent.messages == [{"type": "websocket.close", "code": 1012}]
