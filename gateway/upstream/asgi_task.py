"""Runs calls of an ASGI application in tasks of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

logger = logging.getLogger("gateway.upstream.asgi")

GRACE_S = 5.0


class Disconnected(OSError):
    """What ``send`` raises in the application when nobody takes what it sends."""


# How applications leave when they were told of a disconnect: nothing to report.
_ORDINARY = (Disconnected, ClientDisconnect, WebSocketDisconnect)


class AppTasks:
    """The running calls of one application; some outlive their exchange, such as background work."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, call: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``call``, which handles every exception of the application itself."""
        task = asyncio.create_task(call, name=f"asgi:{self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def end_within(self, task: asyncio.Task[None], grace_s: float) -> None:
        """Cancel ``task`` unless it ends by itself within ``grace_s`` seconds."""
        if not task.done():
            timer = asyncio.get_running_loop().call_later(grace_s, task.cancel)
            task.add_done_callback(lambda _: timer.cancel())

    def log_failure(self, error: Exception, what: str, *, disconnected: bool) -> None:
        """One line and the traceback for an exception of the application."""
        rest: Exception | None = error
        if disconnected and isinstance(error, ExceptionGroup):
            rest = error.split(_ORDINARY)[1]
        if rest is None or (disconnected and isinstance(rest, _ORDINARY)):
            return
        logger.error("asgi:%s failed in %s", self.name, what, exc_info=error)

    async def aclose(self, grace_s: float) -> None:
        """Wait for what runs, then cancel it."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace_s)
        for task in set(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
