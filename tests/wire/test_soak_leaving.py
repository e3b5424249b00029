"""Ten thousand clients that leave at random moments leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.upstream.http1 import Http1Transport
from tests.support.gateway import Served, proxying, request, serving, until
from tests.wire.support import own_server

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(300), own_server]

CLIENTS = 10_000
AT_A_TIME = 100
BODY = bytes(50_000)


@contextlib.asynccontextmanager
async def dawdling_origin(rng: random.Random) -> AsyncIterator[str]:
    """Answers everything, with pauses at every phase; never fails."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(rng.choice((0, 0, 0.001, 0.005)))
                if b"content-length: " in head.lower():
                    await reader.readexactly(len(BODY))
                await asyncio.sleep(rng.choice((0, 0, 0.001, 0.01)))
                if rng.random() < 0.5:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(5):
                    await asyncio.sleep(rng.choice((0, 0.001)))
                    writer.write(b"4000\r\n%b\r\n" % bytes(0x4000))
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            # The last is what uvloop says of a connection that is gone.
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def visit(served: Served, rng: random.Random) -> bool:
    """One client that leaves sooner or later; whether it stayed for the whole answer."""
    raw = request("POST" if rng.random() < 0.5 else "GET", body=BODY if rng.random() < 0.5 else None)
    client = await served.connect()
    try:
        cut = rng.choice((0, rng.randrange(len(raw)), len(raw), len(raw), len(raw)))
        client.write(raw[:cut])
        if cut < len(raw):
            await asyncio.sleep(rng.choice((0, 0.001, 0.01)))
            return False
        patience_s = rng.choice((0.0, 0.001, 0.003, 0.01, 0.03, 0.15, 60.0))
        async with asyncio.timeout(patience_s):
            answer = await client.answer()
        assert answer.status == 200 and answer.complete
        return True
    except TimeoutError:
        return False
    finally:
        if rng.random() < 0.5:
            client.leave()
        await client.close()


@pytest.mark.parametrize("seed", [1])
async def test_ten_thousand_clients_that_leave_leave_nothing_behind(server: str, seed: int) -> None:
    rng = random.Random(seed)
    async with dawdling_origin(rng) as origin:
        table = proxying(origin, upstream={"max_connections": 20, "queue_timeout": "60s"}, timeout="60s")
        async with serving(table, server=server) as served:
            assert (await served.ask(request())).status == 200
            await served.at_rest()
            tasks = _gateway_tasks()
            room = asyncio.Semaphore(AT_A_TIME)
            stayed = 0

            async def one() -> None:
                nonlocal stayed
                async with room:
                    has_stayed = await visit(served, rng)
                stayed += has_stayed

            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(one())
            await served.at_rest()
            print(f"\n{stayed} of {CLIENTS} clients stayed to the end")
            assert 0 < stayed < CLIENTS
            (endpoint,) = served.upstream.endpoints
            assert isinstance(endpoint.transport, Http1Transport)
            transport = endpoint.transport
            await until(lambda: transport.connections == transport.idle_count)
            assert (endpoint.in_flight, endpoint.failures) == (0, 0)
            assert endpoint.ejection.failures == 0 and endpoint.ejection.until is None
            assert served.upstream.retry_budget.spent == 0
            await until(lambda: not served.state.tasks and not served.state.connections)
            await until(lambda: len(_gateway_tasks()) <= len(tasks))
            outcomes = {exchange.outcome for exchange in served.exchanges}
            assert outcomes <= {"done", "client-left", "refused"}
            assert (await served.ask(request())).status == 200


def _gateway_tasks() -> list[asyncio.Task[Any]]:
    """Tasks that are not the origin's connections, which stay while the gateway keeps them."""
    return [
        task for task in asyncio.all_tasks() if "dawdling_origin" not in getattr(task.get_coro(), "__qualname__", "")
    ]
