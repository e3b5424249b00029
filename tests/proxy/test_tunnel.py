"""WebSockets as bytes: raw sockets on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.websocket_frames import unmasked
from gateway.proxy.websocket import WebSocketSettings
from gateway.proxy.websocket_relay import Ending
from gateway.proxy.websocket_tunnel import Tunnel
from gateway.server.limits import Limits
from gateway.upstream.asgi import AsgiTransport
from tests.server.serving import Client, Served, until
from tests.support.gateway import proxying
from tests.support.gateway import serving as serving_gateway
from tests.support.upstream import ScriptedConnection, ScriptedUpstream
from tests.support.websockets import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Gateway,
    NetworkTransport,
    accepting,
    close_frame,
    frame,
    read_frame,
)
from tests.support.wire_client import RELAY, TUNNEL, handshake, serving_on_wire

pytestmark = pytest.mark.anyio

MASK = b"\x11\x22\x33\x44"
KIB, MIB = 1024, 1024 * 1024
SHORT = Ending(None, None, timeout_s=0.05)
NEVER_ENDING = Ending(None, None, timeout_s=3600.0)
# Largest piece that is read, what a transport holds before it says so, and a head.
MAX_HELD = 256 * KIB + 64 * KIB + 1 * KIB


@pytest.fixture(
    params=[("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def masked(raw: bytes) -> bytes:
    """A server's frame as a client sends it, its payload short."""
    start = {126: 4, 127: 10}.get(raw[1], 2)
    return raw[:1] + bytes([raw[1] | 0x80]) + raw[2:start] + MASK + unmasked(raw[start:], MASK)


def big(size: int) -> bytes:
    """A client's message of zeros, with a mask of zeros."""
    return b"\x82\xff" + size.to_bytes(8, "big") + bytes(4 + size)


class Wires:
    """Both ends of one tunnel, and what is between them."""

    def __init__(self, gateway: Gateway, served: Served, client: Client, upstream: ScriptedConnection) -> None:
        self.gateway = gateway
        self.served = served
        self.client = client
        self.upstream = upstream

    @property
    def tunnel(self) -> Tunnel:
        (tunnel,) = self.gateway.live._relays
        assert isinstance(tunnel, Tunnel)
        return tunnel

    def held(self) -> int:
        """Bytes that wait in the gateway for either side."""
        client: Any = self.tunnel.client._connection
        transports = (client._transport, self.tunnel._socket.transport)
        return sum(transport.get_write_buffer_size() for transport in transports)

    async def client_reads(self, raw: bytes) -> None:
        assert await self.client.reader.readexactly(len(raw)) == raw

    async def upstream_reads(self, raw: bytes) -> None:
        assert await self.upstream.read_exactly(len(raw)) == raw


def accepted(*fields: tuple[bytes, bytes], first: bytes = b"") -> Any:
    """Accept, then leave the connection to the test."""

    async def wait(connection: ScriptedConnection) -> None:
        await connection.wait_eof()

    return accepting(wait, *fields, first=first)


@contextlib.asynccontextmanager
async def wires(
    *,
    idle_timeout_s: float = 0.0,
    ping_s: float = 0.0,
    max_message_bytes: int = 16 * MIB,
    limits: Limits | None = None,
    first: bytes = b"",
    early: bytes = b"",
) -> AsyncIterator[Wires]:
    """A tunnel; ``first`` comes with the upstream's answer, ``early`` with the client's request."""
    settings = WebSocketSettings(idle_timeout_s, ping_s, max_message_bytes)
    async with ScriptedUpstream(accepted(first=first)) as upstream:
        gateway = Gateway(NetworkTransport(upstream.port), settings=settings)
        async with serving_on_wire(gateway, TUNNEL, limits) as served:
            client = await served.connect()
            client.write(handshake() + early)
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            connection = await upstream.connection()
            try:
                yield Wires(gateway, served, client, connection)
            finally:
                await client.close()
        assert gateway.upstream.held == 0 and len(gateway.live) == 0
        assert len(served.connections) == 0 and not served.state.connections


async def settled(wire: Wires) -> None:
    """Until no more bytes move."""
    before = (-1, -1)
    while before != (now := (wire.held(), len(wire.upstream.received))):
        before = now
        await asyncio.sleep(0.02)


# Bytes.


async def test_bytes_that_come_with_either_handshake_are_kept() -> None:
    first, early = frame(TEXT, b"hello") + frame(PING, b"p"), masked(frame(TEXT, b"eager"))
    async with wires(first=first, early=early) as wire:
        await wire.client_reads(first)
        await wire.upstream_reads(early)


async def test_an_upstream_may_say_a_lot_before_anybody_asks() -> None:
    first = frame(BINARY, b"x" * 60_000) * 20
    async with wires(first=first) as wire:
        await wire.client_reads(first)


async def test_a_client_may_say_a_lot_before_it_is_accepted() -> None:
    go_on = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await go_on.wait()
        await connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    async with ScriptedUpstream(script) as upstream:
        gateway = Gateway(NetworkTransport(upstream.port))
        async with serving_on_wire(gateway, TUNNEL) as served:
            client = await served.connect()
            client.write(handshake() + big(1 * MIB))
            await upstream.connection()
            go_on.set()
            assert (await client.head()).startswith(b"HTTP/1.1 403 ")
            await client.close()
    async with wires(early=big(1 * MIB)) as wire:
        await wire.upstream_reads(big(1 * MIB))


async def test_frames_pass_in_any_pieces() -> None:
    frames = [frame(TEXT, b"a" * 10), frame(BINARY, b"b" * 300, fin=False), frame(PING), frame(CONT, b"c")]
    down = b"".join(frames)
    up = b"".join(masked(one) for one in frames)
    async with wires() as wire:
        for at in range(len(up)):
            wire.client.write(up[at : at + 1])
            await asyncio.sleep(0)
        await wire.upstream_reads(up)
        await wire.upstream.send(*[down[at : at + 1] for at in range(len(down))])
        await wire.client_reads(down)
        wire.client.write(masked(close_frame(1000)))
        await wire.upstream_reads(masked(close_frame(1000)))
        await wire.upstream.send(close_frame(1000))
        await wire.client_reads(close_frame(1000))
        exchange = await wire.gateway.ended.get()
    assert (exchange.messages_in, exchange.body_bytes_in) == (2, 311)
    assert (exchange.messages_out, exchange.body_bytes_out) == (2, 311)
    assert exchange.outcome == "done"


async def test_half_a_payload_does_not_wait_for_the_rest() -> None:
    async with wires() as wire:
        await wire.upstream.send(frame(BINARY, b"x" * 1000)[:500])
        await wire.client_reads(frame(BINARY, b"x" * 1000)[:500])
        await wire.upstream.send(frame(BINARY, b"x" * 1000)[500:])
        await wire.client_reads(frame(BINARY, b"x" * 1000)[500:])


async def test_large_messages_pass_both_ways_at_once() -> None:
    size = 8 * MIB
    down = frame(BINARY, b"y" * size)
    async with wires() as wire:

        async def to_client() -> None:
            for at in range(0, len(down), 100_000):
                await wire.upstream.send(down[at : at + 100_000])

        wire.client.write(big(size))
        await asyncio.gather(to_client(), wire.client_reads(down), wire.upstream_reads(big(size)))


async def test_what_is_in_a_text_is_for_the_ends_to_judge() -> None:
    async with wires() as wire:
        await wire.upstream.send(frame(TEXT, b"\xff"))
        await wire.client_reads(frame(TEXT, b"\xff"))


# Backpressure.


async def test_a_slow_client_slows_the_upstream() -> None:
    piece, count, written = frame(BINARY, b"x" * 50_000), 1000, 0
    async with wires() as wire:
        wire.client.writer.transport.pause_reading()  # type: ignore[attr-defined]

        async def to_client() -> None:
            nonlocal written
            for _ in range(count):
                await wire.upstream.send(piece)
                written += 1

        sending = asyncio.create_task(to_client())
        await until(lambda: wire.tunnel.client.is_full)
        before = -1
        while before != written:
            before = written
            assert wire.held() <= MAX_HELD
            await asyncio.sleep(0.05)
        assert written < count
        wire.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            await wire.client_reads(piece)
        await sending


async def test_a_slow_upstream_slows_the_client() -> None:
    size = 12 * MIB
    async with wires() as wire:
        wire.upstream.stop_reading()
        wire.client.write(big(size))
        await until(lambda: wire.tunnel.upstream.is_full)
        await settled(wire)
        assert wire.held() <= MAX_HELD
        wire.upstream.start_reading()
        await wire.upstream_reads(big(size))


async def test_a_client_that_takes_nothing_is_cut_at_send_timeout() -> None:
    async with wires(limits=Limits(send_timeout_s=60.0)) as wire:
        wire.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.create_task(wire.upstream.send(*[frame(BINARY, b"x" * 50_000)] * 1000))
        await until(lambda: wire.tunnel.client.is_full)
        await settled(wire)
        wire.served.pass_time(0.0)
        wire.served.pass_time(59.0)
        assert len(wire.served.connections) == 1
        wire.served.pass_time(2.0)
        exchange = await wire.gateway.ended.get()
        await asyncio.gather(sending, return_exceptions=True)
    assert exchange.outcome == "client-left"


# Closing.


@pytest.mark.parametrize("code", [None, 1000, 4999])
async def test_a_close_frame_passes_as_it_is_from_end_to_end(code: int | None) -> None:
    async with wires() as wire:
        await wire.upstream.send(frame(TEXT, b"last") + close_frame(code, "" if code is None else "bye"))
        await wire.client_reads(frame(TEXT, b"last") + close_frame(code, "" if code is None else "bye"))
        assert not wire.upstream.closed.is_set()
        wire.client.write(masked(close_frame(code)) + b"what nobody reads")
        await wire.upstream_reads(masked(close_frame(code)))
        assert await wire.client.rest() == b""
        await wire.upstream.closed.wait()
        assert (await wire.gateway.ended.get()).outcome == "done"
    assert wire.gateway.upstream.records == [("endpoint-0", True)]


async def test_after_its_close_frame_and_its_fin_a_client_still_hears_the_upstream() -> None:
    async with wires() as wire:
        wire.client.write(masked(close_frame(1000)))
        wire.client.writer.write_eof()
        await wire.upstream_reads(masked(close_frame(1000)))
        rest = frame(BINARY, b"x" * 100_000) + frame(TEXT, b"last words") + close_frame(1000)
        await wire.upstream.send(rest)
        assert await wire.client.rest() == rest
        exchange = await wire.gateway.ended.get()
    assert (exchange.outcome, exchange.messages_out, exchange.body_bytes_out) == ("done", 2, 100_010)


async def test_a_close_frame_that_is_not_answered_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.websocket_tunnel._CLOSED", SHORT)
    async with wires() as wire:
        wire.client.write(masked(close_frame(1000)))
        assert await wire.client.rest() == b""
        await wire.upstream.closed.wait()


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_that_vanishes_is_1001_for_the_upstream(how: str) -> None:
    async with wires() as wire:
        wire.client.write(masked(frame(TEXT, b"x")))
        await wire.upstream_reads(masked(frame(TEXT, b"x")))
        if how == "fin":
            wire.client.writer.write_eof()
        else:
            wire.client.writer.transport.abort()
        assert await read_frame(wire.upstream) == (CLOSE, (1001).to_bytes(2, "big"))
        await wire.upstream.send(frame(TEXT, b"still") + close_frame(1001))
        if how == "fin":
            assert await wire.client.rest() == frame(TEXT, b"still") + close_frame(1001)
        await wire.upstream.closed.wait()
        exchange = await wire.gateway.ended.get()
    assert (exchange.outcome, exchange.messages_in) == ("client-left", 1)
    assert wire.gateway.upstream.records == [("endpoint-0", True)]


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_an_upstream_that_vanishes_is_1011_for_the_client(how: str) -> None:
    async with wires() as wire:
        await wire.upstream.send(frame(TEXT, b"then"))
        await wire.client_reads(frame(TEXT, b"then"))
        if how == "fin":
            wire.upstream.send_eof()
        else:
            wire.upstream.reset()
        await wire.client_reads(close_frame(1011, "the upstream is gone"))
        wire.client.write(masked(close_frame(1011)))
        assert await wire.client.rest() == b""
        assert (await wire.gateway.ended.get()).outcome == "aborted"
    assert wire.gateway.upstream.records == [("endpoint-0", True), ("endpoint-0", False)]


async def test_who_leaves_inside_a_frame_leaves_the_other_side_without_a_close_frame() -> None:
    async with wires() as wire:
        await wire.upstream.send(frame(BINARY, b"x" * 1000)[:500])
        await wire.client_reads(frame(BINARY, b"x" * 1000)[:500])
        wire.upstream.close()
        assert await wire.client.rest() == b""
        exchange = await wire.gateway.ended.get()
    assert (exchange.messages_out, exchange.body_bytes_out, exchange.outcome) == (0, 496, "aborted")
    async with wires() as wire:
        wire.client.write(big(1000)[:500])
        await wire.upstream_reads(big(1000)[:500])
        wire.client.writer.transport.abort()
        await wire.upstream.closed.wait()
        exchange = await wire.gateway.ended.get()
    assert wire.upstream.received.endswith(big(1000)[:500])
    assert (exchange.messages_in, exchange.body_bytes_in, exchange.outcome) == (0, 486, "client-left")


async def test_an_upstream_that_left_during_the_accept_is_noticed() -> None:
    async def bye(connection: ScriptedConnection) -> None:
        connection.reset()

    async with ScriptedUpstream(accepting(bye, first=frame(TEXT, b"hi"))) as upstream:
        gateway = Gateway(NetworkTransport(upstream.port))
        async with serving_on_wire(gateway, TUNNEL) as served:
            client = await served.connect()
            client.write(handshake())
            # Which of the two it is depends on how far the handshake had come.
            if b" 101 " in await client.head():
                client.write(masked(close_frame(1011)))
            await client.rest()
            assert (await gateway.ended.get()).outcome in ("aborted", "done")
            assert gateway.upstream.records[-1] == ("endpoint-0", False)
            await client.close()


# What the gateway says itself.


async def test_on_shutdown_both_are_told_between_frames() -> None:
    async with wires() as wire:
        await wire.upstream.send(frame(BINARY, b"x" * 1000)[:500])
        await wire.client_reads(frame(BINARY, b"x" * 1000)[:500])
        for connection in list(wire.served.state.connections):
            connection.shutdown()
        opcode, payload = await read_frame(wire.upstream)
        assert (opcode, payload[:2]) == (CLOSE, (1001).to_bytes(2, "big"))
        await wire.upstream.send(frame(BINARY, b"x" * 1000)[500:700])
        await wire.client_reads(frame(BINARY, b"x" * 1000)[500:700])
        await wire.upstream.send(frame(BINARY, b"x" * 1000)[700:] + frame(TEXT, b"too late") + close_frame(1001))
        await wire.client_reads(frame(BINARY, b"x" * 1000)[700:])
        await wire.client_reads(close_frame(1001, "the gateway is shutting down"))
        wire.client.write(masked(frame(TEXT, b"too late")) + masked(close_frame(1001)))
        assert await wire.client.rest() == b""
        await wire.upstream.closed.wait()
        exchange = await wire.gateway.ended.get()
    assert (exchange.messages_out, exchange.body_bytes_out, exchange.messages_in) == (1, 1000, 0)
    assert exchange.outcome == "done"


async def test_on_shutdown_a_client_inside_a_frame_is_cut_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.websocket_tunnel._CLOSED", SHORT)
    async with wires() as wire:
        wire.client.write(big(1000)[:500])
        await wire.upstream_reads(big(1000)[:500])
        wire.gateway.live.close_all()
        await wire.client_reads(close_frame(1001, "the gateway is shutting down"))
        assert await wire.client.rest() == b""
        await wire.upstream.closed.wait()
    assert wire.upstream.received.endswith(big(1000)[:500])


async def test_silence_ends_both_sides_and_pings_are_silence() -> None:
    async with wires(idle_timeout_s=300.0) as wire:
        wire.gateway.pass_time(0)
        wire.gateway.pass_time(299)
        wire.client.write(masked(frame(TEXT)))
        await wire.upstream_reads(masked(frame(TEXT)))
        wire.gateway.pass_time(2)
        wire.gateway.pass_time(298)
        assert wire.gateway.exchanges[0].messages_in == 1
        await wire.upstream.send(frame(PING))
        await wire.client_reads(frame(PING))
        wire.gateway.pass_time(2)
        await wire.client_reads(close_frame(1001, "idle timeout"))
        opcode, payload = await read_frame(wire.upstream)
        assert (opcode, payload) == (CLOSE, (1001).to_bytes(2, "big") + b"idle timeout")
        await wire.upstream.send(close_frame(1001))
        wire.client.write(masked(close_frame(1001)))
        assert await wire.client.rest() == b""
        assert (await wire.gateway.ended.get()).outcome == "done"


async def test_both_sides_are_pinged_and_who_does_not_answer_is_given_up() -> None:
    async with wires(ping_s=20.0) as wire:
        wire.gateway.pass_time(0)
        wire.gateway.pass_time(19)
        wire.gateway.pass_time(1)
        head = await wire.client.reader.readexactly(6)
        assert head[:2] == b"\x89\x04"
        opcode, payload = await read_frame(wire.upstream)
        assert opcode == PING
        pong = masked(frame(PONG, head[2:]))
        wire.client.write(pong)
        await wire.upstream_reads(pong)
        await wire.upstream.send(frame(PONG, payload))
        await wire.client_reads(frame(PONG, payload))
        wire.gateway.pass_time(20)
        assert (await wire.client.reader.readexactly(6))[:2] == b"\x89\x04"
        assert (await read_frame(wire.upstream))[0] == PING
        wire.client.write(pong)
        await wire.upstream_reads(pong)
        wire.gateway.pass_time(20)
        assert (await wire.client.reader.readexactly(6))[:2] == b"\x89\x04"
        await wire.client_reads(close_frame(1011, "the upstream does not answer"))
        assert (await read_frame(wire.upstream))[1][:2] == (1011).to_bytes(2, "big")
        wire.client.write(masked(close_frame(1011)))
        await wire.upstream.closed.wait()
        assert (await wire.gateway.ended.get()).outcome == "aborted"


async def test_a_client_that_does_not_answer_pings_is_given_up() -> None:
    async with wires(ping_s=20.0) as wire:
        wire.gateway.pass_time(0)
        wire.gateway.pass_time(20)
        await wire.upstream.read_exactly(10)
        await wire.upstream.send(frame(PONG))
        await wire.client.reader.readexactly(6)
        await wire.client_reads(frame(PONG))
        wire.gateway.pass_time(20)
        await wire.client_reads(close_frame(1011, "ping timeout"))
        assert await read_frame(wire.upstream) == (CLOSE, (1001).to_bytes(2, "big"))
        await wire.upstream.send(close_frame(1001))
        assert (await wire.gateway.ended.get()).outcome == "client-left"


async def test_nobody_is_pinged_inside_a_frame_or_while_held_back() -> None:
    async with wires(ping_s=20.0) as wire:
        await wire.upstream.send(frame(BINARY, b"x" * 1000)[:500])
        await wire.client_reads(frame(BINARY, b"x" * 1000)[:500])
        wire.upstream.stop_reading()
        wire.client.write(big(12 * MIB))
        await until(lambda: wire.tunnel.upstream.is_full)
        for _ in range(5):
            wire.gateway.pass_time(20)
        assert not wire.tunnel._ending.done()
        wire.upstream.start_reading()
        await wire.upstream_reads(big(12 * MIB))
        await wire.upstream.send(frame(BINARY, b"x" * 1000)[500:])
        await wire.client_reads(frame(BINARY, b"x" * 1000)[500:])


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(big(1001), id="one frame"),
        pytest.param(masked(frame(TEXT, b"x" * 600, fin=False)) + masked(frame(CONT, b"x" * 401)), id="together"),
    ],
)
async def test_a_message_over_the_limit_does_not_pass(raw: bytes) -> None:
    async with wires(max_message_bytes=1000) as wire:
        wire.client.write(big(1000) + raw)
        await wire.upstream_reads(big(1000))
        if raw[0] == TEXT:
            await wire.upstream_reads(raw[:608])
        opcode, payload = await read_frame(wire.upstream)
        assert (opcode, payload) == (CLOSE, (1009).to_bytes(2, "big") + b"message too big")
        await wire.client_reads(close_frame(1009, "message too big"))
        await wire.client.close()
        await wire.upstream.send(close_frame(1009))
        exchange = await wire.gateway.ended.get()
    assert exchange.messages_in == 1 and wire.gateway.upstream.records == [("endpoint-0", True)]


async def test_who_breaks_the_rules_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.websocket_tunnel._CLIENT_BROKE", NEVER_ENDING)
    async with wires() as wire:
        wire.client.write(masked(frame(TEXT, b"x")) + masked(b"\xc1\x01y"))
        # Its answer is not waited for, and it may be still sending.
        assert await wire.client.rest() == close_frame(1002, "reserved bits must be 0")
        wire.client.write(b"what nobody reads" * 1000)
        await wire.client.close()
        await wire.upstream_reads(masked(frame(TEXT, b"x")))
        assert await read_frame(wire.upstream) == (CLOSE, (1002).to_bytes(2, "big") + b"reserved bits must be 0")
        await wire.upstream.send(close_frame(1002))
        assert (await wire.gateway.ended.get()).outcome == "done"


async def test_a_client_inside_a_frame_hears_that_the_upstream_has_failed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.websocket_tunnel._CLOSED", NEVER_ENDING)
    async with wires() as wire:
        wire.client.write(masked(frame(TEXT, b"x" * 100))[:-1])
        await wire.upstream_reads(masked(frame(TEXT, b"x" * 100))[:-1])
        await wire.upstream.send(close_frame(1007))
        wire.upstream.send_eof()
        # Its close frame can only be the rest of the frame that it has begun.
        assert await wire.client.rest() == close_frame(1007)
        await wire.client.close()
        assert (await wire.gateway.ended.get()).outcome == "done"


# When there is a tunnel.


def seeing(kind: str, app: ASGIApp) -> ASGIApp:
    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        async def see_receive() -> Message:
            return await receive()

        async def see_send(message: Message) -> None:
            await send(message)

        await app(scope, see_receive if kind == "receive" else receive, see_send if kind == "send" else send)

    return middleware


async def way_of(gateway: Gateway, served: Served) -> str:
    """How one message was echoed."""
    client = await served.connect()
    client.write(handshake() + masked(frame(TEXT, b"x")))
    await client.head()
    assert await client.reader.readexactly(3) == frame(TEXT, b"x")
    (passage,) = gateway.live._relays
    client.write(masked(close_frame(1000)))
    await client.rest()
    await client.close()
    return TUNNEL if isinstance(passage, Tunnel) else RELAY


async def echo_once(connection: ScriptedConnection) -> None:
    await connection.send(frame(*await read_frame(connection)))
    opcode, payload = await read_frame(connection)
    await connection.send(frame(opcode, payload))


@pytest.mark.parametrize(
    ("kind", "way"), [("none", TUNNEL), ("receive", RELAY), ("send", RELAY), ("switched off", RELAY)]
)
async def test_who_wants_the_messages_gets_them(kind: str, way: str) -> None:
    async with ScriptedUpstream(accepting(echo_once)) as upstream:
        gateway = Gateway(NetworkTransport(upstream.port), tunnel=kind != "switched off")
        app = gateway.proxy if kind == "none" else seeing(kind, gateway.proxy)
        gateway.proxy, proxy = app, gateway.proxy  # type: ignore[assignment]
        proxy._tunnel = kind != "switched off"
        async with serving_on_wire(gateway, TUNNEL) as served:
            assert await way_of(gateway, served) == way


async def test_an_application_in_the_process_gets_messages() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})

    transport = AsgiTransport(app)
    gateway = Gateway(transport)
    async with serving_on_wire(gateway, TUNNEL) as served:
        assert await way_of(gateway, served) == RELAY
    await transport.aclose()


async def test_a_server_that_compresses_passes_messages() -> None:
    async with ScriptedUpstream(accepting(echo_once)) as upstream:
        gateway = Gateway(NetworkTransport(upstream.port))
        async with serving_on_wire(gateway, TUNNEL, ws_per_message_deflate=True) as served:
            client = await served.connect()
            client.write(handshake(fields=[(b"host", b"a"), (b"sec-websocket-extensions", b"permessage-deflate")]))
            assert b"permessage-deflate" in (await client.head()).lower()
            (passage,) = gateway.live._relays
            assert not isinstance(passage, Tunnel)
            await client.close()
            await gateway.ended.get()
        assert upstream.connections[0].requests[0].values(b"sec-websocket-extensions") == []


@pytest.mark.parametrize("ends", ["fin", "reset", "close frame", "broken rule"])
async def test_tls_to_the_client(ends: str) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with ScriptedUpstream(accepted(first=frame(TEXT, b"hello"))) as upstream:
        gateway = Gateway(NetworkTransport(upstream.port))
        async with serving_on_wire(gateway, TUNNEL, tls=context) as served:
            served.tls = trusting
            client = await served.connect()
            client.write(handshake() + big(300_000))
            await client.head()
            assert await client.reader.readexactly(7) == frame(TEXT, b"hello")
            connection = await upstream.connection()
            assert await connection.read_exactly(300_014) == big(300_000)
            if ends == "close frame":
                await connection.send(close_frame(1000))
                assert await client.reader.readexactly(4) == close_frame(1000)
                client.write(masked(close_frame(1000)))
                assert await connection.read_exactly(8) == masked(close_frame(1000))
                await connection.closed.wait()
            elif ends == "broken rule":
                client.write(masked(b"\xc1\x01y") + b"what nobody reads" * 1000)
                assert await client.rest() == close_frame(1002, "reserved bits must be 0")
                assert await read_frame(connection) == (CLOSE, (1002).to_bytes(2, "big") + b"reserved bits must be 0")
                await connection.send(close_frame(1002))
            else:
                if ends == "reset":
                    client.writer.transport.abort()
                await client.close()
                assert await read_frame(connection) == (CLOSE, (1001).to_bytes(2, "big"))
                await connection.send(close_frame(1001))
            exchange = await gateway.ended.get()
            await client.close()
    assert exchange.outcome == ("done" if ends in ("close frame", "broken rule") else "client-left")


async def test_a_whole_gateway_passes_bytes_under_its_own_head() -> None:
    seen: list[Any] = []

    async def talk(connection: ScriptedConnection) -> None:
        opcode, payload = await read_frame(connection)
        (passage,) = served.gateway.runtime.websockets._relays
        seen.append(type(passage))
        await connection.send(frame(opcode, payload))
        await connection.send(frame(*await read_frame(connection)))

    async with ScriptedUpstream(accepting(talk, (b"Server", b"secret"), (b"X-Room", b"7"))) as upstream:
        table = proxying(upstream.url, response_headers={"set": {"X-Served-By": "gateway"}})
        async with serving_gateway(table) as served, served.client() as client:
            client.write(handshake() + masked(frame(TEXT, b"x")))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert await client.reader.readexactly(3) == frame(TEXT, b"x")
            client.write(masked(close_frame(1000)))
            assert await client.reader.read() == close_frame(1000)
            (exchange,) = await served.ended(1)
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
    assert fields[b"x-served-by"] == b"gateway" and fields[b"x-room"] == b"7" and b"server" not in fields
    assert fields[b"x-request-id"] == exchange.request_id.encode()
    assert (exchange.status, exchange.messages_in, exchange.messages_out) == (101, 1, 1)
    assert (exchange.body_bytes_in, exchange.body_bytes_out, exchange.outcome) == (1, 1, "done")
    assert seen == [Tunnel]
