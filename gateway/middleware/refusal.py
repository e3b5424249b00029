"""How a middleware says no: inside the gateway by raising, for the outermost layer answers; alone by answering."""

from __future__ import annotations

from starlette.types import Scope, Send

from gateway.errors import GatewayError
from gateway.exchange import exchange_of
from gateway.http.fields import Fields, get_joined
from gateway.http.problem import problem_response


async def refuse(error: GatewayError, scope: Scope, send: Send) -> None:
    """Raise ``error`` where an exchange is kept, else answer with it."""
    if exchange_of(scope) is not None:
        raise error
    status, fields, body = problem_response(error, "", get_joined(scope["headers"], b"accept"))
    await answer(status, fields, body, scope, send)


async def answer(status: int, fields: Fields, body: bytes, scope: Scope, send: Send) -> None:
    """Answer a request, or a WebSocket's handshake, with this and nothing else."""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.http.response.start", "status": status, "headers": fields})
        await send({"type": "websocket.http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
