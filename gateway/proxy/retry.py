"""When an attempt may be made again."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gateway.errors import ConnectFailed, ConnectionBroken, ConnectTimeout, UpstreamAppFailed, UpstreamError
from gateway.errors import UpstreamTimeout as UpstreamTimedOut

Condition = Literal["connect", "reset", "timeout"] | int

_CONDITIONS: tuple[tuple[type[UpstreamError], Condition], ...] = (
    (ConnectTimeout, "timeout"),
    (ConnectFailed, "connect"),
    (ConnectionBroken, "reset"),
    (UpstreamTimedOut, "timeout"),
    (UpstreamAppFailed, "reset"),
)
_MAX_BACKOFF_S = 1.0
_MAX_RETRY_AFTER_S = 1.0


@dataclass(frozen=True)
class RetryPolicy:
    """Conditions, bounds and pace of further attempts; times in seconds, sizes in bytes."""

    attempts: int = 2
    attempt_timeout_s: float = 0.0
    on: frozenset[Condition] = frozenset(["connect", "reset", "timeout", 502, 503, 504])
    methods: frozenset[str] = frozenset(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
    max_body: int = 64 * 1024
    backoff_s: float = 0.025

    def allows_error(self, error: UpstreamError, method: str) -> bool:
        """Whether another attempt may follow ``error``; what was never sent may go anywhere, whatever the method."""
        condition = next((name for kind, name in _CONDITIONS if isinstance(error, kind)), None)
        return condition in self.on and (not error.request_sent or method in self.methods)

    def allows_status(self, status: int, method: str) -> bool:
        """Whether another attempt may follow an answer with ``status``."""
        return status in self.on and method in self.methods

    def delay_s(self, number: int, rng: random.Random, retry_after: bytes | None = None) -> float:
        """How long to wait before retry ``number`` (1 is the first) at an endpoint that has failed before.

        Full jitter over an exponential bound; a short Retry-After of the upstream is honoured, a long one is not waited
        for (the route's timeout would pass), so it counts for nothing here.
        """
        bound = min(_MAX_BACKOFF_S, self.backoff_s * 2 ** (number - 1))
        delay = rng.uniform(bound / 2, bound)
        if retry_after is not None and retry_after.isdigit() and len(retry_after) < 4:
            wanted = float(retry_after)
            if wanted <= _MAX_RETRY_AFTER_S:
                return max(wanted, delay)
        return delay


def conditions(names: Iterable[str | int]) -> frozenset[Condition]:
    """The conditions of these names and statuses; ValueError for a name that is none."""
    known: dict[str, Condition] = {"connect": "connect", "reset": "reset", "timeout": "timeout"}
    unknown = [name for name in names if isinstance(name, str) and name not in known]
    if unknown:
        raise ValueError(f"no conditions for a retry: {', '.join(unknown)}")
    return frozenset(known[name] if isinstance(name, str) else name for name in names)


# What was never sent may still go to another endpoint: that repeats nothing.
NO_RETRY = RetryPolicy(attempts=1, on=frozenset(["connect"]), methods=frozenset(), max_body=0)
