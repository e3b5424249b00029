"""WebSocket messages and their echo: the upstream and the load, both as small as they can be.

    python -m benchmarks.echo serve PORT
    python -m benchmarks.echo call PORT PATH CONNECTIONS OUTSTANDING SECONDS

``call`` says "go" when its connections stand, waits for a line, and prints echoes, failed connections and the
percentiles of the round trip in microseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.latency import percentiles
from gateway.http.websocket import accept_value

PAYLOAD = b"x" * 100
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
WARM_UP_S = 0.2

# With a mask of zeros the echo of a frame is a constant, too.
CLIENT_FRAME = bytes([0x82, 0x80 | len(PAYLOAD)]) + bytes(4) + PAYLOAD
SERVER_FRAME = bytes([0x82, len(PAYLOAD)]) + PAYLOAD


class MessageView:
    """Middleware that wants to see messages: a route with it relays them instead of bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, lambda: receive(), send)


class Stream(asyncio.Protocol):
    """A handshake, then frames of one length."""

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes
        self._rest = 0
        self._head: bytes | None = b""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            head, found, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = None if found else head
            if not found:
                return
            self.on_head(head)
        count, self._rest = divmod(self._rest + len(data), self._frame_bytes)
        if count:
            self.on_frames(count)

    def on_head(self, head: bytes) -> None:
        raise NotImplementedError

    def on_frames(self, count: int) -> None:
        raise NotImplementedError


class Origin(Stream):
    """Answers each frame with one."""

    def __init__(self) -> None:
        super().__init__(len(CLIENT_FRAME))

    def on_head(self, head: bytes) -> None:
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_value(key)
        )

    def on_frames(self, count: int) -> None:
        self.transport.write(SERVER_FRAME * count)


class Caller(Stream):
    """Keeps ``outstanding`` frames on their way, and times one of them after the other."""

    def __init__(self, path: str, outstanding: int) -> None:
        super().__init__(len(SERVER_FRAME))
        self.count = 0
        self.failed = False
        self.round_trips_us: list[float] = []
        self._path = path
        self._outstanding = outstanding
        self._timed_since = 0.0
        self._before_timed = outstanding

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(
            b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % (self._path.encode(), KEY)
        )

    def on_head(self, head: bytes) -> None:
        self.failed = not head.startswith(b"HTTP/1.1 101")
        self._timed_since = time.perf_counter()
        self.transport.write(CLIENT_FRAME * self._outstanding)

    def on_frames(self, count: int) -> None:
        self.count += count
        self._before_timed -= count
        if self._before_timed <= 0:
            # The frame that is sent now comes back behind those that are on their way.
            now = time.perf_counter()
            self.round_trips_us.append((now - self._timed_since) * 1e6)
            self._timed_since, self._before_timed = now, self._outstanding
        self.transport.write(CLIENT_FRAME * count)

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed = True


async def serve(port: int) -> None:
    """Echo until told to stop."""
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", port)
    await server.serve_forever()


async def call(port: int, path: str, connections: int, outstanding: int, seconds: float) -> None:
    """Exchange messages for ``seconds``, after a short while of warming up."""
    loop = asyncio.get_running_loop()
    callers = [
        (await loop.create_connection(lambda: Caller(path, outstanding), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(WARM_UP_S)
    for caller in callers:
        caller.round_trips_us.clear()
    print("go", flush=True)
    sys.stdin.readline()
    before = sum(caller.count for caller in callers)
    await asyncio.sleep(seconds)
    done = sum(caller.count for caller in callers) - before
    failed = sum(caller.failed for caller in callers)
    print(done, failed, *percentiles([us for caller in callers for us in caller.round_trips_us]), flush=True)
    for caller in callers:
        caller.transport.abort()


def main() -> None:
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    match sys.argv[1:]:
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["call", port, path, connections, outstanding, seconds]:
            asyncio.run(call(int(port), path, int(connections), int(outstanding), float(seconds)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
