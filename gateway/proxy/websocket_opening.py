"""Opens a WebSocket to an upstream over the network."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from gateway.errors import BadRequest
from gateway.http.fields import Fields
from gateway.http.websocket import handshake_fields, make_key
from gateway.proxy.websocket_client import WebSocketClient
from gateway.upstream.http1_connect import Patience

_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

P = TypeVar("P", bound=asyncio.Protocol)
C = TypeVar("C", bound=WebSocketClient)


class Connector(Protocol):
    """A transport that opens raw connections to its endpoint, TLS included."""

    async def open_connection(
        self, protocol_factory: Callable[[], P], timeout_s: float | None = None, patience: Patience | None = None
    ) -> tuple[asyncio.Transport, P]:
        """Connect. Raises ConnectFailed, or ConnectPending when there is no more ``patience``."""


async def open_websocket(
    connector: Connector,
    *,
    target: bytes,
    fields: Fields,
    subprotocols: Sequence[str],
    max_message_bytes: int,
    make: Callable[[bytes, Sequence[str], int], C],
    patience: Patience | None = None,
) -> C:
    """Shake hands with the upstream; a refusal is an answer as well: look at ``status``. ``make`` gives the client.

    Raises ConnectFailed, ConnectPending when there is no more ``patience``, ConnectionBroken or
    BadUpstreamResponse; BadRequest for what cannot be written as HTTP.
    """
    key = make_key(secrets.token_bytes(16))
    head = _request_head(target, handshake_fields(fields, key, subprotocols))
    _, client = await connector.open_connection(lambda: make(key, subprotocols, max_message_bytes), patience=patience)
    try:
        await client.handshake(head)
    except BaseException:
        client.abort()
        raise
    return client


def _request_head(target: bytes, fields: Fields) -> bytes:
    """The bytes of the handshake; raises BadRequest for what would not be read back as it is."""
    if b" " in target or _UNSAFE.search(target) or any(_UNSAFE.search(name + value) for name, value in fields):
        raise BadRequest("the request has control bytes")
    lines = [b"GET %b HTTP/1.1\r\n" % target]
    lines += [b"%b: %b\r\n" % field for field in fields]
    return b"".join([*lines, b"\r\n"])
