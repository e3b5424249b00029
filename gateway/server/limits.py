"""What a client may do to the server, and the one sweep over its connections that enforces what takes time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Protocol

from gateway.express.table import Express
from gateway.http.field_lines import FieldLines
from gateway.server.framing import MAX_KNOWN_LINES
from gateway.server.hang_up import HangUps
from gateway.server.refusal import Refusal
from gateway.server.regulars import Regulars

logger = logging.getLogger("gateway.server")

NEVER = float("inf")

HIGH_WATER_BYTES = 256 * 1024
"""Of a request body, or of pipelined requests, that are kept while the application is busy with something else; and of
an answer that waits in the transport. Event loops read and write pieces of nearly that size."""


@dataclass(frozen=True)
class Limits:
    """``[server.limits]``: times in seconds, sizes in bytes; rates in bytes a second."""

    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    min_body_rate: int = 500
    send_timeout_s: float = 60.0
    keep_alive_s: float = 75.0
    max_header_bytes: int = 32 * 1024
    max_headers: int = 100
    max_target_bytes: int = 8 * 1024
    max_connections: int = 10_000


class SendWatch:
    """Whether a client takes what is sent, seen from how much waits in the transport."""

    __slots__ = ("_since", "_unsent_bytes")

    def __init__(self) -> None:
        self._unsent_bytes = 0
        self._since = 0.0

    def is_stalled(self, transport: asyncio.WriteTransport, now: float, timeout_s: float) -> bool:
        """Whether the same number of bytes has waited for ``timeout_s``; asked on every sweep.

        While more is added the client has the benefit of the doubt: soon the transport is full and nothing is added.
        """
        unsent = transport.get_write_buffer_size()
        if unsent != self._unsent_bytes:
            self._unsent_bytes = unsent
            self._since = now
        return unsent > 0 and now - self._since >= timeout_s


class Connection(Protocol):
    """A connection with a deadline, in monotonic seconds; ``NEVER`` for none.

    While ``is_sending``, every sweep lets it check that the client takes what is sent.
    """

    deadline: float
    is_sending: bool

    def on_deadline(self, now: float) -> None: ...

    def check_sending(self, now: float) -> None: ...

    def cut(self, *, reset: bool = ...) -> None: ...


class HeldHead(Protocol):
    """A response head that waits for its body, so that both leave in one write."""

    def flush_head(self) -> None: ...


def _no_express() -> Express | None:
    return None


class Connections:
    """The connections of one server: their limits, their common sweep, and whether they are being drained.

    ``on_refused`` gets every refusal, for the log; ``request_id_header`` carries the id on its answer, where it is not
    empty. ``express`` gives the short ways that the application has now. ``clock`` gives monotonic seconds,
    ``wall_clock`` those of Date.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        on_refused: Callable[[Refusal], None] | None = None,
        express: Callable[[], Express | None] | None = None,
        request_id_header: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits
        self.on_refused = on_refused
        self.express = express or _no_express
        self.regulars = Regulars()
        self.known_lines = FieldLines(MAX_KNOWN_LINES)
        self.request_id_field = request_id_header.lower().encode("ascii")
        self.clock = clock
        self.draining = False
        self.date_line = b""
        self.hang_ups = HangUps()
        self.splices = 0
        """Bodies that are being moved inside the kernel."""
        self._wall_clock = wall_clock
        self._date_second = 0
        self._open: set[Connection] = set()
        self._held: list[HeldHead] = []
        self._set_date()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> int:
        """Count a connection; how many there are now."""
        self._open.add(connection)
        return len(self._open)

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)

    def flush_soon(self, waiting: HeldHead) -> None:
        """Have ``waiting`` write its head when the event loop turns, unless its body has taken it along."""
        # One callback for all: a callback of its own for each costs 0.4 us.
        if not self._held:
            asyncio.get_running_loop().call_soon(self._flush)
        self._held.append(waiting)

    def _flush(self) -> None:
        held, self._held = self._held, []
        for waiting in held:
            waiting.flush_head()

    def sweep(self, now: float) -> None:
        """Tell every connection whose deadline has passed at monotonic time ``now``."""
        self._set_date()
        self.hang_ups.sweep()
        self.regulars.keep_only(self.express())
        # One pass: with 5,000 connections it holds everybody else up for 0.1 ms.
        for connection in [one for one in self._open if one.deadline <= now or one.is_sending]:
            try:
                if connection.deadline <= now:
                    connection.on_deadline(now)
                if connection.is_sending:
                    connection.check_sending(now)
            except Exception:
                # The others are looked at all the same.
                logger.exception("a connection could not be timed; it is cut")
                connection.cut(reset=True)

    def cut_all(self) -> None:
        """Close every connection without another byte."""
        for connection in list(self._open):
            connection.cut(reset=True)

    def _set_date(self) -> None:
        second = int(self._wall_clock())
        if second != self._date_second:
            self._date_second = second
            self.date_line = b"date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
