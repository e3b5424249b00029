"""The body of a response on an HTTP/1.1 connection, between the connection that fills it and whoever reads it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import httpx

from gateway.errors import ResponseBroken

MAX_BUFFERED_BYTES = 256 * 1024
"""Above this much unread, the connection stops reading."""
_LOW_BUFFERED_BYTES = 64 * 1024
"""At this much or less it goes on."""


class BodySource(Protocol):
    """What a body needs from its connection."""

    def abort(self) -> None:
        """Close now."""

    def pause_reading(self) -> None:
        """Take no more from the socket."""

    def resume_reading(self) -> None:
        """Go on."""

    def watch_silence(self) -> None:
        """Somebody waits for a byte from now on."""

    def forgive_silence(self) -> None:
        """Nobody waits any more."""


class Http1Body(httpx.AsyncByteStream):
    """Pieces as they arrive, at most some 256 KiB ahead of the reader.

    Iterating raises ResponseBroken when the upstream broke off, or what the request body raised if that ended the
    exchange. A reader that is cancelled closes the connection.
    """

    def __init__(self, source: BodySource) -> None:
        self._source: BodySource | None = source
        """The connection, until the last byte has come."""
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._reader: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._paused = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            source = self._source
            if source is None:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            source.watch_silence()
            try:
                await self._reader
            except asyncio.CancelledError:
                self.close()
                raise
            if self._source is not None:
                # Otherwise the connection has ended the exchange, and may be in the middle of another one.
                source.forgive_silence()
        return self._take()

    def _take(self) -> bytes:
        """Small pieces together: what follows costs per piece. Large ones as they are: joining would copy them."""
        pieces = self._pieces
        if len(pieces) == 1 or self._buffered > _LOW_BUFFERED_BYTES:
            piece = pieces.popleft()
        else:
            piece = b"".join(pieces)
            pieces.clear()
        self._buffered -= len(piece)
        if self._paused and self._buffered <= _LOW_BUFFERED_BYTES and self._source is not None:
            self._paused = False
            self._source.resume_reading()
        return piece

    def close(self) -> None:
        """Take no more: the connection is closed unless the last byte has come already."""
        self._pieces.clear()
        source, self._source = self._source, None
        if source is not None:
            self._error = ResponseBroken("the response was closed before its end")
            source.abort()
            self._wake()

    async def aclose(self) -> None:
        """The same as ``close``."""
        self.close()

    # The connection's side.

    def add(self, data: bytes) -> None:
        """Hand over what one read from the socket gave."""
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered > MAX_BUFFERED_BYTES and not self._paused and self._source is not None:
            self._paused = True
            self._source.pause_reading()
        if self._reader is not None:
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Nothing follows what was added; with ``error`` because of it."""
        self._source = None
        self._error = error
        self._wake()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)
