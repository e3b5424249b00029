"""Backpressure and silence on one connection: when bytes may flow, and for how long none may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

NEVER = float("inf")

WRITE_HIGH_WATER_BYTES = 256 * 1024
"""What may wait in a transport before whoever writes has to wait.

Event loops read up to 256 kB at a time and write when they turn: with the usual 64 KiB every piece would count as one
that the peer does not take, and pausing and going on for each takes a tenth of an upload.
"""

NO_TIMEOUTS: dict[str, Any] = {}


class FlowControl(asyncio.Protocol):
    """Pauses the socket when the reader is behind, knows when the upstream is, and keeps the deadlines of both.

    ``deadline`` and ``write_deadline`` are monotonic seconds that somebody else compares with the time: nothing is set
    up per request. A peer is late only while it is waited for; a slow reader is not a silent upstream.
    """

    __slots__ = ("_clock", "_read_paused", "_timeouts", "_transport", "_write_paused", "deadline", "write_deadline")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._timeouts = NO_TIMEOUTS
        """Seconds, of the current exchange: ``head``, ``read``, ``write``."""
        self.deadline = NEVER
        """While idle: when to close. While a head or a piece of body is awaited: when to give up."""
        self.write_deadline = NEVER
        """While the upstream takes nothing: when to give up."""
        self._read_paused = False
        self._write_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    def pause_reading(self) -> None:
        """Take no more from the socket."""
        if not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the socket again."""
        if self._read_paused and not self._transport.is_closing():
            self._read_paused = False
            self._transport.resume_reading()

    def watch_silence(self) -> None:
        """Somebody waits for a byte of the response body from now on."""
        read_s = self._timeouts.get("read")
        self.deadline = NEVER if read_s is None else self._clock() + read_s

    def forgive_silence(self) -> None:
        """Nobody waits for a byte."""
        self.deadline = NEVER

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False

    def is_write_paused(self) -> bool:
        """Whether what was written waits to be taken by the upstream."""
        return self._write_paused

    def watch_writing(self) -> None:
        """Somebody waits for the upstream to take what was written from now on."""
        write_s = self._timeouts.get("write")
        self.write_deadline = NEVER if write_s is None else self._clock() + write_s

    def forgive_writing(self) -> None:
        """Nobody waits for the upstream to take anything."""
        self.write_deadline = NEVER
