"""The current generation of the route table, its replacement under traffic, and its drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from gateway.config.document import Config
from gateway.errors import Overloaded
from gateway.express.table import Express
from gateway.generation import Generation
from gateway.http.problem import problem_response

Build = Callable[[Config, Generation | None], Generation]

logger = logging.getLogger("gateway")


class Live:
    """Serves each exchange on the generation that is current when it begins, to its end.

    ``build`` makes a generation from a configuration and the one it follows. Not thread-safe: one event loop.
    """

    def __init__(self, build: Build) -> None:
        self._build = build
        self._current: Generation | None = None
        self.express: Express | None = None
        """The short ways of the current generation; None before the first."""
        self._retired: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Event] = set()
        self._replacing = asyncio.Lock()

    @property
    def current(self) -> Generation:
        """The generation that new exchanges get; raises RuntimeError before the first."""
        if self._current is None:
            raise RuntimeError("the gateway has not been started")
        return self._current

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

    def serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Run one exchange."""
        if self._current is None:
            return _refuse(scope, receive, send)
        return self._current.app(scope, receive, send)

    async def replace(self, config: Config) -> None:
        """Build a generation beside the current one and swap; what it raises leaves the current one in place."""
        async with self._replacing:
            old = self._current
            generation = self._build(config, old)
            try:
                await generation.start()
            except BaseException:
                await generation.abandon()
                raise
            self._current, self.express = generation, generation.express
            if old is not None:
                ended = asyncio.Event()
                self._waiting.add(ended)
                task = asyncio.create_task(self._retire(old, generation, ended))
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)

    async def _retire(self, generation: Generation, successor: Generation, ended: asyncio.Event) -> None:
        try:
            await _idle(generation, ended)
            await generation.aclose(successor)
        finally:
            self._waiting.discard(ended)

    async def aclose(self, timeout_s: float) -> None:
        """Let running exchanges finish for ``timeout_s`` seconds, then close every generation."""
        # A reload that is under way comes first: what it makes has to be closed as well.
        async with self._replacing:
            generation, self._current, self.express = self._current, None, None
        if generation is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await _idle(generation, asyncio.Event())
                if self._retired:
                    await asyncio.wait(self._retired)
        except TimeoutError:
            logger.warning("what still runs is cut after %g s of draining", timeout_s)
        # What the exchanges of older generations hold is closed under them.
        for ended in self._waiting:
            ended.set()
        await asyncio.gather(*self._retired, return_exceptions=True)
        await generation.aclose(None)


async def _idle(generation: Generation, ended: asyncio.Event) -> None:
    """Wait until the last exchange of ``generation`` has ended, or ``ended`` is set."""
    generation.on_idle = ended.set
    if generation.in_flight:
        await ended.wait()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that comes while the gateway closes."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1012})
        return
    status, fields, body = problem_response(Overloaded("the gateway is closing"), "", None)
    fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
