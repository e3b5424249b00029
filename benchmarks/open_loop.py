"""Load at a rate: requests begin when they are due, whether those before them are answered or not.

    python -m benchmarks.open_loop URL CONNECTIONS RATE SECONDS

wrk asks again when it has an answer, so a stall of the server makes it ask less and hides what the clients would have
waited. Here what is due while every connection is busy waits for one, and that wait counts. A server may close a
connection between two requests, as some do when they reload: it is opened again, and what was under way is asked anew.

Prints requests, errors, p50, p99 and p99.9 of the latency, and p99 of how late the load itself was, in microseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections import deque

from benchmarks.latency import percentile, percentiles

TICK_S = 0.001
RETRY_S = 0.01
END_TIMEOUT_S = 10.0


class Connection(asyncio.Protocol):
    """Asks one request at a time; answers have a Content-Length."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.due: float | None = None
        """When the request that is under way was due."""
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def ask(self, due: float) -> None:
        """Send the request."""
        self.due = due
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        head, found, body = received.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        if len(body) >= int(length or 0):
            self._received = b""
            due, self.due = self.due, None
            self._load.on_answer(self, due, head[9:10] == b"2")

    def close(self) -> None:
        """Leave."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._load.on_lost(self, bool(self._received))


class Load:
    """The connections, those of them that are free, and what is due."""

    def __init__(self, url: str) -> None:
        authority, _, path = url.partition("://")[2].partition("/")
        self._host, _, port = authority.partition(":")
        self._port = int(port)
        self.request = f"GET /{path} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()
        self.latencies_us: list[float] = []
        self.lags_us: list[float] = []
        self.errors = 0
        self._connections: set[Connection] = set()
        self._free: list[Connection] = []
        self._due: deque[float] = deque()
        self._open = 0
        """Requests that are due or under way."""
        self._opening: set[asyncio.Task[None]] = set()
        self._is_over = False
        """Whether nothing more becomes due."""
        self._is_closed = False
        self._at_rest = asyncio.Event()

    async def run(self, connections: int, rate: float, seconds: float) -> None:
        """Ask ``rate`` times a second."""
        await asyncio.gather(*(self._connect() for _ in range(connections)))
        began = now = time.perf_counter()
        begun = 0
        while now - began < seconds:
            for _ in range(int((now - began) * rate) - begun):
                begun += 1
                self._begin(now)
            await asyncio.sleep(TICK_S)
            before, now = now, time.perf_counter()
            self.lags_us.append((now - before - TICK_S) * 1e6)
        self._is_over = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                if self._open:
                    await self._at_rest.wait()
        self._is_closed = True
        self.errors += self._open
        await asyncio.gather(*self._opening)
        for connection in list(self._connections):
            connection.close()
        # Connections close when the loop turns.
        await asyncio.sleep(TICK_S)

    def _begin(self, due: float) -> None:
        self._open += 1
        if self._free:
            self._free.pop().ask(due)
        else:
            self._due.append(due)

    def _on_free(self, connection: Connection) -> None:
        if self._due:
            connection.ask(self._due.popleft())
        else:
            self._free.append(connection)

    def on_answer(self, connection: Connection, due: float | None, is_good: bool) -> None:
        """``connection`` has an answer."""
        if due is None:
            # Nobody had asked.
            self.errors += 1
            return
        self.latencies_us.append((time.perf_counter() - due) * 1e6)
        self.errors += not is_good
        self._open -= 1
        self._on_free(connection)
        if self._is_over and not self._open:
            self._at_rest.set()

    def on_lost(self, connection: Connection, is_broken: bool) -> None:
        """``connection`` has ended; ``is_broken`` in the middle of an answer."""
        self._connections.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if connection.due is not None:
            if is_broken:
                self.errors += 1
                self._open -= 1
            else:
                self._due.appendleft(connection.due)
        if self._needs_connections:
            opening = asyncio.ensure_future(self._connect())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    @property
    def _needs_connections(self) -> bool:
        """Whether somebody asks, or what is due has still to be asked."""
        return not self._is_closed and (not self._is_over or self._open > 0)

    async def _connect(self) -> None:
        """Open one connection; each failure is an error, and followed by another attempt while one is needed."""
        loop = asyncio.get_running_loop()
        while self._needs_connections:
            try:
                _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port)
            except OSError:
                self.errors += 1
                await asyncio.sleep(RETRY_S)
                continue
            if not connection.is_lost:
                self._connections.add(connection)
                self._on_free(connection)
            return


async def ask(url: str, connections: int, rate: float, seconds: float) -> None:
    """Ask, and print what came of it."""
    load = Load(url)
    await load.run(connections, rate, seconds)
    lag_us = percentile(sorted(load.lags_us), 0.99)
    print(len(load.latencies_us), load.errors, *percentiles(load.latencies_us), lag_us)


def main() -> None:
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    # A pause of the load would be taken for one of the server.
    gc.disable()
    url, connections, rate, seconds = sys.argv[1:]
    asyncio.run(ask(url, int(connections), float(rate), float(seconds)))


if __name__ == "__main__":
    main()
