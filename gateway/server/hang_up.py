"""Notices clients that leave while nothing is read from them."""

from __future__ import annotations

import asyncio
import select
from typing import Protocol

# Linux tells of an end that stands behind unread bytes; elsewhere only a reset is told.
_LEFT = getattr(select, "POLLRDHUP", 0)


class Paused(Protocol):
    """A connection whose reading is paused."""

    def on_hang_up(self) -> None:
        """The client has left, whatever is still to be read."""


class HangUps:
    """The paused connections of one server, all asked in one system call.

    An end that the client's system could not send yet, since our buffers are full, is not to be seen.
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        self._paused: dict[int, Paused] = {}

    def __len__(self) -> int:
        return len(self._paused)

    def add(self, connection: Paused, transport: asyncio.BaseTransport) -> int:
        """Watch a connection; the returned number is for ``discard``, -1 when there is nothing to watch."""
        sock = transport.get_extra_info("socket")
        descriptor: int = sock.fileno() if sock is not None else -1
        if descriptor >= 0:
            self._paused[descriptor] = connection
            self._poll.register(descriptor, _LEFT)
        return descriptor

    def discard(self, connection: Paused, descriptor: int) -> None:
        """Stop watching it; its descriptor may be another connection's by now."""
        if self._paused.get(descriptor) is connection:
            del self._paused[descriptor]
            self._poll.unregister(descriptor)

    def sweep(self) -> None:
        """Tell those whose clients have left."""
        if self._paused:
            for descriptor, _ in self._poll.poll(0):
                self._paused[descriptor].on_hang_up()
