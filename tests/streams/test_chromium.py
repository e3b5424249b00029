"""A page in a real browser, through the gateway with compression on.

The page tells the origin of each thing that it gets, with its own clock; origin and browser share the machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway.http.coding import CODINGS
from tests.streams.events import EventSource, Stream
from tests.streams.support import origin, running
from tests.streams.test_round_trips import text_of
from tests.support.gateway import proxying

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.chromium,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--no-proxy-server",
]
EVENTS = 20
SIZES = (1024, 100_000, 1_500_000)

PAGE = """<!doctype html><meta charset="utf-8"><title>page</title><script>
const now = () => performance.timeOrigin + performance.now();
const tell = (kind, data, at) => fetch("/seen", {method: "POST", body: JSON.stringify({kind, data, at})});
const hex = buffer => Array.from(new Uint8Array(buffer), byte => byte.toString(16).padStart(2, "0")).join("");
const events = new EventSource("/events");
events.onmessage = event => tell("event", event.lastEventId + " " + event.data, now());
const socket = new WebSocket("ws://" + location.host + "/chat", ["chat"]);
socket.onmessage = event => tell("message", event.data, now());
socket.onopen = () => tell("open", socket.protocol + " " + socket.extensions, now());
socket.onclose = event => tell("close", event.code + " " + event.reason, now());
async function bodies() {
  for (const path of PATHS) {
    const answer = await fetch(path);
    const body = await answer.arrayBuffer();
    const digest = hex(await crypto.subtle.digest("SHA-256", body));
    await tell("body", path + " " + answer.headers.get("content-encoding") + " " + digest, now());
  }
}
bodies();
</script>"""


class Origin:
    """The page, what it reads, and what it tells."""

    def __init__(self, paths: list[str]) -> None:
        self.events = EventSource()
        self.sockets: asyncio.Queue[WebSocket] = asyncio.Queue()
        self._seen: dict[str, asyncio.Queue[tuple[str, float]]] = {}
        page = PAGE.replace("PATHS", repr(paths))

        async def show(request: Request) -> Response:
            return HTMLResponse(page)

        async def seen(request: Request) -> Response:
            told: dict[str, Any] = await request.json()
            self._queue(told["kind"]).put_nowait((told["data"], told["at"] / 1000))
            return Response(status_code=204)

        async def body(request: Request) -> Response:
            return Response(text_of(int(request.path_params["size"])), media_type="application/json")

        async def chat(socket: WebSocket) -> None:
            await socket.accept(subprotocol="chat")
            self.sockets.put_nowait(socket)
            with contextlib.suppress(Exception):
                while True:
                    await socket.receive_text()

        self._app = Starlette(
            routes=[
                Route("/", show),
                Route("/seen", seen, methods=["POST"]),
                Route("/body/{size:int}", body),
                WebSocketRoute("/chat", chat),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.events if scope["path"] == "/events" else self._app)(scope, receive, send)

    async def seen(self, kind: str) -> tuple[str, float]:
        """What the page tells next, and when it got that, in seconds since the epoch."""
        return await self._queue(kind).get()

    def _queue(self, kind: str) -> asyncio.Queue[tuple[str, float]]:
        return self._seen.setdefault(kind, asyncio.Queue())


@contextlib.asynccontextmanager
async def browser(url: str, folder: Path) -> AsyncIterator[None]:
    """Headless Chromium on a page, ended with all of its processes."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", url]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def table(url: str) -> dict[str, Any]:
    """Compression everywhere, and a prefix for each coding."""
    found = proxying(url, compress=True)
    for coding in CODINGS:
        route = {"name": coding, "path": f"/{coding}/*", "strip_prefix": f"/{coding}", "upstream": "origin"}
        found["routes"].append({**route, "compress": {"codings": [coding]}})
    return found


async def delays_of(page: Origin, stream: Stream, socket: WebSocket) -> dict[str, list[float]]:
    """Send events and messages, each only when the page has told of the one before; delays in milliseconds."""
    found: dict[str, list[float]] = {"event": [], "message": []}
    for number in range(EVENTS):
        sent = time.time()
        await stream.send(f"event {number}", number)
        data, at = await page.seen("event")
        assert data == f"{number} event {number}"
        found["event"].append((at - sent) * 1000)
        sent = time.time()
        await socket.send_text(f"message {number}")
        data, at = await page.seen("message")
        assert data == f"message {number}"
        found["message"].append((at - sent) * 1000)
    return found


async def test_a_page_reads_events_messages_and_bodies_as_they_are_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [f"/{coding}/body/{size}" for coding in CODINGS for size in SIZES]
    page = Origin(paths)
    async with (
        origin(page) as url,
        running(table(url)) as (_, port, _),
        browser(f"http://127.0.0.1:{port}/", tmp_path),
    ):
        stream, socket = await page.events.opened(), await page.sockets.get()
        assert b"br" in stream.headers[b"accept-encoding"]
        # The browser offered permessage-deflate: the gateway has no extensions.
        assert (await page.seen("open"))[0] == "chat "
        for path in paths:
            digest = hashlib.sha256(text_of(int(path.rpartition("/")[2]))).hexdigest()
            assert (await page.seen("body"))[0] == f"{path} {path.split('/')[1]} {digest}"
        delays = await delays_of(page, stream, socket)
        await socket.close(4000, "that was all")
        assert (await page.seen("close"))[0] == "4000 that was all"
        # The end of a stream makes a browser come back, and say where it was.
        await stream.end()
        again = await page.events.opened()
        assert again.headers[b"last-event-id"] == b"%d" % (EVENTS - 1)
    with capsys.disabled():
        for kind, found in delays.items():
            print(f"\n{kind}: median {statistics.median(found):.1f} ms, longest {max(found):.1f} ms", end="")
