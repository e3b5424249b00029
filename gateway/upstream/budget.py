"""Keeps retries a small part of the traffic, so that they never multiply an outage."""

from __future__ import annotations

from collections.abc import Callable

MIN_RETRIES = 3


class RetryBudget:
    """How many retries may be under way at once: ``share`` of the requests in flight, at least ``minimum``.

    Whoever spends gives back when the retry has ended.
    """

    __slots__ = ("_in_flight", "minimum", "share", "spent")

    def __init__(self, share: float, in_flight: Callable[[], int], minimum: int = MIN_RETRIES) -> None:
        self.share = share
        self.minimum = minimum
        self.spent = 0
        self._in_flight = in_flight

    @property
    def limit(self) -> int:
        """Retries that may be under way now."""
        return max(self.minimum, int(self.share * self._in_flight()))

    def try_spend(self) -> bool:
        """Take one retry out of the budget; False when there is none left."""
        if self.spent >= self.limit:
            return False
        self.spent += 1
        return True

    def give_back(self) -> None:
        """A retry has ended, whatever came of it."""
        if self.spent:
            self.spent -= 1
