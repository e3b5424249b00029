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
        # Most are read from again before the next sweep: they are never looked at.
        self._new: dict[Paused, asyncio.BaseTransport] = {}
        self._watched: dict[Paused, int] = {}
        self._by_descriptor: dict[int, Paused] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._watched)

    def add(self, connection: Paused, transport: asyncio.BaseTransport) -> None:
        """Watch a connection from the next sweep on."""
        self._new[connection] = transport

    def discard(self, connection: Paused) -> None:
        """Stop watching it; its descriptor may be another connection's by now."""
        if self._new.pop(connection, None) is not None:
            return
        descriptor = self._watched.pop(connection, -1)
        if self._by_descriptor.get(descriptor) is connection:
            del self._by_descriptor[descriptor]
            self._poll.unregister(descriptor)

    def sweep(self) -> None:
        """Tell those whose clients have left."""
        new, self._new = self._new, {}
        for connection, transport in new.items():
            sock = transport.get_extra_info("socket")
            descriptor = sock.fileno() if sock is not None else -1
            if descriptor >= 0:
                self._watched[connection] = descriptor
                self._by_descriptor[descriptor] = connection
                self._poll.register(descriptor, _LEFT)
        if self._watched:
            for descriptor, _ in self._poll.poll(0):
                self._by_descriptor[descriptor].on_hang_up()
