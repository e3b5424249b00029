"""A server that answers with its name, and hangs or refuses when told to: ``python -m tests.wire.origin A PORT``."""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from starlette.types import Receive, Scope, Send


class Origin:
    """``POST /control/ok``, ``/control/hang`` and ``/control/503`` say how it goes on."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.mode = "ok"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/control/"):
            self.mode = scope["path"].removeprefix("/control/")
        elif self.mode == "hang":
            await asyncio.sleep(3600)
        status = 503 if self.mode == "503" and not scope["path"].startswith("/control/") else 200
        fields = [(b"content-length", b"%d" % len(self.name))]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": self.name})


if __name__ == "__main__":
    uvicorn.run(Origin(sys.argv[1]), port=int(sys.argv[2]), lifespan="off", log_level="error")
