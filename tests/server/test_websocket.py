"""Upgrades to WebSocket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets
from starlette.types import Receive, Scope, Send

from tests.server.serving import serving, status_of, until
from tests.support.messages import answering

pytestmark = pytest.mark.anyio

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n"
)
# A masked text frame "hi", with a mask of zeros.
HI = b"\x81\x82\x00\x00\x00\x00hi"


class EchoSocket:
    """Sends every text back; remembers scopes and how it ended."""

    def __init__(self, accept_at: asyncio.Event | None = None) -> None:
        self.scopes: list[Scope] = []
        self.ends: list[Any] = []
        self._accept_at = accept_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answering(200, [(b"content-length", b"0")])(scope, receive, send)
            return
        self.scopes.append(scope)
        assert (await receive())["type"] == "websocket.connect"
        if self._accept_at is not None:
            await self._accept_at.wait()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": [(b"x-a", b"b")]})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self.ends.append(message["code"])
                return
            await send({"type": "websocket.send", "text": message["text"]})


async def test_frames_pass_both_ways() -> None:
    app = EchoSocket()
    async with serving(app) as served, websockets.connect(f"ws://127.0.0.1:{served.port}/x?y") as client:
        for text in ("a", "", "b" * 200_000):
            await client.send(text)
            assert await client.recv() == text
        assert len(served.connections) == 1
    assert app.ends == [1000]
    extensions = app.scopes[0]["extensions"]
    assert extensions["gateway.target"] == b"/x?y"
    assert "websocket.http.response" in extensions


async def test_long_targets_many_fields_and_raw_bytes_reach_the_application() -> None:
    app = EchoSocket()
    target = b"/" + b"x" * 8190
    fields = b"X-Raw: caf\xe9\r\n" + b"X: y\r\n" * 80
    async with serving(app) as served:
        client = await served.connect()
        client.write(HANDSHAKE % (target, fields))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        await client.close()
    assert app.scopes[0]["raw_path"] == target
    assert (b"x-raw", b"caf\xe9") in app.scopes[0]["headers"]
    assert len(app.scopes[0]["headers"]) == 86


@pytest.mark.parametrize("together", [True, False])
async def test_frames_that_come_before_the_handshake_is_done_are_kept(together: bool) -> None:
    accept_at = asyncio.Event()
    async with serving(EchoSocket(accept_at)) as served:
        client = await served.connect()
        client.write(HANDSHAKE % (b"/", b"") + (HI if together else b""))
        await until(lambda: bool(served.state.tasks))
        if not together:
            client.write(HI)
            await asyncio.sleep(0.01)
        accept_at.set()
        assert b"x-a: b" in await client.head()
        assert await client.reader.readexactly(4) == b"\x81\x02hi"
        await client.close()


async def test_refusal_has_the_applications_own_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404, "headers": [(b"x-a", b"b")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async with serving(app) as served:
        client = await served.connect()
        client.write(HANDSHAKE % (b"/", b""))
        answer = await client.rest()
        assert status_of(answer) == 404
        assert answer.endswith(b"\r\n\r\n2\r\nno\r\n0\r\n\r\n")
        await client.close()


@pytest.mark.parametrize("status", [299, 403, 407, 520, 599])
async def test_refusal_is_passed_on_to_the_byte(status: int, caplog: pytest.LogCaptureFixture) -> None:
    fields = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=\xe9")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": status, "headers": fields})
        for piece in (b"one", b"", b"two"):
            await send({"type": "websocket.http.response.body", "body": piece, "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b""})

    async with serving(app) as served:
        answer = await served.ask(HANDSHAKE % (b"/", b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    lines = head.split(b"\r\n")
    assert lines[1:3] == [b"set-cookie: a=1", b"set-cookie: b=\xe9"]
    assert b"content-type" not in head.lower()
    assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    assert caplog.text == ""


async def test_refusal_that_breaks_off_has_no_clean_end() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"half", "more_body": True})
        raise OSError("the rest does not come")

    async with serving(app) as served:
        answer = await served.ask(HANDSHAKE % (b"/", b""))
    assert status_of(answer) == 404
    assert answer.endswith(b"half\r\n")


@pytest.mark.parametrize("headers", [[(b"content-length", b"1")], [(b"x", b"a\nb")]])
async def test_refusal_that_cannot_be_sent_is_an_error(headers: list[tuple[bytes, bytes]]) -> None:
    errors: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"no"})
        except RuntimeError as error:
            errors.append(error)
            raise

    async with serving(app) as served:
        answer = await served.ask(HANDSHAKE % (b"/", b""))
    assert len(errors) == 1
    assert b"\nb" not in answer


@pytest.mark.parametrize(
    ("was", "now", "status"),
    [
        pytest.param(b"Version: 13", b"Version: 12", 426, id="another version"),
        pytest.param(b"Sec-WebSocket-Version: 13\r\n", b"", 400, id="no version"),
        pytest.param(b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 8", 426, id="two versions"),
        pytest.param(b"Key: dGhlIHNhbXBsZSBub25jZQ==", b"Key: c2hvcnQ=", 400, id="a short key"),
        pytest.param(b"Key: dGhlIHNhbXBsZSBub25jZQ==", b"Key: dGhlIHNhbXBsZSBub25j*Q==", 400, id="no base64"),
        pytest.param(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", 400, id="no key"),
    ],
)
async def test_malformed_handshake_is_answered_and_reaches_nobody(was: bytes, now: bytes, status: int) -> None:
    app = EchoSocket()
    async with serving(app) as served:
        answer = await served.ask((HANDSHAKE % (b"/", b"")).replace(was, now))
    assert status_of(answer) == status
    assert b"\r\ncontent-type: application/problem+json\r\n" in answer
    # RFC 6455 section 4.4.
    assert (b"\r\nsec-websocket-version: 13\r\n" in answer.lower()) is (status == 426)
    assert app.scopes == []


async def test_draining_tells_1001() -> None:
    app = EchoSocket()
    async with serving(app) as served, websockets.connect(f"ws://127.0.0.1:{served.port}/") as client:
        await client.send("a")
        await client.recv()
        for connection in list(served.state.connections):
            connection.shutdown()
        with pytest.raises(websockets.ConnectionClosed):
            await client.recv()
        assert client.close_code == 1001
        await until(lambda: not len(served.connections))
    assert app.ends == [1001]


async def test_a_close_frame_may_come_inside_a_message() -> None:
    app = EchoSocket()
    async with serving(app) as served:
        client = await served.connect()
        client.write(HANDSHAKE % (b"/", b""))
        await client.head()
        client.write(b"\x01" + HI[1:] + b"\x88\x82\x00\x00\x00\x00\x0f\xa0")
        assert await client.rest() == b"\x88\x02\x0f\xa0"
        await client.close()
    assert app.ends == [4000]


async def test_who_breaks_the_rules_hears_so_while_it_is_still_sending() -> None:
    app = EchoSocket()
    async with serving(app) as served:
        client = await served.connect()
        client.write(HANDSHAKE % (b"/", b""))
        await client.head()
        client.write(b"\xf1" + HI[1:])
        assert await client.rest() == b"\x88\x19\x03\xeareserved bits must be 0"
        for _ in range(10):
            client.write(HI * 1000)
            await client.writer.drain()
        assert len(served.connections) == 1
        await client.close()
        await until(lambda: not len(served.connections))
    assert app.ends == [1002]


@pytest.mark.parametrize("after", [b"", b"\x88\x80\x00\x00\x00\x00"], ids=["", "and a close frame"])
async def test_text_that_is_none_is_1007_and_no_error_of_the_server(
    after: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = EchoSocket()
    async with serving(app) as served:
        client = await served.connect()
        client.write(HANDSHAKE % (b"/", b""))
        await client.head()
        client.write(HI[:6] + b"\xed\xa0" + after)
        answer = await client.rest()
        assert answer in (b"\x88\x0b\x03\xefnot UTF-8", b"\x88\x00")
        await client.close()
        await until(lambda: not len(served.connections))
    assert app.ends in ([1007], [1005])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_websockets_count_as_connections() -> None:
    async with serving(EchoSocket()) as served, websockets.connect(f"ws://127.0.0.1:{served.port}/"):
        assert len(served.connections) == 1
    assert len(served.connections) == 0
