"""Shares the requests of a route between upstreams by weight: a canary."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate

from starlette.types import ASGIApp, Receive, Scope, Send

Key = Callable[[Scope], bytes | None]
"""What of a request decides its share; None: nothing, it is drawn by chance."""


class SplitHandler:
    """Runs one of ``handlers``, each as often as its weight says.

    With ``key`` the same client gets the same upstream while the weights stand; when they change, only the clients
    whose share moved get another.
    """

    def __init__(
        self,
        handlers: Sequence[tuple[ASGIApp, int]],
        *,
        key: Key | None = None,
        rng: random.Random | None = None,
    ) -> None:
        chosen = [(handler, weight) for handler, weight in handlers if weight > 0]
        if not chosen:
            raise ValueError("a split needs at least one weight above 0")
        self._handlers = [handler for handler, _ in chosen]
        self._bounds = list(accumulate(weight for _, weight in chosen))
        self._key = key
        self._rng = rng or random.Random()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.choose(scope)(scope, receive, send)

    def choose(self, scope: Scope) -> ASGIApp:
        """The handler for a request."""
        key = None if self._key is None else self._key(scope)
        total = self._bounds[-1]
        if key is None:
            point = self._rng.random() * total
        else:
            digest = hashlib.blake2b(key, digest_size=8).digest()
            point = int.from_bytes(digest, "big") / 2**64 * total
        return self._handlers[bisect(self._bounds, point)]
