"""Connecting: TCP or UNIX socket, TLS on top, and names that have several addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from gateway.errors import ConnectFailed, ConnectTimeout

ATTEMPT_DELAY_S = 0.25
"""How long one address may take before the next is tried beside it, RFC 8305 section 5."""

P = TypeVar("P", bound=asyncio.Protocol)

# What getaddrinfo gives: family, kind, protocol, canonical name, address.
_AddrInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


class Patience(NamedTuple):
    """How long a request waits for a new connection while another endpoint may have it."""

    seconds: float
    has_other: Callable[[], bool]
    """Whether one still may: waiting goes on while all the others are full."""


class Dialer:
    """Opens connections to one address: ``host`` and ``port``, or the UNIX socket ``uds``.

    With ``ssl_context`` TLS follows, ``server_hostname`` being the name that the certificate is checked for.
    """

    def __init__(
        self,
        *,
        host: str = "",
        port: int = 0,
        uds: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._uds = uds
        self._ssl_context = ssl_context
        self._server_hostname = (server_hostname or host or "localhost") if ssl_context is not None else None
        self._is_literal = _is_ip_address(host)
        self.label = f"unix:{uds}" if uds is not None else f"{host}:{port}"

    async def open(self, protocol_factory: Callable[[], P], timeout_s: float | None) -> tuple[asyncio.Transport, P]:
        """Connect within ``timeout_s`` seconds, TLS handshake included. Raises ConnectTimeout or ConnectFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._open(protocol_factory)
        except TimeoutError as error:
            raise ConnectTimeout(f"connecting to {self.label} took more than {timeout_s} s") from error
        except (OSError, UnicodeError) as error:
            # Includes refusal, name resolution and TLS; a name that is no host name is a UnicodeError.
            raise ConnectFailed(f"cannot connect to {self.label}: {error}") from error

    async def _open(self, protocol_factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        loop = asyncio.get_running_loop()
        context, name = self._ssl_context, self._server_hostname
        if self._uds is not None:
            return await loop.create_unix_connection(protocol_factory, self._uds, ssl=context, server_hostname=name)
        if self._is_literal:
            return await loop.create_connection(
                protocol_factory, self._host, self._port, ssl=context, server_hostname=name
            )
        sock = await _connect_by_name(self._host, self._port)
        return await loop.create_connection(protocol_factory, sock=sock, ssl=context, server_hostname=name)


def is_proper_end(transport: asyncio.Transport) -> bool:
    """Whether an EOF was meant: over TLS only with a closing alert, RFC 9112 section 9.8. asyncio does not tell."""
    ssl_object: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if ssl_object is None:
        return True
    try:
        return ssl_object.read(1) == b""
    except ssl.SSLError:
        return False


async def _connect_by_name(host: str, port: int) -> socket.socket:
    """The first of a name's addresses that answers, RFC 8305. Raises OSError.

    The event loop's own ``happy_eyeballs_delay`` would do, but uvloop does not have it.
    """
    loop = asyncio.get_running_loop()
    found = await lookup(host, port)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError(f"{host} has no address")
    waiting = _interleaved(found)
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(loop.create_task(_connect_socket(waiting.pop(0))))
            done, attempts = await asyncio.wait(
                attempts, timeout=ATTEMPT_DELAY_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            connected = [attempt.result() for attempt in done if attempt.exception() is None]
            for spare in connected[1:]:
                spare.close()
            if connected:
                return connected[0]
            for attempt in done:
                failure = attempt.exception() or failure
        raise failure
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_unwanted)


async def lookup(host: str, port: int) -> Sequence[_AddrInfo]:
    """The addresses of a name, in the resolver's order. Raises OSError."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _connect_socket(info: _AddrInfo) -> socket.socket:
    family, kind, proto, _, address = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_unwanted(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _interleaved(found: Sequence[_AddrInfo]) -> list[_AddrInfo]:
    """Address families in turn, beginning with the resolver's first choice."""
    first = [info for info in found if info[0] == found[0][0]]
    others = [info for info in found if info[0] != found[0][0]]
    return [info for pair in itertools.zip_longest(first, others) for info in pair if info is not None]


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
