"""Copies of requests: complete or not at all, and never felt."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.errors import ConnectFailed
from gateway.proxy.mirror import MirrorHandler
from tests.support.messages import answering, call, http_scope

pytestmark = pytest.mark.anyio


class Shadow:
    """Records what it gets."""

    def __init__(self, error: Exception | None = None) -> None:
        self.bodies: list[bytes] = []
        self.error = error
        self.hang = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.hang:
            await asyncio.Event().wait()
        message = await receive()
        self.bodies.append(message["body"])
        if self.error is not None:
            raise self.error
        await answering(200, [], [b"unseen"])(scope, receive, send)


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of the body."""
    size = 0
    while True:
        message = await receive()
        size += len(message["body"])
        if not message.get("more_body"):
            break
    await answering(200, [], [str(size).encode()])(scope, receive, send)


async def ended(mirror: MirrorHandler) -> None:
    await asyncio.gather(*mirror._copies, return_exceptions=True)


def counted(mirror: MirrorHandler) -> tuple[int, int, int]:
    counts = mirror.counts
    return counts.answered, counts.failed, counts.skipped


def post(length: int) -> dict[str, Any]:
    return http_scope("POST", headers=[(b"host", b"a"), (b"content-length", b"%d" % length)])


async def test_a_copy_has_the_body_and_its_answer_is_dropped() -> None:
    shadow = Shadow()
    mirror = MirrorHandler(reading, shadow)
    sent = await call(mirror, post(5), b"ab", b"cde")
    await ended(mirror)
    assert sent.body == b"5"
    assert shadow.bodies == [b"abcde"]
    assert counted(mirror) == (1, 0, 0)


async def test_requests_without_body_are_copied_too() -> None:
    shadow = Shadow()
    mirror = MirrorHandler(answering(204), shadow)
    await call(mirror, http_scope())
    await ended(mirror)
    assert shadow.bodies == [b""]


@pytest.mark.parametrize("length", [5, None], ids=["announced", "chunked"])
async def test_a_body_above_the_limit_is_passed_on_and_not_copied(length: int | None) -> None:
    shadow = Shadow()
    mirror = MirrorHandler(reading, shadow, max_body=4)
    scope = post(5)
    if length is None:
        scope["headers"] = [(b"host", b"a"), (b"transfer-encoding", b"chunked")]
    sent = await call(mirror, scope, b"ab", b"cde")
    await ended(mirror)
    assert sent.body == b"5"
    assert shadow.bodies == []
    assert counted(mirror) == (0, 0, 1)


async def test_a_failing_copy_is_counted_and_not_felt() -> None:
    mirror = MirrorHandler(reading, Shadow(ConnectFailed("refused")))
    sent = await call(mirror, post(1), b"a")
    await ended(mirror)
    assert sent.status == 200
    assert counted(mirror) == (0, 1, 0)


async def test_a_copy_that_is_answered_with_a_server_error_has_failed() -> None:
    mirror = MirrorHandler(answering(204), answering(503))
    await call(mirror, http_scope())
    await ended(mirror)
    assert counted(mirror) == (0, 1, 0)


async def test_a_copy_that_hangs_is_not_waited_for_and_ends_with_the_mirror() -> None:
    shadow = Shadow()
    shadow.hang = True
    mirror = MirrorHandler(reading, shadow, timeout_s=3600)
    sent = await call(mirror, post(1), b"a")
    assert sent.complete
    await mirror.aclose()
    assert not mirror._copies


async def test_the_share_decides_how_many_are_copied() -> None:
    shadow = Shadow()
    mirror = MirrorHandler(answering(204), shadow, share=0.25, rng=random.Random(3))
    for _ in range(1000):
        await call(mirror, http_scope())
        await ended(mirror)
    assert len(shadow.bodies) == pytest.approx(250, abs=40)
