"""One HTTP request to an application in the same process, and its response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import ASGIApp, Message, Scope

from gateway.errors import BadUpstreamResponse, ResponseBroken, UpstreamAppFailed, UpstreamTimeout
from gateway.http.fields import Fields
from gateway.upstream.asgi_fields import announced_length, checked_fields
from gateway.upstream.asgi_handover import Handover, HandoverClosed
from gateway.upstream.asgi_task import GRACE_S, AppTasks, Disconnected

_BODILESS = frozenset([204, 304])


class AsgiExchange:
    """Runs the application in a task and hands over what passes, a message at a time in either direction.

    ``fields`` have lower-case names. ``body`` is that of the request; what iterating it raises ends the exchange and is
    raised by ``head`` or ``next_piece``.
    """

    __slots__ = (
        "_body",
        "_body_taken",
        "_failure",
        "_gone",
        "_has_no_body",
        "_head",
        "_length",
        "_pieces",
        "_sent_bytes",
        "_task",
        "_tasks",
        "_told",
        "_waited_s",
        "_waiting_since",
        "complete",
        "fields",
        "status",
    )

    def __init__(self, tasks: AppTasks, method: str, body: bytes | AsyncIterator[bytes] | None) -> None:
        self.status = 0
        self.fields: Fields = []
        self.complete = False
        self._tasks = tasks
        self._body = body
        self._body_taken = False
        self._has_no_body = method == "HEAD"
        self._length: int | None = None
        self._sent_bytes = 0
        self._pieces: Handover[bytes] = Handover()
        loop = asyncio.get_running_loop()
        self._head: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        """Done when nobody takes what the application sends, be it complete or unwanted."""
        self._told = False
        self._failure: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting_since: float | None = None
        self._waited_s = 0.0

    @property
    def request_complete(self) -> bool:
        """Whether nothing of the request body is left to be asked for."""
        return self._body_taken or self._body is None or isinstance(self._body, bytes)

    async def head(self, app: ASGIApp, scope: Scope, timeout_s: float | None) -> None:
        """Call ``app`` and wait for its response head; the wait for the client's body does not count.

        Raises UpstreamAppFailed, BadUpstreamResponse, UpstreamTimeout, or what the request body raised.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._task = self._tasks.start(self._run(app, scope))
        try:
            while not self._head.done():
                remaining = None if timeout_s is None else timeout_s + self._body_wait_s() - (loop.time() - started)
                if remaining is not None and remaining <= 0:
                    raise UpstreamTimeout(f"asgi:{self._tasks.name} gave no response head within {timeout_s:g} s")
                await asyncio.wait((self._head,), timeout=remaining)
            if self._failure is not None:
                raise self._before_head(self._failure)
        except BaseException:
            self.abort()
            raise

    def whole(self) -> bytes | None:
        """The complete body, when it came with the head."""
        if not self.complete:
            return None
        return b"" if self._pieces.is_empty else self._pieces.take()

    async def next_piece(self, timeout_s: float | None) -> bytes | None:
        """The next piece of the body, None after the last; raises ResponseBroken."""
        try:
            if not self._pieces.is_empty:
                return self._pieces.take()
            async with asyncio.timeout(timeout_s):
                return await self._pieces.get()
        except HandoverClosed:
            if self._failure is not None:
                raise self._failure from None
            return None
        except TimeoutError:
            self.close()
            raise ResponseBroken(f"asgi:{self._tasks.name} was silent for {timeout_s:g} s") from None

    def close(self) -> None:
        """Take no more: an application that is not done is told, and ended if it does not end by itself in time."""
        if not self.complete and self._task is not None:
            self._leave()
            self._tasks.end_within(self._task, GRACE_S)
        self._task = None

    def abort(self) -> None:
        """End the application's call now."""
        self._leave()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # The application's side.

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            what = f"{scope['method']} {scope['path']!r}"
            self._tasks.log_failure(error, what, disconnected=self._gone.done())
            self._fail(ResponseBroken(f"asgi:{self._tasks.name} raised {type(error).__name__}"))
        finally:
            self._fail(ResponseBroken(f"asgi:{self._tasks.name} ended without a complete response"))

    async def _receive(self) -> Message:
        body = self._body
        if not self.request_complete and not self._gone.done():
            assert body is not None and not isinstance(body, bytes)
            piece = await self._next_of_request(body)
            if piece is not None:
                return {"type": "http.request", "body": piece, "more_body": True}
            if not self._gone.done():
                self._body_taken = True
                return {"type": "http.request", "body": b"", "more_body": False}
        elif not self._body_taken and not self._gone.done():
            self._body_taken = True
            return {"type": "http.request", "body": body or b"", "more_body": False}
        if self._told:
            # Once is enough: a loop that ignores the disconnect must not spin.
            await asyncio.get_running_loop().create_future()
        await asyncio.shield(self._gone)
        self._told = True
        return {"type": "http.disconnect"}

    async def _next_of_request(self, body: AsyncIterator[bytes]) -> bytes | None:
        """The next piece of the request body, None after the last and when the exchange has ended."""
        loop = asyncio.get_running_loop()
        self._waiting_since = loop.time()
        piece = asyncio.ensure_future(_next(body))
        try:
            await asyncio.wait((piece, self._gone), return_when=asyncio.FIRST_COMPLETED)
            return piece.result() if piece.done() else None
        except Exception as error:
            self._fail(error)
            return None
        finally:
            piece.cancel()
            self._waited_s += loop.time() - self._waiting_since
            self._waiting_since = None

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._start(message)
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"Expected 'http.response.start' or 'http.response.body', got {kind!r}")

    def _start(self, message: Message) -> None:
        if self._gone.done():
            raise Disconnected("nobody waits for the response")
        if self.status:
            raise RuntimeError("The response has started already")
        self.status = message["status"]
        try:
            if not 200 <= self.status <= 599:
                raise BadUpstreamResponse(f"asgi:{self._tasks.name} answered with status {self.status}")
            self.fields = checked_fields(message.get("headers"))
            self._length = announced_length(self.fields)
        except BadUpstreamResponse as error:
            self._fail(error)
            raise RuntimeError(error.reason) from error
        self._has_no_body = self._has_no_body or self.status in _BODILESS
        self._head.set_result(None)

    async def _send_body(self, piece: bytes, more: bool) -> None:
        if self.complete:
            raise RuntimeError("The response is complete already")
        if self._gone.done():
            raise Disconnected("nobody waits for the response")
        if not self.status:
            raise RuntimeError("The response has not started")
        if self._has_no_body:
            piece = b""
        self._sent_bytes += len(piece)
        self._check_length(more)
        if more:
            if piece:
                await self._put(piece)
            return
        self.complete = True
        if piece:
            self._pieces.offer(bytes(piece))
        self._pieces.close()
        self._leave()

    def _check_length(self, more: bool) -> None:
        if self._length is None or self._has_no_body:
            return
        if self._sent_bytes > self._length or (not more and self._sent_bytes < self._length):
            relation = "longer" if self._sent_bytes > self._length else "shorter"
            text = f"The response body is {relation} than its Content-Length"
            self._fail(ResponseBroken(text))
            raise RuntimeError(text)

    async def _put(self, piece: bytes) -> None:
        try:
            await self._pieces.put(bytes(piece))
        except HandoverClosed:
            raise Disconnected("nobody waits for the response") from None

    # How it ends.

    def _fail(self, error: Exception) -> None:
        if self.complete or self._failure is not None:
            return
        self._failure = error
        self._pieces.close(discard=True)
        if not self._head.done():
            self._head.set_result(None)
        self._leave()

    def _leave(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        if not self.complete:
            self._pieces.close(discard=True)

    def _body_wait_s(self) -> float:
        if self._waiting_since is None:
            return self._waited_s
        return self._waited_s + asyncio.get_running_loop().time() - self._waiting_since

    def _before_head(self, failure: Exception) -> Exception:
        """What failed before anything was passed on can still be answered."""
        if isinstance(failure, ResponseBroken):
            return UpstreamAppFailed(failure.reason)
        return failure


async def _next(body: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(body)
    except StopAsyncIteration:
        return None
