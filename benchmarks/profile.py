"""What each layer of one request costs, in microseconds of CPU: the real classes, without sockets.

python -m benchmarks.profile [--seconds 0.3]

Every row adds one layer to the row above; the upstream answers at once. The minimum of many batches is shown: other
work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tomllib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.in_process import least_us, receive
from benchmarks.peers import gateway_table
from benchmarks.site import Site
from gateway.app import Gateway
from gateway.exchange import WHOLE_FOLLOWS
from gateway.upstream.messages import InboundResponse

BATCH = 300
BODY = b'{"id": 1, "text": "' + b"a" * 150 + b'"}'
REQUEST_FIELDS = [
    (b"host", b"127.0.0.1:8080"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64)"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en"),
    (b"cookie", b"a=1; b=2"),
]
RESPONSE_FIELDS = [
    (b"server", b"origin"),
    (b"date", b"Tue, 24 Nov 2026 00:00:00 GMT"),
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(BODY)),
    (b"etag", b'"1"'),
]


class Immediate(httpx.AsyncBaseTransport):
    """An upstream that has answered before it was asked."""

    async def handle_async_request(self, request: httpx.Request) -> InboundResponse:
        return InboundResponse(200, RESPONSE_FIELDS, whole=BODY)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that an application can do."""
    await send({"type": "http.response.start", "status": 200, "headers": RESPONSE_FIELDS, WHOLE_FOLLOWS: True})
    await send({"type": "http.response.body", "body": BODY})


async def discard(message: Message) -> None:
    pass


def scope() -> dict[str, Any]:
    """A fresh scope, as a server makes one."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/items/1",
        "raw_path": b"/items/1",
        "query_string": b"",
        "root_path": "",
        "headers": REQUEST_FIELDS,
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8080),
        "state": {},
        "extensions": {"gateway.target": b"/items/1"},
    }


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the request waited for something")


def cost_us(app: Callable[..., Any], seconds: float) -> float:
    """CPU microseconds of one request, the best of many batches."""

    def batch() -> None:
        for _ in range(BATCH):
            run(app(scope(), receive, discard))

    return least_us(batch, BATCH, seconds)


async def measure(seconds: float) -> None:
    table = tomllib.loads(gateway_table(Site(8080, 9, Path())))
    gateway = Gateway.from_config(table)
    await gateway.start()
    # As the launcher does it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    generation = gateway.generation
    for upstream in generation.upstreams.values():
        for endpoint in upstream.endpoints:
            await endpoint.transport.aclose()
            endpoint.transport = Immediate()
    exchange_layer: Any = generation.app
    dispatcher = exchange_layer.app
    compression = generation.routes["all"].app
    gates, recorders = exchange_layer.gates, exchange_layer.recorders
    exchange_layer.gates, exchange_layer.recorders, exchange_layer.app = (), (), hello
    print(f"{'':<44}{'µs':>8}{'step':>8}")
    before = 0.0

    def show(name: str, app: ASGIApp) -> None:
        nonlocal before
        cost = cost_us(app, seconds)
        print(f"{name:<44}{cost:>8.2f}{cost - before:>+8.2f}", flush=True)
        before = cost

    show("a bare application, and its scope", hello)
    show("+ exchange and responder", exchange_layer)
    exchange_layer.recorders = recorders
    show("+ metrics", exchange_layer)
    exchange_layer.gates = gates
    show("+ admission", exchange_layer)
    generation.routes["all"].app = hello
    exchange_layer.app = dispatcher
    show("+ route table", exchange_layer)
    inner: Any = compression
    generation.routes["all"].app = inner.app
    show("+ proxy handler, an upstream that is there", exchange_layer)
    generation.routes["all"].app = compression
    show("+ compression (declines)", exchange_layer)
    show("+ generation, Gateway", gateway)
    # Rows without the gates that count exchanges ran beside rows with them.
    generation.in_flight = 0
    await gateway.aclose(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each row")
    asyncio.run(measure(parser.parse_args().seconds))


if __name__ == "__main__":
    main()
