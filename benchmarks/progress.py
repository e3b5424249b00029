"""What is going on, on standard error: one line written over on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

_EVERY_S = 10.0


class Progress:
    """Where a run stands; ``total_s`` is about how long it takes."""

    def __init__(self, total_s: float) -> None:
        self._end = time.monotonic() + total_s
        self._is_terminal = sys.stderr.isatty()
        self._last = 0.0
        self.scenario = ""

    def show(self, text: str) -> None:
        """Say what begins now."""
        now = time.monotonic()
        left = max(0, round(self._end - now))
        line = f"{self.scenario}: {text}, about {left // 60}:{left % 60:02} left"
        if self._is_terminal:
            print(f"\r\x1b[K  {line}", end="", file=sys.stderr, flush=True)
        elif now - self._last >= _EVERY_S:
            self._last = now
            print(f"  {line}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave the line to what follows."""
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
