"""One serving process: event loop, listeners, signals, drain."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

from gateway.app import Gateway
from gateway.express.table import Express
from gateway.server.limits import Connections, Limits
from gateway.server.notify import notify_ready, notify_reloading, notify_stopping
from gateway.server.protocol import GatewayProtocol
from gateway.server.refusal import Refusal
from gateway.server.sockets import listen
from gateway.server.tls import Tls, TlsError
from gateway.server.watch import watch_file
from gateway.ticker import Ticker

# A raised threshold makes collections rare where next to nothing is cyclic, and freezing keeps what lives as long as
# the process out of them: together a tenth of the request path, as much as no collector at all.
_GC_THRESHOLD = (50_000, 20, 100)
_POLL_S = 0.02
_CANCELLED_S = 1.0

logger = logging.getLogger("gateway.server")


class StartFailed(Exception):
    """The application did not start; its own message is in the log."""


class Status:
    """How a serving process is doing, for its side applications."""

    def __init__(self, connections: Callable[[], int]) -> None:
        self.is_draining = False
        """Whether it takes no more requests."""
        self._connections = connections

    @property
    def connections(self) -> int:
        """Client connections of the main application."""
        return self._connections()


@dataclass(frozen=True)
class SideApp:
    """A small application beside the main one, on addresses of its own: administration, redirects.

    ``make`` gets the main application and the state of the process. With ``stays`` it is served until the main one has
    drained. Side applications have no lifespan and no TLS.
    """

    binds: Sequence[str]
    make: Callable[[ASGIApp, Status], ASGIApp]
    stays: bool = False


@dataclass(frozen=True)
class _Listening:
    """One application on its addresses."""

    connections: Connections
    state: ServerState
    servers: list[asyncio.Server]
    stays: bool

    @property
    def is_busy(self) -> bool:
        return bool(self.state.connections or self.state.tasks)

    def stop(self) -> None:
        """Stop accepting; close what is idle, and the rest as it becomes so."""
        for server in self.servers:
            server.close()
        self.connections.draining = True
        for connection in list(self.state.connections):
            connection.shutdown()


@dataclass(frozen=True)
class Worker:
    """What every serving process is made of. ``make_app`` is called in it, so that processes share nothing."""

    make_app: Callable[[], ASGIApp]
    processes: int
    """How many there are of it."""
    limits: Limits
    shutdown_timeout_s: float
    tls: Tls | None = None
    on_reload: Callable[[ASGIApp], Awaitable[None]] | None = None
    on_refused: Callable[[Refusal], None] | None = None
    request_id_header: str = ""
    beside: Callable[[ASGIApp], Awaitable[None]] | None = None
    ws_max_size: int = 16 * 1024 * 1024
    sides: Sequence[SideApp] = field(default=())

    def run(
        self,
        sockets: Sequence[socket.socket],
        side_sockets: Sequence[Sequence[socket.socket]],
        *,
        ready: Callable[[], None],
        parent_alive: int | None = None,
    ) -> None:
        """Serve until SIGTERM or SIGINT; raises StartFailed.

        ``ready`` is called when requests are taken. ``parent_alive`` is a pipe whose end means that the supervisor is
        gone; with it SIGINT, which a terminal sends to every process, is left to the supervisor.
        """
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_Serving(self, parent_alive).serve(sockets, side_sockets, ready))


class _Serving:
    """The state of a worker while its event loop runs."""

    def __init__(self, worker: Worker, parent_alive: int | None) -> None:
        self._worker = worker
        self._parent_alive = parent_alive
        self._stop = asyncio.Event()
        self._stop_signals = 0
        self._is_retired = False
        """Whether other processes go on in its place, and serve what would stay."""
        self._cut = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None
        self._groups: list[_Listening] = []
        self._status = Status(lambda: len(self._groups[0].connections))
        self._app: ASGIApp = _no_app

    async def serve(
        self,
        sockets: Sequence[socket.socket],
        side_sockets: Sequence[Sequence[socket.socket]],
        ready: Callable[[], None],
    ) -> None:
        worker = self._worker
        loop = asyncio.get_running_loop()
        self._app = worker.make_app()
        config = self._config(self._app, lifespan="on")
        lifespan = LifespanOn(config)
        await lifespan.startup()
        if lifespan.should_exit:
            raise StartFailed("the application did not start")
        self._handle_signals(loop)
        ticker = Ticker()
        stop_sweep = ticker.add(self._sweep)
        if self._parent_alive is not None:
            # The supervisor read them when it started: they may have been replaced since.
            await self._reload_certificates()
        await self._listen(config, lifespan.state, sockets, worker.tls, worker.on_refused)
        for side, group in zip(worker.sides, side_sockets, strict=True):
            config = self._config(side.make(self._app, self._status), lifespan="off")
            await self._listen(config, {}, group, None, None, stays=side.stays)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLD)
        beside = self._watch_certificates()
        if worker.beside is not None:
            beside.append(asyncio.ensure_future(worker.beside(self._app)))
        ready()
        await self._stop.wait()
        if self._parent_alive is None:
            notify_stopping()
        await self._drain()
        for task in [*beside, *([self._reloading] if self._reloading is not None else [])]:
            await _end(task)
        stop_sweep()
        await lifespan.shutdown()

    def _config(self, app: ASGIApp, lifespan: Any) -> Config:
        config = Config(
            app,
            http=GatewayProtocol,
            ws="websockets-sansio",
            ws_max_size=self._worker.ws_max_size,
            # Compression of frames costs more than it saves beside a fast network; clients do without it.
            ws_per_message_deflate=False,
            lifespan=lifespan,
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        config.load()
        return config

    async def _listen(
        self,
        config: Config,
        app_state: dict[str, Any],
        sockets: Sequence[socket.socket],
        tls: Tls | None,
        on_refused: Callable[[Refusal], None] | None,
        *,
        stays: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        limits = self._worker.limits
        # The main application is the first; those beside it have no short ways.
        express = _short_ways(self._app) if not self._groups else None
        connections = Connections(
            limits, on_refused=on_refused, request_id_header=self._worker.request_id_header, express=express
        )
        state = ServerState()
        servers: list[asyncio.Server] = []
        self._groups.append(_Listening(connections, state, servers, stays))
        factory = functools.partial(GatewayProtocol, config, state, app_state, loop, connections=connections)
        options: dict[str, Any] = {}
        if tls is not None:
            options = {"ssl": tls.context, "ssl_handshake_timeout": limits.header_timeout_s}
        for sock in sockets:
            servers += await listen(factory, sock, processes=self._worker.processes, **options)

    def _sweep(self, now: float) -> None:
        for group in self._groups:
            group.connections.sweep(now)

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGTERM, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        if self._parent_alive is None:
            loop.add_signal_handler(signal.SIGINT, self._on_stop)
            loop.add_signal_handler(signal.SIGUSR2, logger.warning, "a rolling restart needs more than one worker")
        else:
            loop.add_signal_handler(signal.SIGINT, lambda: None)
            loop.add_signal_handler(signal.SIGUSR2, self._on_retired)
            loop.add_reader(self._parent_alive, self._on_parent_gone)

    def _on_stop(self) -> None:
        """The first signal drains, the second cuts."""
        self._stop_signals += 1
        if self._stop_signals > 1:
            self._cut.set()
        self._stop.set()

    def _on_retired(self) -> None:
        """The supervisor has put another process in the place of this one."""
        self._is_retired = True
        self._stop.set()

    def _on_parent_gone(self) -> None:
        assert self._parent_alive is not None
        asyncio.get_running_loop().remove_reader(self._parent_alive)
        self._stop.set()

    def _on_reload(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.ensure_future(self._reload())

    async def _reload(self) -> None:
        worker = self._worker
        is_alone = self._parent_alive is None
        if is_alone:
            notify_reloading()
        await self._reload_certificates()
        try:
            if worker.on_reload is not None:
                await worker.on_reload(self._app)
        except Exception:
            logger.exception("the reload failed; what ran goes on")
        finally:
            if is_alone:
                notify_ready()

    async def _reload_certificates(self) -> None:
        if self._worker.tls is None:
            return
        try:
            await asyncio.to_thread(self._worker.tls.reload)
        except TlsError as error:
            logger.error("the certificates stay as they were: %s", error)

    def _watch_certificates(self) -> list[asyncio.Future[None]]:
        """Tasks that swap the certificates when one of their files changes."""
        if self._worker.tls is None:
            return []
        watches = [watch_file(path, self._reload_certificates, stop=asyncio.Event()) for path in self._worker.tls.files]
        return [asyncio.ensure_future(watch) for watch in watches]

    async def _drain(self) -> None:
        """Stop accepting, finish what runs within the time for it, then cut."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._worker.shutdown_timeout_s
        self._status.is_draining = True
        for group in self._groups:
            if self._is_retired or not group.stays:
                group.stop()
        while self._is_busy() and not self._cut.is_set() and loop.time() < deadline:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cut.wait(), _POLL_S)
        tasks: set[asyncio.Task[None]] = set()
        for group in self._groups:
            if group.stays:
                group.stop()
            group.connections.cut_all()
            tasks |= group.state.tasks
        for task in tasks:
            task.cancel()
        if tasks:
            logger.warning("%d requests were cut at the end of shutdown_timeout", len(tasks))
            await asyncio.wait(tasks, timeout=_CANCELLED_S)
        # Connections close when the loop turns.
        await asyncio.sleep(_POLL_S)

    def _is_busy(self) -> bool:
        return any(group.is_busy for group in self._groups if self._is_retired or not group.stays)


def _short_ways(app: ASGIApp) -> Callable[[], Express | None] | None:
    return (lambda: app.live.express) if isinstance(app, Gateway) and app.is_plain else None


async def _end(task: asyncio.Future[None]) -> None:
    """Cancel a task and wait for it."""
    task.cancel()
    await asyncio.wait([task], timeout=_CANCELLED_S)
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a background task had failed", exc_info=error)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.name == "nt":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the application has not been made")
