"""``gateway run``: a configuration as a service, with its admin listener, reloaded as its file changes."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from functools import partial

import click
from starlette.types import ASGIApp

from gateway.admin.app import create_admin
from gateway.app import Gateway
from gateway.config.document import Config
from gateway.config.load import load_config
from gateway.config.problems import ConfigError
from gateway.config.server import ServerConfig
from gateway.exchange import Exchange
from gateway.routes import table_warnings
from gateway.runtime import METRICS_VARIABLE, SECRET_VARIABLE
from gateway.server.launch import BindFailed, Limits, Refusal, SideApp, StartFailed, Tls, serve
from gateway.server.tls import Certificate, TlsError, TlsSettings
from gateway.server.watch import watch_file

logger = logging.getLogger("gateway")


class RunFailed(Exception):
    """The gateway could not be started; the message is for the user."""


def run_gateway(config: Config, *, watch: bool) -> None:
    """Serve ``config`` until told to stop; with ``watch`` a change of its file takes effect at once.

    Raises RunFailed.
    """
    configure_logging()
    server = config.server
    gateways: list[Gateway] = []

    def make_app() -> ASGIApp:
        # The application that asgi: endpoints and middleware name is looked for where the command was given.
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        gateway = Gateway(config)
        gateways.append(gateway)
        return gateway

    async def reload(app: ASGIApp) -> None:
        assert isinstance(app, Gateway)
        await reload_gateway(app)

    async def watch_config(app: ASGIApp) -> None:
        if watch and config.path is not None:
            await watch_file(config.path, partial(reload, app), stop=asyncio.Event())

    def refused(refusal: Refusal) -> None:
        for gateway in gateways:
            record_refusal(gateway, refusal)

    os.environ.setdefault(SECRET_VARIABLE, os.urandom(32).hex())
    workers = (os.cpu_count() or 1) if server.workers == "auto" else server.workers
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as folder:
            if workers > 1:
                os.environ.setdefault(METRICS_VARIABLE, folder)
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
                beside=watch_config,
                ready=announce,
            )
    except (BindFailed, StartFailed, TlsError, ConfigError) as error:
        raise RunFailed(str(error)) from error


async def reload_gateway(gateway: Gateway) -> None:
    """Swap in the file as it is now; when that cannot be, its problems are printed and nothing changes."""
    path = gateway.config.path
    if path is None:
        return
    try:
        new = await asyncio.to_thread(load_config, path, extra_warnings=table_warnings)
        old = gateway.config
        await gateway.reload(new)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"{problem}", err=True)
        logger.error("%s is not valid: the running configuration stays", path)
        return
    for line in differences(old, new):
        logger.info("%s", line)


def differences(old: Config, new: Config) -> list[str]:
    """What a reload changed, a line each."""
    lines = []
    for kind, before, after in (
        ("upstream", dict(old.upstreams), dict(new.upstreams)),
        ("route", {route.name: route for route in old.routes}, {route.name: route for route in new.routes}),
    ):
        for word, names in (
            ("added", [name for name in after if name not in before]),
            ("removed", [name for name in before if name not in after]),
            ("changed", [name for name in after if name in before and after[name] != before[name]]),
        ):
            if names:
                lines.append(f"reload: {kind} {word}: {', '.join(names)}")
    restart = [key for key in _AT_START if getattr(old.server, key) != getattr(new.server, key)]
    if restart or old.admin != new.admin or old.cache != new.cache:
        keys = [f"server.{key}" for key in restart]
        keys += [key for key in ("admin", "cache") if getattr(old, key) != getattr(new, key)]
        lines.append(f"reload: takes effect with the next start: {', '.join(keys)}")
    return lines or ["reload: nothing changed"]


_AT_START = ("bind", "workers", "access_log", "shutdown_timeout", "limits", "tls")


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
    token = config.admin.token.get_secret_value() if config.admin.token is not None else None

    def make(app: ASGIApp) -> ASGIApp:
        assert isinstance(app, Gateway)
        return create_admin(is_ready=lambda: app.live.is_up, exposition=app.runtime.metrics.exposition, token=token)

    return [SideApp([str(config.admin.bind)], make)]


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


def announce(addresses: list[str]) -> None:
    """Say where the gateway answers."""
    click.echo(f"gateway: listening on {', '.join(addresses)}", err=True)


def configure_logging() -> None:
    """The gateway's own messages go to standard error, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("gateway")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
