from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trustme
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.errors import (
    BadRequest,
    BadUpstreamResponse,
    ClientLeft,
    ConnectFailed,
    ConnectionBroken,
    ConnectPending,
    NoEndpoint,
    ResponseBroken,
    UpstreamAppFailed,
    UpstreamTimeout,
)
from gateway.http.websocket import accept_value
from gateway.proxy.websocket import WebSocketSettings
from gateway.ticker import Ticker
from gateway.upstream.asgi import AsgiTransport
from gateway.upstream.http1 import Http1Transport
from tests.support.upstream import (
    Script,
    ScriptedConnection,
    ScriptedUpstream,
    chunked,
    refused_port,
    respond,
    response,
    silent,
)
from tests.support.websockets import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Gateway,
    MessageClient,
    NetworkTransport,
    accepting,
    close_frame,
    frame,
    other_tasks,
    read_frame,
    sending,
    serving,
    switching,
    until,
)
from tests.support.wire_client import RELAY, TUNNEL, WireClient, serving_on_wire

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


MESSAGES = "messages"
WAYS = (MESSAGES, RELAY, TUNNEL)

_way = MESSAGES


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """How the gateway is served: message by message, or by its own server, which passes on messages or bytes."""
    global _way
    _way = request.param
    yield _way
    _way = MESSAGES


T = TypeVar("T", bound=Callable[..., Any])


def in_ways(*ways: str) -> Callable[[T], T]:
    """Run a test in these ways."""

    def decorate(test: T) -> T:
        return cast(T, pytest.mark.usefixtures("way")(pytest.mark.parametrize("way", ways, indirect=True)(test)))

    return decorate


every_way = in_ways(*WAYS)


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def server_upstream(handler: Any, **options: Any) -> AsyncIterator[int]:
    async with serve(handler, "127.0.0.1", 0, compression=None, ping_interval=None, **options) as server:
        yield next(iter(server.sockets)).getsockname()[1]


@contextlib.asynccontextmanager
async def serving_in_way(gateway: Gateway) -> AsyncIterator[str]:
    if _way == MESSAGES:
        async with serving(gateway) as url:
            yield url
    else:
        async with serving_on_wire(gateway, _way) as served:
            yield f"ws://127.0.0.1:{served.port}"


@contextlib.asynccontextmanager
async def client_of(gateway: Gateway, path: str = "/", **options: Any) -> AsyncIterator[ClientConnection]:
    async with serving_in_way(gateway) as url:
        options = {"compression": None, "proxy": None, "max_size": None, "ping_interval": None, **options}
        async with connect(url + path, **options) as client:
            yield client


@contextlib.asynccontextmanager
async def scripted(script: Script, **options: Any) -> AsyncIterator[tuple[Gateway, ScriptedUpstream]]:
    async with ScriptedUpstream(script) as upstream:
        yield Gateway(NetworkTransport(upstream.port), **options), upstream


def calling(gateway: Gateway, path: bytes = b"/", **extra: Any) -> Any:
    return MessageClient(gateway, path, **extra) if _way == MESSAGES else WireClient(gateway, _way, path, **extra)


async def talking(gateway: Gateway, **extra: Any) -> Any:
    client = calling(gateway, **extra)
    assert (await client.next())["type"] == "websocket.accept"
    return client


# Messages.


@every_way
async def test_messages_pass_both_ways_unchanged_and_in_order() -> None:
    messages: list[str | bytes] = [
        "hello",
        b"\x00\xff\x80",
        "",
        b"",
        "\u00e9\u20ac\U0001f600 \ufffd \x00",
        "a" * 125,
        "b" * 126,
        b"c" * 65535,
        b"d" * 65536,
        "\u20ac" * (4 * MIB // 3),
        b"e" * (4 * MIB),
    ]
    async with server_upstream(echo, max_size=None) as port:
        gateway = Gateway(NetworkTransport(port))
        async with client_of(gateway) as client:
            for message in messages:
                await client.send(message)
                assert await client.recv() == message
        exchange = await gateway.ended.get()
    sizes = [len(message if isinstance(message, bytes) else message.encode()) for message in messages]
    assert (exchange.messages_in, exchange.messages_out) == (len(messages), len(messages))
    assert (exchange.body_bytes_in, exchange.body_bytes_out) == (sum(sizes), sum(sizes))
    assert (exchange.upstream, exchange.outcome, exchange.error) == ("chat", "done", None)
    (attempt,) = exchange.attempts
    assert (attempt.endpoint, attempt.status, attempt.outcome) == ("endpoint-0", 101, "ok")
    assert gateway.upstream.held == 0 and gateway.upstream.records == [("endpoint-0", True)]


@every_way
async def test_many_messages_in_flight_keep_their_order() -> None:
    count = 3000

    async def talk(client: ClientConnection) -> None:
        for number in range(count):
            await client.send(str(number))

    async with server_upstream(echo) as port, client_of(Gateway(NetworkTransport(port))) as client:
        sender = asyncio.create_task(talk(client))
        assert [await client.recv() for _ in range(count)] == [str(number) for number in range(count)]
        await sender


@every_way
async def test_fragments_become_one_message_with_control_frames_between_them() -> None:
    euro = "\u20ac".encode()
    pongs = []

    async def talk(connection: ScriptedConnection) -> None:
        await connection.send(
            frame(TEXT, b"a" + euro[:1], fin=False),
            frame(PING, b"one"),
            frame(CONT, fin=False),
            frame(CONT, euro[1:2], fin=False),
            frame(PING),
            frame(CONT, euro[2:]),
            frame(PONG, b"unsolicited"),
            frame(BINARY, fin=False) + frame(CONT, b"\xff\xfe", fin=False) + frame(CONT),
            frame(TEXT, fin=False) + frame(CONT),
        )
        pongs.append(await read_frame(connection))
        pongs.append(await read_frame(connection))
        await connection.send(close_frame(1000))
        assert (await read_frame(connection))[0] == CLOSE

    async with scripted(accepting(talk)) as (gateway, _):
        client = await talking(gateway)
        await client.task
    assert client.received[1:] == [
        {"type": "websocket.send", "text": "a\u20ac"},
        {"type": "websocket.send", "bytes": b"\xff\xfe"},
        {"type": "websocket.send", "text": ""},
        {"type": "websocket.close", "code": 1000, "reason": ""},
    ]
    assert pongs == [(PONG, b"one"), (PONG, b"")]


@every_way
async def test_bytes_may_arrive_one_by_one() -> None:
    raw = frame(TEXT, "h\u00e9".encode()) + frame(BINARY, b"x" * 200) + close_frame(4000, "end")

    async with scripted(accepting(sending(*[raw[at : at + 1] for at in range(len(raw))]))) as (gateway, _):
        client = await talking(gateway)
        await client.task
    assert [message.get("text") or message.get("bytes") for message in client.received[1:3]] == ["h\u00e9", b"x" * 200]
    assert client.received[3]["code"] == 4000


@every_way
async def test_frames_that_come_with_the_handshake_are_kept() -> None:
    first = frame(TEXT, b"early") + frame(TEXT, b"bird")
    async with scripted(accepting(sending(close_frame(1000)), first=first)) as (gateway, _):
        client = await talking(gateway)
        await client.task
    assert [message.get("text") for message in client.received[1:3]] == ["early", "bird"]


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_it_works_with_either_protocol_of_the_server(ws: str) -> None:
    closes: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await echo(connection)
        closes.put_nowait((connection.close_code, connection.close_reason))

    async with server_upstream(handler) as port:
        gateway = Gateway(NetworkTransport(port))
        async with serving(gateway, ws=ws) as url:
            client = await connect(url, proxy=None, compression=None)
            for message in ("hello", b"\xff", "\u20ac" * 100_000):
                await client.send(message)
                assert await client.recv() == message
            await client.close(4000, "enough")
            assert await closes.get() == (4000, "enough")
            client = await connect(url, proxy=None, compression=None)
            client.transport.abort()
            assert await closes.get() == (1001, "")
    refusing = scripted(respond(response(401, [], b"who?"), close=True))
    async with refusing as (gateway, _), serving(gateway, ws=ws) as url:
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, proxy=None)
    assert (caught.value.response.status_code, caught.value.response.body) == (401, b"who?")


# The handshake.


@every_way
async def test_the_upstream_gets_target_and_fields_of_the_client() -> None:
    heads = []

    async def script(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        heads.append(request)
        await connection.send(switching(request, (b"Sec-WebSocket-Protocol", b"v2.chat")))
        await connection.send(frame(*await read_frame(connection)))

    async with scripted(script) as (gateway, _):
        sent = {"Cookie": "a=b; c=d", "Authorization": "Bearer t", "X-Many": "1"}
        async with client_of(
            gateway,
            "/room%2F1/?q=%20&q=2",
            origin="https://example.com",
            additional_headers=sent,
            subprotocols=["chat", "v2.chat"],
        ) as client:
            assert client.subprotocol == "v2.chat"
    (head,) = heads
    assert (head.method, head.target, head.version) == (b"GET", b"/room%2F1/?q=%20&q=2", b"HTTP/1.1")
    for name, value in {**sent, "Origin": "https://example.com"}.items():
        assert head.values(name.lower().encode()) == [value.encode()]
    assert head.values(b"sec-websocket-protocol") == [b"chat, v2.chat"]
    assert head.values(b"sec-websocket-version") == [b"13"]
    assert head.values(b"connection") == [b"Upgrade"] and head.values(b"upgrade") == [b"websocket"]
    assert head.values(b"sec-websocket-extensions") == []
    (key,) = head.values(b"sec-websocket-key")
    assert len(accept_value(key)) == 28 and len(head.values(b"host")) == 1


@every_way
async def test_the_client_is_accepted_with_the_upstreams_fields() -> None:
    fields = [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"X-Room", b"7"), (b"Server", b"secret/1.0")]

    def rule(scope: Scope, message: Message) -> None:
        message["headers"].append((b"x-status", b"%d" % message["status"]))

    async with scripted(accepting(sending(close_frame(None)), *fields)) as (gateway, _):

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            gateway.exchanges[-1].response_rules = (rule,)
            await handle(scope, receive, send)

        handle, gateway.proxy = gateway.proxy, app  # type: ignore[assignment]
        client = await talking(gateway)
        await client.task
    assert client.received[0]["headers"] == [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-room", b"7"),
        (b"x-status", b"101"),
    ]


@every_way
async def test_interim_answers_are_passed_over() -> None:
    async def script(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + switching(request))
        await connection.send(close_frame(1000))

    async with scripted(script) as (gateway, _):
        client = await talking(gateway)
        await client.task
    assert client.received[0]["headers"] == []


async def test_a_missing_host_is_the_endpoints() -> None:
    async with scripted(accepting(sending(close_frame(1000)))) as (gateway, upstream):
        client = await talking(gateway, headers=[])
        await client.task
        assert upstream.requests[0].values(b"host") == [b"upstream.example"]


async def test_a_sticky_cookie_is_set_for_this_client() -> None:
    async with ScriptedUpstream(accepting(sending(close_frame(1000)))) as upstream:
        gateway = Gateway(NetworkTransport(upstream.port), sticky=b"gw=1")
        await (await talking(gateway)).task
    assert gateway.exchanges[0].response_fields == [(b"set-cookie", b"gw=1")]


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        pytest.param(
            response(401, [(b"WWW-Authenticate", b'Basic realm="x"')], b"who are you?"), 401, b"who are you?", id="401"
        ),
        pytest.param(
            response(403, [(b"Transfer-Encoding", b"chunked")], length=False) + chunked(b"go", b" away"),
            403,
            b"go away",
            id="chunked",
        ),
        pytest.param(response(404, [], b"not here", length=False), 404, b"not here", id="until closed"),
        pytest.param(response(426, [(b"Sec-WebSocket-Version", b"13")], b"x"), 426, b"x", id="version"),
        pytest.param(
            response(426, [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")], b"x"), 426, b"x", id="upgrade"
        ),
        pytest.param(response(200, [], b"a page"), 200, b"a page", id="200"),
        pytest.param(response(503, [], b"z" * 200_000), 503, b"z" * 200_000, id="large"),
    ],
)
@every_way
async def test_a_refusal_is_relayed_with_status_fields_and_body(raw: bytes, status: int, body: bytes) -> None:
    async with scripted(respond(raw, close=True)) as (gateway, upstream):
        async with serving_in_way(gateway) as url:
            with pytest.raises(InvalidStatus) as caught:
                await connect(url, proxy=None)
        answer = caught.value.response
        assert (answer.status_code, answer.body) == (status, body)
        if status == 401:
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="x"'
        if status == 426 and b"Sec-WebSocket-Version" in raw:
            assert answer.headers["Sec-WebSocket-Version"] == "13"
        exchange = await gateway.ended.get()
        assert exchange.attempts[0].status == status and exchange.body_bytes_out == len(body)
        assert gateway.upstream.records == [("endpoint-0", status != 503)] and gateway.upstream.held == 0
        await upstream.connections[0].closed.wait()


async def test_without_the_extension_a_refusal_is_a_close() -> None:
    async with scripted(respond(response(401, [], b"no"))) as (gateway, _):
        client = MessageClient(gateway, extensions={})
        await client.task
    assert client.received == [{"type": "websocket.close"}]
    assert gateway.exchanges[0].status == 401


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(response(403, [(b"Content-Length", b"10")], b"short", length=False), id="cut short"),
        pytest.param(
            response(403, [(b"Transfer-Encoding", b"chunked")], length=False) + chunked(b"go", last=False), id="no end"
        ),
        pytest.param(
            response(403, [(b"Transfer-Encoding", b"chunked")], length=False) + b"zz\r\n", id="malformed chunk"
        ),
        pytest.param(response(403, [], b"x" * (MIB + 1)), id="too large"),
    ],
)
async def test_a_refusal_whose_body_breaks_is_cut(raw: bytes) -> None:
    async with scripted(respond(raw, close=True)) as (gateway, _):
        client = MessageClient(gateway)
        await client.task
        error = gateway.exchanges[0].error
    assert isinstance(error, ResponseBroken) and gateway.upstream.held == 0


def answering(*fields: tuple[bytes, bytes], status: int = 101, version: bytes = b"HTTP/1.1") -> Script:
    async def script(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        (key,) = request.values(b"sec-websocket-key")
        filled = [(name, accept_value(key) if value == b"KEY" else value) for name, value in fields]
        await connection.send(response(status, filled, version=version, length=False))
        await connection.wait_eof()

    return script


UPGRADE = (b"Upgrade", b"websocket")
CONNECTION = (b"Connection", b"Upgrade")
ACCEPT = (b"Sec-WebSocket-Accept", b"KEY")


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        pytest.param(answering(UPGRADE, CONNECTION, (ACCEPT[0], b"AAAA")), BadUpstreamResponse, id="wrong accept"),
        pytest.param(answering(UPGRADE, CONNECTION), BadUpstreamResponse, id="no accept"),
        pytest.param(answering(ACCEPT), BadUpstreamResponse, id="no upgrade"),
        pytest.param(
            answering(UPGRADE, CONNECTION, ACCEPT, (b"Sec-WebSocket-Extensions", b"x")),
            BadUpstreamResponse,
            id="extension",
        ),
        pytest.param(
            answering(UPGRADE, CONNECTION, ACCEPT, (b"Sec-WebSocket-Protocol", b"x")),
            BadUpstreamResponse,
            id="subprotocol",
        ),
        pytest.param(answering(UPGRADE, CONNECTION, ACCEPT, version=b"HTTP/1.0"), BadUpstreamResponse, id="HTTP/1.0"),
        pytest.param(answering(status=999), BadUpstreamResponse, id="999"),
        pytest.param(answering((b"X-A", b"a\x00b"), status=403), BadUpstreamResponse, id="control byte"),
        pytest.param(answering((b"X-A", b"a" * 70_000), status=403), BadUpstreamResponse, id="large head"),
        pytest.param(respond(b"HTTP/1.1 100 Continue\r\n\r\n" * 33), BadUpstreamResponse, id="interim answers"),
        pytest.param(respond(b"SSH-2.0-x\r\n"), BadUpstreamResponse, id="not HTTP"),
        pytest.param(respond(b"", close=True), ConnectionBroken, id="closed"),
        pytest.param(respond(b"HTTP/1.1 101", close=True), ConnectionBroken, id="closed in the head"),
    ],
)
@every_way
async def test_what_is_no_answer_to_a_handshake_is_an_upstream_error(script: Script, kind: type[Exception]) -> None:
    async with scripted(script) as (gateway, upstream):
        client = calling(gateway)
        await client.task
        assert type(gateway.exchanges[0].error) is kind
        assert client.received[0]["status"] == 502
        assert gateway.upstream.held == 0 and gateway.upstream.records == [("endpoint-0", False)]
        await upstream.connections[0].closed.wait()


@pytest.mark.parametrize(
    ("target", "fields"),
    [(b"/a b", []), (b"/a\r\nX: y", []), (b"/", [(b"x-a", b"1\r\nx-b: 2")]), (b"/", [(b"x-a", b"\x00")])],
)
async def test_what_cannot_be_written_as_http_is_refused(target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    async with scripted(silent, build_request=lambda scope, endpoint: (target, fields)) as (gateway, upstream):
        await MessageClient(gateway).task
        assert isinstance(gateway.exchanges[0].error, BadRequest) and upstream.connections == []
        assert gateway.upstream.records == [] and gateway.upstream.held == 0


# Choosing an endpoint.


@every_way
async def test_an_endpoint_that_refuses_the_connection_is_passed_over() -> None:
    with refused_port() as dead:
        async with ScriptedUpstream(accepting(sending(close_frame(1000)))) as upstream:
            gateway = Gateway(NetworkTransport(dead), NetworkTransport(upstream.port))
            await (await talking(gateway)).task
    assert [attempt.outcome for attempt in gateway.exchanges[0].attempts] == ["ConnectFailed", "ok"]
    assert gateway.upstream.records == [("endpoint-0", False), ("endpoint-1", True)] and gateway.upstream.held == 0


async def test_when_all_refuse_the_client_gets_502() -> None:
    with refused_port() as dead:
        gateway = Gateway(NetworkTransport(dead), NetworkTransport(dead))
        client = MessageClient(gateway)
        await client.task
    assert isinstance(gateway.exchanges[0].error, ConnectFailed) and client.received[0]["status"] == 502
    assert len(gateway.exchanges[0].attempts) == 2 and gateway.upstream.held == 0


async def test_an_endpoint_that_was_tried_is_not_tried_again() -> None:
    with refused_port() as dead:
        gateway = Gateway(NetworkTransport(dead))
        only = gateway.upstream.endpoints[0]

        def again(scope: Scope, tried: Any) -> Any:
            gateway.upstream.held += 1
            return only

        gateway.upstream.try_acquire = again  # type: ignore[method-assign]
        await MessageClient(gateway).task
    assert isinstance(gateway.exchanges[0].error, ConnectFailed)
    assert len(gateway.exchanges[0].attempts) == 1 and gateway.upstream.held == 0


class SlowTransport(NetworkTransport):
    """Is connected only when there is time."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.outcomes: list[asyncio.Future[None]] = []

    async def open_connection(self, protocol_factory: Any, timeout_s: Any = None, patience: Any = None) -> Any:
        if patience is not None:
            self.outcomes.append(asyncio.get_running_loop().create_future())
            raise ConnectPending("slow", self.outcomes[-1])
        return await super().open_connection(protocol_factory)


async def test_an_endpoint_that_takes_long_to_connect_is_passed_over_until_the_others_have_failed() -> None:
    with refused_port() as dead:
        async with ScriptedUpstream(accepting(sending(close_frame(1000)))) as upstream:
            slow = SlowTransport(upstream.port)
            gateway = Gateway(slow, NetworkTransport(dead))
            gateway.upstream.has_choice = True
            await (await talking(gateway)).task

    assert [attempt.outcome for attempt in gateway.exchanges[0].attempts] == ["ConnectPending", "ConnectFailed", "ok"]
    assert gateway.upstream.records == [("endpoint-1", False), ("endpoint-0", True)]
    assert gateway.upstream.held == 1
    slow.outcomes[0].set_result(None)
    await asyncio.sleep(0)
    assert gateway.upstream.held == 0


async def test_without_an_endpoint_the_client_gets_503() -> None:
    gateway = Gateway()
    client = MessageClient(gateway)
    await client.task
    assert isinstance(gateway.exchanges[0].error, NoEndpoint) and client.received[0]["status"] == 503


async def test_a_transport_without_connections_is_passed_over() -> None:
    gateway = Gateway(object())
    await MessageClient(gateway).task
    assert isinstance(gateway.exchanges[0].error, ConnectFailed)


@every_way
async def test_a_silent_upstream_is_504_and_not_tried_elsewhere() -> None:
    async with scripted(silent, timeout_s=0.05) as (gateway, upstream):
        client = calling(gateway)
        await client.task
        assert isinstance(gateway.exchanges[0].error, UpstreamTimeout) and client.received[0]["status"] == 504
        assert gateway.upstream.held == 0
        await upstream.connections[0].closed.wait()


@pytest.mark.parametrize("kind", ["tls", "unix"])
@every_way
async def test_the_transport_of_the_endpoint_connects(kind: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("chat.internal").configure_cert(server)
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def talk(connection: ScriptedConnection) -> None:
        for _ in range(2):
            await connection.send(frame(*await read_frame(connection)))

    tls, uds = kind == "tls", tmp_path / "chat.sock"
    script = accepting(talk)
    async with ScriptedUpstream(script, ssl_context=server) if tls else ScriptedUpstream(script, uds=uds) as upstream:
        ticker = Ticker()
        if tls:
            transport = Http1Transport(
                ticker=ticker,
                host="127.0.0.1",
                port=upstream.port,
                ssl_context=context,
                server_hostname="chat.internal",
            )
        else:
            transport = Http1Transport(ticker=ticker, uds=str(uds))
        client = await talking(Gateway(transport))
        client.text("x" * 100_000)
        assert (await client.next())["text"] == "x" * 100_000
        client.leave(1000, reason="")
        await client.task
        await upstream.connections[0].closed.wait()
        await transport.aclose()


# The end.

CODES = [
    (1000, "done", 1000),
    (1001, "bye", 1001),
    (1008, "", 1008),
    (1011, "oops", 1011),
    (1013, "later", 1013),
    (3000, "registered", 3000),
    (4999, "\u00e9" * 61, 4999),
]


@pytest.mark.parametrize(("code", "reason", "told"), CODES)
@every_way
async def test_the_upstreams_close_reaches_the_client(code: int, reason: str, told: int) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.send("last words")
        await connection.close(code, reason)

    async with server_upstream(close) as port, client_of(Gateway(NetworkTransport(port))) as client:
        assert await client.recv() == "last words"
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (told, reason)


@pytest.mark.parametrize(("code", "reason", "told"), CODES)
@every_way
async def test_the_clients_close_reaches_the_upstream(code: int, reason: str, told: int) -> None:
    closes: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closes.put_nowait((connection.close_code, connection.close_reason))

    async with server_upstream(handler) as port:
        gateway = Gateway(NetworkTransport(port))
        async with client_of(gateway) as client:
            await client.close(code, reason)
            assert await closes.get() == (told, reason)
            exchange = await gateway.ended.get()
    assert exchange.outcome == "done" and gateway.upstream.held == 0


async def test_a_close_without_a_code_stays_one_as_far_as_asgi_can_say_it() -> None:
    seen = []

    async def talk(connection: ScriptedConnection) -> None:
        seen.append(await read_frame(connection))
        await connection.send(close_frame(None))

    async with scripted(accepting(talk)) as (gateway, _):
        client = await talking(gateway)
        client.leave(1005, reason="")
        await client.task
    assert seen == [(CLOSE, b"")]
    async with scripted(accepting(sending(close_frame(None)))) as (gateway, _):
        client = await talking(gateway)
        await client.task
    assert client.received[1:] == [{"type": "websocket.close", "code": 1000, "reason": ""}]


@pytest.mark.parametrize("left", [{"code": 1006}, {"code": 1005}], ids=["1006", "as uvicorn says it"])
@every_way
async def test_a_client_that_vanishes_is_1001_for_the_upstream(left: dict[str, int]) -> None:
    seen = []

    async def talk(connection: ScriptedConnection) -> None:
        seen.append(await read_frame(connection))
        await connection.send(close_frame(1001))

    async with scripted(accepting(talk)) as (gateway, _):
        client = await talking(gateway)
        client.leave(**left)
        await client.task
    assert seen == [(CLOSE, (1001).to_bytes(2, "big"))]
    assert gateway.exchanges[0].outcome == "client-left" and gateway.upstream.records == [("endpoint-0", True)]


@every_way
async def test_a_client_that_is_cut_is_1001_for_the_upstream() -> None:
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.put_nowait(connection.close_code)

    async with server_upstream(handler) as port, client_of(Gateway(NetworkTransport(port))) as client:
        client.transport.abort()
        assert await codes.get() == 1001


@pytest.mark.parametrize("how", ["close", "reset"])
@every_way
async def test_an_upstream_that_vanishes_is_1011_for_the_client(how: str) -> None:
    async def talk(connection: ScriptedConnection) -> None:
        await connection.send(frame(TEXT, b"then"))
        if how == "reset":
            await read_frame(connection)
            connection.reset()

    async with scripted(accepting(talk)) as (gateway, _):
        client = await talking(gateway)
        assert (await client.next())["text"] == "then"
        client.text("go")
        await client.task
    assert client.received[-1] == {"type": "websocket.close", "code": 1011, "reason": "the upstream is gone"}
    assert gateway.exchanges[0].outcome == "aborted"
    assert gateway.upstream.records == [("endpoint-0", True), ("endpoint-0", False)]


@pytest.mark.parametrize(
    ("raw", "to_upstream", "to_client"),
    [
        pytest.param(frame(3, b"x"), 1002, 1011, id="unknown opcode"),
        pytest.param(frame(CONT, b"x"), 1002, 1011, id="nothing to continue"),
        pytest.param(frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002, 1011, id="interrupted"),
        pytest.param(frame(PING, b"x" * 126), 1002, 1011, id="long ping"),
        pytest.param(frame(PING, fin=False), 1002, 1011, id="fragmented ping"),
        pytest.param(b"\xc1\x01x", 1002, 1011, id="reserved bit"),
        pytest.param(b"\x81\x81\x00\x00\x00\x00x", 1002, 1011, id="masked"),
        pytest.param(close_frame(1005), 1002, 1011, id="code 1005"),
        pytest.param(close_frame(1006), 1002, 1011, id="code 1006"),
        pytest.param(close_frame(1015), 1002, 1011, id="code 1015"),
        pytest.param(close_frame(999), 1002, 1011, id="code 999"),
        pytest.param(frame(CLOSE, b"\x03"), 1002, 1011, id="half a code"),
        pytest.param(frame(CLOSE, b"\x03\xe8\xff"), 1007, 1011, id="reason not UTF-8"),
        pytest.param(frame(BINARY, b"x" * 1001), 1009, 1009, id="too big"),
        pytest.param(frame(BINARY, b"x" * 600, fin=False) + frame(CONT, b"x" * 401), 1009, 1009, id="too big together"),
    ],
)
@every_way
async def test_an_upstream_that_breaks_the_rules_is_told_which(raw: bytes, to_upstream: int, to_client: int) -> None:
    await _breaks_the_rules(raw, to_upstream, to_client)


async def _breaks_the_rules(raw: bytes, to_upstream: int, to_client: int) -> None:
    seen = []

    async def talk(connection: ScriptedConnection) -> None:
        await connection.send(frame(BINARY, b"y" * 1000), raw)
        seen.append(await read_frame(connection))

    async with scripted(accepting(talk), settings=WebSocketSettings(max_message_bytes=1000)) as (gateway, _):
        client = await talking(gateway)
        await client.task
    assert client.received[1]["bytes"] == b"y" * 1000
    assert [(opcode, payload[:2]) for opcode, payload in seen] == [(CLOSE, to_upstream.to_bytes(2, "big"))]
    assert client.received[-1]["type"] == "websocket.close" and client.received[-1]["code"] == to_client


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(frame(TEXT, b"\xff\xfe"), id="not UTF-8"),
        pytest.param(frame(TEXT, b"\xe2\x82", fin=False) + frame(CONT), id="UTF-8 cut short"),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), id="surrogate"),
    ],
)
@in_ways(MESSAGES, RELAY)
async def test_an_upstream_whose_texts_are_none_is_told_so(raw: bytes) -> None:
    await _breaks_the_rules(raw, 1007, 1011)


@pytest.mark.parametrize(
    ("message", "code"),
    [({"bytes": b"x" * 1001}, 1009), ({"text": "\u00e9" * 501}, 1009)],
)
@every_way
async def test_a_message_that_is_not_allowed_closes_both_sides(message: dict[str, Any], code: int) -> None:
    await _is_not_allowed(message, code)


async def test_a_text_without_utf8_closes_both_sides() -> None:
    await _is_not_allowed({"text": "\ud800"}, 1007)


async def _is_not_allowed(message: dict[str, Any], code: int) -> None:
    seen = []

    async def talk(connection: ScriptedConnection) -> None:
        assert await read_frame(connection) == (TEXT, "\u00e9".encode() * 500)
        seen.append(await read_frame(connection))
        await connection.send(close_frame(code))

    async with scripted(accepting(talk), settings=WebSocketSettings(max_message_bytes=1000)) as (gateway, _):
        client = await talking(gateway)
        client.text("\u00e9" * 500)
        client.feed({"type": "websocket.receive", **message})
        await client.task
    assert seen[0][0] == CLOSE and seen[0][1][:2] == code.to_bytes(2, "big")
    assert client.received[-1]["code"] == code
    assert gateway.exchanges[0].messages_in == 1


# Time.


async def test_the_upstream_is_pinged_and_given_up_when_it_does_not_answer() -> None:
    pings = []

    async def talk(connection: ScriptedConnection) -> None:
        opcode, payload = await read_frame(connection)
        pings.append(opcode)
        await connection.send(frame(PONG, payload))
        pings.append((await read_frame(connection))[0])
        pings.append((await read_frame(connection))[0])

    settings = WebSocketSettings(idle_timeout_s=0, ping_s=20)
    async with scripted(accepting(talk), settings=settings) as (gateway, upstream):
        client = await talking(gateway)
        await until(lambda: len(gateway.live) == 1)
        gateway.pass_time(0)
        gateway.pass_time(19)
        assert pings == []
        gateway.pass_time(1)
        await until(lambda: len(pings) == 1)
        received = len(upstream.connections[0].received)
        await until(lambda: not client_socket(gateway)._unanswered)
        gateway.pass_time(20)
        await until(lambda: len(upstream.connections[0].received) > received)
        gateway.pass_time(20)
        await client.task
    assert pings == [PING, PING, CLOSE]
    assert client.received[-1]["code"] == 1011
    assert gateway.upstream.records[-1] == ("endpoint-0", False)


def client_socket(gateway: Gateway) -> Any:
    relays: Any = gateway.live._relays
    (relay,) = relays
    return relay._upstream


async def test_no_ping_is_missed_while_the_gateway_itself_holds_the_upstream_back() -> None:
    async def talk(connection: ScriptedConnection) -> None:
        await connection.send(frame(BINARY, b"x" * 200_000) * 3)
        await connection.wait_eof()

    settings = WebSocketSettings(idle_timeout_s=0, ping_s=20)
    async with scripted(accepting(talk), settings=settings) as (gateway, _):
        client = await talking(gateway)
        client.open_gate.clear()
        await until(lambda: bool(client_socket(gateway)._read_paused))
        for _ in range(5):
            gateway.pass_time(20)
        assert not client.task.done()
        client.leave()
        await client.task


async def test_silence_ends_both_sides() -> None:
    seen = []

    async def talk(connection: ScriptedConnection) -> None:
        assert (await read_frame(connection))[0] == TEXT
        seen.append(await read_frame(connection))
        await connection.send(frame(CLOSE, seen[0][1]))

    settings = WebSocketSettings(idle_timeout_s=300, ping_s=0)
    async with scripted(accepting(talk), settings=settings) as (gateway, _):
        client = await talking(gateway)
        gateway.pass_time(0)
        gateway.pass_time(299)
        client.text("still here")
        await until(lambda: gateway.exchanges[0].messages_in == 1)
        gateway.pass_time(1)
        gateway.pass_time(299)
        assert not client.task.done()
        gateway.pass_time(1)
        await client.task
    assert client.received[-1] == {"type": "websocket.close", "code": 1001, "reason": "idle timeout"}
    assert seen == [(CLOSE, (1001).to_bytes(2, "big") + b"idle timeout")]


@every_way
async def test_on_shutdown_both_sides_are_told() -> None:
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.put_nowait(connection.close_code)

    async with server_upstream(handler) as port:
        gateway = Gateway(NetworkTransport(port))
        async with client_of(gateway) as one:
            gateway.live.close_all()
            with pytest.raises(ConnectionClosed) as caught:
                await one.recv()
            assert await codes.get() == 1001
            await gateway.ended.get()
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1001
    assert len(gateway.live) == 0


@every_way
async def test_on_shutdown_a_handshake_under_way_is_told_as_well() -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        await go_on.wait()
        await connection.send(switching(request))
        await connection.send(frame(*await read_frame(connection)))

    async with scripted(script) as (gateway, upstream):
        client = calling(gateway)
        await upstream.connection()
        gateway.live.close_all(1012, "restart")
        go_on.set()
        await client.task
    assert client.received[-1] == {"type": "websocket.close", "code": 1012, "reason": "restart"}


# Backpressure.


async def test_a_slow_client_slows_the_upstream() -> None:
    piece, count = frame(BINARY, b"x" * 50_000), 400
    written = 0

    async def talk(connection: ScriptedConnection) -> None:
        nonlocal written
        for _ in range(count):
            await connection.send(piece)
            written += 1
        await connection.send(close_frame(1000))

    async with scripted(accepting(talk)) as (gateway, _):
        client = await talking(gateway)
        client.open_gate.clear()
        await until(lambda: bool(client_socket(gateway)._read_paused))
        before = -1
        while before != written:
            before = written
            for _ in range(50):
                await asyncio.sleep(0)
        held = client_socket(gateway)._queued_bytes
        assert written < count and held <= 64 * 1024 + 256 * 1024 and gateway.exchanges[0].messages_out == 1
        client.open_gate.set()
        await client.task
    assert gateway.exchanges[0].messages_out == count and len(client.received) == count + 2


async def test_a_slow_upstream_slows_the_client() -> None:
    go_on = asyncio.Event()
    total = 0

    async def talk(connection: ScriptedConnection) -> None:
        nonlocal total
        connection.stop_reading()
        await go_on.wait()
        connection.start_reading()
        while (read := await read_frame(connection))[0] == BINARY:
            total += len(read[1])
        await connection.send(frame(CLOSE, read[1]))

    async with scripted(accepting(talk)) as (gateway, _):
        client = await talking(gateway)
        for _ in range(400):
            client.feed({"type": "websocket.receive", "bytes": b"x" * 50_000})
        await until(lambda: bool(client_socket(gateway).is_full))
        for _ in range(50):
            await asyncio.sleep(0)
        assert client.untaken > 200
        assert client_socket(gateway)._transport.get_write_buffer_size() < 200_000
        go_on.set()
        client.leave(1000, reason="")
        await client.task
    assert total == 400 * 50_000


async def test_a_client_that_leaves_is_noticed_while_the_upstream_takes_nothing() -> None:
    async def talk(connection: ScriptedConnection) -> None:
        connection.stop_reading()
        await connection.closed.wait()

    async with scripted(accepting(talk)) as (gateway, upstream):
        client = await talking(gateway)
        (await upstream.connection()).stop_reading()
        while not client_socket(gateway).is_full:
            client.feed({"type": "websocket.receive", "bytes": b"x" * 500_000})
            await until(lambda: client.untaken == 0)
        client.leave()
        await client.task
        assert gateway.upstream.held == 0
        upstream.connections[0].start_reading()


async def test_pings_of_an_upstream_that_takes_nothing_do_not_fill_memory() -> None:
    async def talk(connection: ScriptedConnection) -> None:
        connection.stop_reading()
        await filled.wait()
        for _ in range(200):
            await connection.send(frame(PING, b"p" * 125) * 100)
        connection.start_reading()
        last = b""
        while (read := await read_frame(connection))[0] != CLOSE:
            last = read[1] if read[0] == PONG else last
        assert last == b"p" * 125
        await connection.send(frame(CLOSE, read[1]))

    filled = asyncio.Event()
    async with scripted(accepting(talk)) as (gateway, _):
        client = await talking(gateway)
        while not client_socket(gateway).is_full:
            client.feed({"type": "websocket.receive", "bytes": b"x" * 500_000})
            await until(lambda: client.untaken == 0)
        size = client_socket(gateway)._transport.get_write_buffer_size()
        filled.set()
        await until(lambda: bool(client_socket(gateway)._held_reply))
        assert client_socket(gateway)._transport.get_write_buffer_size() <= size
        await until(lambda: not client_socket(gateway).is_full)
        client.leave(1000, reason="")
        await client.task


# Leaving and cancelling.


@every_way
async def test_a_client_that_leaves_during_the_handshake_leaves_nothing_open() -> None:
    async with scripted(silent) as (gateway, upstream):
        before = set(asyncio.all_tasks())
        client = calling(gateway)
        connection = await upstream.connection()
        await until(lambda: b"\r\n\r\n" in connection.received)
        client.leave()
        await client.task
        assert isinstance(gateway.exchanges[0].error, ClientLeft)
        assert gateway.upstream.held == 0 and gateway.upstream.records == [] and len(gateway.live) == 0
        await connection.closed.wait()
        assert [task for task in await other_tasks() if task not in before and "_run" not in repr(task)] == []


async def test_a_client_that_left_before_it_was_looked_at() -> None:
    gateway = Gateway()

    async def receive() -> Message:
        return {"type": "websocket.disconnect", "code": 1006}

    client = MessageClient(lambda scope, _, send: gateway(scope, receive, send))
    await client.task
    assert isinstance(gateway.exchanges[0].error, ClientLeft) and client.received == []


async def test_a_client_that_left_when_it_is_to_be_accepted() -> None:
    async with scripted(accepting(sending())) as (gateway, _):
        client = MessageClient(gateway)
        client.open_gate.clear()
        await until(lambda: bool(gateway.exchanges) and bool(gateway.upstream.records))
        client.leave()
        await client.task
        assert isinstance(gateway.exchanges[0].error, ClientLeft) and gateway.upstream.held == 0


async def test_a_client_that_left_when_it_is_to_be_refused() -> None:
    async with scripted(respond(response(401, [], b"no"))) as (gateway, _):
        client = MessageClient(gateway)
        client.open_gate.clear()
        await until(lambda: bool(gateway.exchanges) and bool(gateway.upstream.records))
        client.leave()
        await client.task
        assert isinstance(gateway.exchanges[0].error, ClientLeft) and gateway.upstream.held == 0


async def test_a_refusal_that_takes_too_long_is_cut() -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(response(401, [(b"Content-Length", b"10")], b"half", length=False))
        await connection.wait_eof()

    async with scripted(script, timeout_s=0.1) as (gateway, _):
        await MessageClient(gateway).task
        assert isinstance(gateway.exchanges[0].error, ResponseBroken) and gateway.upstream.held == 0


@every_way
async def test_a_message_before_the_accept_is_kept() -> None:
    seen = []

    async def talk(connection: ScriptedConnection) -> None:
        seen.append(await read_frame(connection))
        await connection.send(close_frame(1000))

    async with scripted(accepting(talk)) as (gateway, _):
        client = calling(gateway)
        client.text("eager")
        await client.task
    assert seen == [(TEXT, b"eager")]


@pytest.mark.parametrize("phase", ["handshake", "accept", "relay", "closing"])
async def test_cancelling_leaves_nothing_open(phase: str) -> None:
    script = silent if phase == "handshake" else accepting(sending())
    async with scripted(script) as (gateway, upstream):
        before = set(asyncio.all_tasks())
        client = MessageClient(gateway)
        if phase == "accept":
            client.open_gate.clear()
        connection = await upstream.connection()
        await until(lambda: bool(connection.received))
        if phase != "handshake":
            await until(lambda: bool(gateway.upstream.records))
        if phase in ("relay", "closing"):
            await client.next()
            client.text("hello")
            await until(lambda: gateway.exchanges[0].messages_in == 1)
        if phase == "closing":
            client.leave(1000, reason="")
            await until(lambda: client.untaken == 0)
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.task
        await connection.closed.wait()
        assert gateway.upstream.held == 0 and len(gateway.live) == 0
        assert [task for task in await other_tasks() if task not in before and "_run" not in repr(task)] == []


async def test_an_upstream_that_does_not_answer_the_close_is_cut() -> None:
    async with scripted(accepting(sending())) as (gateway, upstream):
        client = await talking(gateway)
        client.leave()
        await client.task
        await upstream.connections[0].closed.wait()
        assert gateway.upstream.held == 0


async def test_a_client_whose_leaving_only_send_shows() -> None:
    async with scripted(accepting(sending(frame(TEXT, b"x")))) as (gateway, _):
        client = MessageClient(gateway)
        await client.next()
        client.left = True
        await client.task
    assert gateway.exchanges[0].outcome == "client-left" and gateway.upstream.held == 0


async def test_a_client_that_is_gone_when_it_is_to_be_told() -> None:
    go_on = asyncio.Event()

    async def talk(connection: ScriptedConnection) -> None:
        await go_on.wait()
        await connection.send(close_frame(1000))

    async with scripted(accepting(talk)) as (gateway, _):
        client = await talking(gateway)
        client.left = True
        go_on.set()
        await client.task
    assert gateway.exchanges[0].outcome == "done" and gateway.upstream.held == 0


async def test_messages_of_the_client_after_the_upstreams_close_are_dropped() -> None:
    async with scripted(accepting(sending(frame(TEXT, b"one"), close_frame(1000)))) as (gateway, _):
        client = await talking(gateway)
        client.open_gate.clear()
        await until(lambda: client_socket(gateway)._end is not None)
        client.text("too late")
        client.text("as well")
        await until(lambda: client.untaken == 0)
        client.open_gate.set()
        await client.task
    assert [message.get("text") for message in client.received[1:-1]] == ["one"]
    assert client.received[-1]["code"] == 1000


async def test_a_server_that_fails_is_no_reason_to_keep_anything() -> None:
    async with scripted(accepting(sending())) as (gateway, upstream):
        client = await talking(gateway)
        client.feed({"no": "type"})
        with pytest.raises(KeyError):
            await client.task
        await upstream.connections[0].closed.wait()
    assert gateway.upstream.held == 0 and len(gateway.live) == 0


# Applications in the process.


async def in_process(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "websocket" and await receive() == {"type": "websocket.connect"}
    if scope["path"] == "/refuse":
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"1")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    if scope["path"] == "/raise":
        raise RuntimeError("boom")
    await send({"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-query", scope["query_string"])]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
            return
        await send({**message, "type": "websocket.send"})


@every_way
async def test_an_application_in_the_process_takes_over_when_the_remote_one_is_down() -> None:
    transport = AsgiTransport(in_process)
    with refused_port() as dead:
        gateway = Gateway(NetworkTransport(dead), transport)
        async with client_of(gateway, "/room?a=%20b", subprotocols=["chat"]) as client:
            assert client.subprotocol == "chat" and client.response is not None
            assert client.response.headers["x-query"] == "a=%20b"
            for message in ("hello", b"\x00" * MIB, "", b""):
                await client.send(message)
                assert await client.recv() == message
            await client.send("bye")
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
    assert caught.value.rcvd is not None and (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "bye")
    assert gateway.upstream.held == 0
    await transport.aclose()


async def test_an_application_may_refuse_or_fail(caplog: pytest.LogCaptureFixture) -> None:
    transport = AsgiTransport(in_process)
    gateway = Gateway(transport)
    client = MessageClient(gateway, b"/refuse")
    await client.task
    assert client.received[0] == {
        "type": "websocket.http.response.start",
        "status": 401,
        "headers": [(b"x-a", b"1")],
    }
    assert b"".join(message["body"] for message in client.received[1:]) == b"no"
    await MessageClient(gateway, b"/raise").task
    assert isinstance(gateway.exchanges[1].error, UpstreamAppFailed)
    assert [record.message for record in caplog.records] == ["asgi:function failed in WebSocket '/raise'"]
    await transport.aclose()
