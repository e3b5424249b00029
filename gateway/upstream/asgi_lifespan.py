"""Runs the lifespan of an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.types import ASGIApp, Message

from gateway.errors import UpstreamAppFailed

logger = logging.getLogger("gateway.upstream.asgi")

_SHUTDOWN_TIMEOUT_S = 10.0


class AppLifespan:
    """Start-up and shutdown of one application, in a task of its own as its scopes may demand.

    ``state`` is what the application put there; every request gets a copy.
    """

    def __init__(self, app: ASGIApp, name: str) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[None] | None = None
        self._stopped = asyncio.Event()
        self._problem: str | None = None

    async def start(self) -> None:
        """Wait for the application's start-up; one without a lifespan is fine. Raises UpstreamAppFailed."""
        if self._started is None:
            self._started = asyncio.get_running_loop().create_future()
            self._incoming.put_nowait({"type": "lifespan.startup"})
            self._task = asyncio.create_task(self._run(), name=f"asgi:{self._name} lifespan")
        await asyncio.shield(self._started)
        if self._problem is not None:
            raise UpstreamAppFailed(f"asgi:{self._name} did not start: {self._problem}")

    async def aclose(self) -> None:
        """Wait for the application's shutdown, at most 10 s."""
        task, self._task = self._task, None
        if task is None:
            return
        self._incoming.put_nowait({"type": "lifespan.shutdown"})
        try:
            async with asyncio.timeout(_SHUTDOWN_TIMEOUT_S):
                await self._stopped.wait()
                await asyncio.wait((task,))
        except TimeoutError:
            logger.error("asgi:%s did not shut down within %g s", self._name, _SHUTDOWN_TIMEOUT_S)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    async def _run(self) -> None:
        assert self._started is not None
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._incoming.get, self._send)
        except Exception as error:
            if not self._started.done():
                # What the ASGI specification makes of an application that knows no lifespan.
                logger.debug("asgi:%s has no lifespan: %r", self._name, error)
            elif self._problem is None:
                logger.error("asgi:%s failed in its lifespan", self._name, exc_info=error)
        finally:
            self._stopped.set()
            if not self._started.done():
                self._started.set_result(None)

    async def _send(self, message: Message) -> None:
        assert self._started is not None
        kind = message["type"]
        if kind == "lifespan.startup.failed":
            self._problem = message.get("message") or "start-up failed"
        elif kind == "lifespan.shutdown.failed":
            logger.error("asgi:%s did not shut down well: %s", self._name, message.get("message", ""))
        if kind.startswith("lifespan.startup.") and not self._started.done():
            self._started.set_result(None)
        elif kind.startswith("lifespan.shutdown."):
            self._stopped.set()
