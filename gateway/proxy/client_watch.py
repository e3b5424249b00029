"""Notices clients that leave, or fall silent in a request body, for all exchanges of a process at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from gateway.errors import ClientLeft, GatewayError, RequestTimeout
from gateway.proxy.request_body import RequestBody
from gateway.ticker import Ticker


class ClientWatch:
    """Ends the exchanges whose clients are gone.

    Most exchanges are over before the next tick; only older ones get a task that waits for the disconnect, since such a
    task for each costs 7 us. ``body_timeout_s`` is the longest silence inside a request body.
    """

    def __init__(self, ticker: Ticker, *, body_timeout_s: float) -> None:
        self._ticker = ticker
        self._body_timeout_s = body_timeout_s
        self._watched: set[Watched] = set()
        self._stop_sweep = ticker.add(self._sweep)

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, body: RequestBody, *, holds_back: bool, has_left: Callable[[], bool] | None = None) -> Watched:
        """A context in which the current task is ended, as ClientLeft or RequestTimeout, on behalf of its client.

        With ``holds_back`` the client sends its body only when asked: nothing is asked for on the watch's account.
        ``has_left``: what the server knows, also while pieces of the body wait that nobody takes.
        """
        return Watched(self, body, holds_back, has_left)

    def close(self) -> None:
        """Stop watching."""
        self._stop_sweep()

    def _sweep(self, now: float) -> None:
        silent_since = now - self._body_timeout_s
        for watched in self._watched:
            body = watched.body
            if watched.has_left is not None and watched.has_left():
                watched.end(ClientLeft("the client left"))
            elif body.waiting_since is not None:
                # Whoever waits for the body hears of a disconnect by itself.
                if body.waiting_since < silent_since:
                    watched.end(RequestTimeout(f"no byte of the request body for {self._body_timeout_s:g} s"))
            else:
                watched.start()


class Watched:
    """One exchange under watch."""

    __slots__ = ("_owner", "_reason", "_task", "_watcher", "body", "has_left", "holds_back")

    def __init__(
        self, owner: ClientWatch, body: RequestBody, holds_back: bool, has_left: Callable[[], bool] | None
    ) -> None:
        self._owner = owner
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._reason: GatewayError | None = None
        self.body = body
        self.holds_back = holds_back
        self.has_left = has_left

    def __enter__(self) -> Watched:
        self._task = asyncio.current_task()
        self._owner._watched.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._owner._watched.discard(self)
        if self._watcher is not None:
            self._watcher.cancel()
        self.body.close()
        if self._reason is not None and kind is asyncio.CancelledError:
            assert self._task is not None
            self._task.uncancel()
            raise self._reason from None

    def start(self) -> None:
        """Wait for the client's disconnect, unless that would ask for a body that nobody is ready to take."""
        if self._watcher is None and (self.body.complete or not self.holds_back):
            self._watcher = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        if await self.body.client_left() and self.body.failure is not None:
            self.end(self.body.failure)
        # A piece of the body came: whoever takes it will hear of a disconnect by itself.
        self._watcher = None

    def end(self, reason: GatewayError) -> None:
        """Cancel the exchange; ``reason`` takes the place of the cancellation."""
        if self._reason is None and self._task is not None:
            self._reason = reason
            self._task.cancel()
