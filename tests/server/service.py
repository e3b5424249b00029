"""A small service, run as a process of its own by the tests of ``serve``.

python -m tests.server.service WORKERS BIND [slow-start | fails | tls FOLDER]
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.server.launch import BindFailed, Limits, SideApp, StartFailed, Tls, serve
from gateway.server.tls import Certificate, TlsSettings
from tests.support.messages import answering


def say(line: str) -> None:
    """One line in one write: several processes share the pipe."""
    os.write(1, f"{line}\n".encode())


class Service:
    """/pid, /via, /slow (ends after a moment), /hang (never ends), /reloads."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.reloads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass
            return
        path = scope["path"]
        if path in ("/slow", "/hang"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await asyncio.sleep(0.3 if path == "/slow" else 1000)
            await send({"type": "http.response.body", "body": b"ended"})
            return
        body = {"/pid": str(os.getpid()), "/via": os.environ["GATEWAY_VIA"], "/reloads": str(self.reloads)}[path]
        await answering(200, [(b"content-length", b"%d" % len(body))], [body.encode()])(scope, receive, send)

    async def live(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        if self.fails:
            await send({"type": "lifespan.startup.failed", "message": "it fails"})
            return
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        say("lifespan over")
        await send({"type": "lifespan.shutdown.complete"})


async def reload(app: ASGIApp) -> None:
    assert isinstance(app, Service)
    app.reloads += 1
    say(f"reloaded {os.getpid()}")


async def beside(app: ASGIApp) -> None:
    say("beside")
    try:
        await asyncio.sleep(1000)
    finally:
        say("beside over")


def main(workers: str, bind: str, *options: str) -> int:
    logging.basicConfig(level=logging.INFO)
    tls, redirect_from = None, None
    if options[:1] == ("tls",):
        folder = options[1]
        tls = Tls(TlsSettings([Certificate(f"{folder}/a.pem", f"{folder}/a.key")]))
        redirect_from = "127.0.0.1:0"
    try:
        serve(
            lambda: Service("fails" in options),
            binds=[bind],
            limits=Limits(max_connections=100),
            workers=int(workers),
            shutdown_timeout_s=20 if "patient" in options else 1,
            tls=tls,
            redirect_from=redirect_from,
            sides=[
                SideApp(
                    [f"{bind}.side" if bind.startswith("unix:") else "127.0.0.1:0"],
                    lambda app, status: answering(200, [(b"content-length", b"4")], [b"side"]),
                )
            ],
            on_reload=reload,
            beside=beside,
            ready=lambda urls, _: say(f"ready {urls[0]}"),
        )
    except (BindFailed, StartFailed) as failure:
        say(f"failed: {failure}")
        return 1
    say("over")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
