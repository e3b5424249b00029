"""Applications in the gateway's own process, as the only endpoint and as the fallback of a server that is down."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from websockets.asyncio.client import connect

from gateway.app import Gateway
from tests.streams import decoders
from tests.streams.support import MOUNTED, OWN, SANSIO, running, websocket_origin
from tests.support.gateway import Answer, Client, proxying, request, serving
from tests.support.upstream import ScriptedUpstream, refused_port, respond, response

pytestmark = pytest.mark.anyio

FALLBACK = "asgi:tests.streams.apps:fallback"
servers = pytest.mark.parametrize("server", [OWN, SANSIO, MOUNTED])


async def ask(port: int, data: bytes, method: str = "GET") -> Answer:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    client.write(data)
    answer = await client.answer(method)
    await client.close()
    return answer


def with_fallback(url: str) -> dict[str, Any]:
    return proxying(url, FALLBACK, upstream={"balance": "first", "outlier": False})


@servers
async def test_the_application_answers_while_the_server_is_down_and_no_longer_when_it_is_back(server: str) -> None:
    async with (
        ScriptedUpstream(respond(response(body=b"remote"))) as upstream,
        running(with_fallback(upstream.url), server) as (_, port, prefix),
    ):
        data = request("GET", f"{prefix}/a%2Fb?x=1".encode())
        assert (await ask(port, data)).body == b"remote"
        await upstream.stop_listening()
        for connection in upstream.connections:
            connection.close()
            await connection.closed.wait()
        for _ in range(3):
            answer = await ask(port, data)
            assert (answer.status, answer.body) == (200, b"fallback GET /a/b?x=1")
        await upstream.__aenter__()
        assert (await ask(port, data)).body == b"remote"


@servers
async def test_an_upload_goes_to_the_fallback_with_its_whole_body(server: str) -> None:
    body = bytes(range(256)) * 2000
    with refused_port() as port_down:
        async with running(with_fallback(f"http://127.0.0.1:{port_down}"), server) as (_, port, prefix):
            answer = await ask(port, request("POST", f"{prefix}/echo".encode(), body=body), "POST")
            assert answer.status == 200 and answer.complete and answer.body == body


@servers
async def test_a_websocket_goes_to_the_fallback(server: str) -> None:
    with refused_port() as port_down:
        down = f"http://127.0.0.1:{port_down}"
        async with (
            running(with_fallback(down), server) as (_, port, prefix),
            connect(f"ws://127.0.0.1:{port}{prefix}/chat", proxy=None) as client,
        ):
            assert await client.recv() == "fallback"
            await client.send("x" * 100_000)
            assert await client.recv() == "x" * 100_000


@servers
async def test_a_backup_takes_over_once_the_server_is_ejected(server: str) -> None:
    with refused_port() as port_down:
        endpoints = {"endpoints": [f"http://127.0.0.1:{port_down}", {"url": FALLBACK, "backup": True}]}
        table = proxying(upstream={**endpoints, "outlier": {"failures": 1, "max_ejected": 1.0}})
        async with running(table, server) as (_, port, prefix):
            statuses = [(await ask(port, request("GET", f"{prefix}/".encode()))).status for _ in range(4)]
            assert statuses[1:] == [200, 200, 200]


@servers
async def test_an_application_beside_a_server_gets_its_share(server: str) -> None:
    async with websocket_origin() as (url, _):
        table = proxying(url, FALLBACK, upstream={"balance": "round-robin"})
        async with running(table, server) as (_, port, prefix):
            greetings = []
            for _ in range(4):
                async with connect(f"ws://127.0.0.1:{port}{prefix}/chat", proxy=None) as client:
                    await client.send("echo")
                    greetings.append(await client.recv())
            assert greetings.count("fallback") == 2 and greetings.count("echo") == 2


async def test_a_gateway_with_nothing_but_applications_needs_no_network() -> None:
    table = {
        "routes": [{"path": "/*", "upstream": FALLBACK, "compress": {"min_size": "1B"}}],
        "server": {"access_log": "off"},
    }
    async with serving(Gateway.from_config(table)) as served:
        for coding, number in itertools.product(("gzip", "br", "zstd"), range(2)):
            fields = [(b"Accept-Encoding", coding.encode())]
            answer = await served.ask(request("GET", b"/%d" % number, fields))
            assert answer.value(b"content-encoding") == coding.encode()
            assert decoders.decode(coding, answer.body) == b"fallback GET /%d?" % number
