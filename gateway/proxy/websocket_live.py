"""Keeps track of the WebSockets that are open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gateway.http.websocket import GOING_AWAY, shortened
from gateway.proxy.websocket_relay import Relay
from gateway.ticker import Ticker


class Passage(Protocol):
    """What passes a WebSocket on: a Relay or a Tunnel."""

    def tell(self, code: int, reason: str, /) -> None:
        """Close both sides."""

    def sweep(self, now: float, /) -> None:
        """Compare with the limits in time."""


class LiveWebSockets:
    """The WebSockets of a process: swept on every tick, and told when the process ends."""

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._relays: set[Passage] = set()
        self._stop_sweep: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._relays)

    @contextmanager
    def holding(self, relay: Passage) -> Iterator[None]:
        """Count ``relay`` among the live ones."""
        self._relays.add(relay)
        if self._stop_sweep is None:
            self._stop_sweep = self._ticker.add(self._sweep)
        try:
            yield
        finally:
            self._relays.discard(relay)
            if not self._relays:
                self._stop_sweep()
                self._stop_sweep = None

    @contextmanager
    def replacing(self, relay: Relay, passage: Passage) -> Iterator[None]:
        """Have ``passage`` in the place of a live ``relay``; it is told what that one was."""
        self._relays.discard(relay)
        self._relays.add(passage)
        if relay.told is not None:
            passage.tell(*relay.told)
        try:
            yield
        finally:
            self._relays.discard(passage)
            self._relays.add(relay)

    def close_all(self, code: int = GOING_AWAY, reason: str = "the gateway is shutting down") -> None:
        """Tell both sides of every WebSocket; those who do not answer are cut 5 s later."""
        for relay in list(self._relays):
            relay.tell(code, shortened(reason))

    def _sweep(self, now: float) -> None:
        for relay in list(self._relays):
            relay.sweep(now)
