"""A timeout that counts how long the other side is silent, not how long this process was too busy to listen."""

from __future__ import annotations

import asyncio
from types import TracebackType

_LOOKS = 5


class Patience:
    """``async with Patience(timeout_s)``: as asyncio.timeout, but the event loop must have looked for an answer often.

    The time is counted in fifths, each of which ends when the loop turns: one that stood still for a second has lost
    a fifth and not the answer that came meanwhile. Raises TimeoutError.
    """

    __slots__ = ("_left", "_look_s", "_loop", "_next", "_timeout")

    def __init__(self, timeout_s: float) -> None:
        self._look_s = timeout_s / _LOOKS
        self._left = _LOOKS
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(self._look_s, self._look)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _look(self) -> None:
        self._left -= 1
        if self._left:
            self._next = self._loop.call_later(self._look_s, self._look)
        else:
            self._timeout.reschedule(self._loop.time())
