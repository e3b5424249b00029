"""Listening sockets: opened before anything else, so that a port in use is one clear line and nothing has started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from gateway.config.addresses import Bind, parse_bind

BACKLOG = 2048

# libuv lets in one connection a turn for each handle that listens, and each turn serves those that are in already: of
# 64 clients that come at once the last waited 50 ms for its turn; with 8 handles it waits 7. What a turn itself costs
# is shared too: with a connection for each request a CPU-second serves half as many again.
_AT_ONCE = 8
# A handshake holds the event loop for 0.3 ms.
_AT_ONCE_WITH_TLS = 4

_FIRST_SYSTEMD_FD = 3
_OTHER_FILES = 256
"""Beside two for each connection: listeners, logs, certificates, the event loop's own."""


class BindFailed(Exception):
    """An address cannot be listened on; the message says which and why."""


def open_sockets(binds: Sequence[str]) -> list[socket.socket]:
    """Listen on each of ``host:port``, ``[IPv6]:port`` and ``unix:/path``; raises BindFailed, and none stays open."""
    opened: list[socket.socket] = []
    try:
        for text in binds:
            opened += _open(text)
    except BindFailed:
        close_sockets(opened)
        raise
    return opened


def close_sockets(sockets: Sequence[socket.socket]) -> None:
    """Close them, and remove the files of UNIX sockets that are still open."""
    for sock in sockets:
        if sock.family == socket.AF_UNIX and sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                os.unlink(sock.getsockname())
        sock.close()


async def listen(
    factory: Callable[[], asyncio.Protocol], sock: socket.socket, *, processes: int = 1, **options: Any
) -> list[asyncio.Server]:
    """Accept on ``sock`` until the servers are closed, several connections in a turn of a busy event loop.

    ``processes`` share the socket, and how many they take at once. ``options`` are those of ``loop.create_server``.
    """
    loop = asyncio.get_running_loop()
    create: Any = loop.create_server
    if sock.family == socket.AF_UNIX:
        create = loop.create_unix_server
        if sys.version_info >= (3, 13):
            # Others may listen on: the file is for whoever has made it to remove.
            options["cleanup_socket"] = False
    count = max(1, (_AT_ONCE_WITH_TLS if options.get("ssl") else _AT_ONCE) // processes)
    # A duplicate is closed by its server.
    handles = [sock, *(sock.dup() for _ in range(count - 1))]
    return [await create(factory, sock=handle, backlog=BACKLOG, **options) for handle in handles]


def inherited_sockets(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """Sockets that systemd has opened for this process, by their ``FileDescriptorName=``; none: empty.

    The variables are removed, so that no child takes the sockets for its own.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(count)):
        sock = socket.socket(fileno=_FIRST_SYSTEMD_FD + index)
        sock.setblocking(False)
        sock.set_inheritable(False)
        found.setdefault(names[index] if index < len(names) else "", []).append(sock)
    return found


def shown(sock: socket.socket, scheme: str) -> str:
    """The address of a listening socket as a URL, or ``unix:/path``."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def raise_file_limit(max_connections: int) -> str | None:
    """Allow this process as many files as it may have; a warning when that is too few for ``max_connections``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    needed = 2 * max_connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    return f"only {soft} files may be open, and max_connections = {max_connections} can need {needed}: raise the limit"


def _open(text: str) -> list[socket.socket]:
    try:
        bind = parse_bind(text)
    except ValueError as error:
        raise BindFailed(f"cannot listen on {text}: {error}") from error
    try:
        return [_open_unix(bind.path)] if bind.path else _open_tcp(bind)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BindFailed(f"cannot listen on {text}: {reason[:1].lower()}{reason[1:]}") from error


def _open_tcp(bind: Bind) -> list[socket.socket]:
    """A name may have several addresses: all of them."""
    found = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            opened.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # [::] beside 0.0.0.0 is two listeners, not one in the way of the other.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError:
        close_sockets(opened)
        raise
    return opened


def _open_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that is gone; raises OSError when one still listens, or it is no socket."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(0, "a file that is no socket is in the way")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise FileExistsError(0, "address already in use")
