"""Coding large bodies leaves the event loop to others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import ClassVar

import pytest
from starlette.types import Message, Receive, Scope, Send

import gateway.middleware.compression as compression
from gateway.http.coding import CODINGS, Encoder, Level, coding_us, make_encoder, short_coder
from gateway.middleware.coding_turn import SHORT_HOLD_US
from gateway.middleware.compression import CompressionMiddleware
from tests.streams import decoders
from tests.streams.test_round_trips import LEVELS, text_of

pytestmark = pytest.mark.anyio


def scope_for(coding: str) -> Scope:
    return {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept-encoding", coding.encode())]}


async def no_request() -> Message:
    raise AssertionError("the request is not read")


class Sent:
    """The coded body as a client would get it."""

    def __init__(self) -> None:
        self.body = b""

    async def __call__(self, message: Message) -> None:
        self.body += message.get("body", b"")


def in_pieces(body: bytes, piece: int) -> CompressionMiddleware:
    """The body in pieces; 0: in one message."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not piece:
            await send({"type": "http.response.body", "body": body})
            return
        for start in range(0, len(body), piece):
            await send({"type": "http.response.body", "body": body[start : start + piece], "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    return CompressionMiddleware(app)


class Watched:
    """An encoder that notes how much is coded on the event loop in each of its turns."""

    turn = 0
    by_turn: ClassVar[defaultdict[int, int]] = defaultdict(int)
    loop_thread = 0

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @staticmethod
    def note(size: int) -> None:
        if threading.get_ident() == Watched.loop_thread:
            Watched.by_turn[Watched.turn] += size

    def encode(self, data: bytes) -> bytes:
        Watched.note(len(data))
        return self._encoder.encode(data)

    def flush(self) -> bytes:
        return self._encoder.flush()

    def finish(self) -> bytes:
        return self._encoder.finish()


async def count_turns() -> None:
    while True:
        Watched.turn += 1
        await asyncio.sleep(0)


@pytest.mark.parametrize("piece", [0, 1000, 64 * 1024, 128 * 1024 + 1, 2_000_000])
@pytest.mark.parametrize("level", LEVELS)
async def test_twenty_bodies_at_a_time_hold_the_loop_no_longer_than_one(
    level: Level, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(coding: str, level: Level, length: int | None) -> Encoder:
        return Watched(make_encoder(coding, level, length))

    def watched_short(coding: str, level: Level) -> Callable[[bytes], bytes]:
        code = short_coder(coding, level)

        def noted(body: bytes) -> bytes:
            Watched.note(len(body))
            return code(body)

        return noted

    monkeypatch.setattr(compression, "make_encoder", watched)
    monkeypatch.setattr(compression, "short_coder", watched_short)
    Watched.by_turn.clear()
    Watched.loop_thread = threading.get_ident()
    body = text_of(20_000 if piece <= 1000 else 300_000)
    app = in_pieces(body, piece)
    app = CompressionMiddleware(app.app, level=level)
    counting = asyncio.ensure_future(count_turns())
    sent = [Sent() for _ in range(20)]
    await asyncio.gather(*(app(scope_for("gzip"), no_request, one) for one in sent))
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    assert all(decoders.decode("gzip", one.body) == body for one in sent)
    # Where one turn ends and the next begins may lie between two of them.
    assert max(Watched.by_turn.values(), default=0) <= 2 * SHORT_HOLD_US / coding_us("gzip", level)[1]
    # What is small is not worth a thread.
    assert piece > 1000 or sum(Watched.by_turn.values()) > 0


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("piece", [64 * 1024, 500_000], ids=["streamed", "at-once"])
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("level", LEVELS)
async def test_the_time_that_a_turn_of_the_loop_takes(
    level: Level, coding: str, piece: int, capsys: pytest.CaptureFixture[str]
) -> None:
    app = CompressionMiddleware(in_pieces(text_of(500_000), piece).app, level=level)
    turns: list[float] = []

    async def measure() -> None:
        while True:
            # The thread's own time: what else runs on the machine is not the loop's doing.
            since = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - since)

    await app(scope_for(coding), no_request, Sent())
    measuring = asyncio.ensure_future(measure())
    await asyncio.gather(*(app(scope_for(coding), no_request, Sent()) for _ in range(20)))
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)
    turns.sort()
    with capsys.disabled():
        p999, longest = turns[int(len(turns) * 0.999)] * 1000, turns[-1] * 1000
        print(f"\n{level} {coding}: p99.9 {p999:.2f} ms, longest {longest:.2f} ms of {len(turns)} turns", end="")
    assert turns[int(len(turns) * 0.99)] < 0.005
