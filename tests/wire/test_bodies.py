"""Bodies in both directions: streaming, framing, ends that are none."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.support.gateway import Client, proxying, request, serving, until
from tests.support.upstream import ScriptedConnection, ScriptedUpstream, chunked, respond, response, silent
from tests.wire.support import own_server

pytestmark = pytest.mark.anyio

OK = response(body=b"ok")
CHUNKED_HEAD = response(200, [(b"Transfer-Encoding", b"chunked")], length=False)


# Streaming.


async def test_the_head_does_not_wait_for_the_body_nor_the_first_byte_for_the_rest(server: str) -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        await go_on.wait()
        go_on.clear()
        await connection.send(b"abc")
        await go_on.wait()
        await connection.send(b"def")
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request())
        answer = await client.head()
        assert answer.status == 200
        go_on.set()
        assert await client.reader.readexactly(3) == b"abc"
        go_on.set()
        assert await client.reader.readexactly(3) == b"def"


async def test_chunks_arrive_one_by_one(server: str) -> None:
    turn = asyncio.Semaphore(0)

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(CHUNKED_HEAD)
        for number in range(5):
            await turn.acquire()
            await connection.send(chunked(b"event %d" % number, last=False))
        await turn.acquire()
        await connection.send(chunked())
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request())
        answer = await client.head()
        assert answer.is_chunked
        for number in range(5):
            turn.release()
            assert await client.chunk() == b"event %d" % number
        turn.release()
        assert await client.chunk() == b""


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_the_first_byte_of_an_upload_reaches_the_upstream_before_the_rest(server: str, framing: str) -> None:
    async with (
        ScriptedUpstream(_uploads) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        if framing == "length":
            client.write(request("POST", fields=[(b"Content-Length", b"6")]))
            first, second = b"abc", b"def"
        else:
            client.write(request("POST", fields=[(b"Transfer-Encoding", b"chunked")]))
            first, second = chunked(b"abc", last=False), chunked(b"def")
        client.write(first)
        connection = await origin.connection()
        await until(lambda: b"abc" in connection.received)
        assert b"def" not in connection.received
        client.write(second)
        answer = await client.answer("POST")
        assert answer.body == b"abcdef"


async def _uploads(connection: ScriptedConnection) -> None:
    """Answer each request with its body."""
    while True:
        seen = await connection.read_request()
        await connection.send(response(body=seen.body))


@own_server
@pytest.mark.parametrize("comes_late", [False, True], ids=["malformed", "late"])
async def test_a_body_that_the_server_refuses_is_one_exchange_with_what_the_client_was_answered(
    comes_late: bool,
) -> None:
    arrived = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"abc")
        arrived.set()
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url)) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Transfer-Encoding", b"chunked")]) + b"3\r\nabc\r\n")
        await arrived.wait()
        if comes_late:
            assert served.connections is not None
            served.connections.sweep(time.monotonic() + 1000)
        else:
            client.write(b"zz\r\n")
        answer = await client.answer("POST")
        assert answer.status == (408 if comes_late else 400)
        (exchange,) = await served.ended(1)
        assert (exchange.status, exchange.outcome, exchange.route) == (answer.status, "refused", "all")
        assert served.upstream.snapshot()[0].failures == 0


async def test_a_slow_reader_pauses_the_upstream(server: str) -> None:
    written = 0
    # Much more than the kernel keeps: up to 32 MiB on each of two connections.
    total = 256 * 1024 * 1024

    async def script(connection: ScriptedConnection) -> None:
        nonlocal written
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        piece = bytes(64 * 1024)
        while written < total:
            await connection.send(piece)
            written += len(piece)
        await connection.wait_eof()

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.write(request())
        stalled_at = await _stalled(lambda: written)
        assert stalled_at < total // 2, "the upstream was not paused"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answer = await client.answer()
        assert len(answer.body) == total and answer.complete


async def test_a_slow_upstream_pauses_the_client(server: str) -> None:
    # Much more than the kernel keeps: up to 32 MiB on each of two connections.
    total = 256 * 1024 * 1024

    async def script(connection: ScriptedConnection) -> None:
        seen = await connection.read_request()
        await connection.send(response(body=b"%d" % len(seen.body)))
        await connection.wait_eof()

    sent = 0
    async with (
        ScriptedUpstream(script, reading=False) as origin,
        serving(proxying(origin.url, max_body="none"), server=server) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Content-Length", b"%d" % total)]))

        async def upload() -> None:
            nonlocal sent
            while sent < total:
                await client.send(bytes(64 * 1024))
                sent += 64 * 1024

        task = asyncio.create_task(upload())
        stalled_at = await _stalled(lambda: sent)
        assert stalled_at < total // 2, "the client was not paused"
        (await origin.connection()).start_reading()
        answer = await client.answer("POST")
        await task
        assert answer.body == b"%d" % total


async def _stalled(position: object) -> int:
    """Where it stays for 100 turns of a millisecond."""
    assert callable(position)
    at, turns = -1, 0
    while turns < 100:
        now = position()
        at, turns = (now, turns + 1) if now == at and now else (now, 0)
        await asyncio.sleep(0.001)
    return at


# Framing.


async def test_content_length_is_kept_and_a_body_without_one_is_chunked(server: str) -> None:
    async with ScriptedUpstream(_uploads) as origin, serving(proxying(origin.url), server=server) as served:
        answer = await served.ask(request("POST", body=b"x" * 100_000))
        assert answer.value(b"content-length") == b"100000" and not answer.is_chunked
        raw = request("POST", fields=[(b"Transfer-Encoding", b"chunked")]) + chunked(b"x" * 70_000, b"y")
        assert (await served.ask(raw)).body == b"x" * 70_000 + b"y"
        first, second = origin.requests
        assert first.values(b"content-length") == [b"100000"] and not first.values(b"transfer-encoding")
        assert second.values(b"transfer-encoding") == [b"chunked"] and not second.values(b"content-length")


async def test_a_body_until_close_becomes_chunked(server: str) -> None:
    async with (
        ScriptedUpstream(respond(response(200, [], b"abc", length=False), close=True)) as origin,
        serving(proxying(origin.url), server=server) as served,
    ):
        answer = await served.ask(request())
        assert answer.is_chunked and answer.complete and answer.body == b"abc"


@own_server
async def test_an_http_10_client_never_gets_chunks(server: str) -> None:
    async with (
        ScriptedUpstream(respond(CHUNKED_HEAD + chunked(b"ab", b"c"))) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request(version=b"1.0", fields=[(b"Connection", b"keep-alive")]))
        answer = await client.answer()
        assert answer.values(b"transfer-encoding") == [] and answer.body == b"abc"


@own_server
async def test_keep_alive_works_with_http_10(server: str) -> None:
    async with (
        ScriptedUpstream(respond(OK)) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        for _ in range(2):
            client.write(request(version=b"1.0", fields=[(b"Connection", b"keep-alive")]))
            answer = await client.answer()
            assert answer.body == b"ok" and answer.keeps_alive
        client.write(request(version=b"1.0"))
        assert (await client.answer()).body == b"ok"
        assert await client.rest() == b""
    assert all(seen.version == b"HTTP/1.1" for seen in origin.requests)


async def test_an_http_10_upstream_is_not_reused_unless_it_says_so(server: str) -> None:
    plain = response(body=b"ok", version=b"HTTP/1.0")
    kept = response(200, [(b"Connection", b"keep-alive")], b"ok", version=b"HTTP/1.0")
    for raw, connections in ((plain, 2), (kept, 1)):
        async with ScriptedUpstream(respond(raw)) as origin, serving(proxying(origin.url), server=server) as served:
            for _ in range(2):
                assert (await served.ask(request())).body == b"ok"
            assert len(origin.connections) == connections


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS"])
async def test_a_body_of_any_method_is_forwarded_with_it(server: str, method: str) -> None:
    async with ScriptedUpstream(_uploads) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request(method, body=b"body"))).body == b"body"


async def test_head_keeps_content_length_and_has_no_body(server: str) -> None:
    raw = response(200, [(b"Content-Length", b"12345"), (b"ETag", b'"x"')], length=False)
    async with ScriptedUpstream(respond(raw)) as origin, serving(proxying(origin.url), server=server) as served:
        async with served.client() as client:
            for _ in range(2):
                client.write(request("HEAD"))
                answer = await client.answer("HEAD")
                assert answer.value(b"content-length") == b"12345" and answer.value(b"etag") == b'"x"'
        assert len(origin.connections) == 1


async def test_head_of_a_chunked_answer(server: str) -> None:
    async with (
        ScriptedUpstream(respond(CHUNKED_HEAD)) as origin,
        serving(proxying(origin.url), server=server) as served,
    ):
        async with served.client() as client:
            for _ in range(2):
                client.write(request("HEAD"))
                assert (await client.answer("HEAD")).status == 200
        assert len(origin.connections) == 1


async def test_304_has_no_body_and_keeps_its_fields(server: str) -> None:
    raw = response(304, [(b"Content-Length", b"12345"), (b"ETag", b'"x"')], length=False)
    async with ScriptedUpstream(respond(raw)) as origin, serving(proxying(origin.url), server=server) as served:
        async with served.client() as client:
            for _ in range(2):
                client.write(request("GET", fields=[(b"If-None-Match", b'"x"')]))
                answer = await client.answer()
                assert answer.status == 304 and answer.value(b"etag") == b'"x"'
                # Servers of others cannot send a length without the body.
                assert answer.values(b"content-length") == ([b"12345"] if server == "gateway" else [])
        assert len(origin.connections) == 1


async def test_204_never_has_a_length(server: str) -> None:
    async with (
        ScriptedUpstream(respond(response(204))) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        for _ in range(2):
            client.write(request("DELETE"))
            answer = await client.answer()
            assert answer.status == 204
            assert answer.values(b"content-length") == answer.values(b"transfer-encoding") == []


async def test_ranges_pass_through_untouched(server: str) -> None:
    body = b"--x\r\nContent-Range: bytes 0-0/3\r\n\r\na\r\n--x--\r\n"
    fields = [(b"Content-Type", b"multipart/byteranges; boundary=x"), (b"Accept-Ranges", b"bytes")]
    async with ScriptedUpstream(respond(response(206, fields, body))) as origin:
        async with serving(proxying(origin.url, compress=True), server=server) as served:
            asked = [(b"Range", b"bytes=0-0,2-2"), (b"If-Range", b'"x"'), (b"Accept-Encoding", b"gzip")]
            answer = await served.ask(request("GET", fields=asked))
            assert answer.status == 206 and answer.body == body
            assert [answer.value(name.lower()) for name, _ in fields] == [value for _, value in fields]
        assert origin.requests[0].values(b"range") == [b"bytes=0-0,2-2"]
        assert origin.requests[0].values(b"if-range") == [b'"x"']


async def test_a_coded_body_passes_undecoded(server: str) -> None:
    coded = bytes(range(256))
    fields = [(b"Content-Encoding", b"gzip"), (b"Content-Type", b"text/plain")]
    async with (
        ScriptedUpstream(respond(response(200, fields, coded))) as origin,
        serving(proxying(origin.url, compress=True), server=server) as served,
    ):
        answer = await served.ask(request("GET", fields=[(b"Accept-Encoding", b"gzip, br")]))
        assert answer.body == coded and answer.values(b"content-encoding") == [b"gzip"]


# Ends that are none.


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"abc"),
        (CHUNKED_HEAD + chunked(b"abc", last=False), b"abc"),
        (CHUNKED_HEAD + b"3\r\nab", b"ab"),
        (CHUNKED_HEAD + b"3\r\nabc\r\nzz\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b""),
    ],
    ids=["short", "no last chunk", "inside a chunk", "bad chunk", "no byte"],
)
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_an_upstream_that_breaks_off_aborts_the_client(
    server: str, raw: bytes, shown: bytes, reset: bool
) -> None:
    head_came = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        head, mark, body = raw.partition(b"\r\n\r\n")
        await connection.send(head + mark)
        await head_came.wait()
        await connection.send(body)
        if reset:
            connection.reset()

    async with ScriptedUpstream(script) as origin, serving(proxying(origin.url), server=server) as served:
        async with served.client() as client:
            client.write(request())
            answer = await client.head()
            assert answer.status == 200
            head_came.set()
            await client.finish(answer)
            assert not answer.complete
            if not reset:
                assert answer.body == shown
            assert await client.rest() == b""
        (exchange,) = await served.ended(1)
        assert exchange.outcome == "aborted"
        assert served.upstream.snapshot()[0].failures == 1


async def test_an_upstream_that_breaks_off_before_its_head_is_502(server: str) -> None:
    for raw in (b"", b"HTTP/1.1 200 OK\r\nContent-"):
        async with (
            ScriptedUpstream(respond(raw, close=True)) as origin,
            serving(proxying(origin.url, retry=False), server=server) as served,
        ):
            answer = await served.ask(request())
            assert answer.status == 502 and answer.complete
            assert answer.value(b"content-type") == b"application/problem+json"


async def test_bytes_after_the_end_of_an_answer_are_given_to_nobody(server: str) -> None:
    extra = OK + response(body=b"POISON")
    async with ScriptedUpstream(respond(extra)) as origin, serving(proxying(origin.url), server=server) as served:
        async with served.client() as client:
            for _ in range(3):
                client.write(request())
                assert (await client.answer()).body == b"ok"
        assert len(origin.connections) == 3


async def test_bytes_that_come_on_an_idle_connection_are_given_to_nobody(server: str) -> None:
    async with ScriptedUpstream(respond(OK)) as origin, serving(proxying(origin.url), server=server) as served:
        assert (await served.ask(request())).body == b"ok"
        await origin.connections[0].send(response(body=b"POISON"))
        await origin.connections[0].closed.wait()
        assert (await served.ask(request())).body == b"ok"
        assert len(origin.connections) == 2


async def test_pipelined_requests_are_answered_in_order(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        while True:
            seen = await connection.read_request()
            await connection.send(response(body=seen.target + seen.body))

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(b"".join(request("POST", b"/%d" % number, body=b"b%d" % number) for number in range(20)))
        for number in range(20):
            assert (await client.answer()).body == b"/%db%d" % (number, number)


# Early answers.


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("ending", ["keeps", "closes", "resets"])
async def test_an_answer_before_the_end_of_the_upload_reaches_the_client(
    server: str, framing: str, ending: str
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await connection.read_some()
        await connection.send(response(413, [], b"too large", reason=b"Content Too Large"))
        if ending == "keeps":
            await connection.wait_eof()
        elif ending == "resets":
            await asyncio.sleep(0)

    async with ScriptedUpstream(script) as origin, serving(proxying(origin.url), server=server) as served:
        async with served.client() as client:
            if framing == "length":
                client.write(request("POST", fields=[(b"Content-Length", b"10000000")]) + bytes(300_000))
            else:
                head = request("POST", fields=[(b"Transfer-Encoding", b"chunked")])
                client.write(head + chunked(bytes(300_000), last=False))
            answer = await client.answer("POST")
            assert answer.status == 413 and answer.body == b"too large" and answer.complete
            assert not answer.keeps_alive
        await until(lambda: not origin.open_connections)


@own_server
async def test_an_early_answer_is_not_reset_away_by_a_client_that_goes_on_sending(server: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_head()
        await connection.send(response(401, [], b"no", reason=b"Unauthorized"))

    async with (
        ScriptedUpstream(script) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Content-Length", b"10000000")]))
        await origin.connection()
        for _ in range(10):
            client.write(bytes(50_000))
            await asyncio.sleep(0)
        answer = await client.answer("POST")
        assert answer.status == 401 and answer.body == b"no"
        assert await client.rest() == b""


async def test_the_gateways_own_early_refusal_closes_the_connection(server: str) -> None:
    table = proxying("http://127.0.0.1:9", path="/there/*")
    async with serving(table, server=server) as served, served.client() as client:
        client.write(request("POST", fields=[(b"Content-Length", b"1000000")]) + bytes(1000))
        answer = await client.answer("POST")
        assert answer.status == 404
        assert not answer.keeps_alive


# Limits of a body.


async def test_a_body_that_announces_too_much_is_refused_before_the_upstream_sees_it(server: str) -> None:
    async with (
        ScriptedUpstream(_uploads) as origin,
        serving(proxying(origin.url, max_body="1KiB"), server=server) as served,
    ):
        async with served.client() as client:
            client.write(request("POST", fields=[(b"Content-Length", b"1025")]))
            answer = await client.answer("POST")
            assert answer.status == 413 and not answer.keeps_alive
        assert origin.connections == []
        assert len((await served.ask(request("POST", body=bytes(1024)))).body) == 1024


async def test_a_chunked_body_that_grows_too_large_is_413(server: str) -> None:
    async with ScriptedUpstream(_uploads) as origin:
        async with serving(proxying(origin.url, max_body="1KiB"), server=server) as served:
            head = request("POST", fields=[(b"Transfer-Encoding", b"chunked")])
            answer = await served.ask(head + chunked(bytes(1024), b"x"))
            assert answer.status == 413 and not answer.keeps_alive
            assert origin.requests == []
            assert len((await served.ask(head + chunked(bytes(1000), bytes(24)))).body) == 1024
        assert all(seen.method != b"POST" or len(seen.body) <= 1024 for seen in origin.requests)


# Expect.


async def test_the_gateway_answers_the_expectation_itself_and_never_forwards_it(server: str) -> None:
    async with ScriptedUpstream(_uploads) as origin, serving(proxying(origin.url), server=server) as served:
        async with served.client() as client:
            client.write(request("POST", fields=[(b"Expect", b"100-continue"), (b"Content-Length", b"4")]))
            assert (await client.head()).status == 100
            client.write(b"body")
            answer = await client.head()
            assert answer.status == 200
            await client.finish(answer)
            assert answer.body == b"body"
        assert origin.requests[0].values(b"expect") == []


@pytest.mark.parametrize(
    ("route", "length", "status"),
    [
        ({"deny": ["127.0.0.0/8"]}, b"4", 403),
        ({"max_body": "1KiB"}, b"1025", 413),
        ({"methods": ["GET"]}, b"4", 405),
        ({"path": "/elsewhere"}, b"4", 404),
    ],
)
async def test_what_is_refused_is_not_told_to_go_on(
    server: str, route: dict[str, Any], length: bytes, status: int
) -> None:
    async with ScriptedUpstream(_uploads) as origin, serving(proxying(origin.url, **route), server=server) as served:
        async with served.client() as client:
            client.write(request("POST", fields=[(b"Expect", b"100-continue"), (b"Content-Length", length)]))
            answer = await client.head()
            assert answer.status == status
            await client.finish(answer, "POST")
            assert not answer.keeps_alive
        assert origin.connections == []


async def test_an_unknown_expectation_is_417(server: str) -> None:
    async with ScriptedUpstream(_uploads) as origin, serving(proxying(origin.url), server=server) as served:
        answer = await served.ask(request("POST", fields=[(b"Expect", b"200-ok")], body=b"x"))
        assert answer.status == 417
        assert origin.connections == []


@own_server
async def test_no_100_goes_to_an_http_10_client(server: str) -> None:
    async with (
        ScriptedUpstream(_uploads) as origin,
        serving(proxying(origin.url), server=server) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Expect", b"100-continue")], body=b"body", version=b"1.0"))
        assert (await client.head()).status == 200


async def test_a_slow_expecting_client_is_not_asked_by_the_watch_for_disconnects(server: str) -> None:
    """While the upstream is full, the client waits for the go-ahead, and gets it when there is room."""
    release = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            seen = await connection.read_request()
            if seen.target == b"/first":
                await release.wait()
            await connection.send(response(body=seen.body))

    async with ScriptedUpstream(script) as origin:
        table = proxying(origin.url, upstream={"max_connections": 1})
        async with serving(table, server=server) as served, served.client() as one, served.client() as two:
            one.write(request("GET", b"/first"))
            await origin.connection()
            two.write(request("POST", fields=[(b"Expect", b"100-continue"), (b"Content-Length", b"4")]))
            await until(lambda: served.upstream.pending == 1)
            served.gateway.runtime.ticker.tick()
            await _nothing_comes(two)
            release.set()
            await one.answer()
            assert (await two.head()).status == 100
            two.write(b"body")
            assert (await two.answer("POST")).body == b"body"


async def _nothing_comes(client: Client) -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not client.reader._buffer  # type: ignore[attr-defined]


# Bodies that fail: one record, with the status that the client got.


@own_server
async def test_a_bad_chunk_is_400_in_the_answer_and_in_the_record() -> None:
    async with (
        ScriptedUpstream(silent) as origin,
        serving(proxying(origin.url)) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Transfer-Encoding", b"chunked")]) + b"3\r\nabc\r\n")
        connection = await origin.connection()
        await until(lambda: connection.received.endswith(b"abc\r\n"))
        client.write(b"zz\r\n")
        answer = await client.answer()
        assert answer.status == 400 and answer.value(b"connection") == b"close"
        (exchange,) = await served.ended(1)
        assert (exchange.status, exchange.outcome) == (400, "refused")
        assert answer.value(b"x-request-id") == exchange.request_id.encode()
        await connection.closed.wait()
        assert served.upstream.snapshot()[0].failures == 0


@own_server
async def test_a_body_that_breaks_off_is_400_for_who_still_listens() -> None:
    async with (
        ScriptedUpstream(silent) as origin,
        serving(proxying(origin.url)) as served,
        served.client() as client,
    ):
        client.write(request("POST", fields=[(b"Content-Length", b"10")]) + b"some")
        connection = await origin.connection()
        await until(lambda: connection.received.endswith(b"some"))
        client.writer.write_eof()
        assert (await client.answer()).status == 400
        await connection.closed.wait()
        await served.ended(1)
        assert served.upstream.snapshot()[0].failures == 0
