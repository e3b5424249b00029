"""Gateways that share a Redis: what they share, and what they do when it dies, hangs or talks nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from gateway.runtime import make_store
from gateway.stores.redis import RedisStore
from tests.cache.test_gateway import CC, Halves, begun, cached, came_from
from tests.stores.redis_server import REDIS_SERVER, running_redis
from tests.support.gateway import Served, request, serving, until
from tests.support.ports import port_of_its_own
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, response

pytestmark = [pytest.mark.anyio]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_redis(tmp_path_factory.mktemp("redis")) as number:
        yield number


def with_redis(port: int, origin: str, *, timeout: str = "2s", prefix: str = "", **route: Any) -> dict[str, Any]:
    store = {"store": f"redis://127.0.0.1:{port}/0", "timeout": timeout, "prefix": prefix or secrets.token_hex(4)}
    return {**cached(origin, **route), "cache": store}


async def numbered(connection: ScriptedConnection) -> None:
    """Answers with its own number."""
    number = 0
    while True:
        seen = await connection.read_request()
        number += 1
        body = b"%b %d.%d" % (seen.target, connection.index, number)
        await connection.send(response(200, [CC, (b"ETag", b'"1"'), (b"Surrogate-Key", b"page")], body))


@contextlib.asynccontextmanager
async def two(port: int, origin: str) -> AsyncIterator[tuple[Served, Served]]:
    table = with_redis(port, origin)
    async with serving(table) as first, serving(table) as second:
        yield first, second


@pytest.mark.redis
@pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server on PATH")
class TestShared:
    async def test_two_gateways_share_and_purge(self, port: int) -> None:
        async with ScriptedUpstream(numbered) as origin, two(port, origin.url) as (first, second):
            stored = await first.ask(request(target=b"/a"))
            # The answer is out a moment before it is stored.
            await until(lambda: not first.gateway.cache.background)
            hit = await second.ask(request(target=b"/a"))
            assert came_from(stored) == "uri-miss" and came_from(hit) == "hit"
            assert hit.body == stored.body and hit.value(b"age") is not None
            for what in (
                {"url": "http://example.com/a"},
                {"tag": "page"},
                {"prefix": "http://example.com/"},
                {"everything": True},
            ):
                assert await second.gateway.cache.purge(**what) == 1
                assert came_from(await first.ask(request(target=b"/a"))) == "uri-miss"
                await until(lambda: not first.gateway.cache.background)
                assert came_from(await second.ask(request(target=b"/a"))) == "hit"
            assert (await second.ask(request("POST", b"/a", body=b"x"))).status == 200
            assert came_from(await first.ask(request(target=b"/a"))) == "uri-miss"

    async def test_two_gateways_make_one_upstream_request(self, port: int) -> None:
        script = Halves()
        async with ScriptedUpstream(script) as origin, two(port, origin.url) as (first, second):
            async with first.client() as client:
                client.write(request())
                head = await begun(client)
                asking = [asyncio.ensure_future(second.ask(request())) for _ in range(20)]
                await until(lambda: bool(second.gateway.cache.background))
                script.go_on.set()
                await client.finish(head)
            answers = await asyncio.gather(*asking)
            assert {answer.body for answer in answers} == {b"first.second"}
            assert len(origin.requests) == 1

    async def test_large_bodies_and_parts_of_them(self, port: int) -> None:
        body = bytes(range(256)) * 4096

        async def large(connection: ScriptedConnection) -> None:
            while True:
                await connection.read_request()
                await connection.send(response(200, [CC], body))

        async with ScriptedUpstream(large) as origin, two(port, origin.url) as (first, second):
            assert (await first.ask(request())).body == body
            await until(lambda: not first.gateway.cache.background)
            assert (await second.ask(request())).body == body
            part = await second.ask(request(fields=[(b"Range", b"bytes=300000-300009")]))
            assert part.status == 206 and part.body == body[300000:300010]
            assert len(origin.requests) == 1

    async def test_it_is_killed_and_comes_back_under_load(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, logger="gateway.cache")
        server = Killable(tmp_path)
        server.start()
        try:
            async with ScriptedUpstream(numbered) as origin, serving(with_redis(server.port, origin.url)) as served:
                load = Load(served)
                tasks = [asyncio.ensure_future(load.run(number)) for number in range(8)]
                await until(lambda: load.hits > 50)
                server.kill()
                done = load.done
                await until(lambda: load.done > done + 200)
                assert [record.message.split(" (")[0] for record in caplog.records] == ["the cache's Redis is away"]
                server.start()
                await until(lambda: len(caplog.records) == 2)
                assert caplog.records[1].message == "the cache's Redis is back"
                hits = load.hits
                await until(lambda: load.hits > hits + 50)
                load.stopped = True
                await asyncio.gather(*tasks)
                assert load.failed == []
                assert len(caplog.records) == 2
        finally:
            server.kill()


class Killable:
    """A redis-server that can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = port_of_its_own()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert REDIS_SERVER is not None
        self._process = subprocess.Popen(
            [REDIS_SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None
        raise AssertionError("redis-server does not answer")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Load:
    """Clients that never stop asking, for few targets."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.done = 0
        self.hits = 0
        self.failed: list[object] = []
        self.stopped = False

    async def run(self, number: int) -> None:
        async with self.served.client() as client:
            while not self.stopped:
                target = b"/%d" % (self.done % 5)
                client.write(request(target=target))
                answer = await client.answer()
                self.done += 1
                if answer.status != 200 or not answer.complete or not answer.body.startswith(target + b" "):
                    self.failed.append((answer.status, answer.body))
                self.hits += came_from(answer) == "hit"
                await asyncio.sleep(0)


# A server that is none.

GARBAGE = [
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"+OK\r\n",
    b":1\r\n",
    b":x\r\n",
    b"$x\r\n",
    b"$-7\r\n",
    b"$5\r\nab",
    b"*2\r\n$1\r\na\r\n$4\r\n\x80\x80\x80\x80\r\n",
    b"*2\r\n*1\r\n:1\r\n:2\r\n",
    b"*1\r\n",
    b"*x\r\n",
    b"%1\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"%1\r\n*1\r\n:1\r\n:1\r\n",
    b"-ERR no\r\n",
    b"-LOADING\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"-MOVED 1 127.0.0.1:1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",nan\r\n",
    b"(9" + b"9" * 5000 + b"\r\n",
    b"\x00\xff\r\n" * 100,
    b"",
]


@contextlib.asynccontextmanager
async def pretender(reply: Callable[[bytes], bytes | None]) -> AsyncIterator[int]:
    """A port where each read gets an answer; None: the connection is closed; nothing at all for ``silent``."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                answer = reply(data)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda value: repr(value[:24]))
async def test_redis_that_talks_nonsense_costs_no_answer(garbage: bytes) -> None:
    async with (
        ScriptedUpstream(numbered) as origin,
        pretender(lambda data: garbage or None) as port,
        serving(with_redis(port, origin.url, timeout="20ms")) as served,
    ):
        for _ in range(5):
            answer = await served.ask(request(target=b"/a"))
            assert answer.status == 200 and answer.complete
            assert answer.body.startswith(b"/a ")
            assert came_from(answer) != "hit"
        head = await served.ask(request("HEAD", b"/a"))
        assert head.status == 200
        posted = await served.ask(request("POST", b"/a", body=b"x"))
        assert posted.status == 200


async def test_redis_that_hangs_costs_its_timeout_once(caplog: pytest.LogCaptureFixture) -> None:
    asked = 0

    def silent(data: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return b""

    async with (
        ScriptedUpstream(numbered) as origin,
        pretender(silent) as port,
        serving(with_redis(port, origin.url, timeout="50ms")) as served,
    ):
        first = await served.ask(request(target=b"/a"))
        assert first.status == 200
        before = asked
        # While it is left alone nobody waits for it.
        for _ in range(5):
            assert (await served.ask(request(target=b"/a"))).status == 200
        assert asked == before
        assert len([record for record in caplog.records if record.name == "gateway.cache"]) == 1


@pytest.mark.redis
@pytest.mark.skipif(REDIS_SERVER is None, reason="needs redis-server on PATH")
async def test_late_replies_reach_nobody_else(port: int) -> None:
    """Operations that time out leave their reply on the wire; who asks next must not get it."""
    delay_s = 0.0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, late: bool) -> None:
            while data := await source.read(65536):
                if late and delay_s:
                    await asyncio.sleep(delay_s)
                target.write(data)

        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        ways = [
            asyncio.ensure_future(pipe(reader, up_writer, late=False)),
            asyncio.ensure_future(pipe(up_reader, writer, late=True)),
        ]
        relayed.extend(ways)
        with contextlib.suppress(OSError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        writer.transport.abort()
        up_writer.transport.abort()

    relayed: list[asyncio.Future[None]] = []
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    store_port = server.sockets[0].getsockname()[1]
    try:
        async with (
            ScriptedUpstream(numbered) as origin,
            serving(with_redis(store_port, origin.url, timeout="30ms")) as served,
        ):
            store = served.gateway.cache.store
            assert isinstance(store, RedisStore)
            targets = [b"/%d" % number for number in range(20)]
            for round_ in range(6):
                delay_s = 0.028 if round_ % 2 else 0.0
                answers = await asyncio.gather(*(served.ask(request(target=target)) for target in targets))
                for target, answer in zip(targets, answers, strict=True):
                    assert answer.status == 200 and answer.body.startswith(target + b" ")
                # Ask it again at once.
                store._retry_at = 0.0
    finally:
        server.close()
        for way in relayed:
            way.cancel()
        await asyncio.gather(*relayed, return_exceptions=True)
        await server.wait_closed()


# Configuration.


async def test_the_configuration_admits_it() -> None:
    table: dict[str, Any] = {"routes": [{"path": "/*", "respond": {"status": 204}}]}
    for url in ("redis://127.0.0.1:6379/0", "rediss://user:secret@redis.example:6380/2", "redis://host"):
        config = load_config({**table, "cache": {"store": url, "timeout": "100ms", "prefix": "p:"}})
        store = make_store(config.cache)
        assert isinstance(store, RedisStore) and store.timeout_s == 0.1 and store.prefix == "p:"
        assert "secret" not in repr(config)
        await store.aclose()
    with pytest.raises(ConfigError, match="redis"):
        load_config({**table, "cache": {"store": "http://host"}})


def test_a_missing_extra_is_an_error_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.config.checks.missing_extra", lambda name: f"needs the extra {name}")
    with pytest.raises(ConfigError, match="needs the extra redis"):
        load_config({"cache": {"store": "redis://h"}, "routes": [{"path": "/*", "respond": {"status": 204}}]})
