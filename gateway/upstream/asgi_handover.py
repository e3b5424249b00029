"""Hands items from one task to another, one at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class HandoverClosed(Exception):
    """Nothing more comes, or is taken."""


class Handover(Generic[T]):
    """A queue in which at most one item waits: whoever puts one goes on when it was taken."""

    __slots__ = ("_getting", "_items", "_put", "_taken", "_waiters", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._items: deque[T] = deque()
        self._put = 0
        self._taken = 0
        self._getting = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_empty(self) -> bool:
        """Whether ``get`` would wait."""
        return not self._items

    @property
    def is_full(self) -> bool:
        """Whether an item waits and nobody is about to take it."""
        return len(self._items) > self._getting

    def offer(self, item: T) -> None:
        """Put an item without waiting. Raises HandoverClosed."""
        if self.closed:
            raise HandoverClosed
        self._items.append(item)
        self._put += 1
        self._notify()

    async def put(self, item: T) -> None:
        """Put an item and wait until it was taken. Raises HandoverClosed, also when it will not be taken any more."""
        while self._items and not self.closed:
            await self._change()
        self.offer(item)
        number = self._put
        while self._taken < number:
            if self.closed:
                raise HandoverClosed
            await self._change()

    async def get(self) -> T:
        """Take the next item. Raises HandoverClosed after the last one."""
        while not self._items:
            if self.closed:
                raise HandoverClosed
            self._getting = True
            try:
                await self._change()
            finally:
                self._getting = False
        return self.take()

    def take(self) -> T:
        """Take the item that waits; there must be one."""
        item = self._items.popleft()
        self._taken += 1
        self._notify()
        return item

    async def room(self) -> None:
        """Wait until nothing waits, or nothing more is taken."""
        while self.is_full and not self.closed:
            await self._change()

    def close(self, *, discard: bool = False) -> None:
        """Let nothing more in; with ``discard`` nothing more is given either."""
        self.closed = True
        if discard:
            self._items.clear()
        self._notify()

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
