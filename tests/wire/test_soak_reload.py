"""A reload every 200 ms under load: no request fails, and nothing of the old tables stays."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from gateway.generation import Generation
from gateway.upstream.http1 import Http1Transport
from tests.support.gateway import proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, chunked, response
from tests.wire.support import own_server

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(300), own_server]

SECONDS = 10.0
CLIENTS = 16


async def answering(connection: ScriptedConnection) -> None:
    """Answer in pieces, with a pause between, so that reloads fall into the middle of answers."""
    while True:
        await connection.read_request()
        await connection.send(response(200, [(b"Transfer-Encoding", b"chunked")], length=False))
        await connection.send(chunked(b"one", last=False))
        await asyncio.sleep(0.005)
        await connection.send(chunked(b"two"))


async def test_reloads_under_load_cost_no_request_and_leave_nothing(server: str) -> None:
    async with ScriptedUpstream(answering) as one, ScriptedUpstream(answering) as two:
        tables: list[dict[str, Any]] = [
            proxying(one.url, two.url, server={"access_log": "off"}),
            proxying(
                two.url,
                one.url.replace("127.0.0.1", "localhost"),
                server={"access_log": "off"},
                upstream={"max_connections": 8, "balance": "round-robin"},
                request_headers={"set": {"X-Table": "2"}},
            ),
        ]
        broken: list[dict[str, Any]] = [
            {"routes": [{"path": "/*", "upstream": "nobody"}]},
            {"routes": [{"path": "/*", "upstream": one.url, "middleware": ["no.such:Thing"]}]},
        ]
        async with serving(tables[0], server=server) as served:
            gateway = served.gateway
            assert (await served.ask(request())).status == 200
            await served.at_rest()
            tasks = _own_tasks()
            started = time.monotonic()
            count = 0

            async def load() -> None:
                nonlocal count
                async with served.client() as client:
                    while time.monotonic() - started < SECONDS:
                        client.write(request())
                        answer = await client.answer()
                        assert answer.status == 200 and answer.complete and answer.body == b"onetwo"
                        count += 1

            async def reload() -> int:
                number = 0
                while time.monotonic() - started < SECONDS:
                    number += 1
                    if number % 5 == 0:
                        with pytest.raises(ConfigError):
                            await gateway.reload(load_config(broken[number // 5 % 2]))
                    else:
                        await gateway.reload(load_config(tables[number % 2]))
                    await asyncio.sleep(0.2)
                return number

            async with asyncio.TaskGroup() as group:
                reloading = group.create_task(reload())
                for _ in range(CLIENTS):
                    group.create_task(load())
            print(f"\n{count} requests, {reloading.result()} reloads")
            await served.at_rest()
            await until(lambda: not gateway.live.retired)
            await until(lambda: len(_own_tasks()) <= len(tasks))
            gc.collect()
            generations = [found for found in gc.get_objects() if isinstance(found, Generation)]
            assert generations == [gateway.generation]
            transports = [found for found in gc.get_objects() if isinstance(found, Http1Transport)]
            connections = sum(transport.connections for transport in transports)
            of_now = {id(endpoint.transport) for endpoint in served.upstream.endpoints}
            assert all(id(transport) in of_now for transport in transports if transport.connections)
            await until(lambda: one.open_connections + two.open_connections == connections)
            assert all(endpoint.owners == [served.upstream] for endpoint in served.upstream.endpoints)
            assert len(gateway.runtime.ticker._sweeps) < 10


def _own_tasks() -> list[asyncio.Task[Any]]:
    """Tasks that are not the scripts of an upstream."""
    return [task for task in asyncio.all_tasks() if "Scripted" not in getattr(task.get_coro(), "__qualname__", "")]
