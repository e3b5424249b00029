"""Reloads while requests run, and reloads that fail."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from gateway.server.reload import reload_gateway
from tests.support.gateway import Served, make_gateway, proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, respond, response

pytestmark = pytest.mark.anyio


def answering(text: bytes) -> Any:
    return respond(response(body=text))


def table(*urls: str, **route: Any) -> dict[str, Any]:
    made = proxying(*urls, **route)
    made["server"]["access_log"] = "off"
    return made


async def reload(served: Served, config: dict[str, Any]) -> None:
    await served.gateway.reload(load_config(config))


async def test_requests_get_the_new_table_at_once(server: str) -> None:
    async with (
        ScriptedUpstream(answering(b"one")) as one,
        ScriptedUpstream(answering(b"two")) as two,
        serving(table(one.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request())
        assert (await client.answer()).body == b"one"
        await reload(served, table(two.url))
        client.write(request())
        assert (await client.answer()).body == b"two"
        await until(lambda: not one.open_connections)


async def test_a_running_request_goes_on_across_a_reload_and_its_generation_is_closed_after_it(server: str) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        await go_on.wait()
        await connection.send(b"def")
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as one,
        ScriptedUpstream(answering(b"two")) as two,
        serving(table(one.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request())
        answer = await client.head()
        assert await client.reader.readexactly(3) == b"abc"
        for _ in range(3):
            await reload(served, table(two.url))
        assert (await served.ask(request())).body == b"two"
        assert one.open_connections == 1
        answer.body = b"abc"
        go_on.set()
        await client.finish(answer)
        assert answer.body == b"abcdef" and answer.complete
        await until(lambda: not served.gateway.live.retired and not one.open_connections)


async def test_connections_of_an_unchanged_upstream_stay(server: str) -> None:
    async with (
        ScriptedUpstream(answering(b"one")) as one,
        serving(table(one.url), server=server) as served,
    ):
        for number in range(3):
            assert (await served.ask(request())).body == b"one"
            await reload(served, table(one.url, request_headers={"set": {"X-Number": str(number)}}))
        assert len(one.connections) == 1


async def test_an_unchanged_route_keeps_its_stack(server: str) -> None:
    async with (
        ScriptedUpstream(answering(b"one")) as one,
        serving(table(one.url), server=server) as served,
    ):
        before = served.gateway.generation.routes["all"]
        config = table(one.url)
        config["routes"].append({"name": "more", "path": "/more", "respond": {"body": "x"}})
        await reload(served, config)
        assert served.gateway.generation.routes["all"] is before
        assert (await served.ask(request("GET", b"/more"))).body == b"x"


async def test_health_counters_survive_a_reload(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()

    async with (
        ScriptedUpstream(script) as one,
        serving(table(one.url, retry=False), server=server) as served,
    ):
        for _ in range(2):
            assert (await served.ask(request())).status == 502
        assert served.upstream.snapshot()[0].failures == 2
        await reload(served, table(one.url, retry=False, upstream={"max_connections": 7}))
        assert served.upstream.snapshot()[0].failures == 2


@pytest.mark.parametrize(
    "broken",
    [
        {"routes": [{"path": "/*", "upstream": "nobody"}]},
        {"routes": [{"path": "/*", "upstream": "http://127.0.0.1:9", "middleware": ["no.such:Thing"]}]},
        {"routes": [{"path": "/*", "upstream": "http://127.0.0.1:9", "middleware": ["builtins:int"]}]},
        {"routes": [{"path": "/*", "upstream": "asgi:no.such.module:app"}]},
        {"routes": [{"path": "/*", "upstream": "asgi:tests.wire.test_reload:refusing_to_start"}]},
    ],
    ids=["reference", "middleware", "middleware that raises", "asgi", "lifespan"],
)
async def test_a_broken_reload_keeps_the_running_one_and_leaves_nothing_behind(
    server: str, broken: dict[str, Any]
) -> None:
    async with ScriptedUpstream(answering(b"one")) as one:
        async with serving(table(one.url), server=server) as served:
            assert (await served.ask(request())).body == b"one"
            endpoint = served.upstream.endpoints[0]
            tasks = len(asyncio.all_tasks())
            generation = served.gateway.generation
            both = {**broken, "upstreams": {"origin": {"endpoints": [one.url], "max_connections": 5}}}
            for _ in range(5):
                with pytest.raises(ConfigError):
                    await reload(served, {**both, "server": {"access_log": "off"}})
            assert served.gateway.generation is generation
            assert (await served.ask(request())).body == b"one"
            assert len(endpoint.owners) == 1
            assert endpoint.limit == 512
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            await reload(served, table(one.url, upstream={"max_connections": 5}))
            assert (await served.ask(request())).body == b"one"
            assert served.upstream.endpoints[0] is endpoint and endpoint.limit == 5
            await until(lambda: len(endpoint.owners) == 1)
        assert len(one.connections) == 1


async def refusing_to_start(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no"})


async def test_a_file_that_does_not_parse_is_reported_and_changes_nothing(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "routes.toml"
    path.write_text('[server]\naccess_log = "off"\n[[routes]]\npath = "/*"\nrespond = { body = "old" }\n')
    gateway = make_gateway(path)
    async with serving(gateway, server=server) as served:
        path.write_text('[[routes]]\npath = "/*"\nrespond = { body = 5 }\n')
        await reload_gateway(gateway)
        assert f"{path}:3:" in caplog.text
        assert (await served.ask(request())).body == b"old"
        path.write_text('[server]\naccess_log = "off"\n[[routes]]\npath = "/*"\nrespond = { body = "new" }\n')
        await reload_gateway(gateway)
        assert (await served.ask(request())).body == b"new"


async def test_no_generation_outlives_its_requests(server: str) -> None:
    async with (
        ScriptedUpstream(answering(b"one")) as one,
        ScriptedUpstream(answering(b"two")) as two,
        serving(table(one.url), server=server) as served,
    ):
        seen = []
        for number in range(10):
            assert (await served.ask(request())).status == 200
            seen.append(weakref.ref(served.gateway.generation))
            await reload(served, table((one, two)[number % 2].url, upstream={"max_connections": 10 + number}))
        await until(lambda: not served.gateway.live.retired)
        gc.collect()
        assert sum(generation() is not None for generation in seen) <= 1


async def test_a_shutdown_waits_for_what_runs(server: str) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await go_on.wait()
        await connection.send(response(body=b"late"))
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as one,
        serving(table(one.url), server=server, lifespan=False) as served,
        served.client() as client,
    ):
        client.write(request())
        await one.connection()
        closing = asyncio.create_task(served.gateway.aclose(30.0))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        assert (await client.answer()).body == b"late"
        await closing
