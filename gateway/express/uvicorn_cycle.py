"""Whole answers through uvicorn's own HTTP/1.1 protocol, in one write and past its messages.

uvicorn looks at every name and value of a head with regular expressions, for it cannot know where they come from: a
third of what a cache hit costs under it. What goes out here has been parsed, or made, by the gateway. Wherever anything
stands between the gateway and uvicorn, or uvicorn has more to do than to write, the messages go their usual way.
"""

from __future__ import annotations

import sys
from typing import Any

from starlette.types import Send

from gateway.express.fields import lines_of
from gateway.http.fields import Fields

# Of uvicorn's protocols the one that is in use where httptools is installed.
_PROTOCOL = "uvicorn.protocols.http.httptools_impl"
_USED = (
    "access_log",
    "default_headers",
    "disconnected",
    "flow",
    "keep_alive",
    "message_event",
    "on_response",
    "response_complete",
    "response_started",
    "transport",
)
# What they say depends on the answer, or changes what becomes of the connection.
_NOT_PLAIN = frozenset([b"connection", b"content-length", b"transfer-encoding"])


class UvicornCycles:
    """Finds the cycle of a request behind its ``send``, and writes through it."""

    def __init__(self) -> None:
        # Nobody who serves with something else needs to have it loaded.
        module = sys.modules.get(_PROTOCOL)
        self._send = getattr(getattr(module, "RequestResponseCycle", None), "send", None)
        self._status_lines: dict[int, bytes] = getattr(module, "STATUS_LINE", {})
        self._defaults: Fields | None = None
        self._default_lines: bytes | None = None

    def find(self, send: Send) -> Any:
        """The cycle that waits for a response to ``send``; None where a response has to go as messages."""
        if self._send is None or getattr(send, "__func__", None) is not self._send:
            # Whoever wraps the method wants to see what passes.
            return None
        cycle: Any = send.__self__  # type: ignore[attr-defined]
        if cycle.default_headers is not self._defaults:
            # uvicorn makes them anew each second.
            self._look_at(cycle)
        if (
            self._default_lines is None
            or cycle.response_started
            or cycle.disconnected
            or cycle.access_log
            or cycle.flow.write_paused
        ):
            return None
        return cycle

    def _look_at(self, cycle: Any) -> None:
        self._defaults = cycle.default_headers
        is_known = all([hasattr(cycle, name) for name in _USED])
        self._default_lines = _default_lines(cycle.default_headers) if is_known else None

    def write(self, cycle: Any, status: int, lines: bytes, body: bytes) -> None:
        """Answer, and end the cycle; ``lines`` are the fields, framing and Date included. ``cycle`` was just found."""
        cycle.response_started = cycle.response_complete = True
        keep_alive = cycle.keep_alive
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        transport = cycle.transport
        transport.write(b"".join((self._status_lines[status], self._default_lines or b"", lines, end, body)))
        cycle.message_event.set()
        if not keep_alive:
            transport.close()
        cycle.on_response()


def _default_lines(fields: Fields) -> bytes | None:
    """What uvicorn adds to every answer, but for the Date that each has already; None where it decides about more."""
    if not _NOT_PLAIN.isdisjoint([name.lower() for name, _ in fields]):
        return None
    return lines_of([(name.lower(), value) for name, value in fields if name.lower() != b"date"])
