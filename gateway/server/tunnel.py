"""A client's connection that is left to somebody else: bytes pass by the server, its limits hold on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gateway.server.limits import NEVER, Connections, SendWatch


class Receiver(Protocol):
    """Who takes what happens on the connection, as an asyncio.Protocol does."""

    def data_received(self, data: bytes, /) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: Exception | None, /) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Tunnel(Protocol):
    """What an application gives as ``gateway.tunnel`` in its ``websocket.accept``."""

    @property
    def receiver(self) -> Receiver:
        """Who takes what happens on the connection."""

    def join(self, connection: Any, early: bytes, /) -> None:
        """Take the connection and what came on it already; called once the head of the answer is written."""

    def shutdown(self) -> None:
        """The server goes away."""


class TunnelledClient:
    """The protocol of such a connection, and what its new owner has for a transport.

    The connection still counts, is cut when the client takes nothing for ``send_timeout_s``, and hears of a shutdown.
    """

    __slots__ = (
        "_connections",
        "_receiver",
        "_registry",
        "_send_watch",
        "_transport",
        "_tunnel",
        "data_received",
        "deadline",
        "is_sending",
        "write",
    )

    data_received: Callable[[bytes], None]
    write: Callable[[bytes], None]

    def __init__(self, transport: asyncio.Transport, registry: Connections, connections: set[Any]) -> None:
        self.deadline = NEVER
        self.is_sending = False
        self._transport = transport
        self._registry = registry
        self._connections = connections
        self._send_watch = SendWatch()
        # Methods of others: a frame of the interpreter less for every piece that passes.
        self.write = transport.write

    def join(self, tunnel: Tunnel, early: bytes) -> None:
        """Let ``tunnel`` begin."""
        self._registry.add(self)
        self._connections.add(self)
        self._tunnel = tunnel
        self._receiver = tunnel.receiver
        self.data_received = self._receiver.data_received
        self._transport.set_protocol(self)  # type: ignore[arg-type]  # one in all but its base class
        tunnel.join(self, early)

    # The transport's side.

    def connection_lost(self, exc: Exception | None) -> None:
        self._registry.discard(self)
        self._connections.discard(self)
        self.is_sending = False
        self._receiver.connection_lost(exc)

    def eof_received(self) -> bool:
        return self._receiver.eof_received()

    def pause_writing(self) -> None:
        self.is_sending = True
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self.is_sending = False
        self._receiver.resume_writing()

    # The owner's side.

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str) -> Any:
        return self._transport.get_extra_info(name)

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        """End this side when everything written is taken; the client has ``send_timeout_s`` for each byte of it."""
        self.is_sending = True
        self._transport.write_eof()

    def close(self) -> None:
        """Close when everything written is taken; the client has ``send_timeout_s`` for each byte of it."""
        self.is_sending = True
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # The server's side.

    def shutdown(self) -> None:
        """Begin to drain."""
        self._tunnel.shutdown()

    def cut(self, *, reset: bool = True) -> None:
        """Close without a closing handshake."""
        if reset:
            self._transport.abort()
        else:
            self.close()

    def on_deadline(self, now: float) -> None:
        """There is none: the owner knows what is too long."""

    def check_sending(self, now: float) -> None:
        """Cut a client that takes nothing of what is sent."""
        if self._send_watch.is_stalled(self._transport, now, self._registry.limits.send_timeout_s):
            self.cut()
