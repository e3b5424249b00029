"""Servers around a gateway, an origin that is a real server, and a WebSocket client that speaks raw frames."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp
from websockets.asyncio.server import Server, ServerConnection, serve

from gateway.app import Gateway
from gateway.http.websocket import accept_value
from tests.support import gateway as support
from tests.support import websockets as uvicorn_support

OWN, SANSIO, WSPROTO, MOUNTED = "gateway-protocol", "uvicorn-sansio", "uvicorn-wsproto", "mounted"
SERVERS = (OWN, SANSIO, WSPROTO, MOUNTED)

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@contextlib.asynccontextmanager
async def running(config: Mapping[str, Any], server: str = OWN) -> AsyncIterator[tuple[Gateway, int, str]]:
    """A gateway under one of ``SERVERS``: itself, its port, and the prefix under which its paths are."""
    if server == WSPROTO:
        gateway = support.make_gateway(config)
        async with uvicorn_support.serving(gateway, ws="wsproto") as url:
            try:
                yield gateway, int(url.rpartition(":")[2]), ""
            finally:
                await gateway.aclose(1.0)
    elif server == MOUNTED:

        def mount(gateway: Gateway) -> ASGIApp:
            return Starlette(routes=[Mount("/mounted", gateway)])

        async with support.serving(config, server=support.UVICORN, mounted=mount, lifespan=False) as served:
            yield served.gateway, served.port, "/mounted"
    else:
        async with support.serving(config, server=support.GATEWAY if server == OWN else support.UVICORN) as served:
            yield served.gateway, served.port, ""


@contextlib.asynccontextmanager
async def origin(app: ASGIApp) -> AsyncIterator[str]:
    """``app`` on a free port, under uvicorn; its http:// address."""
    async with uvicorn_support.serving(app) as url:
        yield url.replace("ws://", "http://")


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def websocket_origin(
    handler: Callable[[ServerConnection], Any] = _echo, **options: Any
) -> AsyncIterator[tuple[str, Server]]:
    """A server of the websockets library: an echo unless ``handler`` says otherwise; its http:// address."""
    options = {"max_size": None, "compression": None, "ping_interval": None, "close_timeout": 1, **options}
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", server


# Frames.


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A frame as a client sends it, masked."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    length = len(payload)
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65536:
        head += struct.pack("!BH", 0x80 | 126, length)
    else:
        head += struct.pack("!BQ", 0x80 | 127, length)
    mask = os.urandom(4)
    pattern = (mask * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return head + mask + masked.to_bytes(length, "big")


def close(code: int, reason: bytes = b"") -> bytes:
    """A client's close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


class RawClient:
    """A client that sends any bytes, and reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes, piece: int = 0) -> None:
        """Write at once, or in pieces that the other side may see one by one."""
        if not piece:
            self.writer.write(data)
        for start in range(0, len(data), piece) if piece else ():
            self.writer.write(data[start : start + piece])
            await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def frame(self) -> tuple[bool, int, bytes] | None:
        """FIN, opcode and payload of the next frame; None when the connection has ended."""
        try:
            first, second = await self.reader.readexactly(2)
            assert not first & 0x70, "a reserved bit"
            assert not second & 0x80, "a server's frame must not be masked"
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return bool(first & 0x80), first & 0x0F, await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def answers(self, close_after: tuple[str, Any] | None = None) -> list[tuple[str, Any]]:
        """Everything up to the end: messages in whole, pongs, and how it closes.

        This end closes, with 1000, as soon as ``close_after`` has come.
        """
        found: list[tuple[str, Any]] = []
        kind, data = 0, b""
        while (received := await self.frame()) is not None:
            fin, opcode, payload = received
            if opcode in (CONT, TEXT, BINARY):
                kind = opcode or kind
                data += payload
                if fin:
                    found.append(("text", data.decode()) if kind == TEXT else ("binary", data))
                    data = b""
            elif opcode == PONG:
                found.append(("pong", payload))
            elif opcode == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if payload else None
                found.append(("close", code))
                await self.send(frame(CLOSE, payload))
                with contextlib.suppress(OSError):
                    self.writer.write_eof()
            if close_after is not None and found[-1:] == [close_after]:
                close_after = None
                await self.send(close(1000))
        return found


@contextlib.asynccontextmanager
async def raw_client(port: int, path: str = "/") -> AsyncIterator[RawClient]:
    """A WebSocket that was accepted, without extensions."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        key = base64.b64encode(os.urandom(16))
        writer.write(
            b"GET %b HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % (path.encode(), key)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert accept_value(key) in head
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
