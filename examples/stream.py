"""A stream service: server-sent events, a WebSocket echo, a large download and an upload.

python -m examples.stream --port 9004
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

PIECE = bytes(range(256)) * 256

PAGE = """<!doctype html><meta charset="utf-8"><title>Live through the gateway</title>
<h1>Live through the gateway</h1>
<h2>Server-sent events</h2><pre id="events"></pre>
<h2>WebSocket echo</h2><pre id="echo"></pre>
<script>
const base = location.pathname.replace(/\\/$/, "");
const show = (id, line) => document.getElementById(id).append(line + "\\n");
new EventSource(base + "/events").onmessage = event => show("events", event.data);
const socket = new WebSocket(location.origin.replace(/^http/, "ws") + base + "/echo");
socket.onopen = () => socket.send("hello");
socket.onmessage = event => show("echo", event.data);
</script>
"""


def create_app(name: str) -> Starlette:
    """The stream service as instance ``name``."""

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def events(request: Request) -> Response:
        first = int(request.headers.get("last-event-id", "0")) + 1
        count = min(int(request.query_params.get("count", "20")), 1000)

        async def produce() -> AsyncIterator[str]:
            for number in range(first, first + count):
                yield f"id: {number}\ndata: event {number} from {name}\n\n"
                await asyncio.sleep(1)

        return StreamingResponse(produce(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("text") is not None:
                    await websocket.send_text(message["text"])
                else:
                    await websocket.send_bytes(message["bytes"])
        except WebSocketDisconnect:
            return

    async def download(request: Request) -> Response:
        size = min(int(request.query_params.get("mib", "10")), 4096) * 2**20

        async def produce() -> AsyncIterator[bytes]:
            for _ in range(size // len(PIECE)):
                yield PIECE

        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        return StreamingResponse(produce(), headers=headers)

    async def upload(request: Request) -> Response:
        digest, size = hashlib.sha256(), 0
        async for piece in request.stream():
            digest.update(piece)
            size += len(piece)
        return JSONResponse({"bytes": size, "sha256": digest.hexdigest()})

    return Starlette(
        routes=[
            Route("/", page),
            Route("/events", events),
            WebSocketRoute("/echo", echo),
            Route("/download", download),
            Route("/upload", upload, methods=["POST", "PUT"]),
        ]
    )


if __name__ == "__main__":
    from examples.service import run_service

    run_service(create_app, default_name="stream", default_port=9004)
