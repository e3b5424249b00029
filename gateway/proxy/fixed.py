"""Routes that end in the gateway itself: fixed answers and redirects."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Message, Receive, Scope, Send

from gateway.exchange import WHOLE_FOLLOWS, exchange_of
from gateway.http.fields import Fields
from gateway.http.target import RedirectTarget

_BODILESS = frozenset([204, 205, 304])


class RespondHandler:
    """Answers every request alike."""

    def __init__(self, *, status: int = 200, body: str = "", headers: Mapping[str, str] | None = None) -> None:
        payload = b"" if status in _BODILESS else body.encode("utf-8")
        fields: Fields = [
            (name.lower().encode("ascii"), text.encode("latin-1")) for name, text in (headers or {}).items()
        ]
        if payload and not any(name == b"content-type" for name, _ in fields):
            fields.append((b"content-type", b"text/plain; charset=utf-8"))
        if status not in _BODILESS:
            fields.append((b"content-length", b"%d" % len(payload)))
        self._start: Message = {
            "type": "http.response.start",
            "status": status,
            "headers": fields,
            WHOLE_FOLLOWS: True,
        }
        self._body = payload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _answer_handshake(self._start, self._body, scope, send)
            return
        await send(self._start)
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self._body})


class RedirectHandler:
    """Sends the client elsewhere; ``to`` may use {host}, {scheme} and the names of the path. The query goes along."""

    def __init__(self, *, to: str, status: int = 308) -> None:
        self._target = RedirectTarget(to)
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        query = scope["query_string"]
        if exchange is None:
            location = self._target.location({}, b"", "", query)
        else:
            location = self._target.location(exchange.params, exchange.public_host, exchange.scheme, query)
        fields = [(b"location", location), (b"content-length", b"0")]
        start = {"type": "http.response.start", "status": self._status, "headers": fields, WHOLE_FOLLOWS: True}
        if scope["type"] == "websocket":
            await _answer_handshake(start, b"", scope, send)
            return
        await send(start)
        await send({"type": "http.response.body", "body": b""})


async def _answer_handshake(start: Message, body: bytes, scope: Scope, send: Send) -> None:
    """Give the handshake of a WebSocket the answer that any other request gets: there is nobody to talk to."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    await send({**start, "type": "websocket.http.response.start"})
    await send({"type": "websocket.http.response.body", "body": body})
