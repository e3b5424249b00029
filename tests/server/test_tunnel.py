"""A client's connection that an application leaves to somebody else."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
import trustme
from starlette.types import Receive, Scope, Send

from gateway.server.limits import Limits
from tests.server.serving import Client, serving, until

pytestmark = pytest.mark.anyio

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Owner:
    """A tunnel to nowhere: remembers what happens, and is its own receiver."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.received = b""
        self.events: list[str] = []
        self.keeps_half = False
        self.joined = asyncio.Event()
        self.over = asyncio.Event()

    @property
    def receiver(self) -> Owner:
        return self

    def join(self, connection: Any, early: bytes) -> None:
        self.connection = connection
        self.received += early
        self.joined.set()

    def shutdown(self) -> None:
        self.events.append("shutdown")

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self.keeps_half

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        self.over.set()

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


class App:
    """Accepts at a given moment, and leaves the connection to an owner."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.accept_at = asyncio.Event()
        self.accept_at.set()
        self.called = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        offer = scope["extensions"]["gateway.tunnel"]
        assert offer.receive == receive and offer.send == send
        self.called.set()
        await self.accept_at.wait()
        await send(
            {
                "type": "websocket.accept",
                "subprotocol": None,
                "headers": [(b"x-a", b"b")],
                "gateway.tunnel": self.owner,
            }
        )
        if self.owner.joined.is_set():
            await self.owner.over.wait()


def options(**more: Any) -> dict[str, Any]:
    return {"ws_per_message_deflate": False, **more}


async def joined(client: Client, app: App, early: bytes = b"") -> None:
    client.write(HANDSHAKE + early)
    assert b"\r\nx-a: b\r\n" in await client.head()
    await app.owner.joined.wait()


async def test_bytes_go_to_the_new_owner_and_back_as_they_are() -> None:
    app = App()
    async with serving(app, **options()) as served:
        client = await served.connect()
        await joined(client, app, b"not a frame")
        client.write(b" at all")
        await until(lambda: app.owner.received == b"not a frame at all")
        app.owner.connection.write(b"\xffanything")
        assert await client.reader.readexactly(9) == b"\xffanything"
        assert len(served.connections) == 1 and len(served.state.connections) == 1
        assert not app.owner.connection.is_closing()
        app.owner.keeps_half = True
        client.writer.write_eof()
        await until(lambda: app.owner.events == ["eof"])
        app.owner.connection.write(b"half open")
        app.owner.connection.close()
        assert await client.rest() == b"half open"
        await client.close()
        await app.owner.over.wait()
        assert len(served.connections) == 0 and not served.state.connections
        await until(lambda: not served.state.tasks)
    assert app.owner.events == ["eof", "lost"]


async def test_what_came_before_the_accept_is_handed_over_and_reading_goes_on() -> None:
    app = App()
    app.accept_at.clear()
    early = b"e" * 1_000_000
    async with serving(app, **options()) as served:
        client = await served.connect()
        client.write(HANDSHAKE + early)
        await app.called.wait()
        (connection,) = served.connections._open
        await until(lambda: connection.read_paused)  # type: ignore[attr-defined]
        app.accept_at.set()
        await until(lambda: app.owner.received == early)
        app.owner.connection.abort()
        await client.rest()
        await client.close()


async def test_reading_may_be_paused() -> None:
    app = App()
    async with serving(app, **options()) as served:
        client = await served.connect()
        await joined(client, app)
        app.owner.connection.pause_reading()
        client.write(b"x")
        await asyncio.sleep(0.02)
        assert app.owner.received == b""
        app.owner.connection.resume_reading()
        await until(lambda: app.owner.received == b"x")
        await client.close()
        await app.owner.over.wait()


@pytest.mark.parametrize("closing", [False, True])
async def test_a_client_that_takes_nothing_is_cut(closing: bool) -> None:
    app = App()
    async with serving(app, Limits(send_timeout_s=60.0), **options()) as served:
        client = await served.connect()
        await joined(client, app)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while "pause" not in app.owner.events:
            app.owner.connection.write(b"x" * 1_000_000)
            await asyncio.sleep(0)
        if closing:
            app.owner.connection.close()
        served.pass_time(0.0)
        served.pass_time(59.0)
        assert len(served.connections) == 1
        served.pass_time(2.0)
        await app.owner.over.wait()
        client.writer.transport.abort()
        await client.close()


async def test_a_client_that_takes_it_after_all_is_not_cut() -> None:
    app = App()
    async with serving(app, Limits(send_timeout_s=60.0), **options()) as served:
        client = await served.connect()
        await joined(client, app)
        size = 0
        while "pause" not in app.owner.events:
            app.owner.connection.write(b"x" * 1_000_000)
            size += 1_000_000
            await asyncio.sleep(0)
        served.pass_time(0.0)
        await client.reader.readexactly(size)
        await until(lambda: app.owner.events == ["pause", "resume"])
        served.pass_time(120.0)
        assert len(served.connections) == 1
        await client.close()
        await app.owner.over.wait()


async def test_a_shutdown_is_told_and_the_end_of_it_cuts() -> None:
    app = App()
    async with serving(app, **options()) as served:
        client = await served.connect()
        await joined(client, app)
        for connection in list(served.state.connections):
            connection.shutdown()
        assert app.owner.events == ["shutdown"]
        served.connections.cut_all()
        await app.owner.over.wait()
        await client.rest()
        await client.close()


async def test_a_client_that_left_before_the_accept_is_not_handed_over() -> None:
    app = App()
    app.accept_at.clear()
    async with serving(app, **options()) as served:
        client = await served.connect()
        client.write(HANDSHAKE)
        await app.called.wait()
        client.writer.transport.abort()
        await client.close()
        await until(lambda: not len(served.connections))
        app.accept_at.set()
        await until(lambda: not served.state.tasks)
    assert not app.owner.joined.is_set()


async def test_tls() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    app = App()
    async with serving(app, tls=context, **options()) as served:
        served.tls = ssl.create_default_context()
        authority.configure_trust(served.tls)
        client = await served.connect()
        await joined(client, app, b"a" * 100_000)
        await until(lambda: app.owner.received == b"a" * 100_000)
        app.owner.connection.write(b"b" * 100_000)
        assert await client.reader.readexactly(100_000) == b"b" * 100_000
        await client.close()
        await app.owner.over.wait()


async def test_no_tunnel_is_offered_where_frames_are_compressed() -> None:
    offers: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offers.append("gateway.tunnel" in scope["extensions"])
        await send({"type": "websocket.close"})

    async with serving(app) as served:
        offering = HANDSHAKE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        for request in (HANDSHAKE, offering):
            assert b" 403 " in await served.ask(request)
    assert offers == [True, False]
