"""Load in the place of wrk's where that is missing: each connection asks again when it has its answer."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

from benchmarks.latency import percentiles

if TYPE_CHECKING:
    from benchmarks.load import Load

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


async def ask(url: str, request: bytes, load: Load, seconds: float) -> tuple[float, ...]:
    """Requests, errors, and the percentiles of their latency in microseconds."""
    host, _, port = url.partition("://")[2].partition(":")
    latencies: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def connection() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(host, int(port))
        while (began := time.perf_counter()) < end:
            writer.write(request)
            errors += not await answered(reader)
            latencies.append((time.perf_counter() - began) * 1e6)
            if load.cold:
                writer.close()
                reader, writer = await asyncio.open_connection(host, int(port))
        writer.close()

    await asyncio.gather(*(connection() for _ in range(load.connections)))
    return len(latencies), errors, *percentiles(latencies)


async def answered(reader: asyncio.StreamReader) -> bool:
    """Read one answer with a Content-Length; whether it was a good one."""
    head = await reader.readuntil(b"\r\n\r\n")
    match = _LENGTH.search(head)
    await reader.readexactly(int(match[1]) if match else 0)
    return head[9:10] in b"23"
