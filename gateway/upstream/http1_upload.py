"""A request body that comes in pieces, on its way to the upstream while the response is awaited or read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Protocol

from gateway.errors import BadRequest, ConnectionBroken
from gateway.upstream.messages import FlowingStream, RequestStream

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
    """Writes a stream to a transport, framed, at the pace at which the upstream takes it.

    A task of its own iterates the stream as long as that does not flow. ``done`` says whether the last byte was
    written. A stream whose length is not the announced one fails as BadRequest; whatever else iterating it raises is
    passed on as it is.
    """

    __slots__ = (
        "_drain",
        "_flow",
        "_flowing",
        "_is_paused",
        "_outstanding",
        "_owner",
        "_stopped",
        "_stream",
        "_transport",
        "done",
        "task",
    )

    def __init__(self, owner: UploadOwner, transport: asyncio.Transport, stream: RequestStream) -> None:
        self._owner = owner
        self._transport = transport
        self._stream = stream
        # Asked once: looking into a protocol costs 10 us.
        self._flowing = stream if isinstance(stream, FlowingStream) else None
        self._outstanding = stream.length
        """Bytes that have not come; None when nobody said how many there are."""
        self._stopped = False
        self._drain: asyncio.Future[None] | None = None
        self._flow: asyncio.Future[None] | None = None
        """Done when a stream that flows has ended."""
        self._is_paused = False
        """Whether the flow waits for the upstream."""
        self.done = False
        self.task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Write nothing more and tell nothing more."""
        self._stopped = True
        self.task.cancel()

    def on_writable(self) -> None:
        """The upstream has taken most of what was written."""
        if self._is_paused:
            self._is_paused = False
            self._owner.forgive_writing()
            assert self._flowing is not None
            self._flowing.resume_flow()
        elif self._drain is not None and not self._drain.done():
            self._drain.set_result(None)

    async def _run(self) -> None:
        try:
            if self._outstanding == 0:
                self.done = True
                self._owner.on_uploaded()
            if not await self._flowed():
                await self._iterate()
            self._owner.on_uploaded()
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

    async def _iterate(self) -> None:
        """Write the stream piece by piece, until it flows or has ended."""
        async for piece in self._stream:
            self._write(piece)
            if self._owner.is_write_paused():
                await self._drained()
            if await self._flowed():
                return
        self._write_end()

    # A stream that flows.

    async def _flowed(self) -> bool:
        """Whether the stream came to its end by itself; False where it has to be iterated."""
        stream = self._flowing
        if stream is None:
            return False
        self._flow = asyncio.get_running_loop().create_future()
        if not stream.flow_into(self):
            self._flow = None
            return False
        try:
            await self._flow
        finally:
            self._flow = None
            stream.stop_flow()
            if self._is_paused and not self._stopped:
                self._owner.forgive_writing()
            self._is_paused = False
        return True

    def feed(self, piece: bytes) -> None:
        """Write the next bytes, and wait for the upstream to take them where it is behind."""
        if self._stopped:
            return
        try:
            self._write(piece)
        except BadRequest as error:
            self.fail(error)
            return
        if self._owner.is_write_paused() and not self._is_paused:
            self._is_paused = True
            self._owner.watch_writing()
            assert self._flowing is not None
            self._flowing.pause_flow()

    def end(self) -> None:
        """The stream has ended."""
        if self._stopped:
            return
        try:
            self._write_end()
        except BadRequest as error:
            self.fail(error)
            return
        if self._flow is not None and not self._flow.done():
            self._flow.set_result(None)

    def raw_target(self) -> asyncio.Transport | None:
        """The connection, where a measured body goes out in the clear."""
        if self._outstanding is None or self._stopped or self._transport.get_extra_info("sslcontext") is not None:
            return None
        return self._transport

    def moved(self, count: int) -> None:
        """So many bytes have been written to the socket by somebody else."""
        assert self._outstanding is not None
        self._outstanding -= count
        self.done = not self._outstanding

    def hold(self, is_held: bool) -> None:
        """Whether the upstream takes nothing of what somebody else writes."""
        if is_held:
            self._owner.watch_writing()
        else:
            self._owner.forgive_writing()

    def fail(self, error: Exception) -> None:
        """The stream has failed."""
        if self._flow is not None and not self._flow.done():
            self._flow.set_exception(error)

    # Framing.

    def _write(self, piece: bytes) -> None:
        if not piece:
            return
        outstanding = self._outstanding
        if outstanding is None:
            self._transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
            return
        outstanding -= len(piece)
        if outstanding < 0:
            raise BadRequest("the request body is longer than announced")
        self._outstanding = outstanding
        self._transport.write(piece)
        # Before the stream says so itself: it may do that only after the answer has come.
        self.done = not outstanding

    def _write_end(self) -> None:
        if self._outstanding is None:
            self._transport.write(b"0\r\n\r\n")
            self.done = True
        elif self._outstanding:
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
