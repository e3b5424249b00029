"""The current generation of the route table, its replacement under traffic, and its drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.document import Config
from gateway.pipeline import Generation

Build = Callable[[Config, Generation | None], Generation]

logger = logging.getLogger("gateway")


class Live:
    """Serves each exchange on the generation that is current when it begins, to its end.

    ``build`` makes a generation from a configuration and the one it follows. Not thread-safe: one event loop.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._current: _Running | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._retiring: set[_Running] = set()
        self._replacing = asyncio.Lock()

    @property
    def current(self) -> Generation:
        """The generation that new exchanges get; raises RuntimeError before the first."""
        if self._current is None:
            raise RuntimeError("the gateway has not been started")
        return self._current.generation

    @property
    def is_up(self) -> bool:
        """Whether a generation serves."""
        return self._current is not None

    @property
    def in_flight(self) -> int:
        """Exchanges on the current generation."""
        return 0 if self._current is None else self._current.in_flight

    @property
    def retired(self) -> int:
        """Generations that still have exchanges to finish."""
        return len(self._retired)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one exchange."""
        running = self._current
        assert running is not None
        running.in_flight += 1
        try:
            await running.app(scope, receive, send)
        finally:
            running.in_flight -= 1
            if running.is_retired and not running.in_flight:
                running.idle.set()

    async def replace(self, config: Config) -> None:
        """Build a generation beside the current one and swap; what it raises leaves the current one in place."""
        async with self._replacing:
            old = self._current
            generation = self._build(config, old.generation if old else None)
            try:
                await generation.start()
            except BaseException:
                await generation.abandon()
                raise
            self._current = _Running(generation)
            if old is not None:
                task = asyncio.create_task(self._retire(old, generation))
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)

    async def _retire(self, running: _Running, successor: Generation) -> None:
        running.is_retired = True
        self._retiring.add(running)
        try:
            if running.in_flight:
                await running.idle.wait()
            await running.generation.aclose(successor)
        finally:
            self._retiring.discard(running)

    async def aclose(self, timeout_s: float) -> None:
        """Let running exchanges finish for ``timeout_s`` seconds, then close every generation."""
        running, self._current = self._current, None
        if running is None:
            return
        running.is_retired = True
        if running.in_flight:
            try:
                async with asyncio.timeout(timeout_s):
                    await running.idle.wait()
            except TimeoutError:
                logger.warning("%d exchanges are cut after %g s of draining", running.in_flight, timeout_s)
        # Exchanges of older generations have had the same time; what they hold is closed under them.
        for waiting in self._retiring:
            waiting.idle.set()
        await asyncio.gather(*self._retired, return_exceptions=True)
        await running.generation.aclose(None)


class _Running:
    """A generation and how much of it is in use."""

    __slots__ = ("app", "generation", "idle", "in_flight", "is_retired")

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.app: ASGIApp = generation.app
        self.in_flight = 0
        self.is_retired = False
        self.idle = asyncio.Event()
