"""A route's rules hold for its WebSockets as for its requests, whatever server the gateway runs in."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.config.load import load_config
from tests.streams.support import MOUNTED, OWN, SANSIO, SERVERS, WSPROTO, running, websocket_origin
from tests.support.gateway import proxying, until
from tests.support.upstream import ScriptedUpstream, refused_port, respond, response

pytestmark = pytest.mark.anyio

servers = pytest.mark.parametrize("server", SERVERS)


class Open(connect):
    """A connection to the gateway, through no proxy, that leaves redirects and retries alone."""

    def __init__(self, port: int, path: str, **options: Any) -> None:
        super().__init__(f"ws://127.0.0.1:{port}{path}", proxy=None, ping_interval=None, max_size=None, **options)


async def tell_request(connection: ServerConnection) -> None:
    """Tell the client what its handshake looks like from behind the gateway."""
    assert connection.request is not None
    await connection.send(connection.request.path)
    for name, value in connection.request.headers.raw_items():
        await connection.send(f"{name.lower()}: {value}")
    await connection.close(4000, "told")


async def told(client: ClientConnection) -> list[str]:
    found = []
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            found.append(str(await client.recv()))
    assert closed.value.rcvd is not None and (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "told")
    return found


@servers
async def test_an_accepted_handshake_has_at_most_one_date(server: str) -> None:
    async with (
        websocket_origin() as (url, _),
        running(proxying(url), server) as (_, port, prefix),
        Open(port, f"{prefix}/") as client,
    ):
        assert client.response is not None
        assert len(client.response.headers.get_all("Date")) <= 1


@servers
async def test_target_fields_and_cookies_reach_the_upstream_as_the_route_says(server: str) -> None:
    async with websocket_origin(tell_request) as (url, _):
        config = proxying(
            url,
            path="/chat/*",
            strip_prefix="/chat",
            add_prefix="/v1",
            request_headers={"set": {"X-Route": "{route}"}, "add": {"X-Hop": "gateway"}, "remove": ["X-Secret"]},
        )
        async with running(config, server) as (_, port, prefix):
            fields = [
                ("Cookie", "a=1; b=2"),
                ("Authorization", "Bearer token"),
                ("Origin", "https://app.example"),
                ("X-Secret", "hidden"),
                ("X-Forwarded-For", "192.0.2.66"),
            ]
            target = f"{prefix}/chat/room%2F1/b?x=1&x=%20"
            async with Open(port, target, additional_headers=fields) as client:
                path, *lines = await told(client)
    assert path == "/v1/room%2F1/b?x=1&x=%20"
    for line in ("cookie: a=1; b=2", "authorization: Bearer token", "origin: https://app.example", "x-hop: gateway"):
        assert line in lines
    assert "x-route: all" in lines
    # As it is started here, that server believes the field itself.
    assert ("x-forwarded-for: 192.0.2.66" if server == WSPROTO else "x-forwarded-for: 127.0.0.1") in lines
    assert not [line for line in lines if line.startswith(("x-secret:", "sec-websocket-extensions:"))]
    assert len([line for line in lines if line.startswith("sec-websocket-key:")]) == 1
    assert any(line.startswith("via: ") for line in lines)
    assert any(line.startswith("x-request-id: ") for line in lines)


@servers
async def test_the_client_sees_the_upstreams_fields_cookies_and_subprotocol_under_the_routes_rules(server: str) -> None:
    def answer(connection: ServerConnection, request: Any, answered: Any) -> None:
        answered.headers["Set-Cookie"] = "session=1; Path=/inside; Domain=127.0.0.1"
        answered.headers["Set-Cookie"] = "other=2"
        answered.headers["X-Powered-By"] = "secret"
        answered.headers["X-Kept"] = "yes"

    chat = [Subprotocol("chat.v2"), Subprotocol("chat.v1")]
    async with websocket_origin(process_response=answer, subprotocols=chat[1:]) as (url, _):
        config = proxying(
            url,
            path="/chat/*",
            strip_prefix="/chat",
            add_prefix="/inside",
            response_headers={"set": {"X-Served-By": "gateway"}},
        )
        async with (
            running(config, server) as (_, port, prefix),
            Open(port, f"{prefix}/chat/a", subprotocols=chat) as client,
        ):
            assert client.subprotocol == "chat.v1"
            assert client.response is not None
            headers = client.response.headers
            assert headers.get_all("Set-Cookie") == [f"session=1; Path={prefix}/chat", "other=2"]
            assert headers["X-Served-By"] == "gateway" and headers["X-Kept"] == "yes"
            assert "X-Powered-By" not in headers and "Sec-WebSocket-Extensions" not in headers
            await client.send("hello")
            assert await client.recv() == "hello"


@servers
async def test_websockets_are_balanced_and_pass_over_what_is_down(server: str) -> None:
    def naming(name: str) -> Any:
        async def handler(connection: ServerConnection) -> None:
            await connection.send(name)
            await connection.wait_closed()

        return handler

    with refused_port() as refused:
        async with websocket_origin(naming("a")) as (a, _), websocket_origin(naming("b")) as (b, _):
            down = f"http://127.0.0.1:{refused}"
            config = proxying(a, down, b, upstream={"balance": "round-robin"})
            async with running(config, server) as (_, port, prefix):
                clients = [await Open(port, f"{prefix}/") for _ in range(6)]
                names = Counter([str(await client.recv()) for client in clients])
                for client in clients:
                    await client.close()
    assert set(names) == {"a", "b"} and min(names.values()) >= 2


@servers
async def test_a_sticky_cookie_leads_the_next_websocket_to_the_same_endpoint(server: str) -> None:
    def naming(name: str) -> Any:
        async def handler(connection: ServerConnection) -> None:
            await connection.send(name)

        return handler

    async with websocket_origin(naming("a")) as (a, _), websocket_origin(naming("b")) as (b, _):
        config = proxying(a, b, upstream={"balance": "round-robin", "sticky": {"cookie": "where"}})
        async with running(config, server) as (_, port, prefix):
            async with Open(port, f"{prefix}/") as first:
                assert first.response is not None
                cookie = first.response.headers["Set-Cookie"].partition(";")[0]
                name = await first.recv()
            assert cookie.startswith("where=")
            for _ in range(3):
                async with Open(port, f"{prefix}/", additional_headers=[("Cookie", cookie)]) as again:
                    assert await again.recv() == name


@servers
async def test_a_refusal_is_the_upstreams_own(server: str) -> None:
    refusal = response(418, [(b"X-Why", b"teapot"), (b"Server", b"hidden")], b"no sockets here", reason=b"No")
    async with (
        ScriptedUpstream(respond(refusal)) as upstream,
        running(proxying(upstream.url), server) as (_, port, prefix),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with Open(port, f"{prefix}/"):
                raise AssertionError
        answer = refused.value.response
        assert answer.status_code == 418 and answer.body == b"no sockets here"
        assert answer.headers["X-Why"] == "teapot" and answer.headers.get("Server") != "hidden"


@servers
@pytest.mark.parametrize(
    ("route", "status"), [({"websocket": False}, 403), ({"deny": ["127.0.0.0/8"]}, 403), ({}, 502)]
)
async def test_the_gateways_own_refusals_are_answers(server: str, route: dict[str, Any], status: int) -> None:
    with refused_port() as refused:
        async with running(proxying(f"http://127.0.0.1:{refused}", **route), server) as (_, port, prefix):
            with pytest.raises(InvalidStatus) as answer:
                async with Open(port, f"{prefix}/"):
                    raise AssertionError
            assert answer.value.response.status_code == status


@servers
async def test_messages_up_to_the_limit_pass_and_larger_ones_are_1009(server: str) -> None:
    options = {"websocket": {"max_message": "100KiB"}}
    async with (
        websocket_origin() as (url, _),
        running(proxying(url, **options), server) as (_, port, prefix),
        Open(port, f"{prefix}/") as client,
    ):
        for data in ("x" * 102_400, b"y" * 102_400):
            await client.send(data)
            assert await client.recv() == data
        with pytest.raises(ConnectionClosed) as closed:
            await client.send("x" * 102_401)
            await client.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


@servers
async def test_a_client_that_vanishes_is_1001_for_the_upstream_within_a_moment(server: str) -> None:
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.put_nowait(connection.close_code)

    async with websocket_origin(handler) as (url, _), running(proxying(url), server) as (gateway, port, prefix):
        client = await Open(port, f"{prefix}/")
        client.transport.abort()
        assert await codes.get() == 1001
        await until(lambda: not len(gateway.runtime.websockets))


@servers
async def test_an_upstream_that_vanishes_is_1011_for_the_client(server: str) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.abort()

    async with websocket_origin(handler) as (url, _), running(proxying(url), server) as (gateway, port, prefix):
        async with Open(port, f"{prefix}/") as client:
            await client.send("now")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
        await until(lambda: not len(gateway.runtime.websockets))


@servers
async def test_closing_the_gateway_tells_both_sides_1001(server: str) -> None:
    codes: asyncio.Queue[int | None] = asyncio.Queue()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.put_nowait(connection.close_code)

    async with (
        websocket_origin(handler) as (url, _),
        running(proxying(url), server) as (gateway, port, prefix),
        Open(port, f"{prefix}/") as client,
    ):
        closing = asyncio.create_task(gateway.aclose(30.0))
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
        assert await codes.get() == 1001
        await closing


@pytest.mark.parametrize("server", [OWN, SANSIO, MOUNTED, WSPROTO])
async def test_websockets_survive_reloads(server: str) -> None:
    async with websocket_origin() as (url, _):

        def table(**other: Any) -> dict[str, Any]:
            config = proxying(url, path="/chat/*")
            config["server"] = {"access_log": "off"}
            config["routes"].append({"name": "other", "path": "/other", "respond": {"status": 200, **other}})
            return config

        async with running(table(body="old"), server) as (gateway, port, prefix):
            async with Open(port, f"{prefix}/chat/") as client:
                # Another route changes, then this one, then it is gone: what is open goes on.
                changed = table(body="new")
                changed["routes"][0]["timeout"] = "7s"
                gone = table(body="new")
                del gone["routes"][0]
                for number, config in enumerate((table(body="new"), changed, gone)):
                    await gateway.reload(load_config(config))
                    await client.send(f"message {number}")
                    assert await client.recv() == f"message {number}"
            await until(lambda: not gateway.live.retired)
