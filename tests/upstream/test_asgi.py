from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import (
    BadUpstreamResponse,
    BodyTooLarge,
    ClientLeft,
    GatewayError,
    ResponseBroken,
    UpstreamAppFailed,
    UpstreamTimeout,
)
from gateway.http.websocket import WebSocketClosed
from gateway.upstream.asgi import AsgiTransport, load_app
from gateway.upstream.asgi_handover import Handover, HandoverClosed
from gateway.upstream.asgi_websocket import AsgiWebSocket
from gateway.upstream.messages import InboundResponse, OutboundRequest
from tests.support.messages import answering
from tests.support.websockets import until

pytestmark = pytest.mark.anyio

URL = httpx.URL("http://app.internal")


class Pieces:
    """A request body in pieces, given when the test says so; exceptions are raised in their turn."""

    def __init__(self, *pieces: bytes | Exception, length: int | None = None) -> None:
        self.length = length
        self.asked = 0
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        for piece in pieces:
            self.queue.put_nowait(piece)

    def end(self) -> Pieces:
        self.queue.put_nowait(None)
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        piece = await self.queue.get()
        if piece is None:
            raise StopAsyncIteration
        if isinstance(piece, Exception):
            raise piece
        return piece


def request(
    method: bytes = b"GET",
    target: bytes = b"/",
    fields: Sequence[tuple[bytes, bytes]] = ((b"host", b"example.com"),),
    body: bytes | Pieces | None = None,
    **extensions: Any,
) -> OutboundRequest:
    return OutboundRequest(method, URL, list(fields), body, {"target": target, **extensions})


async def ask(app: ASGIApp, asked: httpx.Request | None = None) -> InboundResponse:
    return await AsgiTransport(app, name="tests:app").handle_async_request(asked or request())


async def read(response: InboundResponse) -> list[bytes]:
    return [response.whole] if response.whole is not None else [piece async for piece in response.stream]


def start(status: int = 200, *fields: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(fields)}


def body(piece: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": more}


def sends(*messages: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


# What the application sees.


async def test_the_scope_says_what_the_request_was() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await answering(204)(scope, receive, send)

    fields = [(b"host", b"shop.example:8443"), (b"x-a", b"1"), (b"x-a", b"2"), (b"transfer-encoding", b"chunked")]
    client = ("192.0.2.7", 4711)
    await ask(app, request(b"PUT", b"/a%2Fb/%C3%A9?q=%20&q", fields, scheme="https", client=client))
    (scope,) = seen
    assert (scope["type"], scope["method"], scope["http_version"]) == ("http", "PUT", "1.1")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a/b/\u00e9", b"/a%2Fb/%C3%A9", b"q=%20&q")
    assert (scope["root_path"], scope["scheme"], scope["client"]) == ("", "https", client)
    assert (scope["server"], scope["headers"]) == (("shop.example", 8443), fields[:3])
    assert scope["state"] == {} and scope["asgi"]["version"] == "3.0"


async def test_a_request_of_httpx_works_as_well() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked = Request(scope, receive)
        text = f"{asked.method} {asked.url} {asked.headers['x-a']} {(await asked.body()).decode()}"
        await PlainTextResponse(text, headers={"x-b": "2"})(scope, receive, send)

    async with httpx.AsyncClient(transport=AsgiTransport(app)) as client:
        answer = await client.post("http://example.com/p?q=1", headers={"X-A": "1"}, content=b"hello")
    assert (answer.status_code, answer.headers["x-b"]) == (200, "2")
    assert answer.text == "POST http://example.com/p?q=1 1 hello"


@pytest.mark.parametrize(
    ("sent", "messages"),
    [
        (None, [(b"", False)]),
        (b"", [(b"", False)]),
        (b"hello", [(b"hello", False)]),
        ([b"he", b"llo"], [(b"he", True), (b"llo", True), (b"", False)]),
        ([], [(b"", False)]),
    ],
    ids=["none", "empty", "bytes", "pieces", "no pieces"],
)
async def test_the_request_body_arrives_and_then_nothing(
    sent: bytes | list[bytes] | None, messages: list[tuple[bytes, bool]]
) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            seen.append((message["body"], message["more_body"]))
            if not message["more_body"]:
                break
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        assert not waiting.done()
        await send(start())
        await send(body())
        assert await waiting == {"type": "http.disconnect"}

    streamed = Pieces(*sent).end() if isinstance(sent, list) else sent
    response = await ask(app, request(b"POST", body=streamed))
    assert seen == messages and response.request_complete


async def test_the_request_body_is_asked_for_piece_by_piece() -> None:
    sent = Pieces(b"1", b"2", b"3").end()
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert sent.asked == 1
        await send(start())
        await go_on.wait()
        assert sent.asked == 1
        await send(body())

    response = await ask(app, request(b"POST", body=sent))
    assert not response.request_complete
    go_on.set()
    assert await read(response) == []


@pytest.mark.parametrize("error", [ClientLeft("gone"), BodyTooLarge("too large")])
async def test_a_request_body_that_fails_is_the_error_of_the_exchange(
    error: GatewayError, caplog: pytest.LogCaptureFixture
) -> None:
    async def reads_first(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(await Request(scope, receive).body())(scope, receive, send)

    async def answers_first(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        while (await receive())["type"] == "http.request":
            pass

    with pytest.raises(type(error)):
        await ask(reads_first, request(b"POST", body=Pieces(b"x", error)))
    response = await ask(answers_first, request(b"POST", body=Pieces(b"x", error)))
    with pytest.raises(type(error)):
        await read(response)
    assert caplog.records == []


# The response.


async def test_a_response_that_is_at_hand_is_whole() -> None:
    response = await ask(PlainTextResponse("hello", headers={"X-A": "1"}))
    assert (response.status_code, response.whole) == (200, b"hello")
    assert (b"x-a", b"1") in response.raw_fields and (b"content-length", b"5") in response.raw_fields
    assert [piece async for piece in response.stream] == [b"hello"]


async def test_fields_keep_order_and_repetition_and_lose_what_belongs_to_a_connection() -> None:
    cookies = [(b"Set-Cookie", b"a=1"), (b"X-Z", b"\xff"), (b"Set-Cookie", b"b=2")]
    response = await ask(sends(start(200, *cookies, (b"Transfer-Encoding", b"chunked"), (b"Connection", b"x")), body()))
    assert response.raw_fields == [(b"set-cookie", b"a=1"), (b"x-z", b"\xff"), (b"set-cookie", b"b=2")]


async def test_the_head_does_not_wait_for_the_body_and_pieces_arrive_one_by_one() -> None:
    go_on = asyncio.Event()
    sent = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await go_on.wait()
        for number in range(5):
            await send(body(b"%d" % number, more=True))
            sent.append(number)
        await send(body(b"end"))

    response = await ask(app)
    assert response.whole is None
    go_on.set()
    taken = []
    async for piece in response.stream:
        taken.append(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(sent) <= len(taken)
    assert taken == [b"0", b"1", b"2", b"3", b"4", b"end"]


async def test_a_reader_that_stops_stops_the_application() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(start())
        while True:
            await send(body(b"x" * 1000, more=True))
            sent += 1

    transport = AsgiTransport(app)
    response = await transport.handle_async_request(request())
    for _ in range(100):
        await asyncio.sleep(0)
    assert sent == 0
    assert await anext(aiter(response.stream)) == b"x" * 1000
    for _ in range(100):
        await asyncio.sleep(0)
    assert sent == 1
    response.stream.close()
    await until(lambda: len(transport) == 0)


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_where_no_body_may_be_none_is_given(method: bytes, status: int) -> None:
    length = (b"content-length", b"1000")
    response = await ask(sends(start(status, length), body(b"x", more=True), body(b"y")), request(method))
    assert response.whole == b"" and response.raw_fields == [length]


# Failures.


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(sends(), id="nothing"),
        pytest.param(sends(body(b"x")), id="body first"),
        pytest.param(sends({"type": "http.nonsense"}), id="unknown message"),
        pytest.param(sends(start(), start()), id="two heads"),
        pytest.param(sends(start()), id="no body"),
    ],
)
async def test_an_application_that_gives_no_answer_has_failed(app: ASGIApp) -> None:
    with pytest.raises(UpstreamAppFailed) as caught:
        await ask(app)
    assert caught.value.status == 502


async def test_an_exception_before_the_head_is_502_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("secret")

    with pytest.raises(UpstreamAppFailed) as caught:
        await ask(app, request(b"GET", b"/shop"))
    assert "secret" not in caught.value.detail
    (record,) = caplog.records
    assert record.message == "asgi:tests:app failed in GET '/shop'" and record.exc_info is not None


async def test_an_exception_after_the_head_breaks_the_response(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"some", more=True))
        raise KeyError("x")

    response = await ask(app)
    stream = aiter(response.stream)
    assert await anext(stream) == b"some"
    with pytest.raises(ResponseBroken):
        await anext(stream)
    assert len(caplog.records) == 1


async def test_an_application_that_stops_after_the_head_breaks_the_response() -> None:
    response = await ask(sends(start(), body(b"some", more=True)))
    with pytest.raises(ResponseBroken):
        await read(response)


async def test_work_after_the_response_goes_on_and_its_failure_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        done.set()
        raise KeyError("x")

    transport = AsgiTransport(PlainTextResponse("ok", background=BackgroundTask(work)), name="a:b")
    response = await transport.handle_async_request(request())
    assert response.whole == b"ok" and len(transport) == 1
    go_on.set()
    await transport.aclose()
    assert done.is_set() and [record.message for record in caplog.records] == ["asgi:a:b failed in GET '/'"]


@pytest.mark.parametrize(
    ("announced", "pieces"),
    [(b"5", [b"toolong"]), (b"5", [b"1234", b"56"]), (b"5", [b"123"]), (b"0", [b"x"])],
)
async def test_a_body_of_another_length_than_announced_is_broken(announced: bytes, pieces: list[bytes]) -> None:
    messages = [body(piece, more=number < len(pieces) - 1) for number, piece in enumerate(pieces)]
    with pytest.raises((ResponseBroken, UpstreamAppFailed)):
        await read(await ask(sends(start(200, (b"content-length", announced)), *messages)))


@pytest.mark.parametrize(
    "head",
    [
        start(199),
        start(101),
        start(600),
        start(200, (b"x-a", b"1\r\nx-b: 2")),
        start(200, (b"x-a", b"\x00")),
        start(200, (b"x a", b"1")),
        start(200, (b"", b"1")),
        start(200, (b"content-length", b"5"), (b"content-length", b"5")),
        start(200, (b"content-length", b"+5")),
    ],
)
async def test_a_head_that_no_server_would_send_is_a_bad_response(head: Message) -> None:
    with pytest.raises(BadUpstreamResponse):
        await ask(sends(head, body()))


# Time, leaving and cancelling.


async def test_an_application_without_an_answer_in_time_is_504_and_ended() -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(UpstreamTimeout):
        await ask(app, request(timeout={"head": 0.01}))
    await ended.wait()


async def test_the_wait_for_the_clients_body_is_not_the_applications() -> None:
    sent = Pieces()
    app = PlainTextResponse("done")

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await app(scope, receive, send)

    asked = asyncio.ensure_future(ask(reads, request(b"POST", body=sent, timeout={"head": 0.02})))
    await asyncio.wait((asked,), timeout=0.1)
    assert not asked.done()
    sent.end()
    assert (await asked).whole == b"done"


async def test_silence_inside_the_body_breaks_the_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"x", more=True))
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    response = await ask(app, request(timeout={"read": 0.01}))
    with pytest.raises(ResponseBroken):
        await read(response)


async def test_an_application_hears_that_nobody_listens_any_more() -> None:
    heard = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await receive()
        if (await receive())["type"] == "http.disconnect":
            with pytest.raises(OSError, match="nobody"):
                await send(body(b"x", more=True))
            heard.set()

    transport = AsgiTransport(app)
    response = await transport.handle_async_request(request())
    response.stream.close()
    await heard.wait()
    await until(lambda: len(transport) == 0)


async def test_a_streaming_response_of_starlette_ends_when_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    closed = asyncio.Event()

    async def numbers() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    async def endpoint(asked: Request) -> StarletteResponse:
        return StreamingResponse(numbers())

    transport = AsgiTransport(Starlette(routes=[Route("/", endpoint)]))
    response = await transport.handle_async_request(request())
    assert await anext(aiter(response.stream)) == b"x"
    await response.stream.aclose()
    await until(lambda: len(transport) == 0)
    assert caplog.records == []


async def test_cancelling_the_request_ends_the_application_at_once() -> None:
    ended, running = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    transport = AsgiTransport(app)
    asked = asyncio.ensure_future(transport.handle_async_request(request()))
    await running.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await until(lambda: len(transport) == 0)
    assert ended.is_set()


async def test_many_cancelled_requests_leave_nothing() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    transport = AsgiTransport(app)
    asked = [asyncio.ensure_future(transport.handle_async_request(request())) for _ in range(500)]
    await until(lambda: len(transport) == 500)
    for one in asked:
        one.cancel()
    await asyncio.wait(asked)
    await until(lambda: len(transport) == 0)


async def test_a_group_of_ordinary_farewells_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            while True:
                await send(body(b"x", more=True))
        except OSError as error:
            others = [KeyError("x")] if scope["path"] == "/bug" else []
            raise ExceptionGroup("group", [error, *others]) from None

    transport = AsgiTransport(app)
    for path in (b"/", b"/bug"):
        response = await transport.handle_async_request(request(b"GET", path))
        response.stream.close()
        await until(lambda: len(transport) == 0)
    assert [record.message for record in caplog.records] == ["asgi:function failed in GET '/bug'"]


# Lifespan.


async def test_the_lifespan_runs_around_the_requests_and_its_state_reaches_them() -> None:
    events = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        events.append("up")
        yield {"db": "pool"}
        events.append("down")

    async def endpoint(asked: Request) -> StarletteResponse:
        events.append(asked.state.db)
        return PlainTextResponse("ok")

    transport = AsgiTransport(Starlette(routes=[Route("/", endpoint)], lifespan=lifespan))
    await transport.start()
    await transport.start()
    await transport.handle_async_request(request())
    await transport.aclose()
    await transport.aclose()
    assert events == ["up", "pool", "down"]


async def test_an_application_without_a_lifespan_is_fine(caplog: pytest.LogCaptureFixture) -> None:
    async def raises(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await answering(200)(scope, receive, send)

    async def returns(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answering(200)(scope, receive, send)

    for app in (raises, returns):
        transport = AsgiTransport(app)
        await transport.start()
        assert (await transport.handle_async_request(request())).status_code == 200
        await transport.aclose()
    assert caplog.records == []


async def test_a_failed_start_up_names_the_application() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if app.routes == []:
            raise RuntimeError("no database")
        yield

    transport = AsgiTransport(Starlette(lifespan=lifespan), name="shop.web:app")
    with pytest.raises(UpstreamAppFailed, match=r"(?s)asgi:shop\.web:app did not start: .*no database"):
        await transport.start()
    await transport.aclose()


async def test_a_lifespan_that_fails_later_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "disk full"})
        raise KeyError("x")

    transport = AsgiTransport(app, name="a:b")
    await transport.start()
    await transport.aclose()
    assert [record.message for record in caplog.records] == [
        "asgi:a:b did not shut down well: disk full",
        "asgi:a:b failed in its lifespan",
    ]


# Names.


def test_an_application_is_loaded_by_its_name() -> None:
    assert load_app("tests.upstream.test_asgi:sample") is sample
    assert load_app("tests.upstream.test_asgi:Holder.app") is sample
    assert AsgiTransport("tests.upstream.test_asgi:sample").name == "tests.upstream.test_asgi:sample"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_colon", "not of the form"),
        (":app", "not of the form"),
        ("module:", "not of the form"),
        ("gateway.no_such_module:app", "'gateway.no_such_module' cannot be imported"),
        ("tests.upstream.test_asgi:missing", "has no 'missing'"),
        ("tests.upstream.test_asgi:Holder.missing", "has no 'Holder.missing'"),
        ("tests.upstream.test_asgi:URL", "cannot be called"),
    ],
)
def test_a_name_that_leads_nowhere_says_where_it_ends(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load_app(name)


sample = answering(200)


class Holder:
    app = staticmethod(sample)


# WebSockets.


async def websocket_echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", "headers": [(b"X-A", b"1")]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def opened(app: ASGIApp, **options: Any) -> tuple[AsgiTransport, AsgiWebSocket]:
    transport = AsgiTransport(app, name="tests:app")
    fields = [(b"host", b"example.com"), (b"cookie", b"a=b")]
    return transport, await transport.open_websocket(target=b"/ws?x=1", fields=fields, **options)


async def test_a_websocket_carries_messages_both_ways() -> None:
    scopes = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await websocket_echo(scope, receive, send)

    transport, websocket = await opened(app, subprotocols=("chat",), scheme="wss", client=("192.0.2.1", 1))
    assert (websocket.status, websocket.fields, websocket.subprotocol) == (101, [(b"x-a", b"1")], None)
    (scope,) = scopes
    assert (scope["type"], scope["path"], scope["query_string"]) == ("websocket", "/ws", b"x=1")
    assert (scope["scheme"], scope["client"], scope["subprotocols"]) == ("wss", ("192.0.2.1", 1), ["chat"])
    assert (b"cookie", b"a=b") in scope["headers"] and (b"upgrade", b"websocket") in scope["headers"]
    for message in ("text", b"bytes", "", b""):
        websocket.write(message)
        assert await websocket.receive() == message
    await websocket.close(1000, "", 1.0)
    await until(lambda: len(transport) == 0)


async def test_each_direction_holds_one_message() -> None:
    sent = 0
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send({"type": "websocket.accept"})
        await go_on.wait()
        for _ in range(10):
            await send({"type": "websocket.send", "text": "x"})
            sent += 1
        await receive()

    transport, websocket = await opened(app)
    websocket.write("one")
    assert websocket.is_full
    draining = asyncio.ensure_future(websocket.drain())
    go_on.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert sent == 0 and not draining.done()
    for _ in range(10):
        await websocket.receive()
    await draining
    await websocket.close(1000, "", 1.0)
    await until(lambda: len(transport) == 0)


async def test_an_application_hears_how_its_websocket_ended() -> None:
    heard: asyncio.Queue[Message] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        heard.put_nowait(await receive())
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.send", "text": "too late"})

    transport, websocket = await opened(app)
    await websocket.close(4000, "enough", 1.0)
    assert await heard.get() == {"type": "websocket.disconnect", "code": 4000, "reason": "enough"}
    with pytest.raises(WebSocketClosed):
        websocket.write("x")
    await until(lambda: len(transport) == 0)


@pytest.mark.parametrize(
    ("last", "code", "vanished"),
    [
        ({"type": "websocket.close", "code": 4001, "reason": "r"}, 4001, False),
        ({"type": "websocket.close"}, 1000, False),
        (None, 1000, False),
        ({"type": "websocket.send", "bytes": b"x" * 11}, 1009, True),
        ({"type": "websocket.nonsense"}, 1011, True),
    ],
)
async def test_a_websocket_that_the_application_ends(last: Message | None, code: int, vanished: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": b"x" * 10})
        if last is not None:
            await send(last)

    transport, websocket = await opened(app, max_message_bytes=10)
    assert await websocket.receive() == b"x" * 10
    with pytest.raises(WebSocketClosed) as caught:
        await websocket.receive()
    assert (caught.value.code, caught.value.vanished) == (code, vanished)
    await websocket.close(None, "", 1.0)
    await until(lambda: len(transport) == 0)


@pytest.mark.parametrize(
    ("messages", "status", "content"),
    [
        ([{"type": "websocket.close"}], 403, []),
        (
            [
                {"type": "websocket.http.response.start", "status": 401, "headers": []},
                {"type": "websocket.http.response.body", "body": b"n", "more_body": True},
                {"type": "websocket.http.response.body", "body": b"o"},
            ],
            401,
            [b"n", b"o"],
        ),
    ],
)
async def test_a_refusal_has_status_and_body(messages: list[Message], status: int, content: list[bytes]) -> None:
    transport, websocket = await opened(sends(*messages))
    assert websocket.status == status
    assert [piece async for piece in websocket.body()] == content
    websocket.abort()
    await until(lambda: len(transport) == 0)


async def test_a_refusal_that_breaks_off_is_an_error() -> None:
    head = {"type": "websocket.http.response.start", "status": 401, "headers": []}
    _, websocket = await opened(sends(head, {"type": "websocket.http.response.body", "body": b"n", "more_body": True}))
    with pytest.raises(ResponseBroken):
        [piece async for piece in websocket.body()]


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([], UpstreamAppFailed),
        ([{"type": "websocket.send", "text": "x"}], UpstreamAppFailed),
        ([{"type": "websocket.http.response.start", "status": 401}], UpstreamAppFailed),
        ([{"type": "websocket.accept", "subprotocol": "other"}], BadUpstreamResponse),
        ([{"type": "websocket.accept", "headers": [(b"x", b"\r\n")]}], BadUpstreamResponse),
        ([{"type": "websocket.http.response.start", "status": 101, "headers": []}], BadUpstreamResponse),
    ],
)
async def test_a_handshake_that_fails(messages: list[Message], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        await opened(sends(*messages))


async def test_cancelling_a_handshake_ends_the_application() -> None:
    transport = AsgiTransport(sends_nothing)
    opening = asyncio.ensure_future(transport.open_websocket(target=b"/", fields=[]))
    await until(lambda: len(transport) == 1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await until(lambda: len(transport) == 0)


async def sends_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


# Handing over.


@given(st.lists(st.integers(), max_size=20), st.booleans())
def test_a_handover_keeps_order_and_loses_nothing(items: list[int], slow: bool) -> None:
    async def run() -> list[int]:
        handover: Handover[int] = Handover()

        async def put() -> None:
            for item in items:
                await handover.put(item)
                assert handover.is_empty
            handover.close()

        putting = asyncio.ensure_future(put())
        taken = []
        while True:
            try:
                taken.append(await handover.get())
            except HandoverClosed:
                break
            if slow:
                await asyncio.sleep(0)
        await putting
        return taken

    assert asyncio.run(run()) == items


async def test_a_handover_that_is_closed_lets_everyone_go() -> None:
    handover: Handover[int] = Handover()
    putting = [asyncio.ensure_future(handover.put(number)) for number in range(3)]
    await asyncio.sleep(0)
    handover.close(discard=True)
    assert all(isinstance(error, HandoverClosed) for error in await asyncio.gather(*putting, return_exceptions=True))
    with pytest.raises(HandoverClosed):
        await handover.get()
    with pytest.raises(HandoverClosed):
        handover.offer(1)
