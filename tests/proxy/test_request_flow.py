"""Request bodies that flow: from the client's connection to the upstream's, through every change of plan."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

import pytest

from tests.support.gateway import GATEWAY, UVICORN, Served, proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, respond, response
from tests.wire.support import OWN, STOCK

pytestmark = pytest.mark.anyio

OK = response(200, body=b"hello")
SIZE = 8 * 1024 * 1024
BODY = bytes(range(256)) * (SIZE // 256)


@pytest.fixture(params=[OWN, STOCK])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def server(anyio_backend: Any) -> str:
    """Which server a test runs under."""
    return GATEWAY if anyio_backend == OWN.values[0] else UVICORN


async def test_an_upload_is_sent_again_after_its_upstream_died_while_it_waited(server: str) -> None:
    asked: list[bytes] = []

    async def script(connection: ScriptedConnection) -> None:
        if connection.index:
            asked.append((await connection.read_request()).body)
            await connection.send(OK)
            await connection.wait_eof()
            return
        await connection.read_head()
        connection.stop_reading()
        # By then it takes nothing more, and the gateway takes nothing more from the client.
        await asyncio.sleep(0.3)
        connection.reset()

    async with ScriptedUpstream(script) as upstream:
        retry = {"attempts": 2, "methods": ["PUT"], "max_body": "64MiB", "on": ["reset"], "backoff": "2s"}
        config = proxying(upstream.url, retry=retry, max_body="64MiB")
        async with serving(config, server=server) as served, served.client() as client:
            client.write(request("PUT", body=BODY))
            answer = await asyncio.wait_for(client.answer(), 20)
            assert answer.status == 200
            assert asked == [BODY]


async def test_an_upload_goes_to_one_upstream_at_a_time(server: str) -> None:
    """An early refusal whose own body is not over leaves the first upload running."""
    body = b"".join(b"%07d " % number for number in range(4000))
    half = len(body) // 2
    go_on = asyncio.Event()

    async def refusing(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await connection.read_exactly(half)
        await connection.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 10\r\n\r\nhello")
        await go_on.wait()
        await connection.send(b"world")
        await connection.wait_eof()

    async with ScriptedUpstream(refusing) as busy, ScriptedUpstream(respond(OK)) as alive:
        config = proxying(
            busy.url,
            alive.url,
            upstream={"balance": "first"},
            retry={"attempts": 2, "methods": ["PUT"], "on": [503], "max_body": "1MiB"},
        )
        async with serving(config, server=server) as served, served.client() as client:
            raw = request("PUT", body=body)
            client.write(raw[: len(raw) - half])
            await until(lambda: bool(busy.connections) and len(busy.connections[0].received) > half)
            await asyncio.sleep(0.1)
            client.write(raw[len(raw) - half :])
            go_on.set()
            answer = await asyncio.wait_for(client.answer(), 20)
            assert (answer.status, alive.requests) == (503, [])


def taking_turns(rng: random.Random) -> Any:
    """A script that answers each request with the digest of its body, and stops reading now and then."""

    async def stutter(connection: ScriptedConnection) -> None:
        while not connection.closed.is_set():
            connection.stop_reading()
            await asyncio.sleep(rng.random() * 0.01)
            if not connection.closed.is_set():
                connection.start_reading()
            await asyncio.sleep(rng.random() * 0.02)

    async def script(connection: ScriptedConnection) -> None:
        stuttering = asyncio.create_task(stutter(connection))
        try:
            while True:
                asked = await connection.read_request()
                await connection.send(response(200, body=hashlib.sha256(asked.body).hexdigest().encode()))
        finally:
            stuttering.cancel()

    return script


@pytest.mark.parametrize(
    "route", [{}, {"retry": {"methods": ["PUT"], "max_body": "256KiB"}}, {"buffer_request": "64KiB"}]
)
async def test_many_uploads_at_once_arrive_as_they_were_sent(route: dict[str, Any], server: str) -> None:
    rng = random.Random(4711)

    async def upload(served: Served) -> None:
        async with served.client() as client:
            for _ in range(3):
                body = rng.randbytes(
                    rng.choice([0, 1, 100, 16384, 65536, 300_000, 1_500_000, rng.randrange(2_000_000)])
                )
                is_chunked = rng.random() < 0.5
                fields = (
                    [(b"Transfer-Encoding", b"chunked")] if is_chunked else [(b"Content-Length", b"%d" % len(body))]
                )
                wire = request("PUT", fields=fields)
                position = 0
                while position < len(body):
                    piece = body[position : position + rng.choice([1, 7, 1000, 16384, 70_000, 400_000])]
                    position += len(piece)
                    wire += b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece
                    if rng.random() < 0.5 or len(wire) > 500_000:
                        client.write(wire)
                        wire = b""
                        await client.writer.drain()
                        await asyncio.sleep(rng.choice([0, 0, 0.001]))
                client.write(wire + (b"0\r\n\r\n" if is_chunked else b""))
                answer = await client.answer()
                assert (answer.status, answer.body) == (200, hashlib.sha256(body).hexdigest().encode())

    async with (
        ScriptedUpstream(taking_turns(rng)) as upstream,
        serving(proxying(upstream.url, max_body="64MiB", **route), server=server) as served,
    ):
        await asyncio.gather(*[upload(served) for _ in range(30)])
        exchanges = await served.ended(90)
        assert {(exchange.status, exchange.outcome) for exchange in exchanges} == {(200, "done")}


async def test_a_body_above_the_limit_stops_at_the_byte(server: str) -> None:
    received = bytearray()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await connection.wait_eof()
        received.extend(connection.received.partition(b"\r\n\r\n")[2])

    async with ScriptedUpstream(script) as upstream:
        config = proxying(upstream.url, max_body="100KiB", retry=False)
        async with serving(config, server=server) as served, served.client() as client:
            client.write(request("PUT", fields=[(b"Transfer-Encoding", b"chunked")]))
            for number in range(101):
                client.write(b"400\r\n%b\r\n" % (b"%d" % (number % 10) * 1024))
                await asyncio.sleep(0.001)
            assert (await client.answer()).status == 413
            (exchange,) = await served.ended(1)
            assert exchange.status == 413
    assert received.count(b"400\r\n") <= 100


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_an_end_at_any_moment_of_an_upload_frees_everything(who: str, server: str) -> None:
    rng = random.Random(7)
    moments = [rng.randrange(400_000) for _ in range(12)]

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        if who == "upstream":
            await connection.read_exactly(moments[connection.index % len(moments)] // 2)
            if connection.index % 2:
                connection.reset()
            return
        await connection.wait_eof()

    async with ScriptedUpstream(script) as upstream:
        config = proxying(upstream.url, max_body="64MiB", retry=False)
        async with serving(config, server=server) as served:
            for moment in moments:
                async with served.client() as client:
                    wire = request("PUT", body=bytes(400_000))
                    client.write(wire[:moment] if who == "client" else wire)
                    if who == "client":
                        await asyncio.sleep(rng.random() * 0.01)
                        client.leave()
                    else:
                        assert (await client.answer()).status == 502
            count = len(moments) if who == "upstream" else 0
            await served.at_rest()
            exchanges = await served.ended(count)
            assert {exchange.outcome for exchange in exchanges} <= {"client-left", "failed"}
