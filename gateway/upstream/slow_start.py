"""An endpoint that comes back gets its share gradually: caches are cold, pools empty, code not compiled."""

from __future__ import annotations

from gateway.upstream.endpoint import Endpoint

MIN_FACTOR = 0.1
"""The share at the beginning; with nothing at all an endpoint would never warm up."""


def factor(elapsed_s: float, duration_s: float) -> float:
    """The part of its weight that an endpoint has ``elapsed_s`` seconds after it came back."""
    if elapsed_s >= duration_s:
        return 1.0
    return MIN_FACTOR + (1.0 - MIN_FACTOR) * max(0.0, elapsed_s) / duration_s


class SlowStart:
    """Raises the shares of endpoints over ``duration_s`` seconds; 0 gives them all at once."""

    def __init__(self, duration_s: float) -> None:
        self.duration_s = duration_s

    def begin(self, endpoint: Endpoint, now: float) -> None:
        """Let ``endpoint`` start from the bottom."""
        if self.duration_s > 0:
            endpoint.warming_since = now
            endpoint.warmth = MIN_FACTOR

    def advance(self, endpoint: Endpoint, now: float) -> bool:
        """Bring the share of a warming endpoint up to date; says whether it changed."""
        if endpoint.warming_since is None:
            return False
        endpoint.warmth = factor(now - endpoint.warming_since, self.duration_s)
        if endpoint.warmth >= 1.0:
            endpoint.warming_since = None
        return True
