"""How long bodies are coded on the event loop before it turns."""

from __future__ import annotations

import asyncio

HOLD_US = 1000.0
"""What others wait for at most, whether it is for one body or for twenty. Longer ones are coded in a thread."""

SHORT_US = 250.0
SHORT_HOLD_US = 4000.0
"""The same for whole bodies that are short: handing one to a thread costs 100 us and more, about as much as its whole
request. Streams have many pieces, and would take all of it."""


class CodingTurn:
    """What is used up of the time for coding in this turn of the event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        """Whose turn it is; None while nothing is coded."""
        self._used_us = 0.0

    def takes(self, us: float, *, is_whole: bool = True) -> bool:
        """Whether there is time for so many microseconds of coding a body or a piece, and use it up if there is."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._used_us = 0.0
            loop.call_soon(self._end)
        if self._used_us + us > (SHORT_HOLD_US if is_whole and us <= SHORT_US else HOLD_US):
            return False
        self._used_us += us
        return True

    def _end(self) -> None:
        self._loop = None
