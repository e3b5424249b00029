"""WebSockets over the gateway's own server: the same tests for messages and for bytes.

``WireClient`` has the face of ``MessageClient``, and a real connection behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import Message
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Side
from websockets.protocol import Protocol as FrameProtocol

from gateway.http.fields import Fields
from gateway.http.websocket import NO_STATUS, accept_value
from gateway.server.limits import Limits
from tests.server.serving import Served, serving, until
from tests.support.websockets import Gateway

RELAY, TUNNEL = "relay", "tunnel"

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

_HANDSHAKE_FIELDS = frozenset([b"connection", b"date", b"sec-websocket-accept", b"sec-websocket-protocol", b"upgrade"])


def handshake(path: bytes = b"/", fields: Fields | None = None) -> bytes:
    """A client's request."""
    own = [(b"host", b"example.com")] if fields is None else fields
    lines = [b"%b: %b\r\n" % field for field in own]
    return b"GET %b HTTP/1.1\r\n%bConnection: Upgrade\r\nUpgrade: websocket\r\n%b\r\n" % (
        path,
        b"".join(lines),
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n" % KEY,
    )


@contextlib.asynccontextmanager
async def serving_on_wire(
    gateway: Gateway, way: str, limits: Limits | None = None, **options: Any
) -> AsyncIterator[Served]:
    """Serve ``gateway`` with the gateway's own protocol; what follows a handshake goes the given ``way``."""
    gateway.proxy._tunnel = way == TUNNEL
    options = {"ws_per_message_deflate": False, "ws_ping_interval": None, **options}
    async with serving(gateway, limits, **options) as served:
        yield served


class WireClient:
    """A client under the control of a test; ``task`` ends when the gateway is done with it."""

    def __init__(self, gateway: Gateway, way: str, path: bytes = b"/", headers: Fields | None = None) -> None:
        self.received: list[Message] = []
        """What came, as the messages that a server would have been given."""
        self._gateway = gateway
        self._way = way
        self._request = handshake(path, headers)
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue()
        self._unsent: list[bytes] = []
        self._writer: asyncio.StreamWriter | None = None
        self._frames = FrameProtocol(Side.CLIENT, state=OPEN, max_size=None)
        self._partial: list[bytes] = []
        self._is_text = False
        self.task = asyncio.create_task(self._run())

    def feed(self, message: Message) -> None:
        """Send a message, unless the WebSocket is closed."""
        data = message.get("bytes")
        with contextlib.suppress(InvalidState):
            if data is None:
                self._frames.send_text(message["text"].encode())
            else:
                self._frames.send_binary(data)
            self._flush()

    def text(self, text: str) -> None:
        """Send a text message."""
        self.feed({"text": text})

    def leave(self, code: int = 1006, reason: str | None = None) -> None:
        """Close with ``code`` and ``reason``, or be gone where there is no reason."""
        assert self._writer is not None
        if reason is None:
            self._writer.transport.abort()
            return
        self._frames.send_close(None if code == NO_STATUS else code, reason)
        self._flush()

    async def next(self) -> Message:
        """The next of ``received``."""
        return await self._outgoing.get()

    def _flush(self) -> None:
        pieces = self._frames.data_to_send()
        if self._writer is None:
            self._unsent += pieces
        else:
            self._writer.write(b"".join(pieces))

    async def _run(self) -> None:
        async with serving_on_wire(self._gateway, self._way) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            self._writer = writer
            writer.write(b"".join([self._request, *self._unsent]))
            try:
                await self._read(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            await until(lambda: not served.state.tasks)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        line, *rest = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        fields = [(name.lower(), value.strip()) for name, _, value in (field.partition(b":") for field in rest)]
        status = int(line.split(b" ")[1])
        values = dict(fields)
        shown = [field for field in fields if field[0] not in _HANDSHAKE_FIELDS]
        if status != 101:
            self._take({"type": "websocket.http.response.start", "status": status, "headers": shown})
            self._take({"type": "websocket.http.response.body", "body": await reader.read()})
            return
        assert values[b"sec-websocket-accept"] == accept_value(KEY)
        subprotocol = values.get(b"sec-websocket-protocol")
        self._take({"type": "websocket.accept", "subprotocol": subprotocol, "headers": shown})
        while data := await reader.read(65536):
            self._frames.receive_data(data)
            for frame in self._frames.events_received():
                assert isinstance(frame, Frame)
                self._on_frame(frame)
            if self._frames.parser_exc is not None and self._frames.close_rcvd is not None:
                # The parser takes no close frame inside a message, as RFC 6455 section 5.4 allows it.
                self._take_close()
            self._flush()

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._take_close()
        elif frame.opcode in (Opcode.CONT, Opcode.TEXT, Opcode.BINARY):
            if frame.opcode is not Opcode.CONT:
                self._partial, self._is_text = [], frame.opcode is Opcode.TEXT
            self._partial.append(bytes(frame.data))
            if frame.fin:
                data = b"".join(self._partial)
                whole = {"text": data.decode()} if self._is_text else {"bytes": data}
                self._take({"type": "websocket.send", **whole})

    def _take_close(self) -> None:
        close = self._frames.close_rcvd
        assert close is not None
        self._take({"type": "websocket.close", "code": int(close.code), "reason": close.reason})

    def _take(self, message: Message) -> None:
        self.received.append(message)
        self._outgoing.put_nowait(message)
