"""ASGI scopes of HTTP requests."""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from gateway.server.framing import HeadReader


def connection_scope(transport: asyncio.Transport, asgi_version: str) -> Scope:
    """A scope with what all requests of a connection have in common, in full: a copy costs half of building it."""
    return {
        "type": "http",
        "asgi": {"version": asgi_version, "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "",
        "scheme": "https" if is_ssl(transport) else "http",
        "path": "",
        "raw_path": b"",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": get_remote_addr(transport),
        "server": get_local_addr(transport),
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
