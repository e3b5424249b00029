"""ASGI scopes of HTTP requests."""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any

from starlette.types import Scope

from gateway.server.framing import HeadReader


def client_address(transport: asyncio.Transport) -> tuple[str, int] | None:
    """Address and port of the other end; None on a UNIX socket, and when it had left before it was looked at."""
    # Asked of the transport, which remembers: uvicorn's helper makes a socket object for it, and that costs 3 us.
    address = transport.get_extra_info("peername")
    return (address[0], address[1]) if isinstance(address, tuple) else None


def is_nobodys(transport: asyncio.Transport) -> bool:
    """Whether the other end of a TCP connection had left before it was looked at, so that nobody knows who it was."""
    return client_address(transport) is None and isinstance(transport.get_extra_info("sockname"), tuple)


def server_address(transport: asyncio.Transport) -> tuple[str, int | None] | None:
    """Address and port of this end; path and None on a UNIX socket."""
    address = transport.get_extra_info("sockname")
    if isinstance(address, tuple):
        return address[0], address[1]
    return (address, None) if isinstance(address, str) else None


def connection_scope(
    asgi_version: str, scheme: str, client: tuple[str, int] | None, server: tuple[str, int | None] | None
) -> Scope:
    """A scope with what all requests of a connection have in common, in full: a copy costs half of building it."""
    return {
        "type": "http",
        "asgi": {"version": asgi_version, "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "",
        "scheme": scheme,
        "path": "",
        "raw_path": b"",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": client,
        "server": server,
        "state": {},
        "extensions": {},
    }


def request_scope(common: Scope, head: HeadReader, state: dict[str, Any], extensions: dict[str, Any]) -> Scope:
    """The scope of the request whose head was read last."""
    raw_path, _, query = head.target.partition(b"?")
    path = raw_path.decode("ascii")
    scope: Scope = {**common}
    scope["method"] = head.method.decode("ascii")
    scope["path"] = urllib.parse.unquote(path) if "%" in path else path
    scope["raw_path"] = raw_path
    scope["query_string"] = query
    scope["headers"] = head.fields.copy()
    scope["state"] = state
    scope["extensions"] = extensions
    if not head.is_http_11:
        scope["http_version"] = "1.0"
    return scope
