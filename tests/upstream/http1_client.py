"""What the tests of the HTTP/1.1 transport share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest

from gateway.ticker import Ticker
from gateway.upstream.http1 import Http1Transport
from gateway.upstream.messages import InboundResponse, OutboundRequest, RequestStream
from tests.support.upstream import ScriptedUpstream

URL = httpx.URL("http://upstream.test/")


@pytest.fixture(
    params=[("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Both event loops: they differ where connections end."""
    return request.param


class ManualTicker(Ticker):
    """Time stands still until the test moves it; its own timer never fires."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        super().__init__(interval_s=100_000.0, clock=lambda: self.seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass, then tick."""
        self.seconds += seconds
        self.tick()


class Pieces:
    """A request body in pieces; an exception among them is raised in its place, an event waited for."""

    def __init__(self, *pieces: bytes | Exception | asyncio.Event, length: int | None = None) -> None:
        self.pieces = pieces
        self.length = length
        self.given = 0
        self.ended = asyncio.Event()
        """Set when nobody iterates any more."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                else:
                    self.given += 1
                    yield piece
        finally:
            self.ended.set()


class RewindablePieces(Pieces):
    """The same, and it can start again."""

    def rewind(self) -> bool:
        return True


def transport_to(upstream: ScriptedUpstream, *, ticker: Ticker | None = None, **settings: Any) -> Http1Transport:
    """A transport for the scripted upstream."""
    if upstream.uds is not None:
        return Http1Transport(ticker=ticker or ManualTicker(), uds=str(upstream.uds), **settings)
    return Http1Transport(ticker=ticker or ManualTicker(), host=upstream.host, port=upstream.port, **settings)


def outbound(
    method: bytes = b"GET",
    target: bytes = b"/",
    fields: Sequence[tuple[bytes, bytes]] = ((b"host", b"upstream.test"),),
    body: bytes | RequestStream | None = None,
    *,
    timeout: dict[str, Any] | None = None,
    on_interim: Callable[[int, list[tuple[bytes, bytes]]], None] | None = None,
) -> OutboundRequest:
    """A request with what most tests do not care about."""
    extensions = {"target": target, "timeout": timeout or {}, "on_interim": on_interim}
    return OutboundRequest(method, URL, list(fields), body, extensions)


async def read(response: InboundResponse) -> bytes:
    """The body, whole or not."""
    if response.whole is not None:
        return response.whole
    return b"".join([piece async for piece in response.stream])


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until ``condition`` holds."""
    while not condition():  # noqa: ASYNC110 - conditions without an event
        await asyncio.sleep(0)
