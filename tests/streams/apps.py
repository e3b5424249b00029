"""Applications that tests name in ``asgi:`` endpoints."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket


async def _name(request: Request) -> Response:
    return PlainTextResponse(f"fallback {request.method} {request.url.path}?{request.url.query}")


async def _echo(request: Request) -> Response:
    return StreamingResponse(request.stream(), media_type="application/octet-stream")


async def _chat(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("fallback")
    async for text in websocket.iter_text():
        await websocket.send_text(text)


fallback = Starlette(
    routes=[
        Route("/echo", _echo, methods=["POST"]),
        WebSocketRoute("/chat", _chat),
        Route("/{path:path}", _name, methods=["GET", "POST"]),
    ]
)
