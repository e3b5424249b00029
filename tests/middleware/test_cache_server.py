"""The cache under a real server, with clients on sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.middleware.cache import CacheMiddleware
from tests.middleware.cache_origin import until

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n%b\r\n"


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="warning", ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    ticking = asyncio.ensure_future(server.main_loop())
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown()


async def fetch(port: int, fields: bytes = b"") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST % fields)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


class Streaming:
    """Gives a body in two halves with a gate between; counts and watches its clients."""

    def __init__(self, cache_control: bytes) -> None:
        self.cache_control = cache_control
        self.count = 0
        self.gate = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.count += 1
        watch = asyncio.ensure_future(self._watch(receive))
        try:
            fields = [(b"cache-control", self.cache_control), (b"etag", b'"1"')]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            done, _ = await asyncio.wait(
                [asyncio.ensure_future(self.gate.wait()), watch], return_when=asyncio.FIRST_COMPLETED
            )
            if watch in done:
                self.left.set()
                return
            await send({"type": "http.response.body", "body": b"last"})
        finally:
            watch.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


async def test_clients_share_and_then_hit() -> None:
    app = Streaming(b"max-age=60")
    middleware = CacheMiddleware(app)
    async with serving(middleware) as port:
        requests = [asyncio.ensure_future(fetch(port)) for _ in range(20)]
        await until(lambda: sum(len(flight.body.readers) for flight in middleware.cache.flights.values()) == 20)
        app.gate.set()
        for answer in await asyncio.gather(*requests):
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"first" in answer
            assert b"last" in answer
        assert app.count == 1
        hit = await fetch(port)
        assert hit.endswith(b"\r\n\r\nfirstlast")
        assert b"content-length: 9\r\n" in hit
        assert b"cache-status: gateway; hit" in hit
        assert (await fetch(port, b'If-None-Match: "1"\r\n')).startswith(b"HTTP/1.1 304 ")
        assert (await fetch(port, b"Range: bytes=-4\r\n")).endswith(b"last")
    await middleware.aclose()


async def test_client_that_leaves_does_not_spoil_the_object() -> None:
    app = Streaming(b"max-age=60")
    middleware = CacheMiddleware(app)
    async with serving(middleware) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"")
        await reader.readuntil(b"first")
        (flight,) = middleware.cache.flights.values()
        writer.transport.abort()
        await until(lambda: flight.leader_left)
        app.gate.set()
        await flight.ended.wait()
        assert not app.left.is_set()
        assert (await fetch(port)).endswith(b"firstlast")
        assert app.count == 1
    await middleware.aclose()


async def test_client_that_leaves_an_answer_of_its_own_ends_it() -> None:
    app = Streaming(b"private")
    middleware = CacheMiddleware(app)
    async with serving(middleware) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"")
        await reader.readuntil(b"first")
        writer.transport.abort()
        await app.left.wait()
        await until(lambda: not middleware.cache.background)
    await middleware.aclose()
