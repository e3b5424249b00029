"""A WebSocket to an application in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.types import ASGIApp, Message, Scope

from gateway.errors import BadUpstreamResponse, ResponseBroken, UpstreamAppFailed, UpstreamError
from gateway.http.fields import Fields
from gateway.http.websocket import (
    GOING_AWAY,
    INTERNAL_ERROR,
    NO_STATUS,
    NORMAL_CLOSURE,
    TOO_BIG,
    WebSocketClosed,
)
from gateway.upstream.asgi_fields import checked_fields
from gateway.upstream.asgi_handover import Handover, HandoverClosed
from gateway.upstream.asgi_task import GRACE_S, AppTasks, Disconnected

_SWITCHING = 101
_FORBIDDEN = 403


class AsgiWebSocket:
    """One WebSocket: first its handshake, then messages; for one task that receives and one that sends.

    ``status`` other than 101 is a refusal, whose ``body()`` may be read. Each direction holds one message.
    """

    def __init__(self, tasks: AppTasks, offered: Sequence[str], max_message_bytes: int) -> None:
        self.status = 0
        self.fields: Fields = []
        self.subprotocol: str | None = None
        self._tasks = tasks
        self._offered = offered
        self._max_message_bytes = max_message_bytes
        self._to_app: Handover[str | bytes] = Handover()
        self._from_app: Handover[str | bytes] = Handover()
        self._connected = False
        self._disconnect: Message | None = None
        self._told = False
        self._refusing = False
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: UpstreamError | None = None
        self._end: WebSocketClosed | None = None
        self._task: asyncio.Task[None] | None = None

    async def handshake(self, app: ASGIApp, scope: Scope) -> None:
        """Call ``app`` and wait for its verdict. Raises UpstreamAppFailed or BadUpstreamResponse."""
        self._task = self._tasks.start(self._run(app, scope))
        try:
            await self._opened
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self.abort()
            raise

    async def body(self) -> AsyncIterator[bytes]:
        """The pieces of a refusal's body; raises ResponseBroken when the application breaks off."""
        while True:
            try:
                piece = await self._from_app.get()
            except HandoverClosed:
                if self._failure is not None:
                    raise ResponseBroken(self._failure.reason) from None
                return
            yield piece if isinstance(piece, bytes) else piece.encode("utf-8")

    async def receive(self) -> str | bytes:
        """The next message; raises WebSocketClosed after the last one."""
        try:
            return await self._from_app.get()
        except HandoverClosed:
            raise self._end or WebSocketClosed(GOING_AWAY) from None

    @property
    def is_full(self) -> bool:
        """Whether the application has not taken the last message yet."""
        return self._to_app.is_full

    def write(self, message: str | bytes) -> None:
        """Send one message; wait for ``drain`` before the next when ``is_full``. Raises WebSocketClosed."""
        if self._end is not None:
            raise self._end
        self._to_app.offer(message)

    async def drain(self) -> None:
        """Wait until the application takes messages again, or is done."""
        await self._to_app.room()

    def keep_alive(self, now: float, ping_s: float) -> None:
        """Nothing: there is no network to lose."""

    async def close(self, code: int | None, reason: str, timeout_s: float) -> None:
        """Tell the application; it has some seconds to end by itself, which nobody waits for."""
        if self._end is None:
            self._end_with(WebSocketClosed(code, reason))
            assert self._task is not None
            self._tasks.end_within(self._task, GRACE_S)
        # One that closed by itself may finish its work.
        self._task = None

    def abort(self) -> None:
        """End the application's call now, unless it was let go."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # The application's side.

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            self._tasks.log_failure(error, f"WebSocket {scope['path']!r}", disconnected=self._disconnect is not None)
            self._broke_off("raised an exception")
            self._end_with(WebSocketClosed(INTERNAL_ERROR, "the upstream is gone", vanished=True))
        finally:
            self._broke_off("ended without an answer")
            self._end_with(WebSocketClosed(NORMAL_CLOSURE), discard=False)

    def _broke_off(self, how: str) -> None:
        """The application is done with its call: that is a failure while a handshake or a refusal is incomplete."""
        if self._failure is None and (not self._opened.done() or self._refusing):
            self._failure = UpstreamAppFailed(f"asgi:{self._tasks.name} {how}")
        self._from_app.close()
        self._answer()

    def _answer(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _end_with(self, end: WebSocketClosed, *, discard: bool = True) -> None:
        """Nothing more is passed on; ``discard``: not even what the other side has not taken yet."""
        if self._end is None:
            self._end = end
            code = NO_STATUS if end.code is None else end.code
            self._disconnect = {"type": "websocket.disconnect", "code": code, "reason": end.reason}
            self._from_app.close(discard=discard)
            self._to_app.close(discard=True)

    async def _receive(self) -> Message:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        try:
            message = await self._to_app.get()
        except HandoverClosed:
            if self._told:
                # Once is enough: a loop that ignores the disconnect must not spin.
                await asyncio.get_running_loop().create_future()
            self._told = True
            assert self._disconnect is not None
            return self._disconnect
        key = "text" if isinstance(message, str) else "bytes"
        return {"type": "websocket.receive", key: message}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._end is not None:
            raise Disconnected("the WebSocket is closed")
        if self._refusing:
            await self._send_refusal(kind, message)
        elif not self.status:
            self._send_verdict(kind, message)
        elif kind == "websocket.send":
            await self._send_message(message)
        elif kind == "websocket.close":
            code = message.get("code", NORMAL_CLOSURE)
            self._end_with(WebSocketClosed(code, message.get("reason") or ""), discard=False)
        else:
            raise RuntimeError(f"Expected 'websocket.send' or 'websocket.close', got {kind!r}")

    def _send_verdict(self, kind: str, message: Message) -> None:
        try:
            fields = checked_fields(message.get("headers"))
        except BadUpstreamResponse as error:
            fields, self._failure = [], error
        if kind == "websocket.accept":
            self.status, self.fields, self.subprotocol = _SWITCHING, fields, message.get("subprotocol")
            if self.subprotocol is not None and self.subprotocol not in self._offered:
                self._failure = BadUpstreamResponse("the application chose a subprotocol that was not offered")
        elif kind == "websocket.close":
            self.status = _FORBIDDEN
            self._from_app.close()
            self._end_with(WebSocketClosed(NORMAL_CLOSURE))
        elif kind == "websocket.http.response.start":
            self.status, self.fields, self._refusing = message["status"], fields, True
            if not 200 <= self.status <= 599:
                self._failure = BadUpstreamResponse(f"the application refused with status {self.status}")
        else:
            raise RuntimeError(f"Expected 'websocket.accept' or a refusal, got {kind!r}")
        self._answer()

    async def _send_refusal(self, kind: str, message: Message) -> None:
        if kind != "websocket.http.response.body":
            raise RuntimeError(f"Expected 'websocket.http.response.body', got {kind!r}")
        piece = message.get("body", b"")
        if not message.get("more_body", False):
            self._refusing = False
            if piece:
                self._from_app.offer(piece)
            self._end_with(WebSocketClosed(NORMAL_CLOSURE), discard=False)
        elif piece:
            await self._put(piece)

    async def _send_message(self, message: Message) -> None:
        data: str | bytes | None = message.get("bytes")
        if data is None:
            data = message["text"]
        size = len(data.encode("utf-8")) if isinstance(data, str) else len(data)
        if size > self._max_message_bytes:
            self._end_with(WebSocketClosed(TOO_BIG, "message too big", vanished=True), discard=False)
            raise Disconnected(f"the message exceeds {self._max_message_bytes} bytes")
        await self._put(data)

    async def _put(self, data: str | bytes) -> None:
        try:
            await self._from_app.put(data)
        except HandoverClosed:
            raise Disconnected("the WebSocket is closed") from None
