"""A body that is still coming, read by many clients, each at its own pace."""

from __future__ import annotations

import asyncio

PIECE_BYTES = 256 * 1024
"""Largest piece that a reader behind the end gets at once, so that a slow client does not fill a send buffer."""

WINDOW_BYTES = 1024 * 1024
"""How far the slowest reader may stay behind, once the beginning is not kept any more."""


class Reader:
    """One client and how far it has come."""

    __slots__ = ("position",)

    def __init__(self) -> None:
        self.position = 0


class GrowingBody:
    """Bytes gathered from their first one on, until ``stop_keeping``; then only what some reader still needs."""

    __slots__ = ("_buffer", "_changed", "_dropped", "_keeping", "_whole", "error", "readers", "size")

    def __init__(self) -> None:
        self.readers: set[Reader] = set()
        self.size = 0
        self.error: Exception | None = None
        self._buffer = bytearray()
        self._dropped = 0
        self._keeping = True
        self._whole: bytes | None = None
        self._changed: asyncio.Event | None = None
        """What those wait for who have read all there is; None while nobody does, as with most bodies."""

    @property
    def is_complete(self) -> bool:
        """Whether all of it is here."""
        return self._whole is not None

    @property
    def whole(self) -> bytes:
        """All of it, when it is complete and was kept."""
        return self._whole or b""

    def append(self, piece: bytes) -> None:
        """Add what has come."""
        self._buffer += piece
        self.size += len(piece)
        self.wake()

    def finish(self, piece: bytes = b"") -> None:
        """Add the last piece."""
        self.size += len(piece)
        # Most bodies are one piece: that one is the body, not a copy of it.
        if self._buffer:
            self._buffer += piece
            piece = bytes(self._buffer)
            self._buffer = bytearray()
        self._whole = piece
        self.wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        if not self.is_complete:
            self.error = error
        self.wake()

    def stop_keeping(self) -> None:
        """From now on only readers matter."""
        self._keeping = False

    def wake(self) -> None:
        """Let everybody who waits look again."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def wait(self) -> None:
        """Until something has changed."""
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    def read(self, reader: Reader) -> tuple[bytes, bool]:
        """What the reader has not had yet, and whether more is to come."""
        source = self._buffer if self._whole is None else self._whole
        start = reader.position - self._dropped
        left = len(source) - start
        if isinstance(source, bytes) and start == 0:
            piece = source
        else:
            with memoryview(source) as view:
                piece = bytes(view[start : start + min(left, PIECE_BYTES)])
        reader.position += len(piece)
        if not self._keeping:
            self.wake()
        return piece, self._whole is None or reader.position < self._dropped + len(source)

    async def wait_for_readers(self) -> None:
        """Drop what all have read, then wait until the slowest is near. Returns at once when nobody reads."""
        while self.readers:
            slowest = min(reader.position for reader in self.readers)
            del self._buffer[: slowest - self._dropped]
            self._dropped = slowest
            if self.size - slowest <= WINDOW_BYTES:
                return
            await self.wait()
