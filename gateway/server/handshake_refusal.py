"""The answer to a WebSocket handshake that nobody accepts: an HTTP response, after which the connection closes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.server.response_head import BODILESS, CHUNKED, response_head


class HandshakeRefusal:
    """Writes one response. Raises RuntimeError for heads that cannot be sent and bodies of another length."""

    def __init__(
        self, transport: asyncio.Transport, status: int, fields: Iterable[tuple[bytes, bytes]], date_line: bytes
    ) -> None:
        self._transport = transport
        head, self._framing, self._left, _ = response_head(status, fields, False, True, False, date_line)
        transport.write(head)

    def write(self, body: bytes, more: bool) -> None:
        """Write a piece of the body, and what ends it behind the last one."""
        if self._framing == BODILESS:
            return
        if self._framing == CHUNKED:
            if body:
                self._transport.writelines((b"%x\r\n" % len(body), body, b"\r\n"))
            if not more:
                self._transport.write(b"0\r\n\r\n")
            return
        self._left -= len(body)
        if self._left < 0 or (self._left and not more):
            raise RuntimeError("the response body is not as long as its Content-Length")
        if body:
            self._transport.write(body)
