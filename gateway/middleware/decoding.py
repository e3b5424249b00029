"""Takes what a decoder gives without holding up the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

# Steps that give nothing may follow each other in their thousands; a piece of 256 KiB takes about as long.
_HOLD_S = 0.001


class PacedSteps:
    """The pieces of ``steps`` one by one: each is decoded when it is asked for, and others have a turn in between."""

    __slots__ = ("_begun", "_steps")

    def __init__(self, steps: Iterator[bytes]) -> None:
        self._steps = steps
        self._begun = False

    async def next(self) -> bytes | None:
        """The next piece that is not empty, None after the last; raises what ``steps`` raises."""
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
