"""``gateway run``: a configuration as a service, with its admin listener, reloaded as its file changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from typing import Any

import click
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import Gateway
from gateway.config.document import Config
from gateway.config.problems import ConfigError
from gateway.config.server import ServerConfig
from gateway.exchange import Exchange
from gateway.runtime import METRICS_VARIABLE, SECRET_VARIABLE
from gateway.server.launch import BindFailed, Limits, Refusal, SideApp, StartFailed, Status, Tls, serve
from gateway.server.reload import latest, reload_gateway, with_overrides
from gateway.server.tls import Certificate, TlsError, TlsSettings
from gateway.server.watch import content_of, watch_file
from gateway.telemetry.metrics import Gauge

logger = logging.getLogger("gateway")


class RunFailed(Exception):
    """The gateway could not be started; the message is for the user."""


def run_gateway(config: Config, *, watch: bool, overrides: Mapping[str, Any] | None = None) -> None:
    """Serve ``config`` until told to stop; with ``watch`` a change of its file takes effect at once.

    ``overrides`` stand in for keys of ``[server]``, after a reload as well. Raises RunFailed.
    """
    overrides = overrides or {}
    content = content_of(config.path) if config.path is not None else None
    config = with_overrides(config, overrides)
    server = config.server
    workers = (os.cpu_count() or 1) if server.workers == "auto" else server.workers
    configure_logging(with_process=workers > 1)
    gateways: list[ServedGateway] = []

    def make_app() -> ASGIApp:
        # The application that asgi: endpoints and middleware name is looked for where the command was given.
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        current, loaded = latest(config, content, overrides)
        gateway = ServedGateway(current, loaded)
        gateways.append(gateway)
        return gateway

    async def reload(app: ASGIApp) -> None:
        assert isinstance(app, Gateway)
        await reload_gateway(app, overrides)

    async def changed(app: ASGIApp) -> None:
        try:
            await reload(app)
        except Exception:
            # The watch must outlive it: the next change may mend what this one broke.
            logger.exception("the reload failed; what ran goes on")

    async def watch_config(app: ASGIApp) -> None:
        assert isinstance(app, ServedGateway)
        path = app.config.path
        if not watch or path is None:
            return
        try:
            await watch_file(path, partial(changed, app), stop=asyncio.Event(), known=app.content)
        except Exception:
            logger.exception("%s is not watched: SIGHUP reloads it", path)

    def refused(refusal: Refusal) -> None:
        for gateway in gateways:
            record_refusal(gateway, refusal)

    os.environ.setdefault(SECRET_VARIABLE, os.urandom(32).hex())
    try:
        with contextlib.ExitStack() as stack:
            if workers > 1:
                # Only for several: one alone runs without a place to write to.
                os.environ.setdefault(METRICS_VARIABLE, stack.enter_context(_metrics_folder()))
            serve(
                make_app,
                binds=[str(bind) for bind in server.bind],
                limits=limits_of(server),
                workers=workers,
                shutdown_timeout_s=server.shutdown_timeout,
                tls=tls_of(server),
                redirect_from=str(server.tls.redirect_from) if server.tls and server.tls.redirect_from else None,
                sides=admin_side(config),
                on_reload=reload,
                on_refused=refused,
                request_id_header=server.request_id_header,
                beside=watch_config,
                ready=announce,
            )
    except (BindFailed, StartFailed, TlsError, ConfigError) as error:
        raise RunFailed(str(error)) from error


def _metrics_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="gateway-metrics-")
    except OSError as error:
        raise RunFailed(f"several workers need a folder for temporary files: {error.strerror or error}") from error


class ServedGateway(Gateway):
    """A gateway whose configuration may turn out unusable at start: that is a message, not a traceback.

    ``content`` is what the file held that it starts with.
    """

    def __init__(self, config: Config, content: bytes | None) -> None:
        super().__init__(config)
        self.content = content
        self.router.lifespan = self._live  # type: ignore[method-assign]

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except ConfigError as error:
            for problem in error.problems:
                logger.error("%s", problem)
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def limits_of(server: ServerConfig) -> Limits:
    """What the server's own protocol enforces."""
    limits = server.limits
    return Limits(
        header_timeout_s=limits.header_timeout,
        body_timeout_s=limits.body_timeout,
        min_body_rate=limits.min_body_rate,
        send_timeout_s=limits.send_timeout,
        keep_alive_s=limits.keep_alive,
        max_header_bytes=limits.max_header_bytes,
        max_headers=limits.max_headers,
        max_target_bytes=limits.max_target_bytes,
        max_connections=limits.max_connections,
    )


def tls_of(server: ServerConfig) -> Tls | None:
    """The certificates of the listener; None for plain HTTP."""
    tls = server.tls
    if tls is None:
        return None
    return Tls(
        TlsSettings(
            certificates=tuple(Certificate(str(pair.cert), str(pair.key)) for pair in tls.certificates),
            min_version=tls.min_version,
            client_ca=None if tls.client_ca is None else str(tls.client_ca),
            client_auth=tls.client_auth,
        )
    )


def admin_side(config: Config) -> list[SideApp]:
    """The admin listener, where there is one."""
    if config.admin is None:
        return []
    from gateway.admin.app import create_admin

    token = config.admin.token.get_secret_value() if config.admin.token is not None else None

    def make(app: ASGIApp, status: Status) -> ASGIApp:
        assert isinstance(app, Gateway)
        metrics = app.runtime.metrics
        metrics.add_reader(lambda: [Gauge("client_connections", "Connections of clients.", (), status.connections)])
        return create_admin(
            is_ready=lambda: app.live.is_up and not status.is_draining, exposition=metrics.exposition, token=token
        )

    return [SideApp([str(config.admin.bind)], make, stays=True)]


def record_refusal(gateway: Gateway, refusal: Refusal) -> None:
    """Give a request that the server refused itself to the access log and the metrics."""
    exchange = Exchange(refusal.method or "-", refusal.target.encode("latin-1", "replace"))
    exchange.peer = exchange.client = refusal.client
    exchange.request_id = refusal.request_id
    exchange.status = refusal.error.status
    exchange.error = refusal.error
    exchange.outcome = "refused" if refusal.answered else "aborted"
    exchange.finished = exchange.started
    for record in gateway.runtime.recorders:
        record(exchange)


def announce(urls: list[str], side_urls: list[str]) -> None:
    """Say where the gateway answers, and where the admin listener does."""
    admin = f", admin on {', '.join(side_urls)}" if side_urls else ""
    click.echo(f"gateway: listening on {', '.join(urls)}{admin}", err=True)


def configure_logging(*, with_process: bool) -> None:
    """The messages of gateway and server go to standard error, one line each; workers say which one speaks."""
    handler = logging.StreamHandler()
    process = " [%(process)d]" if with_process else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s{process} %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("gateway")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
    server = logging.getLogger("uvicorn.error")
    server.handlers[:] = [handler]
    server.propagate = False
    # Why the start failed has been said by then.
    server.addFilter(lambda record: record.msg != "Application startup failed. Exiting.")
