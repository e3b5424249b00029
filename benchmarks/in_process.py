"""Parts of the gateway in this process, without a server: a request for them, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Scope

Field = tuple[bytes, bytes]


def scope(target: bytes, fields: Sequence[Field] = (), *, accept_encoding: bytes = b"gzip, br") -> dict[str, Any]:
    """A request as a browser sends it, with ``fields`` besides."""
    path, _, query = target.partition(b"?")
    usual = [
        (b"host", b"example.com"),
        (b"user-agent", b"bench/1"),
        (b"accept", b"*/*"),
        (b"accept-encoding", accept_encoding),
        (b"accept-language", b"en"),
    ]
    return {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": path.decode("ascii"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [*usual, *fields],
    }


async def receive() -> Message:
    raise AssertionError("nobody asks for the body of a GET")


async def request_us(app: ASGIApp, scopes: Sequence[Scope]) -> float:
    """CPU microseconds that a request took, the mean of ``scopes``, all of which have to be answered with 200."""
    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    began = time.process_time()
    for one in scopes:
        await app(one, receive, send)
    taken = time.process_time() - began
    assert statuses == [200] * len(scopes), set(statuses)
    return taken / len(scopes) * 1e6


def least_us(batch: Callable[[], object], count: int, seconds: float) -> float:
    """CPU microseconds of each of the ``count`` things in ``batch``: the best of many, for other work only adds."""
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.process_time()
        batch()
        best = min(best, (time.process_time() - began) / count)
    return best * 1e6
