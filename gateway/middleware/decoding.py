"""Takes what a decoder gives without holding up the event loop."""

from __future__ import annotations

import asyncio
import time

from gateway.http.coding import BoundedDecoder
from gateway.middleware.coding_threads import coding_threads

# Steps that give nothing may follow each other in their thousands; one that gives a piece takes a tenth of it.
_HOLD_S = 0.001


class PacedSteps:
    """What ``data`` decodes to, piece by piece: each when it is asked for, and others have a turn in between.

    May be given up at any await, and asked again.
    """

    __slots__ = ("_begun", "_in_thread", "_pulling", "_steps")

    def __init__(self, decoder: BoundedDecoder, data: bytes) -> None:
        self._steps = decoder.steps(data)
        self._in_thread = decoder.may_block and bool(data)
        self._pulling: asyncio.Future[bytes | None] | None = None
        self._begun = False

    async def next(self) -> bytes | None:
        """The next piece that is not empty, None after the last. Raises DecodingError and TooMuchDecoded."""
        if self._in_thread:
            return await self._next_in_thread()
        if self._begun:
            await asyncio.sleep(0)
        self._begun = True
        since = time.perf_counter()
        for piece in self._steps:
            if piece:
                return piece
            if time.perf_counter() - since > _HOLD_S:
                await asyncio.sleep(0)
                since = time.perf_counter()
        return None

    async def _next_in_thread(self) -> bytes | None:
        if self._pulling is None:
            self._pulling = asyncio.get_running_loop().run_in_executor(coding_threads(), self._pull)
        # The thread goes on with a step that nobody waits for any more: its piece is for who asks next.
        piece = await asyncio.shield(self._pulling)
        self._pulling = None
        return piece

    def _pull(self) -> bytes | None:
        return next((piece for piece in self._steps if piece), None)
