"""How long bodies are coded on the event loop before it turns."""

from __future__ import annotations

import asyncio

HOLD_US = 1000.0
"""What the others wait for at most, whether it is for one body or for twenty. A thread costs 30 us for each."""


class CodingTurn:
    """What is left of the time for coding in this turn of the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        """Whose turn it is; None while nothing is coded."""
        self._left_us = HOLD_US

    def takes(self, us: float) -> bool:
        """Whether there is time for so many microseconds of coding, and use it up if there is."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._left_us = HOLD_US
            loop.call_soon(self._end)
        if us > self._left_us:
            return False
        self._left_us -= us
        return True

    def _end(self) -> None:
        self._loop = None
