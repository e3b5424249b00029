"""One request body on its way in: where it ends, and how late it may be."""

from __future__ import annotations

from gateway.server.chunks import ChunkedDecoder
from gateway.server.framing import HeadReader
from gateway.server.limits import Limits

GRACE_S = 30.0
"""How long a body may be slower than ``min_body_rate``."""


class IncomingBody:
    """Takes the body that a head announced out of the bytes that follow it. Times are monotonic seconds."""

    __slots__ = ("_bytes", "_chunks", "_left", "_limits", "_since", "complete")

    def __init__(self, head: HeadReader, limits: Limits, now: float) -> None:
        self._limits = limits
        self._chunks = ChunkedDecoder(limits.max_header_bytes) if head.chunked else None
        self._left = head.length or 0
        self._bytes = 0
        self._since = now
        self.complete = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The body bytes in ``data``, and what follows the end of the body. Raises BadRequest for bad chunks."""
        self._bytes += len(data)
        if self._chunks is not None:
            pieces: list[bytes] = []
            rest = self._chunks.feed(data, pieces)
            self.complete = self._chunks.complete
            return pieces[0] if len(pieces) == 1 else b"".join(pieces), rest
        left = self._left
        piece, rest = (data, b"") if len(data) <= left else (data[:left], data[left:])
        self._left = left - len(piece)
        self.complete = not self._left
        return piece, rest

    @property
    def left(self) -> int | None:
        """How many bytes are still to come; None where nobody knows."""
        return self._left if self._chunks is None else None

    def skip(self, count: int) -> None:
        """So many bytes have been taken by somebody else."""
        self._bytes += count
        self._left -= count
        self.complete = not self._left

    def restart(self, now: float) -> None:
        """Count the time from here: the client was not asked to send before."""
        self._since = now

    def forgive(self, seconds: float) -> None:
        """Leave out a time in which nothing was read."""
        self._since += seconds

    def deadline(self, now: float) -> float:
        """When the body is too late unless more of it comes: silence, or an average below the rate."""
        silent = now + self._limits.body_timeout_s
        rate = self._limits.min_body_rate
        return min(silent, self._since + max(GRACE_S, self._bytes / rate)) if rate else silent
