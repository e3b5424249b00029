"""The least that an ASGI application can do: the yardstick for the server under the gateway."""

from __future__ import annotations

from typing import Any

BODY = b'{"id": 1, "name": "Red Kettle", "price": 525, "description": "' + b"x" * 105 + b'"}'


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": BODY})
