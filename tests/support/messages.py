"""Drives an ASGI application at message level: a request in, the messages that come out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Fields = Sequence[tuple[bytes, bytes]]


def http_scope(
    method: str = "GET",
    target: bytes = b"/",
    headers: Fields = ((b"host", b"example.com"),),
    *,
    client: str = "192.0.2.1",
    scheme: str = "http",
    **extra: Any,
) -> dict[str, Any]:
    """An ASGI HTTP scope for a target of raw path and query."""
    raw_path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": (client, 40000),
        "server": ("127.0.0.1", 8080),
        "state": {},
        **extra,
    }


class Sent:
    """What an application sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def start(self) -> Message:
        return next(message for message in self.messages if message["type"] == "http.response.start")

    @property
    def status(self) -> int:
        status: int = self.start["status"]
        return status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.start["headers"])

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    @property
    def pieces(self) -> list[bytes]:
        return [message.get("body", b"") for message in self.messages if message["type"] == "http.response.body"]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def complete(self) -> bool:
        last = self.messages[-1] if self.messages else {"type": ""}
        return last["type"] == "http.response.body" and not last.get("more_body", False)


def body_of(*pieces: bytes) -> Receive:
    """A ``receive`` that gives a body in pieces and then waits for a disconnect that never comes."""
    waiting = list(pieces) or [b""]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        piece = waiting.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

    return receive


async def call(app: ASGIApp, scope: Scope, *pieces: bytes) -> Sent:
    """Run one request to its end."""
    sent = Sent()
    await app(scope, body_of(*pieces), sent)
    return sent


def answering(status: int, headers: Fields = (), pieces: Iterable[bytes] = (b"",), **start: Any) -> ASGIApp:
    """An application that gives one fixed answer, its body in pieces."""
    parts = list(pieces)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers), **start})
        for index, piece in enumerate(parts):
            await send({"type": "http.response.body", "body": piece, "more_body": index < len(parts) - 1})

    return app
