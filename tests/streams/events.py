"""An origin of server-sent events: a test sends each, and hears when its reader leaves."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send


class Stream:
    """One open stream of events."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.headers = dict(scope["headers"])
        self.path: str = scope["path"]
        self._send = send
        self._done = asyncio.Event()
        self._left = asyncio.Event()

    async def send(self, data: str, number: int | None = None) -> None:
        """Send an event; returns when the server has taken it."""
        text = f"id: {number}\n" if number is not None else ""
        await self._send({"type": "http.response.body", "body": f"{text}data: {data}\n\n".encode(), "more_body": True})

    async def end(self) -> None:
        """End the stream cleanly."""
        await self._send({"type": "http.response.body", "body": b""})
        self._done.set()

    async def left(self) -> None:
        """Wait until the reader is gone."""
        await self._left.wait()

    async def _wait(self, receive: Receive) -> None:
        leaving = asyncio.ensure_future(self._watch(receive))
        done = asyncio.ensure_future(self._done.wait())
        await asyncio.wait((leaving, done), return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, done):
            task.cancel()
        await asyncio.gather(leaving, done, return_exceptions=True)

    async def _watch(self, receive: Receive) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await receive()
        self._left.set()


class EventSource:
    """An application that answers every request with a stream under a test's control."""

    def __init__(self) -> None:
        self._streams: asyncio.Queue[Stream] = asyncio.Queue()

    async def opened(self) -> Stream:
        """The next stream that somebody opens."""
        return await self._streams.get()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = Stream(scope, send)
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._streams.put_nowait(stream)
        await stream._wait(receive)
