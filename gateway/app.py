"""Gateway: the Starlette application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from gateway.config.document import Config
from gateway.config.load import load_config
from gateway.generation import Generation
from gateway.http.target import cut_root_path
from gateway.live import Live
from gateway.middleware.admission import SERVER_TARGET
from gateway.middleware.cache import Cache
from gateway.runtime import Runtime


class Gateway(Starlette):
    """A reverse proxy on a route table: ``uvicorn module:app``, or ``parent.mount("/api", Gateway("routes.toml"))``.

    Starts with its lifespan, or with the first request where the parent application does not run it; ``lifespan``
    composes with the parent's own. Routes and middleware added with Starlette's methods come before the table. Raises
    ConfigError when the configuration is not valid.
    """

    def __init__(self, config: str | Path | Config = "routes.toml", **options: Any) -> None:
        self.config = config if isinstance(config, Config) else load_config(config)
        super().__init__(lifespan=_lifespan, **options)
        self.router.default = self._serve
        self.runtime = Runtime(self.config)
        self.live = Live(self._build)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._plain = not options and not self.router.routes

    @classmethod
    def from_config(cls, table: Mapping[str, Any], **options: Any) -> Gateway:
        """The gateway on a mapping with the keys of routes.toml."""
        return cls(load_config(table), **options)

    @property
    def cache(self) -> Cache:
        """The response cache: ``await gateway.cache.purge(tag="product-7")``."""
        return self.runtime.cache

    @property
    def is_plain(self) -> bool:
        """Whether nothing of the user's own, added with Starlette's methods, comes before the table."""
        return self._plain and not self.user_middleware and not self.router.routes

    @property
    def generation(self) -> Generation:
        """The generation that new requests get."""
        return self.live.current

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # With nothing of the user's own in it, Starlette's stack only costs: 5 us of its exception layers a request.
        if self.is_plain and scope["type"] != "lifespan":
            await self._serve(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._loop is not asyncio.get_running_loop():
            return self._serve_first(scope, receive, send)
        if scope.get("root_path"):
            scope = without_root_path(scope)
        express = self.live.express
        short = None
        # The gateway's own server has tried the short way already.
        if express is not None and SERVER_TARGET not in (scope.get("extensions") or ()):
            short = self.runtime.mounted.serve(express, scope, receive, send)
        return self.live.serve(scope, receive, send) if short is None else short

    async def _serve_first(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.start()
        await self._serve(scope, receive, send)

    def _build(self, config: Config, previous: Generation | None) -> Generation:
        return Generation(config, self.runtime, previous)

    async def start(self) -> None:
        """Build the first generation on the running event loop; does nothing when it runs already.

        Whoever asks while it starts waits for the same start. Raises ConfigError; the next one begins anew.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._starting is None or self._starting.done() or self._starting.get_loop() is not loop:
            self._starting = loop.create_task(self._start(loop))
        await asyncio.shield(self._starting)

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            # Another loop, as in tests that run one each: what belonged to the old one is gone with it.
            if self.runtime.access_log is not None:
                self.runtime.access_log.close()
            self.runtime = Runtime(self.config)
        self.live = Live(self._build)
        await self.runtime.start()
        try:
            await self.live.replace(self.config)
        except BaseException:
            await self.runtime.aclose()
            raise
        self._loop = loop

    async def reload(self, config: str | Path | Config | None = None) -> None:
        """Swap in another configuration, by default the file read anew.

        Raises ConfigError, and the running one stays, when it is not valid.
        """
        if config is None:
            config = self.config.path or self.config
        config = config if isinstance(config, Config) else load_config(config)
        await self.start()
        await self.live.replace(config)
        self.config = config

    async def aclose(self, timeout_s: float | None = None) -> None:
        """Finish what runs within ``timeout_s`` seconds, by default ``server.shutdown_timeout``; cut the rest."""
        if self._loop is None:
            return
        # A WebSocket has no end that could be waited for: both of its sides are told.
        self.runtime.websockets.close_all()
        await self.live.aclose(self.config.server.shutdown_timeout if timeout_s is None else timeout_s)
        await self.runtime.aclose()
        self._loop = None
        self._starting = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """The gateway's life as a context: give it to the parent as its lifespan, or enter it in the parent's own."""
        await self.start()
        try:
            yield
        finally:
            await self.aclose()


def _lifespan(app: Starlette) -> contextlib.AbstractAsyncContextManager[None]:
    assert isinstance(app, Gateway)
    return app.lifespan()


def without_root_path(scope: Scope) -> Scope:
    """The scope as the gateway at its root would see it; ``root_path`` stays, for references that it makes public."""
    raw_path = scope.get("raw_path")
    if raw_path is None:
        raw_path = quote(scope["path"], safe="/%:@!$&'()*+,;=~-._").encode("ascii")
    raw_path = cut_root_path(raw_path, scope["root_path"])
    return {**scope, "raw_path": raw_path, "path": unquote(raw_path.decode("latin-1"))}
