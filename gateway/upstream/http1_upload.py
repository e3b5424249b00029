"""A request body that comes in pieces, on its way to the upstream while the response is awaited or read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Protocol

from gateway.errors import BadRequest, ConnectionBroken
from gateway.upstream.messages import RequestStream

_MAX_SALVAGED_BYTES = 1024 * 1024


class UploadOwner(Protocol):
    """What an upload needs from its connection."""

    def is_write_paused(self) -> bool:
        """Whether what was written waits to be taken by the upstream."""

    def watch_writing(self) -> None:
        """The upload waits for the upstream from now on."""

    def forgive_writing(self) -> None:
        """It does not wait any more."""

    def on_uploaded(self) -> None:
        """The last byte of the request has been written."""

    def on_upload_failed(self, error: Exception) -> None:
        """There will be no last byte."""


class Upload:
    """Writes a stream to a transport, framed, in a task of its own and at the pace at which the upstream takes it.

    ``done`` says whether the last byte was written. A stream whose length is not the announced one fails as BadRequest;
    whatever else iterating it raises is passed on as it is.
    """

    __slots__ = ("_drain", "_owner", "_stopped", "_transport", "done", "task")

    def __init__(self, owner: UploadOwner, transport: asyncio.Transport, stream: RequestStream) -> None:
        self._owner = owner
        self._transport = transport
        self._stopped = False
        self._drain: asyncio.Future[None] | None = None
        self.done = False
        self.task = asyncio.get_running_loop().create_task(self._run(stream))

    def stop(self) -> None:
        """Write nothing more and tell nothing more."""
        self._stopped = True
        self.task.cancel()

    def on_writable(self) -> None:
        """The upstream has taken most of what was written."""
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    async def _run(self, stream: RequestStream) -> None:
        try:
            length = stream.length
            if length is None:
                await self._send_chunked(stream)
            else:
                await self._send_measured(stream, length)
        except asyncio.CancelledError:
            # Without stop(): whoever gives the pieces has ended.
            self._fail(ConnectionBroken("the request body was given up"))
            raise
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._stopped:
            self._stopped = True
            self._owner.on_upload_failed(error)

    async def _send_chunked(self, stream: RequestStream) -> None:
        transport = self._transport
        async for piece in stream:
            if piece:
                transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                if self._owner.is_write_paused():
                    await self._drained()
        transport.write(b"0\r\n\r\n")
        self.done = True
        self._owner.on_uploaded()

    async def _send_measured(self, stream: RequestStream, length: int) -> None:
        outstanding = length
        if not outstanding:
            self.done = True
            self._owner.on_uploaded()
        async for piece in stream:
            outstanding -= len(piece)
            if outstanding < 0:
                raise BadRequest("the request body is longer than announced")
            if not piece:
                continue
            self._transport.write(piece)
            # Before the stream says so itself: it may do that only after the answer has come.
            self.done = not outstanding
            if self._owner.is_write_paused():
                await self._drained()
            if self.done:
                self._owner.on_uploaded()
        if outstanding:
            raise BadRequest("the request body is shorter than announced")

    async def _drained(self) -> None:
        self._drain = asyncio.get_running_loop().create_future()
        self._owner.watch_writing()
        try:
            await self._drain
        finally:
            self._drain = None
            if not self._stopped:
                self._owner.forgive_writing()


def unread(transport: asyncio.Transport) -> Iterator[bytes]:
    """What is left to read in the socket of a connection that was lost while writing.

    Servers answer an upload that they do not want, and close. The next write then fails, and event loops give the
    connection up without reading the answer, which is there.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("sslcontext") is not None:
        return
    total = 0
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as own:
        own.setblocking(False)
        while total < _MAX_SALVAGED_BYTES and (data := own.recv(65536)):
            total += len(data)
            yield data
