"""How long others wait for the event loop while 20 large bodies are coded at a time.

    python -m benchmarks.loop_lag
    python -m benchmarks.loop_lag --bodies 50 --mib 4 --coding br --level best

CompressionMiddleware codes them in one process, as bodies that are known at once and in pieces of 64 KiB, while another
task asks for every turn of the loop. A turn is measured in CPU time of the loop's own thread, for what else runs on the
machine is not the loop's doing; "real" is the same in seconds of the wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from array import array
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.bodies import json_body
from benchmarks.in_process import receive, scope
from benchmarks.latency import percentile
from gateway.http.coding import CODINGS, Level
from gateway.middleware.compression import CompressionMiddleware

LEVELS: tuple[Level, ...] = ("fast", "balanced", "best")
PIECE_BYTES = 64 * 1024


def service(body: bytes, piece_bytes: int) -> ASGIApp:
    """Answers with ``body`` in pieces, and lets others have a turn after each."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for start in range(0, len(body), piece_bytes):
            await send({"type": "http.response.body", "body": body[start : start + piece_bytes], "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    return app


async def turns_during(work: Callable[[], Awaitable[object]]) -> tuple[array[float], array[float]]:
    """CPU and real seconds of every turn of the loop until ``work`` is done."""
    # A million tuples would have the garbage collector hold a turn for 80 ms.
    cpu, real = array("d"), array("d")

    async def measure() -> None:
        while True:
            cpu_s, real_s = time.thread_time(), time.perf_counter()
            await asyncio.sleep(0)
            cpu.append(time.thread_time() - cpu_s)
            real.append(time.perf_counter() - real_s)

    measuring = asyncio.ensure_future(measure())
    await work()
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)
    return cpu, real


async def lag(coding: str, level: Level, body: bytes, bodies: int, piece_bytes: int) -> str:
    """The row of one way of coding."""
    app = CompressionMiddleware(service(body, piece_bytes), level=level)
    request = scope(b"/", accept_encoding=coding.encode())

    async def send(message: Message) -> None:
        """Take it."""

    async def work() -> None:
        await asyncio.gather(*(app(request, receive, send) for _ in range(bodies)))

    cpu, real = (sorted(column) for column in await turns_during(work))
    figures = [percentile(cpu, 0.999), cpu[-1], percentile(real, 0.999), real[-1]]
    return "".join(f"{seconds * 1000:>11.2f}" for seconds in figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=20)
    parser.add_argument("--mib", type=float, default=1.0, help="size of each")
    parser.add_argument("--coding", action="append", choices=CODINGS)
    parser.add_argument("--level", action="append", choices=LEVELS)
    options = parser.parse_args()
    size = int(options.mib * 1024 * 1024)
    body = json_body(items=size // 400)[:size]
    # As the gateway's own server does: what was imported is not looked at in every collection.
    gc.collect()
    gc.freeze()
    print(f"{options.bodies} bodies of {options.mib:g} MiB; milliseconds")
    print(f"{'':<32}{'CPU p99.9':>11}{'longest':>11}{'real p99.9':>11}{'longest':>11}")
    for coding in options.coding or CODINGS:
        for level in options.level or LEVELS:
            for name, piece_bytes in (("at once", size), ("streamed", PIECE_BYTES)):
                row = asyncio.run(lag(coding, level, body, options.bodies, piece_bytes))
                print(f"{f'{coding} {level}, {name}':<32}{row}", flush=True)


if __name__ == "__main__":
    main()
