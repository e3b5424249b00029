"""Runs an ASGI application as a service: addresses, processes, signals, drain.

    serve(make_app, binds=["127.0.0.1:8080"], limits=Limits())

SIGTERM and SIGINT drain, and cut the second time; SIGHUP reloads in every worker; SIGUSR2 replaces the workers one by
one. Under systemd, sockets that it opened take the place of ``binds``, and it is told about start, reload and end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp

from gateway.server.limits import Limits
from gateway.server.notify import notify_ready
from gateway.server.redirect import RedirectToHttps
from gateway.server.refusal import Refusal
from gateway.server.sockets import (
    BindFailed,
    close_sockets,
    inherited_sockets,
    open_sockets,
    raise_file_limit,
    shown,
)
from gateway.server.supervisor import Supervisor
from gateway.server.tls import Tls
from gateway.server.worker import SideApp, StartFailed, Status, Worker

__all__ = ["VIA_VARIABLE", "BindFailed", "Limits", "Refusal", "SideApp", "StartFailed", "Status", "Tls", "serve"]

VIA_VARIABLE = "GATEWAY_VIA"
"""Environment variable with the pseudonym for Via that all workers share; made at start unless it is set."""

REDIRECT_SOCKET_NAME = "redirect"
"""``FileDescriptorName=`` of a systemd socket that is for the redirects to https."""

logger = logging.getLogger("gateway.server")


def serve(
    make_app: Callable[[], ASGIApp],
    *,
    binds: Sequence[str],
    limits: Limits,
    workers: int = 1,
    shutdown_timeout_s: float = 30.0,
    tls: Tls | None = None,
    redirect_from: str | None = None,
    redirect_port: int | None = None,
    sides: Sequence[SideApp] = (),
    on_reload: Callable[[ASGIApp], Awaitable[None]] | None = None,
    on_refused: Callable[[Refusal], None] | None = None,
    request_id_header: str = "",
    beside: Callable[[ASGIApp], Awaitable[None]] | None = None,
    ready: Callable[[list[str], list[str]], None] | None = None,
    ws_max_size: int = 16 * 1024 * 1024,
) -> None:
    """Serve until told to stop; raises BindFailed and StartFailed.

    ``make_app`` is called once in each worker; workers are forked, so anything callable will do. ``redirect_from`` is
    the plain address whose requests go to https on ``redirect_port``, by default the port of the first of ``binds``.
    ``on_reload`` and ``beside``, which runs as long as the worker, get the application; ``ready`` gets the URLs that
    are listened on, and those of the ``sides``. ``request_id_header`` carries the id of a request that the server
    refuses itself. ``ws_max_size`` is the largest WebSocket message in bytes.
    """
    os.environ.setdefault(VIA_VARIABLE, f"gw-{secrets.token_hex(4)}")
    shortage = raise_file_limit(limits.max_connections)
    given = inherited_sockets(os.environ)
    opened: list[socket.socket] = []
    unlinked: list[str] = []
    try:
        redirects = given.pop(REDIRECT_SOCKET_NAME, [])
        sockets = [sock for group in given.values() for sock in group]
        if not sockets:
            sockets = open_sockets(binds)
            opened += sockets
        groups: list[list[socket.socket]] = []
        all_sides = list(sides)
        for side in sides:
            groups.append(open_sockets(side.binds))
            opened += groups[-1]
        if redirect_from is not None or redirects:
            if not redirects:
                redirects = open_sockets([str(redirect_from)])
                opened += redirects
            app = RedirectToHttps(_public_port(sockets) if redirect_port is None else redirect_port)
            all_sides.append(SideApp([], lambda *_: app))
            groups.append(redirects)
        unlinked = [sock.getsockname() for sock in opened if sock.family == socket.AF_UNIX]
        worker = Worker(
            make_app=make_app,
            processes=workers,
            limits=limits,
            shutdown_timeout_s=shutdown_timeout_s,
            tls=tls,
            on_reload=on_reload,
            on_refused=on_refused,
            request_id_header=request_id_header,
            beside=beside,
            ws_max_size=ws_max_size,
            sides=all_sides,
        )
        urls = [shown(sock, "http" if tls is None else "https") for sock in sockets]
        side_urls = [shown(sock, "http") for group in groups[: len(sides)] for sock in group]

        def announce() -> None:
            # Only once it serves: what keeps it from starting stands alone.
            if shortage is not None:
                logger.warning("%s", shortage)
            notify_ready()
            if ready is not None:
                ready(urls, side_urls)

        if workers == 1:
            worker.run(sockets, groups, ready=announce)
        else:
            Supervisor(worker, workers, sockets, groups, ready=announce).run()
    finally:
        close_sockets(opened)
        for path in unlinked:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _public_port(sockets: Sequence[socket.socket]) -> int:
    for sock in sockets:
        if sock.family != socket.AF_UNIX:
            port: int = sock.getsockname()[1]
            return port
    return 443
