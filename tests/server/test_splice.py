"""Large request bodies that the kernel moves: every byte once, in order, and no more than announced."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import os
import random
from typing import Any

import pytest

from gateway.server.body_splice import BodySplice
from gateway.server.limits import Limits
from gateway.server.protocol import GatewayProtocol
from gateway.server.splice import CAN_SPLICE, MIN_BYTES
from tests.support.gateway import Client, Served, proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, chunked, response

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not CAN_SPLICE, reason="the kernel cannot")]

SIZE = 5 * MIN_BYTES + 321


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param}


async def digests(connection: ScriptedConnection) -> None:
    """Answer every request with the digest of its body."""
    while True:
        seen = await connection.read_request()
        await connection.send(response(body=hashlib.sha256(seen.body).hexdigest().encode()))


def post(size: int, *more: tuple[bytes, bytes], target: bytes = b"/") -> bytes:
    return request("POST", target, [(b"Content-Length", b"%d" % size), *more])


def connection_of(served: Served) -> GatewayProtocol:
    assert served.connections is not None
    (connection,) = served.connections._open
    assert isinstance(connection, GatewayProtocol)
    return connection


async def is_moving(served: Served) -> None:
    assert served.connections is not None
    connections = served.connections
    await until(lambda: connections.splices == 1)


async def begin(served: Served, client: Client, size: int = SIZE) -> bytes:
    """Send a head and so much of its body that the kernel moves the rest; what was sent."""
    sent = os.urandom(1000)
    client.write(post(size) + sent)
    await until(lambda: served.upstream.in_flight == 1)
    while not served.connections or not served.connections.splices:
        piece = os.urandom(1000)
        client.write(piece)
        sent += piece
        await asyncio.sleep(0.001)
    return sent


async def test_bodies_arrive_as_they_were_sent_and_so_does_what_follows() -> None:
    rng = random.Random(7)
    async with ScriptedUpstream(digests) as origin, serving(proxying(origin.url)) as served, served.client() as client:
        for size in (MIN_BYTES - 1, SIZE, 10, 3 * MIN_BYTES):
            body = rng.randbytes(size)
            # The next request comes right behind the body, in the same packets.
            client.write(post(size) + body + request(target=b"/next"))
            assert (await client.answer()).body == hashlib.sha256(body).hexdigest().encode()
            assert (await client.answer()).body == hashlib.sha256(b"").hexdigest().encode()
        exchanges = await served.ended(8)
        assert [exchange.body_bytes_in for exchange in exchanges[2:4]] == [SIZE, 0]
        assert len(origin.connections) == 1


async def test_the_kernel_moves_what_is_left_of_a_large_body() -> None:
    async with ScriptedUpstream(digests) as origin, serving(proxying(origin.url)) as served, served.client() as client:
        sent = await begin(served, client)
        rest = os.urandom(SIZE - len(sent))
        await client.send(rest)
        assert (await client.answer()).body == hashlib.sha256(sent + rest).hexdigest().encode()
        assert served.connections is not None and served.connections.splices == 0


async def test_many_at_a_time_keep_apart() -> None:
    rng = random.Random(8)

    async def upload(served: Served, number: int) -> None:
        body = rng.randbytes(rng.randrange(1, 4 * MIN_BYTES))
        async with served.client() as client:
            if number % 3:
                client.write(post(len(body)))
                for start in range(0, len(body), 100_000):
                    await client.send(body[start : start + 100_000])
            else:
                client.write(request("POST", fields=[(b"Transfer-Encoding", b"chunked")]))
                await client.send(chunked(body[: len(body) // 2], body[len(body) // 2 :]))
            assert (await client.answer()).body == hashlib.sha256(body).hexdigest().encode()

    async with ScriptedUpstream(digests) as origin, serving(proxying(origin.url)) as served:
        await asyncio.gather(*(upload(served, number) for number in range(24)))


async def test_a_client_that_leaves_is_noticed_and_nothing_is_left() -> None:
    async with ScriptedUpstream(digests) as origin, serving(proxying(origin.url)) as served, served.client() as client:
        await begin(served, client)
        client.leave()
        exchange = (await served.ended(1))[0]
        assert (exchange.status, exchange.outcome) == (499, "client-left")
        await origin.connections[0].closed.wait()
        assert served.connections is not None and served.connections.splices == 0


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_an_upstream_that_breaks_off_is_502(then: str) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await go_on.wait()
        if then == "reset":
            connection.reset()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url, retry=False)) as served,
        served.client() as client,
    ):
        await begin(served, client)
        go_on.set()
        client.write(bytes(SIZE))
        assert (await client.answer()).status == 502
        assert served.connections is not None and served.connections.splices == 0


async def test_an_early_answer_reaches_the_client_and_ends_the_upload() -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await go_on.wait()
        await connection.send(response(413, body=b"too much"))

    async with ScriptedUpstream(script) as origin, serving(proxying(origin.url)) as served, served.client() as client:
        await begin(served, client)
        go_on.set()
        answer = await client.answer()
        assert (answer.status, answer.body, answer.keeps_alive) == (413, b"too much", False)
        assert served.connections is not None and served.connections.splices == 0


async def test_a_slow_upstream_holds_the_client_up() -> None:
    async with (
        ScriptedUpstream(digests, reading=False) as origin,
        serving(proxying(origin.url)) as served,
        served.client() as client,
    ):
        size = 64 * MIN_BYTES
        body = bytes(size)
        client.write(post(size))
        sending = asyncio.ensure_future(client.send(body))
        await is_moving(served)
        intake = connection_of(served).body
        assert intake is not None and intake._splice is not None
        splice = intake._splice
        await until(lambda: splice._splice is not None and splice._splice._is_waiting_to_write)
        assert not sending.done()
        (await origin.connection()).start_reading()
        await sending
        assert (await client.answer()).body == hashlib.sha256(body).hexdigest().encode()


async def test_a_client_that_falls_silent_is_408() -> None:
    limits = Limits(body_timeout_s=0.3)
    async with (
        ScriptedUpstream(digests) as origin,
        serving(proxying(origin.url), limits=limits) as served,
        served.client() as client,
    ):
        await begin(served, client)
        answer = await client.answer()
        assert (answer.status, answer.keeps_alive) == (408, False)
        assert served.upstream.endpoints[0].failures == 0


@pytest.mark.parametrize(
    ("route", "coding", "is_moved"),
    [
        ({}, b"", True),
        # What is not coded needs no decoding.
        ({"decompress_request": True}, b"", True),
        ({"decompress_request": True}, b"gzip", False),
        ({"retry": {"max_body": "64MiB"}}, b"", False),
        ({"buffer_request": "64MiB"}, b"", False),
    ],
)
async def test_what_somebody_looks_at_or_keeps_is_read(
    route: dict[str, Any], coding: bytes, is_moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []
    on_moved = BodySplice.on_moved

    def note(splice: BodySplice, count: int) -> None:
        moved.append(count)
        on_moved(splice, count)

    monkeypatch.setattr(BodySplice, "on_moved", note)
    body = os.urandom(SIZE)
    sent = gzip.compress(body, 1) if coding else body
    async with (
        ScriptedUpstream(digests) as origin,
        serving(proxying(origin.url, **route)) as served,
        served.client() as client,
    ):
        client.write(post(len(sent), *([(b"Content-Encoding", coding)] if coding else [])))
        sending = asyncio.ensure_future(client.send(sent))
        answer = await client.answer()
        await sending
        assert answer.body == hashlib.sha256(body).hexdigest().encode()
        assert bool(moved) is is_moved


async def test_without_descriptors_bodies_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = 0

    def none_left(flags: int) -> tuple[int, int]:
        nonlocal failed
        failed += 1
        raise OSError(errno.EMFILE, "Too many open files")

    body = os.urandom(SIZE)
    async with ScriptedUpstream(digests) as origin, serving(proxying(origin.url)) as served, served.client() as client:
        monkeypatch.setattr("gateway.server.splice.os.pipe2", none_left)
        client.write(post(SIZE))
        sending = asyncio.ensure_future(client.send(body))
        assert (await client.answer()).body == hashlib.sha256(body).hexdigest().encode()
        await sending
        assert failed
        assert served.connections is not None and served.connections.splices == 0
