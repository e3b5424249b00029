"""Timeouts: never before the configured time, soon after it, and each on the account of who was slow."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.gateway import Stopwatch, proxying, request, serving, until
from tests.support.upstream import (
    ScriptedConnection,
    ScriptedUpstream,
    chunked,
    response,
    silent,
    unanswering_port,
)

pytestmark = pytest.mark.anyio

SOON_S = 5.0
"""Far more than the tenths of a second that it takes on an idle machine."""


async def test_no_answer_in_time_is_504(server: str) -> None:
    async with (
        ScriptedUpstream(silent) as origin,
        serving(proxying(origin.url, timeout="300ms", retry=False), server=server) as served,
    ):
        watch = Stopwatch()
        assert (await served.ask(request())).status == 504
        assert 0.3 <= watch.seconds < SOON_S
        await origin.connections[0].closed.wait()


async def test_the_timeout_covers_all_attempts(server: str) -> None:
    async with ScriptedUpstream(silent) as origin:
        retry = {"attempts": 100, "attempt_timeout": "100ms", "backoff": "1ms", "budget": 1.0}
        async with serving(proxying(origin.url, timeout="700ms", retry=retry), server=server) as served:
            watch = Stopwatch()
            assert (await served.ask(request())).status == 504
            assert 0.7 <= watch.seconds < SOON_S
            assert len(origin.connections) > 1


async def test_the_timeout_covers_the_wait_for_a_place(server: str) -> None:
    async with ScriptedUpstream(silent) as origin:
        limits = {"max_connections": 1, "queue_timeout": "30s"}
        async with (
            serving(proxying(origin.url, timeout="300ms", upstream=limits), server=server) as served,
            served.client() as first,
        ):
            first.write(request("POST", b"/", [(b"Content-Length", b"10")]))
            await origin.connection()
            watch = Stopwatch()
            assert (await served.ask(request())).status == 504
            assert 0.3 <= watch.seconds < SOON_S


@pytest.mark.parametrize("setting", ["connect", "route"])
async def test_connecting_that_takes_too_long_is_504(server: str, setting: str) -> None:
    with unanswering_port() as port:
        if setting == "connect":
            table = proxying(f"http://127.0.0.1:{port}", upstream={"connect_timeout": "300ms"}, retry=False)
        else:
            table = proxying(f"http://127.0.0.1:{port}", timeout="300ms", retry=False)
        async with serving(table, server=server) as served:
            watch = Stopwatch()
            assert (await served.ask(request())).status == 504
            assert 0.3 <= watch.seconds < SOON_S


async def test_silence_inside_an_answer_aborts_it(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url, idle_timeout="300ms"), server=server) as served,
    ):
        watch = Stopwatch()
        answer = await served.ask(request())
        assert answer.status == 200 and answer.body == b"abc" and not answer.complete
        assert 0.3 <= watch.seconds < SOON_S


async def test_the_activity_timeout_starts_again_with_each_piece_and_no_total_one_applies(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(response(200, [(b"Transfer-Encoding", b"chunked")], length=False))
        for _ in range(8):
            await asyncio.sleep(0.25)
            await connection.send(chunked(b"x", last=False))
        await connection.send(chunked())
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url, idle_timeout="1500ms", timeout="1s"), server=server) as served,
    ):
        answer = await served.ask(request())
        assert answer.complete and answer.body == b"x" * 8


async def test_a_slow_reader_is_not_a_silent_upstream(server: str) -> None:
    total = 32 * 1024 * 1024

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // 65536):
            await connection.send(bytes(65536))
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url, idle_timeout="1s"), server=server) as served,
        served.client() as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.write(request())
        connection = await origin.connection()
        await until(lambda: connection.transport.get_write_buffer_size() > 0)
        await asyncio.sleep(1.5)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answer = await client.answer()
        assert answer.complete and len(answer.body) == total


async def test_the_time_in_which_the_clients_body_is_awaited_does_not_count(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        seen = await connection.read_request()
        await connection.send(response(body=seen.body))
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url, timeout="1s"), server=server) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Content-Length", b"6")]) + b"abc")
        await origin.connection()
        await asyncio.sleep(1.5)
        client.write(b"def")
        assert (await client.answer("POST")).body == b"abcdef"


async def test_an_upload_that_is_silent_too_long_is_408_and_not_the_upstreams_fault(server: str) -> None:
    async with ScriptedUpstream(silent) as origin:
        limits = {"limits": {"body_timeout": "300ms"}}
        async with serving(proxying(origin.url, server=limits), server=server) as served:
            async with served.client() as client:
                client.write(request("POST", fields=[(b"Content-Length", b"6")]) + b"abc")
                watch = Stopwatch()
                answer = await client.answer("POST")
                assert answer.status == 408 and not answer.keeps_alive
                assert 0.2 <= watch.seconds < SOON_S
            await served.ended(1)
            assert served.upstream.snapshot()[0].failures == 0


async def test_an_upstream_that_takes_nothing_of_an_upload_is_given_up(server: str) -> None:
    async with (
        ScriptedUpstream(silent, reading=False) as origin,
        serving(proxying(origin.url, idle_timeout="300ms", max_body="none"), server=server) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Content-Length", b"1000000000")]))

        async def upload() -> None:
            while True:
                await client.send(bytes(65536))

        task = asyncio.create_task(upload())
        answer = await client.answer("POST")
        assert answer.status == 504 and not answer.keeps_alive
        task.cancel()
        await asyncio.wait([task])
