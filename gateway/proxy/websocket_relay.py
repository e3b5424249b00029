"""Passes the messages of one WebSocket both ways until an end closes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from starlette.types import Message, Receive, Send

from gateway.errors import ClientLeft
from gateway.exchange import Exchange, Outcome
from gateway.http.fields import Fields
from gateway.http.websocket import (
    ABNORMAL,
    GOING_AWAY,
    INVALID_DATA,
    NO_STATUS,
    NORMAL_CLOSURE,
    TOO_BIG,
    WebSocketClosed,
    relayed_close,
)

_DISCONNECT = "websocket.disconnect"

# A client that closed waits for its answer; one that is gone waits for nothing, and its upstream is soon free again.
_CLOSE_TIMEOUT_S = 5.0
_GONE_TIMEOUT_S = 0.1

Close = tuple[int | None, str]


@dataclass(frozen=True)
class WebSocketSettings:
    """Limits of a route's WebSockets; times in seconds, 0 for none, sizes in bytes.

    ``idle_timeout_s``: without a message either way. ``ping_s``: between pings to the upstream, and for their answer.
    """

    idle_timeout_s: float = 300.0
    ping_s: float = 20.0
    max_message_bytes: int = 16 * 1024 * 1024


class UpstreamSocket(Protocol):
    """A handshake that an upstream has answered: a WebSocket when ``status`` is 101, else a refusal."""

    subprotocol: str | None

    @property
    def status(self) -> int: ...
    @property
    def fields(self) -> Fields: ...
    @property
    def is_full(self) -> bool: ...
    def body(self) -> AsyncIterator[bytes]: ...
    async def receive(self) -> str | bytes: ...
    def write(self, message: str | bytes) -> None: ...
    async def drain(self) -> None: ...
    def keep_alive(self, now: float, ping_s: float) -> None: ...
    async def close(self, code: int | None, reason: str, timeout_s: float) -> None: ...
    def abort(self) -> None: ...


class ClientMessages:
    """What the client sends, with at most one message taken ahead of its turn."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ahead: asyncio.Future[Message] | None = None

    async def next(self) -> Message:
        """The next message."""
        if self._ahead is None:
            return await self._receive()
        message = await asyncio.shield(self._ahead)
        self._ahead = None
        return message

    def ahead(self) -> asyncio.Future[Message]:
        """The next message as a future; it stays the next one."""
        if self._ahead is None:
            self._ahead = asyncio.ensure_future(self._receive())
        return self._ahead

    @contextmanager
    def ends_with_client(self) -> Iterator[None]:
        """A context in which the current task is ended, as ClientLeft, when the client leaves."""
        task = asyncio.current_task()
        assert task is not None
        active, left = True, False

        def on_message(ahead: asyncio.Future[Message]) -> None:
            nonlocal left
            if active and not ahead.cancelled() and not ahead.exception() and ahead.result()["type"] == _DISCONNECT:
                left = True
                task.cancel()

        self.ahead().add_done_callback(on_message)
        try:
            yield
        except asyncio.CancelledError:
            if not left:
                raise
            task.uncancel()
            raise ClientLeft("the client left during the handshake") from None
        finally:
            active = False

    async def aclose(self) -> None:
        """Ask the server for nothing more."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


class Ending(NamedTuple):
    """How a WebSocket ends: what either side is told (None: it closed by itself), and what the record says."""

    to_client: Close | None
    to_upstream: Close | None
    outcome: Outcome = "done"
    upstream_failed: bool = False
    timeout_s: float = _CLOSE_TIMEOUT_S


class Relay:
    """One WebSocket between its accept and its end.

    Both ways at once, one message at a time: the next is asked for when the last was taken, so a slow reader slows its
    writer. The exchange counts messages and bytes: ``in`` from the client, ``out`` to it.
    """

    def __init__(self, client: ClientMessages, send: Send, exchange: Exchange, settings: WebSocketSettings) -> None:
        self._client = client
        self._send = send
        self._exchange = exchange
        self._settings = settings
        self._upstream: UpstreamSocket | None = None
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._was_active = True
        self._idle_since = 0.0

    async def run(self, upstream: UpstreamSocket) -> Ending:
        """Relay until either side closes, falls silent, breaks a limit, or the process ends; then tell both."""
        self._upstream = upstream
        loops = [asyncio.create_task(self._from_client(upstream)), asyncio.create_task(self._from_upstream(upstream))]
        for loop in loops:
            loop.add_done_callback(self._on_done)
        try:
            ending = await self._ending
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)
        code, reason = ending.to_upstream or (None, "")
        await asyncio.gather(
            self._close_client(ending),
            upstream.close(code, reason, ending.timeout_s),
        )
        return ending

    def sweep(self, now: float) -> None:
        """Compare with the limits in time; ``now`` in monotonic seconds."""
        if self._upstream is None:
            return
        if self._was_active:
            self._was_active = False
            self._idle_since = now
        elif 0 < self._settings.idle_timeout_s <= now - self._idle_since:
            self.tell(GOING_AWAY, "idle timeout")
        if self._settings.ping_s > 0:
            self._upstream.keep_alive(now, self._settings.ping_s)

    def tell(self, code: int, reason: str) -> None:
        """Close both sides."""
        self._end(Ending((code, reason), (code, reason)))

    @property
    def told(self) -> tuple[int, str] | None:
        """What both sides are to be told, if they are."""
        if not self._ending.done() or self._ending.exception() is not None:
            return None
        close = self._ending.result().to_client
        return None if close is None or close[0] is None else (close[0], close[1])

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    def _on_done(self, loop: asyncio.Task[None]) -> None:
        if not loop.cancelled() and not self._ending.done():
            error = loop.exception()
            if error is not None:
                self._ending.set_exception(error)

    async def _from_client(self, upstream: UpstreamSocket) -> None:
        client, exchange, max_bytes = self._client, self._exchange, self._settings.max_message_bytes
        upstream_open = True
        while True:
            message = await client.next()
            if message["type"] == _DISCONNECT:
                self._end(_client_ended(message))
                return
            self._was_active = True
            data: str | bytes | None = message.get("bytes")
            if data is None:
                data = message.get("text") or ""
            size = _size(data)
            if size is None:
                self.tell(INVALID_DATA, "not UTF-8")
                return
            if size > max_bytes:
                self.tell(TOO_BIG, "message too big")
                return
            if not upstream_open:
                continue
            exchange.messages_in += 1
            exchange.body_bytes_in += size
            try:
                upstream.write(data)
            except WebSocketClosed:
                # The other loop still passes on what came before the end, and tells then.
                upstream_open = False
                continue
            if upstream.is_full:
                await self._drain(upstream)

    async def _drain(self, upstream: UpstreamSocket) -> None:
        """Wait for a slow upstream, and notice a client that leaves in the meantime."""
        draining = asyncio.ensure_future(upstream.drain())
        try:
            ahead = self._client.ahead()
            await asyncio.wait((draining, ahead), return_when=asyncio.FIRST_COMPLETED)
            if draining.done() or ahead.result()["type"] == _DISCONNECT:
                return
            await draining
        finally:
            draining.cancel()

    async def _from_upstream(self, upstream: UpstreamSocket) -> None:
        send, exchange = self._send, self._exchange
        try:
            while True:
                message = await upstream.receive()
                self._was_active = True
                exchange.messages_out += 1
                if isinstance(message, str):
                    exchange.body_bytes_out += len(message) if message.isascii() else len(message.encode("utf-8"))
                    await send({"type": "websocket.send", "text": message})
                else:
                    exchange.body_bytes_out += len(message)
                    await send({"type": "websocket.send", "bytes": message})
        except WebSocketClosed as closed:
            code, reason = relayed_close(closed.code, closed.reason)
            outcome: Outcome = "aborted" if closed.vanished else "done"
            self._end(Ending((code, reason), None, outcome, upstream_failed=closed.vanished))
        except OSError:
            # The client is gone; receive() knows how it left, unless the other loop is kept from asking.
            await asyncio.sleep(_GONE_TIMEOUT_S)
            self._end(CLIENT_GONE)

    async def _close_client(self, ending: Ending) -> None:
        if ending.to_client is None:
            return
        code, reason = ending.to_client
        # ASGI has no way to say that there is no code.
        message = {"type": "websocket.close", "code": NORMAL_CLOSURE if code is None else code, "reason": reason}
        try:
            async with asyncio.timeout(ending.timeout_s):
                await self._send(message)
        except OSError:
            # It left, or takes nothing: the server cuts it when this call returns. (TimeoutError is an OSError.)
            pass


CLIENT_GONE = Ending(None, (GOING_AWAY, ""), "client-left", timeout_s=_GONE_TIMEOUT_S)


def _client_ended(message: Message) -> Ending:
    """What a disconnect means. uvicorn reports 1005 both for a close frame without a code and for a lost connection,
    and only the former with a reason."""
    code = message.get("code", NO_STATUS)
    if code == ABNORMAL or (code == NO_STATUS and message.get("reason") is None):
        return CLIENT_GONE
    return Ending(None, relayed_close(code, message.get("reason")))


def _size(data: str | bytes) -> int | None:
    """Length in bytes on the wire; None for text that has no UTF-8."""
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    try:
        return len(data.encode("utf-8"))
    except UnicodeEncodeError:
        return None
