"""The coarse clock of a process: one timer an event loop, instead of one a request.

A deadline is an attribute; whoever owns it registers a sweep that compares it with ``now`` on every tick.
Deadlines are therefore met no earlier than configured and at most one tick late.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

TICK_S = 0.1

Sweep = Callable[[float], None]

logger = logging.getLogger("gateway.ticker")


class Ticker:
    """Calls every registered sweep with the monotonic time, about every ``interval_s`` seconds.

    ``now`` is the time of the last tick: fresh enough for deadlines, and one attribute load instead of a call.
    The timer runs only while something is registered.
    """

    def __init__(self, interval_s: float = TICK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval_s = interval_s
        self.clock = clock
        self.now = clock()
        self.lag_s = 0.0
        """How late the last tick came: what the event loop makes everything wait."""
        self._due = 0.0
        self._sweeps: dict[int, Sweep] = {}
        self._next_key = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, sweep: Sweep) -> Callable[[], None]:
        """Register ``sweep`` on the running event loop; the returned function takes it off again."""
        key = self._next_key
        self._next_key += 1
        self._sweeps[key] = sweep
        if self._timer is None:
            self.now = self.clock()
            self._due = self.now + self.interval_s
            self._timer = asyncio.get_running_loop().call_later(self.interval_s, self._on_timer)

        def remove() -> None:
            self._sweeps.pop(key, None)
            if not self._sweeps and self._timer is not None:
                self._timer.cancel()
                self._timer = None

        return remove

    def tick(self) -> None:
        """Run every sweep once; a sweep that fails is logged and does not stop the others."""
        self.now = self.clock()
        for sweep in list(self._sweeps.values()):
            try:
                sweep(self.now)
            except Exception:
                logger.exception("a sweep failed")

    def close(self) -> None:
        """Take every sweep off."""
        self._sweeps.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        now = self.clock()
        self.lag_s = max(0.0, now - self._due)
        self._due = now + self.interval_s
        self._timer = asyncio.get_running_loop().call_later(self.interval_s, self._on_timer)
        self.tick()
