"""Requests and responses over a real connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.exchange import WHOLE_FOLLOWS
from gateway.server.limits import Limits
from gateway.server.protocol import DRAIN_GRACE_S, GatewayProtocol
from tests.server.serving import Echo, read_body, serving, status_of, until
from tests.support.messages import answering

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def asking(target: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: a", b"Connection: close", *fields, b"", b""])


@pytest.mark.parametrize(
    ("target", "raw_path", "query", "exact"),
    [
        (b"/", b"/", b"", b"/"),
        (b"/a%2Fb%2520;c//d+e", b"/a%2Fb%2520;c//d+e", b"", b"/a%2Fb%2520;c//d+e"),
        (b"/a?", b"/a", b"", b"/a?"),
        (b"/a?x=1&x=2?", b"/a", b"x=1&x=2?", b"/a?x=1&x=2?"),
        (b"//other/x", b"//other/x", b"", b"//other/x"),
    ],
)
async def test_target_reaches_the_application_byte_for_byte(
    target: bytes, raw_path: bytes, query: bytes, exact: bytes
) -> None:
    app = Echo()
    async with serving(app) as served:
        await served.ask(asking(target))
    (scope,) = app.scopes
    assert (scope["raw_path"], scope["query_string"]) == (raw_path, query)
    assert scope["extensions"]["gateway.target"] == exact


@pytest.mark.parametrize(
    ("target", "exact", "host"),
    [
        (b"http://b.example:81/x?", b"/x?", b"b.example:81"),
        (b"HTTP://b.example", b"/", b"b.example"),
        (b"https://b.example?q", b"/?q", b"b.example"),
    ],
)
async def test_absolute_target_replaces_the_host_field(target: bytes, exact: bytes, host: bytes) -> None:
    app = Echo()
    async with serving(app) as served:
        await served.ask(asking(target))
    (scope,) = app.scopes
    assert scope["extensions"]["gateway.target"] == exact
    assert [value for name, value in scope["headers"] if name == b"host"] == [host]


async def test_absolute_options_without_a_path_asks_for_the_server() -> None:
    app = Echo()
    async with serving(app) as served:
        await served.ask(b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert app.scopes[0]["raw_path"] == b"*"


async def test_fields_keep_order_repetition_and_bytes() -> None:
    app = Echo()
    async with serving(app) as served:
        await served.ask(asking(b"/", b"X-B: 1", b"X-A: caf\xe9 \t x", b"X-B:2", b"X-Empty:"))
    assert app.scopes[0]["headers"][2:] == [
        (b"x-b", b"1"),
        (b"x-a", b"caf\xe9 \t x"),
        (b"x-b", b"2"),
        (b"x-empty", b""),
    ]


async def test_head_and_body_leave_together_and_the_connection_stays() -> None:
    async with serving(answering(200, [(b"content-length", b"2")], [b"ok"])) as served:
        client = await served.connect()
        for _ in range(3):
            client.write(GET)
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert body == b"ok"
            assert b"connection:" not in head
            assert b"server:" not in head
        await client.close()


async def test_a_missing_date_is_added_and_one_that_is_there_kept() -> None:
    async with serving(answering(200, [(b"content-length", b"0")])) as served:
        assert (await served.ask(LAST_GET)).count(b"\r\ndate: ") == 1
    date = (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT")
    async with serving(answering(200, [date, (b"content-length", b"0")])) as served:
        answer = await served.ask(LAST_GET)
        assert answer.count(b"\r\ndate: ") == 1
        assert date[1] in answer


@pytest.mark.parametrize(("status", "line"), [(200, b"200 OK"), (299, b"299 "), (418, b"418 I'm"), (599, b"599 ")])
async def test_any_status_passes(status: int, line: bytes) -> None:
    async with serving(answering(status, [(b"content-length", b"0")])) as served:
        assert (await served.ask(LAST_GET)).startswith(b"HTTP/1.1 " + line)


@pytest.mark.parametrize(
    ("method", "status", "fields", "present", "absent"),
    [
        (b"HEAD", 200, [(b"content-length", b"7")], b"content-length: 7", b"transfer-encoding"),
        (b"HEAD", 200, [], b"200 OK", b"transfer-encoding"),
        (b"GET", 304, [(b"content-length", b"7"), (b"etag", b'"a"')], b"content-length: 7", b"transfer-encoding"),
        (b"GET", 204, [(b"content-length", b"0")], b"204 No Content", b"content-length"),
    ],
)
async def test_answers_without_a_body(
    method: bytes, status: int, fields: list[tuple[bytes, bytes]], present: bytes, absent: bytes
) -> None:
    async with serving(answering(status, fields, [b"ignored"])) as served:
        answer = await served.ask(method + LAST_GET[3:])
    assert present in answer
    assert absent not in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_answer_of_unknown_length_is_chunked() -> None:
    async with serving(answering(200, (), [b"one", b"", b"two"])) as served:
        answer = await served.ask(LAST_GET)
    assert b"transfer-encoding: chunked" in answer
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_application_cannot_set_its_own_framing() -> None:
    async with serving(answering(200, [(b"transfer-encoding", b"gzip"), (b"content-length", b"2")], [b"ok"])) as served:
        answer = await served.ask(LAST_GET)
    assert b"transfer-encoding" not in answer


async def test_streamed_head_arrives_before_any_body() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"x"})

    async with serving(app) as served:
        client = await served.connect()
        client.write(LAST_GET)
        assert (await client.head()).startswith(b"HTTP/1.1 200")
        go_on.set()
        assert await client.rest() == b"1\r\nx\r\n0\r\n\r\n"
        await client.close()


async def test_head_waits_for_the_body_that_is_promised() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], WHOLE_FOLLOWS: True})
        await go_on.wait()
        raise RuntimeError("no body after all")

    async with serving(app) as served:
        client = await served.connect()
        client.write(LAST_GET)
        go_on.set()
        assert status_of(await client.rest()) == 500
        await client.close()


@pytest.mark.parametrize(
    "fields",
    [
        [(b"x", b"a\r\nset-cookie: b")],
        [(b"x", b"a\x00")],
        [(b"x y", b"a")],
        [(b"", b"a")],
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"-1")],
    ],
)
async def test_field_that_would_break_the_framing_is_a_defect(fields: list[tuple[bytes, bytes]]) -> None:
    async with serving(answering(200, fields, [b"x"])) as served:
        answer = await served.ask(GET)
    assert status_of(answer) == 500
    assert b"set-cookie" not in answer


@pytest.mark.parametrize("length", [b"1", b"3"])
async def test_body_of_another_length_than_announced_is_a_broken_transfer(length: bytes) -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"ab"})

    async with serving(app) as served:
        client = await served.connect()
        client.write(GET)
        await client.head()
        go_on.set()
        assert len(await client.rest()) < int(length)
        await client.close()


async def test_application_that_fails_is_a_500_without_details() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("secret")

    async with serving(app) as served:
        answer = await served.ask(GET)
    assert status_of(answer) == 500
    assert b"connection: close" in answer
    assert b"secret" not in answer


async def test_application_that_returns_without_an_answer_is_a_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return None

    async with serving(app) as served:
        assert status_of(await served.ask(GET)) == 500


# Aborting.


@pytest.mark.parametrize(
    ("version", "fields", "sent"),
    [
        (b"1.1", [], b"3\r\nabc\r\n"),
        (b"1.1", [(b"content-length", b"9")], b"abc"),
    ],
)
async def test_abort_is_a_broken_transfer(version: bytes, fields: list[tuple[bytes, bytes]], sent: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        scope["extensions"]["gateway.abort"]()
        await send({"type": "http.response.body", "body": b"more"})

    async with serving(app) as served:
        answer = await served.ask(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n" + sent)


async def test_abort_of_a_body_that_ends_with_the_connection_is_a_reset() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await go_on.wait()
        scope["extensions"]["gateway.abort"]()

    async with serving(app) as served:
        client = await served.connect()
        client.write(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        await client.head()
        assert await client.reader.readexactly(3) == b"abc"
        go_on.set()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()
        await client.close()


# HTTP/1.0.


async def test_http_10_is_closed_and_never_chunked() -> None:
    async with serving(answering(200, (), [b"one", b"two"])) as served:
        answer = await served.ask(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert b"chunked" not in answer
    assert b"connection: close" in answer
    assert answer.endswith(b"\r\n\r\nonetwo")


async def test_http_10_keeps_the_connection_when_asked_and_the_length_is_known() -> None:
    async with serving(answering(200, [(b"content-length", b"2")], [b"ok"])) as served:
        client = await served.connect()
        for _ in range(2):
            client.write(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n")
            head, body = await client.answer()
            assert b"connection: keep-alive" in head
            assert body == b"ok"
        await client.close()


async def test_http_10_gets_no_100() -> None:
    async with serving(Echo()) as served:
        answer = await served.ask(b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
    assert answer.startswith(b"HTTP/1.1 200")


# Pipelining.


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        for _ in range(int(scope["query_string"])):
            await asyncio.sleep(0)
        fields = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": scope["raw_path"]})

    requests = [
        b"GET /a?9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /b?0 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /c?3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n",
        b"\r\nGET /d?0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ]
    async with serving(app) as served:
        answer = await served.ask(b"".join(requests))
        assert [part[:2] for part in answer.split(b"\r\n\r\n")[1:]] == [b"/a", b"/b", b"/c", b"/d"]
        client = await served.connect()
        for byte in b"".join(requests):
            client.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await client.rest() != b""
        await client.close()


async def test_bad_request_behind_a_good_one_does_not_take_its_answer() -> None:
    app = Echo()
    async with serving(app) as served:
        answer = await served.ask(GET + b"GET / HTTP/9\r\n\r\n" + GET)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1 400") == 1
    assert len(app.scopes) == 1


# Bodies.


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"4;a=b\r\n0123\r\n06\r\n456789\r\n0\r\nX: y\r\n\r\n",
    ],
)
async def test_body_arrives_however_it_is_cut(request_bytes: bytes) -> None:
    async with serving(Echo()) as served:
        for cut in range(1, len(request_bytes), 7):
            client = await served.connect()
            client.write(request_bytes[:cut])
            await client.writer.drain()
            await asyncio.sleep(0)
            client.write(request_bytes[cut:])
            assert (await client.rest()).endswith(b"\r\n\r\n0123456789")
            await client.close()


async def test_large_body_is_taken_at_the_speed_of_the_application() -> None:
    most = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal most
        received = 0
        while True:
            message = await receive()
            most = max(most, len(message["body"]))
            received += len(message["body"])
            await asyncio.sleep(0)
            if not message["more_body"]:
                break
        await answering(200, (), [b"%d" % received])(scope, receive, send)

    async with serving(app) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 8000000\r\n\r\n")
        client.write(b"x" * 8_000_000)
        assert b"8000000" in await client.rest()
        await client.close()
    assert most < 1_000_000


async def test_reading_stops_while_the_application_does_not_take_the_body() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await answering(200, (), [b"%d" % len(await read_body(receive))])(scope, receive, send)

    async with serving(app, Limits(body_timeout_s=5)) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 30000000\r\n\r\n")
        client.write(b"x" * 30_000_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.writer.drain(), 0.2)
        # The silence is not the client's.
        served.pass_time(60)
        go_on.set()
        assert b"30000000" in await client.rest()
        await client.close()


async def test_receive_waits_after_the_body_until_the_client_leaves() -> None:
    messages: list[Any] = []
    waiting = asyncio.Event()
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages.append(await receive())
        waiting.set()
        messages.append(await receive())
        messages.append(await receive())
        done.set()

    async with serving(app) as served:
        client = await served.connect()
        client.write(GET)
        await waiting.wait()
        await asyncio.sleep(0.01)
        assert len(messages) == 1
        await client.close()
        await done.wait()
    assert messages == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
        {"type": "http.disconnect"},
    ]


async def test_a_cancelled_receive_loses_nothing() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        watcher.cancel()
        other = asyncio.ensure_future(receive())
        body = (await other)["body"]
        await answering(200, [(b"content-length", b"5")], [body])(scope, receive, send)

    async with serving(app) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        await asyncio.sleep(0.02)
        client.write(b"hello")
        _, body = await client.answer()
        assert body == b"hello"
        await client.close()


async def test_writer_waits_for_a_client_that_does_not_read() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < 1000:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b""})

    async with serving(app) as served:
        client = await served.connect()
        client.write(LAST_GET)
        await client.head()
        await asyncio.sleep(0.1)
        assert sent < 1000
        assert len(await client.rest()) > 1000 * 65536
        await client.close()


# Early answers and expectations.


async def test_early_answer_closes_and_is_not_reset_away() -> None:
    async with serving(answering(413, [(b"content-length", b"2")], [b"no"])) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n")
        head, body = await client.answer()
        assert b"413" in head
        assert b"connection: close" in head
        assert body == b"no"
        # The server has ended its side and still takes what is on its way.
        assert await client.reader.read() == b""
        client.write(b"x" * 500_000)
        await client.writer.drain()
        await client.close()


async def test_lingering_ends_after_its_time() -> None:
    async with serving(answering(413, [(b"content-length", b"0")])) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n")
        await client.rest()
        assert len(served.connections) == 1
        served.pass_time(3)
        await until(lambda: not len(served.connections))
        await client.close()


async def test_lingering_discards_no_more_than_a_mebibyte() -> None:
    async with serving(answering(413, [(b"content-length", b"0")])) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        await client.rest()
        client.write(b"x" * 3_000_000)
        await until(lambda: not len(served.connections))
        await client.close()


async def test_100_is_sent_when_the_body_is_asked_for() -> None:
    async with serving(Echo()) as served:
        client = await served.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.write(b"hi")
        assert (await client.answer())[1] == b"hi"
        await client.close()


async def test_no_100_when_the_application_answers_first() -> None:
    async with serving(answering(401, [(b"content-length", b"0")])) as served:
        answer = await served.ask(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer


async def test_no_100_when_the_body_is_here_already() -> None:
    async with serving(Echo()) as served:
        answer = await served.ask(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"
        )
    assert answer.startswith(b"HTTP/1.1 200")


# Informational answers.


@pytest.mark.parametrize(("version", "count"), [(b"1.1", 1), (b"1.0", 0)])
async def test_103_reaches_clients_that_understand_it(version: bytes, count: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["gateway.informational"](103, [(b"link", b"</a.css>"), (b"content-length", b"3")])
        await answering(200, [(b"content-length", b"0")])(scope, receive, send)

    async with serving(app) as served:
        answer = await served.ask(b"GET / HTTP/" + version + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n") == count
    assert b"HTTP/1.1 200" in answer


# Upgrades.


@pytest.mark.parametrize("body", [b"", b"abc"])
async def test_h2c_is_ignored_and_what_follows_is_the_next_request(body: bytes) -> None:
    app = Echo()
    upgrade = (
        b"POST /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABk\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    async with serving(app) as served:
        answer = await served.ask(upgrade + body + b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert [scope["path"] for scope in app.scopes] == ["/1", "/2"]
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_websocket_upgrade_without_the_connection_option_is_ordinary_http() -> None:
    app = Echo()
    async with serving(app) as served:
        assert status_of(await served.ask(asking(b"/", b"Upgrade: websocket"))) == 200
    assert app.scopes[0]["type"] == "http"


# Draining.


async def test_draining_closes_idle_connections_and_finishes_running_exchanges() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await go_on.wait()
        await answering(200, [(b"content-length", b"2")], [b"ok"])(scope, receive, send)

    async with serving(app) as served:
        idle, busy = await served.connect(), await served.connect()
        busy.write(GET)
        await started.wait()
        served.connections.draining = True
        for connection in list(served.state.connections):
            connection.shutdown()
        served.pass_time(DRAIN_GRACE_S)
        assert await idle.rest() == b""
        go_on.set()
        answer = await busy.rest()
        assert b"connection: close" in answer
        assert answer.endswith(b"ok")
        await idle.close()
        await busy.close()


async def test_requests_that_are_on_their_way_when_draining_begins_are_answered() -> None:
    app = answering(200, [(b"content-length", b"2")], [b"ok"])
    async with serving(app) as served:
        new, used = await served.connect(), await served.connect()
        used.write(GET)
        await used.answer()
        await until(lambda: len(served.connections) == 2)
        served.connections.draining = True
        for connection in list(served.state.connections):
            connection.shutdown()
        late = await served.connect()
        for client in (new, used, late):
            client.write(GET)
            answer = await client.rest()
            assert b"connection: close" in answer
            assert answer.endswith(b"ok")
            await client.close()


async def test_no_websocket_begins_while_draining() -> None:
    async with serving(Echo()) as served:
        client = await served.connect()
        served.connections.draining = True
        fields = (b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
        client.write(asking(b"/", *fields, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
        answer = await client.rest()
        assert status_of(answer) == 503
        assert b"retry-after" in answer.lower()
        await client.close()


@pytest.mark.parametrize(("size", "is_kept"), [(100, True), (20_000, False)])
async def test_a_connection_that_idles_keeps_no_long_head(size: int, is_kept: bool) -> None:
    async with serving(answering(204)) as served:
        client = await served.connect()
        for _ in range(2):
            client.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: %b\r\n\r\n" % (b"x" * size))
            assert status_of(await client.head()) == 204
        await until(lambda: served.state.total_requests == 2)
        (connection,) = served.connections._open
        assert isinstance(connection, GatewayProtocol)
        assert (bool(connection.head.fields), len(connection.head.section.block) > size) == (is_kept, is_kept)
        await client.close()
